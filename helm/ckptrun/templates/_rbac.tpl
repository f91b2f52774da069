{{/* What ckptrun may do in the API, nothing more (ckptrun/kube/rbac.py): each rule says what for. */}}
{{- define "ckptrun.rules" -}}
# events of its pod
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
# its own pod: the annotation ckptrun.dev/checkpoint-now, and that it is to be ended
- apiGroups: [""]
  resources: [pods]
  verbs: [watch]
# its own pod's conditions and annotations; what a pod runs cannot be changed by it
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch]
# who writes the lineage
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, create, update]
{{- end }}

{{- define "ckptrun.clusterRules" -}}
# its node: a drain is noticed at the cordon, before the pod is evicted
- apiGroups: [""]
  resources: [nodes]
  verbs: [watch]
{{- end }}
