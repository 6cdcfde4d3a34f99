{{- define "knock-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of everything: with an environment behind it no longer than a StatefulSet may be called (52). */}}
{{- define "knock-exporter.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 31 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 31 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 31 | trimSuffix "-" -}}
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
app.kubernetes.io/name: {{ include "knock-exporter.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
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
{{- $readers := list -}}
{{- range $name, $settings := .Values.environments -}}
{{- if or (eq $name "all") (not (regexMatch "^[a-z0-9_-]{1,63}$" $name)) -}}
{{- fail (printf "environments.%s: is no name of an environment. Use lower-case letters, digits, - and _, 63 at most, and not \"all\"." $name) -}}
{{- end -}}
{{- if and $settings.apiKeySecret $settings.apiKeyRemoteRef -}}
{{- fail (printf "environments.%s: apiKeySecret and apiKeyRemoteRef. Keep one: a Secret that is there, or one that external-secrets makes." $name) -}}
{{- end -}}
{{- if not (or $settings.apiKeySecret $settings.apiKeyRemoteRef) -}}
{{- fail (printf "environments.%s.apiKeySecret: missing. Make a Secret that holds the API key under api-key, and name it here." $name) -}}
{{- end -}}
{{- if $settings.proxy_from_environment -}}{{- $readers = append $readers $name -}}{{- end -}}
{{- if and $settings.proxy $settings.proxy_from_environment -}}
{{- fail (printf "environments.%s: proxy and proxy_from_environment. Keep one." $name) -}}
{{- end -}}
{{- range $place, $operation := $settings.operations -}}
{{- range $label, $_ := (kindIs "map" $operation | ternary $operation dict).labels -}}
{{- if not (has $label (default list $.Values.config.labels)) -}}
{{- fail (printf "environments.%s.operations[%d].labels.%s: is not declared. Add it to config.labels." $name $place $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if contains "@" (default "" $settings.proxy) -}}
{{- fail (printf "environments.%s.proxy: has a user and a password, which a ConfigMap would show. Set proxy_from_environment: true in its place, and HTTPS_PROXY by extraEnv out of a Secret." $name) -}}
{{- end -}}
{{- end -}}
{{- $tokens := dict -}}
{{- range $place, $token := .Values.registration.tokens -}}
{{- if eq (empty $token.secretName) (empty $token.remoteRef) -}}
{{- fail (printf "registration.tokens[%d]: needs either secretName (a Secret that holds the token under token) or remoteRef." $place) -}}
{{- end -}}
{{- range $token.environments -}}
{{- if not (or (eq . "all") (hasKey $.Values.environments .)) -}}
{{- fail (printf "registration.tokens[%d].environments: %s is none of environments (%s)." $place . (keys $.Values.environments | sortAlpha | join ", ")) -}}
{{- end -}}
{{- end -}}
{{- $id := include "knock-exporter.tokenName" $token -}}
{{- if hasKey $tokens $id -}}
{{- fail (printf "registration.tokens[%d]: the same token as registration.tokens[%d]. Keep one, with the environments of both." $place (get $tokens $id)) -}}
{{- end -}}
{{- $_ := set $tokens $id $place -}}
{{- end -}}
{{- if and .Values.web.configSecret .Values.web.configRemoteRef -}}
{{- fail "web: configSecret and configRemoteRef. Keep one: a Secret that is there, or one that external-secrets makes." -}}
{{- end -}}
{{- if and (include "knock-exporter.remote" .) (not .Values.externalSecrets.secretStoreRef.name) -}}
{{- fail "externalSecrets.secretStoreRef.name: missing. Name the store that remote references lead to." -}}
{{- end -}}
{{- if and .Values.registration.tokens (not .Values.persistence.enabled) (not .Values.registration.acceptLossWithoutPersistence) -}}
{{- fail "registration.tokens without persistence: each restart would forget what was registered. Set persistence.enabled=true, or accept that with registration.acceptLossWithoutPersistence=true." -}}
{{- end -}}
{{- if and .Values.maintenance (not .Values.persistence.enabled) -}}
{{- fail "maintenance without persistence: there is no state to look after. Set persistence.enabled=true, or maintenance=false." -}}
{{- end -}}
{{- if and .Values.persistence.existingClaim (not .Values.persistence.enabled) -}}
{{- fail "persistence.existingClaim without persistence.enabled: it would not be mounted. Set persistence.enabled=true." -}}
{{- end -}}
{{- if and .Values.persistence.existingClaim (eq .Values.split "environment") -}}
{{- fail "persistence.existingClaim with split: environment: each workload needs a volume of its own. Leave existingClaim out, and move the state as docs/kubernetes.md says." -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if and $.Values.persistence.enabled (eq .name "KNOCK_EXPORTER_STORAGE_PATH") -}}
{{- fail "extraEnv: KNOCK_EXPORTER_STORAGE_PATH is set by persistence.enabled. Leave one of them out." -}}
{{- end -}}
{{- if has (upper .name) (list "HTTP_PROXY" "HTTPS_PROXY") -}}
{{- if not $readers -}}
{{- fail (printf "extraEnv: %s is read by no environment. Set environments.NAME.proxy_from_environment: true, or leave it out." .name) -}}
{{- end -}}
{{- if contains "@" (default "" .value) -}}
{{- fail (printf "extraEnv: %s has a user and a password, which the pod's description would show. Take it out of a Secret: valueFrom.secretKeyRef." .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $own := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/managed-by" "app.kubernetes.io/version" "helm.sh/chart" "knock-exporter/workload" -}}
{{- range $values, $labels := dict "podLabels" (omit .Values.podLabels "app.kubernetes.io/version" "helm.sh/chart") "serviceMonitor.labels" .Values.serviceMonitor.labels "podMonitor.labels" .Values.podMonitor.labels "prometheusRule.labels" .Values.prometheusRule.labels "dashboards.labels" .Values.dashboards.labels -}}
{{- range $label, $_ := $labels -}}
{{- if has $label $own -}}
{{- fail (printf "%s: %s is set by the chart. Choose another label." $values $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.fromPrometheus) -}}
{{- fail "networkPolicy.fromPrometheus: none, so nobody could scrape. Name who does, as in [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}], or [{podSelector: {}}] for everybody in the namespace." -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.fromClients) (or .Values.ingress.enabled .Values.httpRoute.enabled .Values.registration.tokens) -}}
{{- fail "networkPolicy.fromClients: none, so nobody but Prometheus would get in. Name the controller of the Ingress or the Gateway, and who registers, as in [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress-nginx}}}]." -}}
{{- end -}}
{{- if eq (int .Values.web.port) (int .Values.web.healthPort) -}}
{{- fail "web.healthPort: the same as web.port. Choose another." -}}
{{- end -}}
{{- $url := .Values.web.externalUrl -}}
{{- range $values, $route := dict "ingress" .Values.ingress "httpRoute" .Values.httpRoute -}}
{{- if and $route.enabled (not $url) (or (eq $.Values.split "environment") (ne $route.path "/")) -}}
{{- $host := default "knock.example.com" (default (first (default list $route.hostnames)) $route.host) -}}
{{- fail (printf "web.externalUrl: missing. Behind an Ingress or HTTPRoute with a path, or with a path for each environment, links need to know where people reach the port, as in https://%s%s." $host (trimSuffix "/" $route.path)) -}}
{{- end -}}
{{- $path := (urlParse (default "http://none" $url)).path -}}
{{- if and $route.enabled $url (ne (trimSuffix "/" $path) (trimSuffix "/" $route.path)) -}}
{{- fail (printf "%s.path: %s, but web.externalUrl has the path %s. Give both the same, since the exporter takes no other off." $values $route.path (default "/" $path)) -}}
{{- end -}}
{{- end -}}
{{- if $url -}}
{{- range (include "knock-exporter.workloads" . | fromJson).list -}}
{{- $path := include "knock-exporter.path" (dict "root" $ "workload" . "path" (urlParse $url).path) -}}
{{- if has (splitList "/" $path | rest | first) (list "-" "api" "config" "metrics" "operations" "static") -}}
{{- fail (printf "web.externalUrl: the pages would be at %s, which the exporter has for itself. Give it (and the Ingress or HTTPRoute) a path, as in https://knock.example.com/knock." $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs: none. Name the Gateway that the route joins, as in [{name: gateway}]." -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled -}}
{{- fail "serviceMonitor and podMonitor: both would scrape everything twice. Enable one." -}}
{{- end -}}
{{- range $values, $monitor := dict "serviceMonitor" .Values.serviceMonitor "podMonitor" .Values.podMonitor -}}
{{- if and $monitor.enabled (or $.Values.web.configSecret $.Values.web.configRemoteRef) (eq $monitor.scheme "http") (not $monitor.basicAuth) -}}
{{- fail (printf "%s: has neither scheme: https nor basicAuth, so the TLS and passwords of web.configSecret would keep it out. Say how it scrapes." $values) -}}
{{- end -}}
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
{{- printf "token-%s" (pick . "secretName" "secretKey" "remoteRef" | toJson | sha256sum | trunc 12) -}}
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
{{- $config := merge (dict "environments" $environments) .root.Values.config -}}
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

{{/* The paths of a workload as JSON, likewise. At the root its registrations have the address that they have without split. */}}
{{- define "knock-exporter.paths" -}}
{{- $paths := list (include "knock-exporter.path" .) -}}
{{- if and (eq .root.Values.split "environment") (eq .path "/") -}}
{{- $paths = append $paths (printf "/api/v1/operations/%s" (keys .workload.environments | first)) -}}
{{- end -}}
{{- toJson $paths -}}
{{- end -}}

{{/* Labels of the test's pod: no Service, monitor or policy of the exporter selects it. */}}
{{- define "knock-exporter.testLabels" -}}
app.kubernetes.io/name: {{ printf "%s-test" (include "knock-exporter.name" . | trunc 58) | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}
