{{/* What ckptrun may do in the API, nothing more: each rule says what for. */}}
{{- define "ckptrun.rules" -}}
# its own pod: the annotation ckptrun.dev/checkpoint-now, and that it is to be ended
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# its own pod's conditions
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch]
# events of its pod
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# the lease of its lineage
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, create, update, patch, delete]
{{- end }}
