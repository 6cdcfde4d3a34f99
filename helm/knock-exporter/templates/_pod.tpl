{{/* The pod of a workload: (dict "root" $ "workload" $workload). */}}
{{- define "knock-exporter.pod" -}}
{{- $values := .root.Values -}}
{{- $full := include "knock-exporter.fullname" .root -}}
{{- $tokens := include "knock-exporter.tokens" . | fromJsonArray -}}
metadata:
  labels:
    {{- $labels := include "knock-exporter.selectorLabels" .root | fromYaml }}
    {{- $_ := set $labels "knock-exporter/workload" .workload.label }}
    {{- merge $labels (default dict $values.podLabels) (default dict $values.commonLabels) | toYaml | nindent 4 }}
  {{- with $values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "knock-exporter.serviceAccountName" .root | quote }}
  automountServiceAccountToken: {{ $values.automountServiceAccountToken }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ int64 $values.terminationGracePeriodSeconds }}
  {{- $fields := pick $values "affinity" "dnsConfig" "dnsPolicy" "hostAliases" "initContainers" "priorityClassName" "topologySpreadConstraints" }}
  {{- $fields = merge $fields (include "knock-exporter.node" .root | fromYaml) (default dict $values.extraPodConfigs) }}
  {{- with include "knock-exporter.set" $fields | trim }}{{- . | nindent 2 }}{{- end }}
  securityContext:
    {{- include "knock-exporter.podSecurityContext" .root | nindent 4 }}
  containers:
    - name: knock-exporter
      image: {{ include "knock-exporter.image" .root | quote }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      {{- if $values.maintenance }}
      # The volume is mounted and nobody uses it: `kubectl exec` may export, import and check.
      command: [python3, -c, "import signal; signal.signal(signal.SIGTERM, lambda *_: exit()); signal.pause()"]
      {{- else }}
      args:
        - run
        - --config.file=/etc/knock-exporter/config/config.yaml
        - --web.listen-address=:{{ $values.web.port }}
        - --web.health-listen-address=:{{ $values.web.healthPort }}
        - --log.level={{ $values.log.level }}
        - --log.format={{ $values.log.format }}
        {{- if or $values.web.configSecret $values.web.configRemoteRef }}
        - {{ printf "--web.config.file=/etc/knock-exporter/web/%s" $values.web.configSecretKey | quote }}
        {{- end }}
        {{- with $values.web.externalUrl }}
        - {{ printf "--web.external-url=%s" (include "knock-exporter.path" (dict "root" $.root "workload" $.workload "path" .)) | quote }}
        {{- end }}
        {{- if $values.web.enableLifecycle }}
        - --web.enable-lifecycle
        {{- end }}
        {{- with $values.extraArgs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
      {{- if or $values.persistence.enabled $values.extraEnv }}
      env:
        {{- if $values.persistence.enabled }}
        # A variable, so that `knock-exporter state` finds it too.
        - {name: KNOCK_EXPORTER_STORAGE_PATH, value: /var/lib/knock-exporter/state.db}
        {{- end }}
        {{- with $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
      {{- with $values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: http
          containerPort: {{ $values.web.port }}
          protocol: TCP
        - name: health
          containerPort: {{ $values.web.healthPort }}
          protocol: TCP
      {{- if not $values.maintenance }}
      {{- with include "knock-exporter.set" (pick $values "startupProbe" "livenessProbe" "readinessProbe" "lifecycle") | trim }}{{- . | nindent 6 }}{{- end }}
      {{- end }}
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      securityContext:
        {{- toYaml $values.securityContext | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/knock-exporter/config, readOnly: true}
        {{- range $name, $_ := .workload.environments }}
        - {name: {{ include "knock-exporter.keyName" $name }}, mountPath: "/etc/knock-exporter/keys/{{ $name }}", readOnly: true}
        {{- end }}
        {{- range $tokens }}
        - {name: {{ .id }}, mountPath: /etc/knock-exporter/tokens/{{ .id }}, readOnly: true}
        {{- end }}
        {{- if or $values.web.configSecret $values.web.configRemoteRef }}
        - {name: web, mountPath: /etc/knock-exporter/web, readOnly: true}
        {{- end }}
        {{- if $values.persistence.enabled }}
        - {name: data, mountPath: /var/lib/knock-exporter}
        {{- end }}
        {{- with $values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with $values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    # Folders, not single files mounted by subPath: those would not follow a change. Of a Secret its own key alone, since
    # another environment's may be next to it.
    - name: config
      configMap: {name: {{ .workload.name | quote }}}
    {{- range $name, $settings := .workload.environments }}
    {{- $id := include "knock-exporter.keyName" $name }}
    {{- $key := default "api-key" $settings.apiKeySecretKey | quote }}
    - name: {{ $id }}
      secret:
        secretName: {{ default (printf "%s-%s" $full $id) $settings.apiKeySecret | quote }}
        items: [{key: {{ $key }}, path: {{ $key }}}]
        defaultMode: 288
    {{- end }}
    {{- range $tokens }}
    - name: {{ .id }}
      secret:
        secretName: {{ .secret | quote }}
        items: [{key: {{ .key | quote }}, path: {{ .key | quote }}}]
        defaultMode: 288
    {{- end }}
    {{- if or $values.web.configSecret $values.web.configRemoteRef }}
    - name: web
      secret: {secretName: {{ default (printf "%s-web" $full) $values.web.configSecret | quote }}, defaultMode: 288}
    {{- end }}
    {{- if $values.persistence.existingClaim }}
    - name: data
      persistentVolumeClaim: {claimName: {{ $values.persistence.existingClaim | quote }}}
    {{- end }}
    {{- with $values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* What decides which nodes can run a pod. */}}
{{- define "knock-exporter.node" -}}
{{- $secrets := list -}}
{{- range concat (default list (.Values.global).imagePullSecrets) (default list .Values.imagePullSecrets) -}}
{{- $secrets = append $secrets (kindIs "map" . | ternary . (dict "name" .)) -}}
{{- end -}}
{{- $fields := pick .Values "nodeSelector" "runtimeClassName" "schedulerName" "tolerations" -}}
{{- include "knock-exporter.set" (merge (dict "imagePullSecrets" (uniq $secrets)) $fields) -}}
{{- end -}}
