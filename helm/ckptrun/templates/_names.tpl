{{/* Names, labels and figures that several templates need. */}}

{{- define "ckptrun.name" -}}
{{- .Values.fullnameOverride | default .Release.Name -}}
{{- end }}

{{- define "ckptrun.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "ckptrun.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{- define "ckptrun.image" -}}
{{- if eq .Values.mode "wrapper" -}}
{{- .Values.job.image -}}
{{- else if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{- define "ckptrun.selector" -}}
app.kubernetes.io/name: ckptrun
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "ckptrun.labels" -}}
{{ include "ckptrun.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* "true" where Kubernetes is at least the version given: (list . "1.29"). */}}
{{- define "ckptrun.since" -}}
{{- if semverCompare (printf ">=%s.0-0" (index . 1)) (index . 0).Capabilities.KubeVersion.Version }}true{{ end -}}
{{- end }}

{{/* "true" if the sidecar is an init container that stays. */}}
{{- define "ckptrun.native" -}}
{{- $native := toString .Values.sidecar.native -}}
{{- if eq $native "auto" }}{{ include "ckptrun.since" (list . "1.29") }}{{ else if eq $native "true" }}true{{ end -}}
{{- end }}

{{/* "true" if limits are set for the pod as a whole. */}}
{{- define "ckptrun.podLevel" -}}
{{- $enabled := toString .Values.podResources.enabled -}}
{{- if or .Values.podResources.requests .Values.podResources.limits -}}
{{- if eq $enabled "auto" }}{{ include "ckptrun.since" (list . "1.34") }}{{ else if eq $enabled "true" }}true{{ end -}}
{{- end -}}
{{- end }}

{{/* "true" if each index is a pod and a lineage. */}}
{{- define "ckptrun.indexed" -}}
{{- if or (eq .Values.kind "IndexedJob") (and (eq .Values.kind "CronJob") (gt (int .Values.completions) 1)) }}true{{ end -}}
{{- end }}

{{- define "ckptrun.grace" -}}
{{- $grace := toString .Values.checkpoint.grace -}}
{{- if $grace }}{{ $grace }}{{ else if eq .Values.spot.provider "gke" }}10s{{ else if eq .Values.spot.provider "aks" }}20s{{ else }}30s{{ end -}}
{{- end }}

{{/* The grace in whole seconds, rounded up. */}}
{{- define "ckptrun.graceSeconds" -}}
{{- $grace := include "ckptrun.grace" . -}}
{{- $factors := dict "d" 86400.0 "h" 3600.0 "m" 60.0 "s" 1.0 "ms" 0.001 -}}
{{- $total := 0.0 -}}
{{- if regexMatch "^[0-9.]+$" $grace -}}
{{- $total = float64 $grace -}}
{{- else -}}
{{- range regexFindAll "[0-9.]+(ms|d|h|m|s)" $grace -1 -}}
{{- $unit := regexFind "[a-z]+" . -}}
{{- $total = addf $total (mulf (float64 (trimSuffix $unit .)) (get $factors $unit)) -}}
{{- end -}}
{{- end -}}
{{- ceil $total | int -}}
{{- end }}

{{/* Seconds from SIGTERM to SIGKILL. A spot node of GKE's gives pods 15 unless its node pool says more. */}}
{{- define "ckptrun.podGraceSeconds" -}}
{{- if not (kindIs "invalid" .Values.terminationGracePeriodSeconds) -}}
{{- int .Values.terminationGracePeriodSeconds -}}
{{- else if and (eq .Values.spot.provider "gke") (le (include "ckptrun.graceSeconds" . | int) 10) -}}
15
{{- else -}}
{{- add (include "ckptrun.graceSeconds" . | int) 15 -}}
{{- end -}}
{{- end }}

{{/* Seconds that a spot node of the provider gives a pod by default; empty: longer than anybody's grace. */}}
{{- define "ckptrun.spotNotice" -}}
{{- get (dict "gke" "15" "aks" "30") .Values.spot.provider -}}
{{- end }}

{{/* Where the credentials of an s3:// store come from, as words: none of them if it is a Secret. */}}
{{- define "ckptrun.identities" -}}
{{- if hasPrefix "s3://" .Values.store.url -}}
{{- if ne .Values.networkPolicy.identity "auto" }}{{ .Values.networkPolicy.identity -}}
{{- else if .Values.store.credentials.secret }}secret{{ else if hasKey .Values.serviceAccount.annotations "eks.amazonaws.com/role-arn" }}irsa{{ else }}pod-identity node{{ end -}}
{{- end -}}
{{- end }}

{{/* Ports of the servers of checkpoint.ledger, as a YAML list. */}}
{{- define "ckptrun.ledgerPorts" -}}
{{- $ledger := .Values.checkpoint.ledger -}}
{{- $ports := list -}}
{{- if regexMatch "^(postgres(ql)?|rediss?)://" $ledger -}}
{{- $usual := ternary "5432" "6379" (hasPrefix "postgres" $ledger) -}}
{{- range regexFind "//[^/?#]*" $ledger | trimPrefix "//" | splitList "@" | last | splitList "," -}}
{{- $ports = append $ports (regexFind ":[0-9]+$" . | trimPrefix ":" | default $usual | int) -}}
{{- end -}}
{{- end -}}
{{- uniq $ports | toJson -}}
{{- end }}

{{- define "ckptrun.storePath" -}}
{{- trimPrefix "file://localhost" .Values.store.url | trimPrefix "file://" -}}
{{- end }}

{{/* The labels and taints of spot nodes, by provider. */}}
{{- define "ckptrun.spot" -}}
{{- if eq .Values.spot.provider "gke" -}}
nodeSelector:
  cloud.google.com/gke-spot: "true"
tolerations:
  - {key: cloud.google.com/gke-spot, operator: Equal, value: "true", effect: NoSchedule}
{{- else if eq .Values.spot.provider "eks" -}}
nodeSelector:
  eks.amazonaws.com/capacityType: SPOT
tolerations: []
{{- else if eq .Values.spot.provider "karpenter" -}}
nodeSelector:
  karpenter.sh/capacity-type: spot
tolerations: []
{{- else if eq .Values.spot.provider "aks" -}}
nodeSelector:
  kubernetes.azure.com/scalesetpriority: spot
tolerations:
  - {key: kubernetes.azure.com/scalesetpriority, operator: Equal, value: spot, effect: NoSchedule}
{{- else -}}
nodeSelector: {{ toJson .Values.spot.nodeSelector }}
tolerations: {{ toJson .Values.spot.tolerations }}
{{- end -}}
{{- end }}
