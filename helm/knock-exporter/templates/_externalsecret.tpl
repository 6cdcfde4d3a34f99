{{/* An ExternalSecret: (dict "root" $ "name" name "data" what fills it). */}}
{{- define "knock-exporter.externalSecret" -}}
---
apiVersion: {{ .root.Values.externalSecrets.apiVersion }}
kind: ExternalSecret
metadata:
  {{- include "knock-exporter.metadata" (dict "root" .root "name" .name) | nindent 2 }}
spec:
  refreshInterval: {{ .root.Values.externalSecrets.refreshInterval }}
  secretStoreRef:
    {{- toYaml .root.Values.externalSecrets.secretStoreRef | nindent 4 }}
  {{- toYaml .data | nindent 2 }}
  {{- /* Last, as Helm 3 cuts white space off the end of a document, a value's too. */}}
  target:
    name: {{ .name | quote }}
    creationPolicy: Owner
{{- end -}}
