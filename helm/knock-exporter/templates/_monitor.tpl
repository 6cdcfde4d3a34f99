{{/* A monitor of the Prometheus operator: (dict "root" $ "kind" kind "endpoints" key "monitor" values). */}}
{{- define "knock-exporter.monitor" -}}
apiVersion: monitoring.coreos.com/v1
kind: {{ .kind }}
metadata:
  name: {{ include "knock-exporter.fullname" .root | quote }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "knock-exporter.labels" .root | nindent 4 }}
    {{- with .monitor.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  # The same job for all workloads; rules select it.
  jobLabel: app.kubernetes.io/name
  selector:
    matchLabels:
      {{- include "knock-exporter.selectorLabels" .root | nindent 6 }}
  {{ .endpoints }}:
    - port: http
      path: /metrics
      scheme: {{ .monitor.scheme }}
      {{- with .monitor.interval }}
      interval: {{ . }}
      {{- end }}
      {{- with .monitor.scrapeTimeout }}
      scrapeTimeout: {{ . }}
      {{- end }}
      {{- with .monitor.tlsConfig }}
      tlsConfig:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .monitor.basicAuth }}
      basicAuth:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .monitor.relabelings }}
      relabelings:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .monitor.metricRelabelings }}
      metricRelabelings:
        {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end -}}
