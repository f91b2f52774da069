{{/* The pod, in both modes. docs/design/kubernetes.md says why it is as it is. */}}

{{- define "ckptrun.podMetadata" -}}
labels:
  {{- include "ckptrun.selector" . | nindent 2 }}
  app.kubernetes.io/component: job
  {{- if hasKey .Values.serviceAccount.annotations "azure.workload.identity/client-id" }}
  azure.workload.identity/use: "true"
  {{- end }}
  {{- with .Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  kubectl.kubernetes.io/default-container: {{ .Values.job.container | quote }}
  {{- if not (include "ckptrun.since" (list . "1.30")) }}
  container.apparmor.security.beta.kubernetes.io/{{ ternary .Values.job.container "ckptrun" (eq .Values.mode "wrapper") }}: unconfined
  {{- end }}
  {{- if not (or .Values.serviceAccount.identityForJob (eq .Values.mode "wrapper")) }}
  {{- if hasKey .Values.serviceAccount.annotations "eks.amazonaws.com/role-arn" }}
  eks.amazonaws.com/skip-containers: {{ .Values.job.container | quote }}
  {{- end }}
  {{- if hasKey .Values.serviceAccount.annotations "azure.workload.identity/client-id" }}
  azure.workload.identity/skip-containers: {{ .Values.job.container | quote }}
  {{- end }}
  {{- end }}
  {{- with .Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "ckptrun.pod" -}}
{{- $v := .Values -}}
{{- $sidecar := eq $v.mode "sidecar" -}}
{{- $spot := include "ckptrun.spot" . | fromYaml -}}
restartPolicy: {{ $v.restartPolicy }}
{{- if and (eq $v.kind "Pod") (not (kindIs "invalid" $v.activeDeadlineSeconds)) }}
activeDeadlineSeconds: {{ int $v.activeDeadlineSeconds }}
{{- end }}
terminationGracePeriodSeconds: {{ include "ckptrun.podGraceSeconds" . }}
serviceAccountName: {{ include "ckptrun.serviceAccount" . | quote }}
# the token is mounted for ckptrun alone, below
automountServiceAccountToken: false
enableServiceLinks: false
{{- if $sidecar }}
shareProcessNamespace: true
{{- end }}
{{- with $v.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.gpu.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with $v.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with merge (dict) $v.nodeSelector $spot.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "ckptrun.tolerations" . | fromYamlArray }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with $v.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if include "ckptrun.podLevel" . }}
resources:
  {{- with $v.podResources.requests }}
  requests:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.podResources.limits }}
  limits:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- if or $sidecar $v.initContainers }}
initContainers:
  {{- with $v.initContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- if $sidecar }}
  {{- include "ckptrun.install" . | nindent 2 }}
  {{- if include "ckptrun.native" . }}
  {{- include "ckptrun.sidecar" . | nindent 2 }}
  {{- end }}
{{- end }}
containers:
  {{- if $sidecar }}
  {{- include "ckptrun.job" . | nindent 2 }}
  {{- if not (include "ckptrun.native" .) }}
  {{- include "ckptrun.sidecar" . | nindent 2 }}
  {{- end }}
  {{- else }}
  {{- include "ckptrun.wrapper" . | nindent 2 }}
  {{- end }}
volumes:
  {{- include "ckptrun.volumes" . | nindent 2 }}
{{- end }}

{{/* Puts the shim and CRIU where both containers find them. */}}
{{- define "ckptrun.install" -}}
- name: ckptrun-install
  image: {{ include "ckptrun.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy | quote }}
  command: [ckptrun, kube, install, /ckptrun]
  {{- if .Values.api.enabled }}
  env: # for an Event, if it fails
    {{- include "ckptrun.identity" . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsUser: 0
    runAsGroup: 0
    runAsNonRoot: false
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: {drop: [ALL]}
    seccompProfile: {type: RuntimeDefault}
  {{- with .Values.sidecar.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    - {name: ckptrun, mountPath: /ckptrun}
    {{- with include "ckptrun.apiMount" . | trim }}
    {{- . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "ckptrun.sidecar" -}}
{{- $native := include "ckptrun.native" . -}}
- name: ckptrun
  image: {{ include "ckptrun.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy | quote }}
  {{- if $native }}
  command: [ckptrun, sidecar]
  restartPolicy: Always
  startupProbe:
    exec: {command: [ckptrun, sidecar, --ready]}
    periodSeconds: 2
    timeoutSeconds: 10
    failureThreshold: {{ div (add (int .Values.sidecar.startupSeconds) 1) 2 }}
  {{- else }}
  command: [ckptrun, sidecar, --once]
  {{- end }}
  env:
    {{- include "ckptrun.environment" . | nindent 4 }}
  securityContext:
    {{- include "ckptrun.capable" . | nindent 4 }}
    readOnlyRootFilesystem: true
  {{- with .Values.sidecar.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    {{- include "ckptrun.ownMounts" . | nindent 4 }}
    - {name: ckptrun-tmp, mountPath: /tmp}
{{- end }}

{{- define "ckptrun.job" -}}
{{- $job := .Values.job -}}
- name: {{ $job.container | quote }}
  image: {{ $job.image | quote }}
  {{- with $job.imagePullPolicy }}
  imagePullPolicy: {{ . | quote }}
  {{- end }}
  command: {{ concat (list "/ckptrun/bin/ckptrun-shim" "--") $job.command | toJson }}
  {{- with include "ckptrun.jobBasics" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with $job.env }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ splitList ":" (toString $job.user) | first }}
    runAsGroup: {{ splitList ":" (toString $job.user) | last }}
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: {{ $job.readOnlyRootFilesystem }}
    capabilities: {drop: [ALL]}
    seccompProfile: {type: RuntimeDefault}
  volumeMounts:
    - {name: ckptrun, mountPath: /ckptrun, readOnly: true}
    {{- if ne $job.tmpSize "none" }}
    - {name: ckptrun-job-tmp, mountPath: /tmp}
    {{- end }}
    {{- with $job.volumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "ckptrun.wrapper" -}}
{{- $job := .Values.job -}}
- name: {{ $job.container | quote }}
  image: {{ $job.image | quote }}
  {{- with $job.imagePullPolicy }}
  imagePullPolicy: {{ . | quote }}
  {{- end }}
  command: {{ concat (list "ckptrun" "run" "--") $job.command | toJson }}
  {{- with include "ckptrun.jobBasics" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  env:
    {{- include "ckptrun.environment" . | nindent 4 }}
    {{- with $job.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  securityContext:
    {{- include "ckptrun.capable" . | nindent 4 }}
  volumeMounts:
    {{- include "ckptrun.ownMounts" . | nindent 4 }}
    {{- with $job.volumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{/* What the job's container has in both modes. */}}
{{- define "ckptrun.jobBasics" -}}
{{- $job := .Values.job -}}
{{- with $job.args }}
args: {{ toJson . }}
{{- end }}
{{- with $job.workingDir }}
workingDir: {{ . | quote }}
{{- end }}
{{- with $job.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $resources := deepCopy $job.resources -}}
{{- if gt (int .Values.gpu.count) 0 -}}
{{- $_ := set $resources "limits" (merge (dict .Values.gpu.resourceName (int .Values.gpu.count)) ($resources.limits | default dict)) -}}
{{- end -}}
{{- with $resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The rights of the container that checkpoints; each one is needed. */}}
{{- define "ckptrun.capable" -}}
runAsUser: 0
runAsGroup: 0
runAsNonRoot: false
capabilities:
  drop: [ALL]
  add: [SYS_ADMIN, SYS_PTRACE, SYS_TIME, SETUID, SETGID, SETPCAP, SYS_CHROOT, DAC_OVERRIDE, DAC_READ_SEARCH, KILL]
seccompProfile: {type: Unconfined}
{{- if include "ckptrun.since" (list . "1.30") }}
appArmorProfile: {type: Unconfined}
{{- end }}
{{- with .Values.sidecar.seLinuxType }}
seLinuxOptions: {type: {{ . | quote }}}
{{- end }}
{{- end }}

{{/* Spot taints, the user's, and how long a silent node is waited for, where these do not say. */}}
{{- define "ckptrun.tolerations" -}}
{{- $said := concat (include "ckptrun.spot" . | fromYaml).tolerations .Values.tolerations -}}
{{- $all := $said -}}
{{- if and (ne .Values.kind "Pod") (not (kindIs "invalid" .Values.lostNodeSeconds)) -}}
{{- range $key := list "node.kubernetes.io/not-ready" "node.kubernetes.io/unreachable" -}}
{{- $told := false -}}
{{- range $said }}{{ if and (has (.key | default $key) (list $key)) (has (.effect | default "NoExecute") (list "NoExecute")) }}{{ $told = true }}{{ end }}{{ end -}}
{{- if not $told }}{{ $all = append $all (dict "key" $key "operator" "Exists" "effect" "NoExecute" "tolerationSeconds" (int $.Values.lostNodeSeconds)) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- toYaml $all -}}
{{- end }}

{{- define "ckptrun.apiMount" -}}
{{- if .Values.api.enabled }}
- {name: ckptrun-api, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}
{{- end }}

{{- define "ckptrun.ownMounts" -}}
- {name: ckptrun, mountPath: /ckptrun}
{{- if .Values.key.secret }}
- {name: ckptrun-key, mountPath: /etc/ckptrun/key, readOnly: true}
{{- end }}
{{- if or .Values.hooks.files .Values.hooks.configMap }}
- {name: ckptrun-hooks, mountPath: /etc/ckptrun/hooks, readOnly: true}
{{- end }}
{{- if .Values.store.volume }}
- {name: ckptrun-store, mountPath: {{ include "ckptrun.storePath" . | quote }}}
{{- end }}
{{- include "ckptrun.apiMount" . }}
{{- with .Values.checkpoint.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "ckptrun.volumes" -}}
{{- $v := .Values -}}
{{- $size := dict -}}
{{- with $v.sidecar.sizeLimit }}{{ $size = dict "sizeLimit" . }}{{ end -}}
- name: ckptrun
  emptyDir: {{ toJson $size }}
{{- if eq $v.mode "sidecar" }}
- name: ckptrun-tmp
  emptyDir: {}
{{- if ne $v.job.tmpSize "none" }}
- name: ckptrun-job-tmp
  emptyDir: {{ if $v.job.tmpSize }}{{ dict "sizeLimit" $v.job.tmpSize | toJson }}{{ else }}{}{{ end }}
{{- end }}
{{- end }}
{{- include "ckptrun.ownVolumes" . }}
{{- with $v.job.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Volumes that the job's container does not mount (mode sidecar), or that its user cannot read (mode wrapper). */}}
{{- define "ckptrun.ownVolumes" -}}
{{- $v := .Values -}}
{{- with $v.key.secret }}
- name: ckptrun-key
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0400
    items:
      - {key: {{ $v.key.item | quote }}, path: key}
{{- end }}
{{- if or $v.hooks.files $v.hooks.configMap }}
- name: ckptrun-hooks
  configMap:
    name: {{ $v.hooks.configMap | default (printf "%s-hooks" (include "ckptrun.name" .)) | quote }}
    defaultMode: 0555
{{- end }}
{{- with $v.store.volume }}
- name: ckptrun-store
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $v.api.enabled }}
- name: ckptrun-api
  projected:
    defaultMode: 0400
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3607}
      - configMap:
          name: kube-root-ca.crt
          items:
            - {key: ca.crt, path: ca.crt}
      - downwardAPI:
          items:
            - {path: namespace, fieldRef: {fieldPath: metadata.namespace}}
{{- end }}
{{- with $v.checkpoint.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
