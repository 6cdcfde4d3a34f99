{{/* A monitor of the Prometheus operator: (dict "root" $ "kind" kind "endpoints" key "monitor" values). */}}
{{- define "knock-exporter.monitor" -}}
{{- $ofSpec := list "attachMetadata" "bodySizeLimit" "convertClassicHistogramsToNHCB" "fallbackScrapeProtocol" "jobLabel" "keepDroppedTargets" "labelLimit" "labelNameLengthLimit" "labelValueLengthLimit" "nativeHistogramBucketLimit" "nativeHistogramMinBucketFactor" "podTargetLabels" "sampleLimit" "scrapeClass" "scrapeClassicHistograms" "scrapeNativeHistograms" "scrapeProtocols" "selectorMechanism" "serviceDiscoveryRole" "targetLabels" "targetLimit" -}}
{{- /* The same job for all workloads; rules select it. */}}
{{- $spec := dict "jobLabel" "app.kubernetes.io/name" -}}
{{- $endpoint := dict "port" "http" "path" "/metrics" -}}
{{- range $name, $value := omit .monitor "enabled" "namespace" "labels" "annotations" -}}
{{- $_ := set (has $name $ofSpec | ternary $spec $endpoint) $name $value -}}
{{- end -}}
apiVersion: monitoring.coreos.com/v1
kind: {{ .kind }}
metadata:
  {{- include "knock-exporter.metadata" (merge (dict "name" (include "knock-exporter.fullname" .root)) (pick .monitor "namespace" "labels" "annotations") (dict "root" .root)) | nindent 2 }}
spec:
  {{- include "knock-exporter.set" $spec | trim | nindent 2 }}
  selector:
    matchLabels:
      {{- include "knock-exporter.selectorLabels" .root | nindent 6 }}
  {{- with .monitor.namespace }}
  namespaceSelector:
    matchNames: [{{ include "knock-exporter.namespace" $.root | quote }}]
  {{- end }}
  {{ .endpoints }}:
    - {{ include "knock-exporter.set" $endpoint | trim | nindent 6 | trim }}
{{- end -}}
