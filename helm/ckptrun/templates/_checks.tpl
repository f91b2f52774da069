{{/* Refuses values that contradict each other, or the cluster. Each sentence names the value and the next step. */}}

{{- define "ckptrun.checks" -}}
{{- $name := include "ckptrun.name" . -}}
{{- $s3 := hasPrefix "s3://" .Values.store.url -}}
{{- $grace := include "ckptrun.graceSeconds" . | int -}}
{{- $indexed := include "ckptrun.indexed" . -}}
{{- $job := ne .Values.kind "Pod" -}}

{{- $duration := "([0-9]+([.][0-9]+)?d)?([0-9]+([.][0-9]+)?h)?([0-9]+([.][0-9]+)?m)?([0-9]+([.][0-9]+)?s)?([0-9]+([.][0-9]+)?ms)?|[0-9]+([.][0-9]+)?" -}}
{{- $size := "[0-9]+([.][0-9]+)?([KMGTkmgt]i?)?[Bb]?" -}}
{{- $c := .Values.checkpoint -}}
{{- include "ckptrun.written" (list "job.user" .Values.job.user "[1-9][0-9]*(:[0-9]+)?" "a user other than root, as 1000 or 1000:1000") -}}
{{- include "ckptrun.written" (list "store.url" .Values.store.url "|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^?#]*)?|file://(localhost)?/[^?#%]*" "s3://bucket/prefix or file:///path") -}}
{{- include "ckptrun.written" (list "store.endpoint" .Values.store.endpoint "|https?://[^/]+.*" "http://host:port or https://…") -}}
{{- include "ckptrun.written" (list "checkpoint.interval" $c.interval (printf "|auto|off|%s" $duration) "30s, 5m, off or auto") -}}
{{- include "ckptrun.written" (list "checkpoint.keep" $c.keep "|last=[1-9][0-9]*" "last=N with N at least 1") -}}
{{- include "ckptrun.written" (list "checkpoint.grace" $c.grace (printf "|%s" $duration) "30s or 2m") -}}
{{- include "ckptrun.written" (list "checkpoint.maxFreeze" $c.maxFreeze (printf "|%s" $duration) "60s or 2m") -}}
{{- include "ckptrun.written" (list "checkpoint.staging" $c.staging (printf "|auto|%s" $size) "64M, 1G, 0 or auto") -}}
{{- include "ckptrun.written" (list "checkpoint.journalLimit" $c.journalLimit (printf "|%s" $size) "64M or 1G") -}}
{{- include "ckptrun.written" (list "checkpoint.portableCpu" $c.portableCpu "|x86-64(-v[2-4])?" "a level of x86-64, as x86-64-v3") -}}
{{- range $c.preserve }}{{ include "ckptrun.written" (list "checkpoint.preserve" . "/.*" "an absolute path, as the job sees it") }}{{ end -}}

{{- if not .Values.job.image }}{{ fail "job.image is empty: name the image of the job, as --set job.image=registry/training:1" }}{{ end -}}
{{- if not .Values.job.command }}{{ fail "job.command is empty: name the job's program, as --set 'job.command={python,train.py}'; the image's ENTRYPOINT cannot be known here" }}{{ end -}}
{{- range .Values.job.env -}}
{{- if and (hasPrefix "CKPTRUN_" .name) (ne .name "CKPTRUN_SHIM_PATIENCE") }}{{ fail (printf "job.env has %s, which is a setting of ckptrun's own: put it in checkpoint.env, or use the value of that name" .name) }}{{ end -}}
{{- end -}}

{{- if not .Values.store.url }}{{ fail "store.url is empty: name where checkpoints live, as --set store.url=s3://bucket/prefix" }}{{ end -}}
{{- if $s3 -}}
{{- if and .Values.key.secret .Values.key.noEncryption }}{{ fail "key.secret and key.noEncryption contradict each other: leave one of them out" }}{{ end -}}
{{- if not (or .Values.key.secret .Values.key.noEncryption) }}{{ fail (printf "key.secret is empty: %s would hold the job's memory, secrets and all, as plain bytes. Make a key with 'head -c 32 /dev/urandom > key; kubectl create secret generic ckptrun-key --from-file=key' and set key.secret=ckptrun-key, or accept it with key.noEncryption=true" .Values.store.url) }}{{ end -}}
{{- if .Values.store.volume }}{{ fail (printf "store.volume says nothing about the store %s: leave it out, or use a file:// store" .Values.store.url) }}{{ end -}}
{{- else -}}
{{- if not .Values.store.volume }}{{ fail (printf "store.volume is empty: the store %s would be lost with its pod. Name a volume that every node can mount, as store.volume.persistentVolumeClaim.claimName" .Values.store.url) }}{{ end -}}
{{- if or .Values.store.endpoint .Values.store.region .Values.store.credentials.secret }}{{ fail (printf "store.endpoint, store.region and store.credentials say nothing about the store %s: leave them out, or use an s3:// store" .Values.store.url) }}{{ end -}}
{{- if and .Values.key.secret .Values.key.noEncryption }}{{ fail "key.secret and key.noEncryption contradict each other: leave one of them out" }}{{ end -}}
{{- $path := include "ckptrun.storePath" . -}}
{{- range list "/" "/ckptrun" "/tmp" "/etc/ckptrun" -}}
{{- if or (eq $path .) (and (ne . "/") (hasPrefix (printf "%s/" .) $path)) }}{{ fail (printf "store.url: a volume cannot be mounted at %s, which is ckptrun's own: choose another path, as file:///store" $path) }}{{ end -}}
{{- end -}}
{{- end -}}

{{- if gt (len $name) 63 }}{{ fail (printf "the name %s is longer than the 63 characters of a Job's: set fullnameOverride" $name) }}{{ end -}}
{{- if and (eq .Values.kind "CronJob") (gt (len $name) 52) }}{{ fail (printf "the name %s is longer than the 52 characters of a CronJob's: set fullnameOverride" $name) }}{{ end -}}
{{- $last := ternary (printf "-%d" (sub (int .Values.completions) 1)) "" (ne $indexed "") -}}
{{- if and (ne $indexed "") (gt (add (len $name) (len $last) (ternary 11 0 (eq .Values.kind "CronJob"))) 63) }}{{ fail (printf "the name %s and an index are longer than the 63 characters of a pod's host name: set fullnameOverride" $name) }}{{ end -}}
{{- if and .Values.lineage.name $indexed }}{{ fail "lineage.name would be the same for every index: leave it out, each index gets a lineage of its own" }}{{ end -}}
{{- if and .Values.lineage.name (eq .Values.lineage.key "uid") }}{{ fail "lineage.name and lineage.key=uid contradict each other: leave one of them out" }}{{ end -}}
{{- if and .Values.lineage.name (eq .Values.kind "CronJob") (eq .Values.cron.concurrencyPolicy "Allow") }}{{ fail "lineage.name would be shared by Jobs that run at once: set cron.concurrencyPolicy to Forbid, or leave the name out" }}{{ end -}}

{{- if and (has .Values.kind (list "Job" "Pod")) (or (gt (int .Values.completions) 1) (gt (int .Values.parallelism) 1)) }}{{ fail (printf "completions and parallelism above 1 need kind IndexedJob: the pods of a %s would share one lineage" .Values.kind) }}{{ end -}}
{{- if gt (int .Values.parallelism) (int .Values.completions) }}{{ fail (printf "parallelism %d is more than completions %d: raise completions, which is the number of indexes" (int .Values.parallelism) (int .Values.completions)) }}{{ end -}}
{{- if not (kindIs "invalid" .Values.backoffLimitPerIndex) -}}
{{- if not $indexed }}{{ fail "backoffLimitPerIndex needs kind IndexedJob, or a CronJob with more than one completion" }}{{ end -}}
{{- if not (include "ckptrun.since" (list . "1.29")) }}{{ fail (printf "backoffLimitPerIndex needs Kubernetes 1.29, this is %s: leave it out" .Capabilities.KubeVersion.Version) }}{{ end -}}
{{- else if not (kindIs "invalid" .Values.maxFailedIndexes) }}{{ fail "maxFailedIndexes needs backoffLimitPerIndex: set that too" }}{{ end -}}
{{- if and (eq .Values.kind "CronJob") (not .Values.cron.schedule) }}{{ fail "cron.schedule is empty: kind CronJob needs one, as --set 'cron.schedule=0 3 * * *'" }}{{ end -}}
{{- if and (ne .Values.kind "CronJob") (or .Values.cron.schedule .Values.cron.timeZone) }}{{ fail (printf "cron.schedule and cron.timeZone say nothing about a %s: set kind to CronJob, or leave them out" .Values.kind) }}{{ end -}}
{{- if and $job (ne .Values.restartPolicy "Never") .Values.podFailurePolicy.enabled }}{{ fail (printf "restartPolicy %s: Kubernetes takes a podFailurePolicy with Never only. Set podFailurePolicy.enabled=false, or leave restartPolicy out" .Values.restartPolicy) }}{{ end -}}
{{- if not $job -}}
{{- $other := list -}}
{{- if ne (int .Values.backoffLimit) 6 }}{{ $other = append $other "backoffLimit" }}{{ end -}}
{{- if not (kindIs "invalid" .Values.ttlSecondsAfterFinished) }}{{ $other = append $other "ttlSecondsAfterFinished" }}{{ end -}}
{{- if .Values.suspend }}{{ $other = append $other "suspend" }}{{ end -}}
{{- if .Values.podFailurePolicy.rules }}{{ $other = append $other "podFailurePolicy.rules" }}{{ end -}}
{{- if .Values.jobLabels }}{{ $other = append $other "jobLabels" }}{{ end -}}
{{- if .Values.jobAnnotations }}{{ $other = append $other "jobAnnotations" }}{{ end -}}
{{- if $other }}{{ fail (printf "%s: nothing of the kind is known to a bare Pod, which nothing runs again: leave it out, or set kind=Job (labels and annotations of a Pod are podLabels and podAnnotations)" (join " and " $other)) }}{{ end -}}
{{- end -}}
{{- range $code := .Values.podFailurePolicy.failExitCodes -}}
{{- range $.Values.podFailurePolicy.ignoreExitCodes -}}
{{- if eq (int .) (int $code) }}{{ fail (printf "podFailurePolicy: exit code %d is in ignoreExitCodes and in failExitCodes: leave it out of one" (int .)) }}{{ end -}}
{{- end -}}
{{- end -}}

{{- if lt $grace 1 }}{{ fail (printf "checkpoint.grace %s leaves no time for a last checkpoint: write 30s, say" (include "ckptrun.grace" .)) }}{{ end -}}
{{- if le (include "ckptrun.podGraceSeconds" . | int) $grace }}{{ fail (printf "terminationGracePeriodSeconds %s is not longer than checkpoint.grace %s: the last checkpoint would be cut off. Raise it to %d, or leave it out" (include "ckptrun.podGraceSeconds" .) (include "ckptrun.grace" .) (add $grace 15)) }}{{ end -}}
{{- range .Values.checkpoint.preserve -}}
{{- if contains ":" . }}{{ fail (printf "checkpoint.preserve: %s has a ':', which parts paths: mount it elsewhere" .) }}{{ end -}}
{{- end -}}
{{- if and (eq .Values.checkpoint.restart "never") (not (has (toString .Values.checkpoint.maxRestarts) (list "" "0"))) }}{{ fail "checkpoint.maxRestarts limits what checkpoint.restart=never never does: leave one of them out" }}{{ end -}}
{{- range $key, $value := .Values.checkpoint.labels -}}
{{- if contains "," (toString $value) }}{{ fail (printf "checkpoint.labels: the value of %s has a ',', which parts labels: write it otherwise" $key) }}{{ end -}}
{{- end -}}
{{- range .Values.checkpoint.env -}}
{{- if hasPrefix "CKPTRUN_POD_" .name }}{{ fail (printf "checkpoint.env has %s, which the pod itself tells: leave it out" .name) }}{{ end -}}
{{- end -}}

{{- if and .Values.hooks.files .Values.hooks.configMap }}{{ fail "hooks.files and hooks.configMap are mounted at one place: leave one of them out" }}{{ end -}}
{{- range .Values.hooks.specs -}}
{{- if contains ";" . }}{{ fail (printf "hooks.specs: %s has a ';', which parts hooks: escape it as %%3B" .) }}{{ end -}}
{{- end -}}
{{- range $file, $_ := .Values.hooks.files -}}
{{- $path := printf "/etc/ckptrun/hooks/%s" $file -}}
{{- $named := false -}}
{{- range $.Values.hooks.specs }}{{ if eq (splitList "?" . | first) $path }}{{ $named = true }}{{ end }}{{ end -}}
{{- if not $named }}{{ fail (printf "hooks.files has %s, which no hook of hooks.specs names: add %s there" $file $path) }}{{ end -}}
{{- end -}}

{{- if gt (int .Values.gpu.count) 0 -}}
{{- if not (hasPrefix "nvidia.com/" .Values.gpu.resourceName) }}{{ fail (printf "gpu.resourceName %s: the memory of NVIDIA's GPUs alone can be saved. Set gpu.count=0 and ask for it in job.resources if the job keeps nothing there" .Values.gpu.resourceName) }}{{ end -}}
{{- if hasPrefix "nvidia.com/mig-" .Values.gpu.resourceName }}{{ fail (printf "gpu.resourceName %s: a GPU divided by MIG cannot be saved. Use whole ones: nvidia.com/gpu" .Values.gpu.resourceName) }}{{ end -}}
{{- if hasKey (.Values.job.resources.limits | default dict) .Values.gpu.resourceName }}{{ fail (printf "job.resources.limits has %s, which gpu.count sets: leave one of them out" .Values.gpu.resourceName) }}{{ end -}}
{{- end -}}

{{- if and .Values.api.enabled .Values.rbac.create (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) }}{{ fail "rbac.create would give ckptrun's rights to the namespace's account default, and so to every pod without one of its own: name an account with serviceAccount.name, have one made (serviceAccount.create=true), or set rbac.create=false" }}{{ end -}}

{{- if and (ne .Values.spot.provider "custom") (or .Values.spot.nodeSelector .Values.spot.tolerations) }}{{ fail (printf "spot.nodeSelector and spot.tolerations hold with spot.provider custom, which is %s: set it, or use nodeSelector and tolerations" .Values.spot.provider) }}{{ end -}}
{{- if and (eq .Values.spot.provider "custom") (not (or .Values.spot.nodeSelector .Values.spot.tolerations)) }}{{ fail "spot.provider custom says nothing by itself: set spot.nodeSelector or spot.tolerations" }}{{ end -}}

{{- if eq .Values.mode "wrapper" -}}
{{- if .Values.podSecurityContext.fsGroup }}{{ fail "podSecurityContext.fsGroup would let the job's group read the key and the token in mode wrapper: leave it out, and give the job's volumes to its user otherwise" }}{{ end -}}
{{- if eq (toString .Values.sidecar.native) "true" }}{{ fail "sidecar.native says nothing in mode wrapper: leave it out" }}{{ end -}}
{{- else if and (eq (toString .Values.sidecar.native) "true") (not (include "ckptrun.since" (list . "1.28"))) }}{{ fail (printf "sidecar.native=true needs Kubernetes 1.29 (1.28 with the feature gate SidecarContainers), this is %s: leave it out" .Capabilities.KubeVersion.Version) }}{{ end -}}
{{- if and (eq (toString .Values.podResources.enabled) "true") (not (or .Values.podResources.requests .Values.podResources.limits)) }}{{ fail "podResources.enabled=true without limits or requests: set podResources.limits" }}{{ end -}}
{{- if and (eq (toString .Values.podResources.enabled) "true") (not (include "ckptrun.since" (list . "1.32"))) }}{{ fail (printf "podResources needs Kubernetes 1.34 (1.32 with the feature gate PodLevelResources), this is %s: leave it out and set sidecar.resources" .Capabilities.KubeVersion.Version) }}{{ end -}}
{{- range concat .Values.job.volumes .Values.checkpoint.volumes -}}
{{- if or (eq .name "ckptrun") (hasPrefix "ckptrun-" .name) }}{{ fail (printf "the volume name %s is ckptrun's own: choose another" .name) }}{{ end -}}
{{- end -}}
{{- range .Values.job.volumeMounts -}}
{{- if or (eq .mountPath "/ckptrun") (hasPrefix "/ckptrun/" .mountPath) }}{{ fail (printf "job.volumeMounts: %s is ckptrun's own: choose another path" .mountPath) }}{{ end -}}
{{- if and (eq (clean .mountPath) "/tmp") (eq $.Values.mode "sidecar") (ne $.Values.job.tmpSize "none") }}{{ fail "job.volumeMounts has /tmp, where the chart mounts a volume: set job.tmpSize=none" }}{{ end -}}
{{- end -}}
{{- range .Values.initContainers -}}
{{- if has .name (list "ckptrun" "ckptrun-install" $.Values.job.container) }}{{ fail (printf "initContainers: %s is the name of another container of the pod: choose another" .name) }}{{ end -}}
{{- end -}}
{{- if has .Values.job.container (list "ckptrun" "ckptrun-install") }}{{ fail (printf "job.container: %s is the name of a container of ckptrun's: choose another" .Values.job.container) }}{{ end -}}
{{- end }}

{{/* Refuses a value that is not written as it must be: (list NAME VALUE PATTERN "what to write"). */}}
{{- define "ckptrun.written" -}}
{{- if not (regexMatch (printf "^(%s)$" (index . 2)) (toString (index . 1))) }}{{ fail (printf "%s: %q is not what it can be: write %s" (index . 0) (toString (index . 1)) (index . 3)) }}{{ end -}}
{{- end }}
