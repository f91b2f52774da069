{{/* What ckptrun is told: in the sidecar's environment, or in the wrapper's, which takes it away from the job. */}}

{{/* Which pod this is: whoever has it and the token can write Events. */}}
{{- define "ckptrun.identity" -}}
- {name: CKPTRUN_POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: CKPTRUN_POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- {name: CKPTRUN_POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
- {name: CKPTRUN_NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
- {name: CKPTRUN_SERVICE_ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
{{- end }}

{{- define "ckptrun.environment" -}}
{{- $v := .Values -}}
{{- $c := $v.checkpoint -}}
{{ include "ckptrun.identity" . }}
- {name: CKPTRUN_JOB_NAME, valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/job-name']"}}}
- {name: CKPTRUN_JOB_UID, valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/controller-uid']"}}}
- {name: CKPTRUN_COMPLETION_INDEX, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}}
- {name: CKPTRUN_JOB_CONTAINER, value: {{ $v.job.container | quote }}}
- {name: CKPTRUN_LINEAGE_KEY, value: {{ $v.lineage.key | quote }}}
{{- if not $v.api.enabled }}
- {name: CKPTRUN_KUBE_API, value: "off"}
{{- end }}
- {name: XDG_STATE_HOME, value: /ckptrun/state}
{{- if eq $v.mode "wrapper" }}
{{- include "ckptrun.setting" (list "USER" $v.job.user) }}
{{- end }}
{{- include "ckptrun.setting" (list "NAME" $v.lineage.name) }}
{{- include "ckptrun.setting" (list "STORE" $v.store.url) }}
{{- include "ckptrun.setting" (list "S3_ENDPOINT_URL" $v.store.endpoint) }}
{{- include "ckptrun.setting" (list "AWS_DEFAULT_REGION" $v.store.region) }}
{{- with $v.store.credentials.secret }}
- {name: CKPTRUN_AWS_ACCESS_KEY_ID, valueFrom: {secretKeyRef: {name: {{ . | quote }}, key: {{ $v.store.credentials.accessKeyId | quote }}}}}
- {name: CKPTRUN_AWS_SECRET_ACCESS_KEY, valueFrom: {secretKeyRef: {name: {{ . | quote }}, key: {{ $v.store.credentials.secretAccessKey | quote }}}}}
{{- if $v.store.credentials.sessionToken }}
- {name: CKPTRUN_AWS_SESSION_TOKEN, valueFrom: {secretKeyRef: {name: {{ . | quote }}, key: {{ $v.store.credentials.sessionToken | quote }}}}}
{{- end }}
{{- end }}
{{- if $v.key.secret }}
{{- include "ckptrun.setting" (list "KEY_FILE" "/etc/ckptrun/key/key") }}
{{- end }}
{{- include "ckptrun.setting" (list "NO_ENCRYPTION" $v.key.noEncryption) }}
{{- include "ckptrun.setting" (list "INTERVAL" $c.interval) }}
{{- include "ckptrun.setting" (list "KEEP" $c.keep) }}
{{- include "ckptrun.setting" (list "GRACE" (include "ckptrun.grace" .)) }}
{{- include "ckptrun.setting" (list "PRESERVE" (join ":" $c.preserve)) }}
{{- include "ckptrun.setting" (list "RESUME" (eq $c.onFailedRun "resume")) }}
{{- include "ckptrun.setting" (list "RESTART" $c.restart) }}
{{- include "ckptrun.setting" (list "MAX_RESTARTS" $c.maxRestarts) }}
{{- include "ckptrun.setting" (list "MAX_FREEZE" $c.maxFreeze) }}
{{- include "ckptrun.setting" (list "STAGING" $c.staging) }}
{{- include "ckptrun.setting" (list "JOURNAL_LIMIT" $c.journalLimit) }}
{{- include "ckptrun.setting" (list "TCP" $c.tcp) }}
{{- include "ckptrun.setting" (list "PORTABLE_CPU" $c.portableCpu) }}
{{- include "ckptrun.setting" (list "ALLOW_IO_URING" $c.allowIoUring) }}
{{- include "ckptrun.setting" (list "REQUIRE_STORE" $c.requireStore) }}
{{- include "ckptrun.setting" (list "LEDGER" $c.ledger) }}
{{- include "ckptrun.setting" (list "REQUIRE_LEDGER" $c.requireLedger) }}
{{- $hooks := $v.hooks.specs -}}
{{- if gt (int $v.gpu.count) 0 }}{{ $hooks = prepend $hooks $v.gpu.hook }}{{ end }}
{{- include "ckptrun.setting" (list "HOOK" (join ";" $hooks)) }}
{{- $labels := list -}}
{{- range $key, $value := $c.labels }}{{ $labels = append $labels (printf "%s=%v" $key $value) }}{{ end }}
{{- include "ckptrun.setting" (list "LABEL" (join "," $labels)) }}
{{- if ne $c.logFormat "text" }}
{{- include "ckptrun.setting" (list "LOG_FORMAT" $c.logFormat) }}
{{- end }}
{{- include "ckptrun.setting" (list "VERBOSE" $c.verbose) }}
{{- if and (gt (int $v.gpu.count) 0) (eq $v.mode "sidecar") }}
# all of the node's, as nobody knows here which are the job's; asking for nvidia.com/gpu would take some away
- {name: NVIDIA_VISIBLE_DEVICES, value: all}
- {name: NVIDIA_DRIVER_CAPABILITIES, value: "compute,utility"}
{{- end }}
{{- with $c.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* One setting; nothing if it is empty or false. */}}
{{- define "ckptrun.setting" -}}
{{- $value := index . 1 -}}
{{- if kindIs "bool" $value }}{{ $value = ternary "1" "" $value }}{{ end -}}
{{- if not (has (toString $value) (list "" "<nil>")) }}
- {name: CKPTRUN_{{ index . 0 }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- end }}
