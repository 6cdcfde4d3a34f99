{{- define "knock-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of everything; short enough for a suffix. */}}
{{- define "knock-exporter.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "knock-exporter.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "knock-exporter.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "knock-exporter.selectorLabels" -}}
app.kubernetes.io/name: {{ include "knock-exporter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "knock-exporter.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "knock-exporter.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "knock-exporter.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Refuse what cannot work, in words. */}}
{{- define "knock-exporter.check" -}}
{{- if not .Values.environments -}}
{{- fail "environments: none. Set environments.NAME.apiKeySecret (the Secret with the API key) and environments.NAME.operations (ids), NAME being for example production." -}}
{{- end -}}
{{- range $name, $settings := .Values.environments -}}
{{- if not (get (default dict $settings) "apiKeySecret") -}}
{{- fail (printf "environments.%s.apiKeySecret: missing. Make a Secret that holds the API key under api-key, and name it here." $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.registration.tokens (not .Values.persistence.enabled) (not .Values.registration.acceptLossWithoutPersistence) -}}
{{- fail "registration.tokens without persistence: each restart would forget what was registered. Set persistence.enabled=true, or accept that with registration.acceptLossWithoutPersistence=true." -}}
{{- end -}}
{{- if eq (int .Values.web.port) (int .Values.web.healthPort) -}}
{{- fail "web.healthPort: the same as web.port. Choose another." -}}
{{- end -}}
{{- end -}}

{{/* The workloads as JSON: {list: [{name, label, environments}]}; one for all environments, or one for each. */}}
{{- define "knock-exporter.workloads" -}}
{{- $full := include "knock-exporter.fullname" . -}}
{{- $list := list -}}
{{- if eq .Values.split "environment" -}}
{{- $seen := dict -}}
{{- range $name, $settings := .Values.environments -}}
{{- $short := $name | replace "_" "-" | trunc 20 | trimAll "-" -}}
{{- if or (not $short) (hasKey $seen $short) -}}
{{- fail (printf "environments.%s: cannot name a workload (%q is empty or taken); environments need names that differ in their first 20 letters, digits and dashes where split is environment." $name $short) -}}
{{- end -}}
{{- $_ := set $seen $short true -}}
{{- $list = append $list (dict "name" (printf "%s-%s" $full $short) "label" $short "environments" (dict $name $settings)) -}}
{{- end -}}
{{- else -}}
{{- $list = append $list (dict "name" $full "label" "all" "environments" .Values.environments) -}}
{{- end -}}
{{- dict "list" $list | toJson -}}
{{- end -}}

{{/* The exporter's configuration of a workload: (dict "root" $ "workload" $workload). */}}
{{- define "knock-exporter.config" -}}
{{- $environments := list -}}
{{- range $name, $settings := .workload.environments -}}
{{- $own := dict "name" $name "api_key_file" (printf "/etc/knock-exporter/keys/%s/%s" $name (default "api-key" $settings.apiKeySecretKey)) -}}
{{- $environments = append $environments (merge $own (omit $settings "apiKeySecret" "apiKeySecretKey")) -}}
{{- end -}}
{{- $config := merge (dict "environments" $environments) .root.Values.config -}}
{{- $tokens := list -}}
{{- range $place, $token := .root.Values.registration.tokens -}}
{{- $for := list -}}
{{- range (default (list "all") $token.environments) -}}
{{- if or (eq . "all") (hasKey $.workload.environments .) -}}{{- $for = append $for . -}}{{- end -}}
{{- end -}}
{{- if $for -}}
{{- $tokens = append $tokens (dict "token_file" (printf "/etc/knock-exporter/tokens/%d/%s" $place (default "token" $token.secretKey)) "environments" $for) -}}
{{- end -}}
{{- end -}}
{{- if $tokens -}}{{- $_ := set $config "registration" (dict "tokens" $tokens) -}}{{- end -}}
{{- if .root.Values.persistence.enabled -}}{{- $_ := set $config "storage" (dict "path" "/var/lib/knock-exporter/state.db") -}}{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Where a workload is reached under `path`: (dict "root" $ "workload" $workload "path" $path). Split, one path each. */}}
{{- define "knock-exporter.path" -}}
{{- if eq .root.Values.split "environment" -}}
{{- printf "%s/%s" (.path | trimSuffix "/") (keys .workload.environments | first) -}}
{{- else -}}
{{- .path -}}
{{- end -}}
{{- end -}}
