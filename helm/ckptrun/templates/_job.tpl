{{/* A Job: how many pods, and which failures another pod can cure. */}}

{{- define "ckptrun.jobMetadata" -}}
labels:
  {{- include "ckptrun.labels" . | nindent 2 }}
  {{- with .Values.jobLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.jobAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "ckptrun.jobSpec" -}}
{{- $v := .Values -}}
{{- $indexed := include "ckptrun.indexed" . -}}
{{- $required := not (include "ckptrun.since" (list . "1.28")) -}}
{{- $byIndex := not (kindIs "invalid" $v.backoffLimitPerIndex) -}}
completions: {{ int $v.completions }}
parallelism: {{ int $v.parallelism }}
{{- if $indexed }}
completionMode: Indexed
{{- end }}
{{- if $byIndex }}
backoffLimitPerIndex: {{ int $v.backoffLimitPerIndex }}
{{- if not (kindIs "invalid" $v.maxFailedIndexes) }}
maxFailedIndexes: {{ int $v.maxFailedIndexes }}
{{- end }}
{{- else }}
backoffLimit: {{ int $v.backoffLimit }}
{{- end }}
{{- if not (kindIs "invalid" $v.activeDeadlineSeconds) }}
activeDeadlineSeconds: {{ int $v.activeDeadlineSeconds }}
{{- end }}
{{- if not (kindIs "invalid" $v.ttlSecondsAfterFinished) }}
ttlSecondsAfterFinished: {{ int $v.ttlSecondsAfterFinished }}
{{- end }}
{{- if include "ckptrun.since" (list . "1.29") }}
# the next pod begins when this one has ended: two would write one lineage
podReplacementPolicy: Failed
{{- end }}
{{- if $v.podFailurePolicy.enabled }}
podFailurePolicy:
  rules:
    {{- with $v.podFailurePolicy.rules }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with $v.podFailurePolicy.ignoreExitCodes }}
    # checkpointed and stopped: the next pod goes on
    - action: Ignore
      onExitCodes: {containerName: {{ $v.job.container | quote }}, operator: In, values: {{ toJson . }}}
      {{- if $required }}
      onPodConditions: [] # which schemas before 1.29 want in each rule
      {{- end }}
    {{- end }}
    # evicted, preempted, drained, or its node is gone
    - action: Ignore
      onPodConditions:
        - {type: DisruptionTarget, status: "True"}
    {{- with $v.podFailurePolicy.failExitCodes }}
    # no other pod would cure it
    - action: {{ ternary "FailIndex" "FailJob" $byIndex }}
      onExitCodes: {containerName: {{ $v.job.container | quote }}, operator: In, values: {{ toJson . }}}
      {{- if $required }}
      onPodConditions: [] # which schemas before 1.29 want in each rule
      {{- end }}
    {{- end }}
{{- end }}
template:
  metadata:
    {{- include "ckptrun.podMetadata" . | nindent 4 }}
  spec:
    {{- include "ckptrun.pod" . | nindent 4 }}
{{- end }}
