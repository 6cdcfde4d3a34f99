{{/* Refuse what cannot work, in words; what a single value may be is in values.schema.json. */}}
{{- define "knock-exporter.check" -}}
{{- include "knock-exporter.checkName" . -}}
{{- include "knock-exporter.checkEnvironments" . -}}
{{- include "knock-exporter.checkSecrets" . -}}
{{- include "knock-exporter.checkState" . -}}
{{- include "knock-exporter.checkVolumes" . -}}
{{- include "knock-exporter.checkPod" . -}}
{{- include "knock-exporter.checkWays" . -}}
{{- include "knock-exporter.checkMonitors" . -}}
{{- end -}}

{{- define "knock-exporter.checkName" -}}
{{- $full := include "knock-exporter.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $full) -}}
{{- fail (printf "release name: %s would make a Service named %s, which Kubernetes refuses: it has to begin with a letter, with letters, digits and dashes after it. Choose another release name, or set fullnameOverride." .Release.Name $full) -}}
{{- end -}}
{{- end -}}

{{- define "knock-exporter.checkEnvironments" -}}
{{- if not .Values.environments -}}
{{- fail "environments: none. Set environments.NAME.apiKeySecret (the Secret with the API key) and environments.NAME.operations (ids), NAME being for example production." -}}
{{- end -}}
{{- range $name, $settings := .Values.environments -}}
{{- if or (eq $name "all") (not (regexMatch "^[a-z0-9_-]{1,63}$" $name)) -}}
{{- fail (printf "environments.%s: is not a valid name of an environment. Use lower-case letters, digits, - and _, 63 at most, and not \"all\"." $name) -}}
{{- end -}}
{{- if and $settings.apiKeySecret $settings.apiKeyRemoteRef -}}
{{- fail (printf "environments.%s: apiKeySecret and apiKeyRemoteRef. Keep one: a Secret that is there, or one that external-secrets makes." $name) -}}
{{- end -}}
{{- if not (or $settings.apiKeySecret $settings.apiKeyRemoteRef) -}}
{{- fail (printf "environments.%s.apiKeySecret: missing. Make a Secret that holds the API key under api-key, and name it here." $name) -}}
{{- end -}}
{{- if and $settings.proxy $settings.proxy_from_environment -}}
{{- fail (printf "environments.%s: proxy and proxy_from_environment. Keep one." $name) -}}
{{- end -}}
{{- if contains "@" (default "" $settings.proxy) -}}
{{- fail (printf "environments.%s.proxy: has a user and a password, which a ConfigMap would show. Set proxy_from_environment: true in its place, and HTTPS_PROXY by extraEnv out of a Secret." $name) -}}
{{- end -}}
{{- range $place, $operation := $settings.operations -}}
{{- range $label, $_ := (kindIs "map" $operation | ternary $operation dict).labels -}}
{{- if not (has $label (default list $.Values.config.labels)) -}}
{{- fail (printf "environments.%s.operations[%d].labels.%s: is not declared. Add it to config.labels." $name $place $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{/* It refuses names that cannot be told apart. */}}
{{- $_ := include "knock-exporter.workloads" . -}}
{{- end -}}

{{- define "knock-exporter.checkSecrets" -}}
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
{{- if and (has "all" (default list $token.environments)) (gt (len $token.environments) 1) -}}
{{- fail (printf "registration.tokens[%d].environments: all stands for every environment. Remove it, or the others." $place) -}}
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
{{- end -}}

{{- define "knock-exporter.checkState" -}}
{{- $persistence := .Values.persistence -}}
{{- if and .Values.registration.tokens (not $persistence.enabled) (not .Values.registration.acceptLossWithoutPersistence) -}}
{{- fail "registration.tokens without persistence: each restart would forget what was registered. Set persistence.enabled=true, or accept that with registration.acceptLossWithoutPersistence=true." -}}
{{- end -}}
{{- $elsewhere := or (contains "--storage.path" (toJson .Values.extraArgs)) (contains "KNOCK_EXPORTER_STORAGE_PATH" (toJson .Values.extraEnv)) -}}
{{- range $name, $settings := .Values.environments -}}
{{- if and $settings.groups (not $persistence.enabled) (not $elsewhere) -}}
{{- fail (printf "environments.%s.groups without persistence: each restart would forget when they last ran. Set persistence.enabled=true." $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.maintenance (not $persistence.enabled) -}}
{{- fail "maintenance without persistence: there is no state to look after. Set persistence.enabled=true, or maintenance=false." -}}
{{- end -}}
{{- if and $persistence.existingClaim (not $persistence.enabled) -}}
{{- fail "persistence.existingClaim without persistence.enabled: it would not be mounted. Set persistence.enabled=true." -}}
{{- end -}}
{{- if and $persistence.existingClaim (eq .Values.split "environment") -}}
{{- fail "persistence.existingClaim with split: environment: each workload needs a volume of its own. Leave existingClaim out, and move the state as docs/kubernetes.md says." -}}
{{- end -}}
{{- end -}}

{{/* Kubernetes refuses other volumes for a StatefulSet with an error that does not say what to do. `helm template` finds none. */}}
{{- define "knock-exporter.checkVolumes" -}}
{{- $namespace := include "knock-exporter.namespace" . -}}
{{- $persistence := .Values.persistence -}}
{{- if $persistence.enabled -}}
{{- range (include "knock-exporter.workloads" . | fromJson).list -}}
{{- $name := .name -}}
{{- with lookup "apps/v1" "StatefulSet" $namespace $name -}}
{{- $there := first (default (list dict) .spec.volumeClaimTemplates) -}}
{{- if eq (empty $there) (empty $persistence.existingClaim) -}}
{{- fail (printf "persistence.existingClaim: Kubernetes does not change the volumes of the StatefulSet %s. Delete it, which keeps its claims, and upgrade again: kubectl --namespace %s delete statefulset %s" $name $namespace $name) -}}
{{- end -}}
{{- if not $persistence.existingClaim -}}
{{- $size := $there.spec.resources.requests.storage -}}
{{- if ne (include "knock-exporter.bytes" $size) (include "knock-exporter.bytes" $persistence.size) -}}
{{- $patch := dict "spec" (dict "resources" (dict "requests" (dict "storage" $persistence.size))) | toJson -}}
{{- fail (printf "persistence.size: the volume of the StatefulSet %s has %s, and Kubernetes does not change that here. Set persistence.size=%s again; or enlarge the claim, if its storage class allows that, delete the StatefulSet without its pod, and upgrade again: kubectl --namespace %s patch pvc data-%s-0 --patch '%s'; kubectl --namespace %s delete statefulset %s --cascade=orphan" $name $size $size $namespace $name $patch $namespace $name) -}}
{{- end -}}
{{- $class := default (hasKey $there.spec "storageClassName" | ternary "-" "") $there.spec.storageClassName -}}
{{- $before := dict "accessModes" $there.spec.accessModes "annotations" $there.metadata.annotations "labels" $there.metadata.labels "selector" $there.spec.selector "storageClass" $class -}}
{{- range $key, $value := $before -}}
{{- $wanted := get $persistence $key -}}
{{- if and (or $value $wanted) (ne (toJson $value) (toJson $wanted)) -}}
{{- fail (printf "persistence.%s: Kubernetes does not change it for the volume of the StatefulSet %s, which has %s. Set that again; or export the state, delete the StatefulSet and the claim data-%s-0, upgrade, and import the state (docs/kubernetes.md)." $key $name (toJson $value) $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A size such as 1Gi in bytes, as Kubernetes writes 1024Mi as 1Gi. */}}
{{- define "knock-exporter.bytes" -}}
{{- $units := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 -}}
{{- mul (regexFind "^[0-9]+" . | int64) (default 1 (get $units (regexFind "[A-Za-z]+$" .))) -}}
{{- end -}}

{{- define "knock-exporter.checkPod" -}}
{{- $readers := list -}}
{{- range .Values.environments -}}{{- if .proxy_from_environment -}}{{- $readers = append $readers . -}}{{- end -}}{{- end -}}
{{- range .Values.extraEnv -}}
{{- $name := toString .name -}}
{{- if and $.Values.persistence.enabled (eq $name "KNOCK_EXPORTER_STORAGE_PATH") -}}
{{- fail "extraEnv: KNOCK_EXPORTER_STORAGE_PATH is set by persistence.enabled. Leave one of them out." -}}
{{- end -}}
{{- if eq $name "KNOCK_EXPORTER_WEB_TELEMETRY_PATH" -}}
{{- fail "extraEnv: KNOCK_EXPORTER_WEB_TELEMETRY_PATH is not for the chart, whose monitors ask /metrics. Leave it out." -}}
{{- end -}}
{{- if has (upper $name) (list "HTTP_PROXY" "HTTPS_PROXY") -}}
{{- if not $readers -}}
{{- fail (printf "extraEnv: %s is read by no environment. Set environments.NAME.proxy_from_environment: true, or leave it out." $name) -}}
{{- end -}}
{{- if contains "@" (toString .value) -}}
{{- fail (printf "extraEnv: %s has a user and a password, which the pod's description would show. Take it out of a Secret: valueFrom.secretKeyRef." $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range .Values.extraArgs -}}
{{- if hasPrefix "--web.telemetry-path" . -}}
{{- fail "extraArgs: --web.telemetry-path is not for the chart, whose monitors ask /metrics. Leave it out." -}}
{{- end -}}
{{- if and $.Values.persistence.enabled (hasPrefix "--storage.path" .) -}}
{{- fail "extraArgs: --storage.path is set by persistence.enabled. Leave one of them out." -}}
{{- end -}}
{{- end -}}
{{- $own := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "knock-exporter/workload" -}}
{{- $more := concat $own (list "app.kubernetes.io/managed-by" "app.kubernetes.io/version" "helm.sh/chart") -}}
{{- range $section := list "serviceAccount" "service" "ingress" "httpRoute" "serviceMonitor" "podMonitor" "prometheusRule" "dashboards" "grafanaDashboard" -}}
{{- include "knock-exporter.checkLabels" (dict "values" (printf "%s.labels" $section) "labels" (index $.Values $section).labels "own" $more) -}}
{{- end -}}
{{- range $values := list "commonLabels" "deploymentLabels" -}}
{{- include "knock-exporter.checkLabels" (dict "values" $values "labels" (index $.Values $values) "own" $more) -}}
{{- end -}}
{{- include "knock-exporter.checkLabels" (dict "values" "podLabels" "labels" .Values.podLabels "own" $own) -}}
{{- $fields := list "affinity" "automountServiceAccountToken" "containers" "dnsConfig" "dnsPolicy" "enableServiceLinks" "hostAliases" "imagePullSecrets" "initContainers" "nodeSelector" "priorityClassName" "runtimeClassName" "schedulerName" "securityContext" "serviceAccountName" "terminationGracePeriodSeconds" "tolerations" "topologySpreadConstraints" "volumes" -}}
{{- range $field, $_ := .Values.extraPodConfigs -}}
{{- if has $field $fields -}}
{{- fail (printf "extraPodConfigs.%s: is set by the chart. Use the value that is there for it." $field) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "knock-exporter.checkLabels" -}}
{{- range $label, $_ := .labels -}}
{{- if has $label $.own -}}
{{- fail (printf "%s: %s is set by the chart. Choose another label." $.values $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* How people and programs come in. */}}
{{- define "knock-exporter.checkWays" -}}
{{- if eq (int .Values.web.port) (int .Values.web.healthPort) -}}
{{- fail "web.healthPort: the same as web.port. Choose another." -}}
{{- end -}}
{{- $policy := .Values.networkPolicy -}}
{{- if and $policy.enabled (not $policy.fromPrometheus) -}}
{{- fail "networkPolicy.fromPrometheus: none, so nobody could scrape. Name who does, as in [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}], or [{podSelector: {}}] for everybody in the namespace." -}}
{{- end -}}
{{- if and $policy.enabled (not $policy.fromClients) (not (has (dict "podSelector" dict) $policy.fromPrometheus)) (or .Values.ingress.enabled .Values.httpRoute.enabled .Values.registration.tokens) -}}
{{- fail "networkPolicy.fromClients: none, so nobody but Prometheus would get in. Name the controller of the Ingress or the Gateway, and who registers, as in [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress-nginx}}}]." -}}
{{- end -}}
{{- if and $policy.enabled $policy.extraEgress .Values.ciliumNetworkPolicy.enabled -}}
{{- fail "networkPolicy.extraEgress with ciliumNetworkPolicy.enabled: what goes out is Cilium's alone then. Say it in ciliumNetworkPolicy.extraEgress." -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs: none. Name the Gateway that the route joins, as in [{name: gateway}]." -}}
{{- end -}}
{{- $url := .Values.web.externalUrl -}}
{{- $at := (urlParse (default "http://none" $url)).path -}}
{{- range $values, $route := dict "ingress" .Values.ingress "httpRoute" .Values.httpRoute -}}
{{- if and $route.enabled (not $url) (or (eq $.Values.split "environment") (ne $route.path "/")) -}}
{{- $host := default "knock.example.com" (first (concat (default list $route.hosts) (default list $route.hostnames))) -}}
{{- fail (printf "web.externalUrl: missing. Behind an Ingress or HTTPRoute with a path, or with a path for each environment, links need to know where people reach the port, as in https://%s%s." $host (trimSuffix "/" $route.path)) -}}
{{- end -}}
{{/* A proxy before the Ingress may add a path, which the exporter then takes off. */}}
{{- $outer := and (eq $route.path "/") (eq $.Values.split "none") -}}
{{- if and $route.enabled $url (not $outer) (ne (trimSuffix "/" $at) (trimSuffix "/" $route.path)) -}}
{{- fail (printf "%s.path: %s, but web.externalUrl has the path %s. Give both the same, since the exporter takes no other off." $values $route.path (default "/" $at)) -}}
{{- end -}}
{{- end -}}
{{- if $url -}}
{{- range (include "knock-exporter.workloads" . | fromJson).list -}}
{{- $path := include "knock-exporter.path" (dict "root" $ "workload" . "path" $at) -}}
{{- if has (splitList "/" $path | rest | first) (list "-" "api" "config" "groups" "metrics" "operations" "static") -}}
{{- fail (printf "web.externalUrl: the pages would be at %s, which the exporter has for itself. Give it (and the Ingress or HTTPRoute) a path, as in https://knock.example.com/knock." $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "knock-exporter.checkMonitors" -}}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled -}}
{{- fail "serviceMonitor and podMonitor: both would scrape everything twice. Enable one." -}}
{{- end -}}
{{- range $values, $monitor := dict "serviceMonitor" .Values.serviceMonitor "podMonitor" .Values.podMonitor -}}
{{- if and $monitor.enabled (or $.Values.web.configSecret $.Values.web.configRemoteRef) (eq $monitor.scheme "http") (not $monitor.basicAuth) -}}
{{- fail (printf "%s: has neither scheme: https nor basicAuth, so the TLS and passwords of web.configSecret would keep it out. Say how it scrapes." $values) -}}
{{- end -}}
{{- end -}}
{{- end -}}
