{{/* The pod of a workload: (dict "root" $ "workload" $workload). */}}
{{- define "knock-exporter.pod" -}}
{{- $values := .root.Values -}}
metadata:
  labels:
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- include "knock-exporter.labels" .root | nindent 4 }}
    knock-exporter/workload: {{ .workload.label }}
  {{- with $values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "knock-exporter.serviceAccountName" .root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  {{- with $values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- toYaml $values.podSecurityContext | nindent 4 }}
  containers:
    - name: knock-exporter
      image: {{ include "knock-exporter.image" .root | quote }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args:
        - run
        - --config.file=/etc/knock-exporter/config/config.yaml
        - --web.listen-address=:{{ $values.web.port }}
        - --web.health-listen-address=:{{ $values.web.healthPort }}
        - --log.level={{ $values.log.level }}
        - --log.format={{ $values.log.format }}
        {{- if $values.web.configSecret }}
        - --web.config.file=/etc/knock-exporter/web/{{ $values.web.configSecretKey }}
        {{- end }}
        {{- with $values.web.externalUrl }}
        - --web.external-url={{ include "knock-exporter.path" (dict "root" $.root "workload" $.workload "path" .) }}
        {{- end }}
        {{- if $values.web.enableLifecycle }}
        - --web.enable-lifecycle
        {{- end }}
        {{- with $values.extraArgs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $values.extraEnv }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: http
          containerPort: {{ $values.web.port }}
          protocol: TCP
        - name: health
          containerPort: {{ $values.web.healthPort }}
          protocol: TCP
      livenessProbe:
        httpGet: {path: /-/healthy, port: health}
        initialDelaySeconds: 10
        periodSeconds: 15
        timeoutSeconds: 5
      readinessProbe:
        httpGet: {path: /-/ready, port: health}
        periodSeconds: 5
        timeoutSeconds: 5
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      securityContext:
        {{- toYaml $values.securityContext | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/knock-exporter/config, readOnly: true}
        {{- range $name, $_ := .workload.environments }}
        - {name: key-{{ sha256sum $name | trunc 12 }}, mountPath: /etc/knock-exporter/keys/{{ $name }}, readOnly: true}
        {{- end }}
        {{- range $place, $_ := $values.registration.tokens }}
        - {name: token-{{ $place }}, mountPath: /etc/knock-exporter/tokens/{{ $place }}, readOnly: true}
        {{- end }}
        {{- if $values.web.configSecret }}
        - {name: web, mountPath: /etc/knock-exporter/web, readOnly: true}
        {{- end }}
        {{- if $values.persistence.enabled }}
        - {name: data, mountPath: /var/lib/knock-exporter}
        {{- end }}
        {{- with $values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    # Whole folders, not single files: those would not follow a change.
    - name: config
      configMap: {name: {{ .workload.name }}}
    {{- range $name, $settings := .workload.environments }}
    - name: key-{{ sha256sum $name | trunc 12 }}
      secret: {secretName: {{ $settings.apiKeySecret }}, defaultMode: 288}
    {{- end }}
    {{- range $place, $token := $values.registration.tokens }}
    - name: token-{{ $place }}
      secret: {secretName: {{ $token.secretName }}, defaultMode: 288}
    {{- end }}
    {{- with $values.web.configSecret }}
    - name: web
      secret: {secretName: {{ . }}, defaultMode: 288}
    {{- end }}
    {{- with $values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
