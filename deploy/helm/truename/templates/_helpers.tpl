{{/* The image of all containers. */}}
{{- define "truename.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Namespaces whose leader records are read, as a list in JSON. */}}
{{- define "truename.recordNamespaces" -}}
{{- $namespaces := list -}}
{{- range .Values.cluster -}}
{{- if hasPrefix "kubernetes://" . -}}
{{- $namespaces = append $namespaces (trimPrefix "kubernetes://" . | splitList "/" | first) -}}
{{- end -}}
{{- end -}}
{{ $namespaces | uniq | sortAlpha | toJson }}
{{- end }}

{{/* Whether the agents need a token of the Kubernetes API: "true" or "false". */}}
{{- define "truename.needsToken" -}}
{{ not (empty (include "truename.recordNamespaces" . | fromJsonArray)) }}
{{- end }}

{{/* The agent's configuration in JSON. What `config` says takes precedence. */}}
{{- define "truename.configuration" -}}
{{- $listen := printf "%s:%v" .Values.metrics.address (int .Values.metrics.port) -}}
{{- $made := dict "agent" (dict "metrics" $listen) "datapath" (dict "interfaces" .Values.interfaces) -}}
{{- if .Values.relay.enabled -}}
{{- $made = set $made "relay" (dict "enabled" true) -}}
{{- end -}}
{{- if .Values.cluster -}}
{{- $made = set $made "topology" (dict "cluster" .Values.cluster) -}}
{{- if .Values.frontend -}}
{{- $made = set $made "frontend" (dict "addresses" .Values.frontend) -}}
{{- end -}}
{{- else -}}
{{- $jobManagers := dict "name" "jobmanagers" "protocol" "pekko" "listen" "*:6123" -}}
{{- $taskManagers := dict "name" "taskmanagers" "protocol" "pekko" "listen" "*:6122" -}}
{{- $made = set $made "endpoint" (list $jobManagers $taskManagers) -}}
{{- end -}}
{{ mergeOverwrite $made (deepCopy .Values.config) | toJson }}
{{- end }}

{{/* Makes the numbers of a map integers, in place. Helm has only floating point numbers, which TOML tells apart. */}}
{{- define "truename.integers" -}}
{{- range $key, $value := . -}}
{{- if kindIs "float64" $value -}}
{{- $_ := set $ $key (int64 $value) -}}
{{- else if kindIs "map" $value -}}
{{- include "truename.integers" $value -}}
{{- else if kindIs "slice" $value -}}
{{- range $value -}}
{{- if kindIs "map" . -}}
{{- include "truename.integers" . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Where the kubelet asks an agent that listens at `metrics.address`. */}}
{{- define "truename.probeHost" -}}
{{- $address := .Values.metrics.address -}}
{{- if eq $address "0.0.0.0" -}}
"127.0.0.1"
{{- else if eq $address "[::]" -}}
"::1"
{{- else -}}
{{ $address | trimPrefix "[" | trimSuffix "]" | quote }}
{{- end -}}
{{- end }}

{{/* The nodes that agents run on and are detached from, but those of `detach.nodes`. */}}
{{- define "truename.nodeAffinity" -}}
{{- $kernels := list (list) -}}
{{- if .Values.nodeFeatureDiscovery -}}
{{- $major := "feature.node.kubernetes.io/kernel-version.major" -}}
{{- $minor := "feature.node.kubernetes.io/kernel-version.minor" -}}
{{- $later := list (dict "key" $major "operator" "Gt" "values" (list "6")) -}}
{{- $six := list (dict "key" $major "operator" "In" "values" (list "6")) (dict "key" $minor "operator" "Gt" "values" (list "0")) -}}
{{- $kernels = list $later $six -}}
{{- end -}}
requiredDuringSchedulingIgnoredDuringExecution:
  nodeSelectorTerms:
  {{- range $kernel := $kernels }}
    - matchExpressions:
        - {key: kubernetes.io/os, operator: In, values: [linux]}
        # The architecture of the image.
        - {key: kubernetes.io/arch, operator: In, values: {{ toJson $.Values.architectures }}}
        {{- range concat $kernel $.Values.nodeExpressions }}
        - {{ toJson . }}
        {{- end }}
        {{- if and $.Values.detach.nodes (not $.Values.detach.enabled) }}
        - {key: kubernetes.io/hostname, operator: NotIn, values: {{ toJson $.Values.detach.nodes }}}
        {{- end }}
  {{- end }}
{{- end }}

{{/* The rights of the agent, and of what detaches. */}}
{{- define "truename.securityContext" -}}
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
# Capabilities are given to root only.
runAsUser: 0
seccompProfile:
  # RuntimeDefault allows bpf(2) with CAP_BPF.
  type: RuntimeDefault
capabilities:
  drop: ["ALL"]
  add:
    # Load programs, create maps.
    - BPF
    # Let the verifier accept pointer arithmetic in programs.
    - PERFMON
    # Attach to interfaces.
    - NET_ADMIN
{{- end }}
