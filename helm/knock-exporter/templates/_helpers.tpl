{{- define "knock-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of everything: with an environment behind it no longer than a StatefulSet may be called (52). */}}
{{- define "knock-exporter.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- $full = default $full .Values.fullnameOverride -}}
{{- if gt (len $full) 31 -}}
{{/* What differs behind the cut stays apart. */}}
{{- $full = printf "%s-%s" ($full | trunc 24 | trimSuffix "-") (sha256sum $full | trunc 6) -}}
{{- end -}}
{{- $full -}}
{{- end -}}

{{- define "knock-exporter.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{/* Port of the Services. */}}
{{- define "knock-exporter.servicePort" -}}
{{- default .Values.web.port .Values.service.port -}}
{{- end -}}

{{- define "knock-exporter.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "knock-exporter.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "knock-exporter.selectorLabels" -}}
app.kubernetes.io/name: {{ include "knock-exporter.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "knock-exporter.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "knock-exporter.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* Metadata of an object: (dict "root" $ "name" name), and "workload", "namespace", "labels" and "annotations" if it has them. */}}
{{- define "knock-exporter.metadata" -}}
{{- $labels := include (default "knock-exporter.labels" .own) .root | fromYaml -}}
{{- with .workload -}}{{- $_ := set $labels "knock-exporter/workload" .label -}}{{- end -}}
name: {{ .name | quote }}
namespace: {{ default (include "knock-exporter.namespace" .root) .namespace | quote }}
labels:
  {{- merge $labels (default dict .labels) (default dict .root.Values.commonLabels) | toYaml | nindent 2 }}
{{- with merge dict (default dict .annotations) (default dict .root.Values.commonAnnotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The fields of a map that are set: no empty text, list or map. */}}
{{- define "knock-exporter.set" -}}
{{- range $name, $value := . }}
{{- if not (has (toJson $value) (list "null" "\"\"" "[]" "{}")) }}
{{ dict $name $value | toYaml }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "knock-exporter.image" -}}
{{- $image := .Values.image.repository -}}
{{- $registry := default .Values.image.registry (.Values.global).imageRegistry -}}
{{- if and $registry (not (regexMatch "^([^/]*[.:][^/]*|localhost)/" $image)) -}}
{{- $image = printf "%s/%s" (trimSuffix "/" $registry) $image -}}
{{- end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $image .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "knock-exporter.podSecurityContext" -}}
{{- $adapt := default "auto" (((.Values.global).compatibility).openshift).adaptSecurityContext -}}
{{- if or (eq $adapt "force") (and (eq $adapt "auto") (.Capabilities.APIVersions.Has "security.openshift.io/v1")) -}}
{{- omit (default dict .Values.podSecurityContext) "fsGroup" "runAsGroup" "runAsUser" | toYaml -}}
{{- else -}}
{{- toYaml .Values.podSecurityContext -}}
{{- end -}}
{{- end -}}

{{/* Not empty if anything is to come from external-secrets. */}}
{{- define "knock-exporter.remote" -}}
{{- range .Values.environments -}}{{- if .apiKeyRemoteRef -}}key{{- end -}}{{- end -}}
{{- range .Values.registration.tokens -}}{{- if .remoteRef -}}token{{- end -}}{{- end -}}
{{- if .Values.web.configRemoteRef -}}web{{- end -}}
{{- end -}}

{{/* What stands for an environment in names that allow less than its own. */}}
{{- define "knock-exporter.keyName" -}}
{{- printf "key-%s" (sha256sum . | trunc 12) -}}
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

{{/* The name of a token, the same wherever it stands in the list: taking another one out must not make it another. */}}
{{- define "knock-exporter.tokenName" -}}
{{- $known := dict "secretName" .secretName "key" (default "token" .secretKey) "remoteRef" .remoteRef -}}
{{- printf "token-%s" ($known | toJson | sha256sum | trunc 12) -}}
{{- end -}}

{{/* The tokens that are good for a workload as JSON, [{id, secret, key, environments}]: (dict "root" $ "workload" $workload). */}}
{{- define "knock-exporter.tokens" -}}
{{- $tokens := list -}}
{{- range $token := .root.Values.registration.tokens -}}
{{- $for := list -}}
{{- range (default (list "all") $token.environments) -}}
{{- if or (eq . "all") (hasKey $.workload.environments .) -}}{{- $for = append $for . -}}{{- end -}}
{{- end -}}
{{- if $for -}}
{{- $id := include "knock-exporter.tokenName" $token -}}
{{- $secret := default (printf "%s-%s" (include "knock-exporter.fullname" $.root) $id) $token.secretName -}}
{{- $tokens = append $tokens (dict "id" $id "secret" $secret "key" (default "token" $token.secretKey) "environments" $for) -}}
{{- end -}}
{{- end -}}
{{- toJson $tokens -}}
{{- end -}}

{{/* The exporter's configuration of a workload: (dict "root" $ "workload" $workload). */}}
{{- define "knock-exporter.config" -}}
{{- $environments := list -}}
{{- range $name, $settings := .workload.environments -}}
{{- $own := dict "name" $name "api_key_file" (printf "/etc/knock-exporter/keys/%s/%s" $name (default "api-key" $settings.apiKeySecretKey)) -}}
{{- $environments = append $environments (merge $own (omit $settings "apiKeySecret" "apiKeySecretKey" "apiKeyRemoteRef")) -}}
{{- end -}}
{{- $config := merge (dict "environments" $environments) (default dict .root.Values.config) -}}
{{- $tokens := list -}}
{{- range (include "knock-exporter.tokens" . | fromJsonArray) -}}
{{- $tokens = append $tokens (dict "token_file" (printf "/etc/knock-exporter/tokens/%s/%s" .id .key) "environments" .environments) -}}
{{- end -}}
{{- if $tokens -}}{{- $_ := set $config "registration" (dict "tokens" $tokens) -}}{{- end -}}
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

{{/* The paths of a workload as JSON, likewise. At the root its registrations and runs have the address that they have without split. */}}
{{- define "knock-exporter.paths" -}}
{{- $paths := list (include "knock-exporter.path" .) -}}
{{- if and (eq .root.Values.split "environment") (eq .path "/") -}}
{{- $environment := keys .workload.environments | first -}}
{{- $paths = concat $paths (list (printf "/api/v1/operations/%s" $environment) (printf "/api/v1/groups/%s" $environment)) -}}
{{- end -}}
{{- toJson $paths -}}
{{- end -}}

{{/* Labels of the test's pod: no Service, monitor or policy of the exporter selects it. */}}
{{- define "knock-exporter.testLabels" -}}
app.kubernetes.io/name: {{ printf "%s-test" (include "knock-exporter.name" . | trunc 58) | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}
