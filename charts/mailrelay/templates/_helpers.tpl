{{- define "mailrelay.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "mailrelay.operator" -}}
{{ include "mailrelay.fullname" . }}-operator
{{- end }}

{{- /* Roles are called the same in every release: a second operator over a namespace is refused. */ -}}
{{- define "mailrelay.role" -}}
mailrelay-operator
{{- end }}

{{- define "mailrelay.account" -}}
{{- if .Values.serviceAccount.name -}}
{{- .Values.serviceAccount.name -}}
{{- else -}}
{{- ternary (include "mailrelay.operator" .) "default" .Values.serviceAccount.create -}}
{{- end -}}
{{- end }}

{{- /* The operator's pods, and they alone. Relays' NetworkPolicies know the first of these labels. */ -}}
{{- define "mailrelay.selector" -}}
app.kubernetes.io/name: mailrelay-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mailrelay.labels" -}}
{{- $own := dict
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/name" "mailrelay-operator"
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/part-of" "mailrelay"
  "app.kubernetes.io/managed-by" .Release.Service -}}
{{- toYaml (mergeOverwrite dict .Values.commonLabels $own) -}}
{{- end }}

{{- /* metadata's annotations, from `list . own indent`; nothing when there are none. */ -}}
{{- define "mailrelay.annotations" -}}
{{- $context := index . 0 -}}
{{- $all := mergeOverwrite dict $context.Values.commonAnnotations (index . 1) -}}
{{- if $all -}}
{{- printf "annotations:\n%s" (toYaml $all | indent 2) | nindent (index . 2) -}}
{{- end -}}
{{- end }}

{{- /* An image, from `list . name`. */ -}}
{{- define "mailrelay.image" -}}
{{- $context := index . 0 -}}
{{- $images := $context.Values.images -}}
{{- $image := index $images (index . 1) -}}
{{- with $images.registry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
:{{ coalesce $image.tag $images.tag $context.Chart.AppVersion }}
{{- with $image.digest }}@{{ . }}{{ end -}}
{{- end }}

{{- /* A pod of the `restricted` Pod Security Standard: of the pod, and of each of its containers. */ -}}
{{- define "mailrelay.podSecurity" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "mailrelay.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "mailrelay.relayNamespace" -}}
{{- default .Release.Namespace .Values.relay.namespace -}}
{{- end }}

{{- /* Where the test's relay is: an operator that keeps some namespaces makes none elsewhere. */ -}}
{{- define "mailrelay.testNamespace" -}}
{{- $watched := .Values.operator.watchNamespaces -}}
{{- if or (not $watched) (has .Release.Namespace $watched) -}}
{{- .Release.Namespace -}}
{{- else -}}
{{- first $watched -}}
{{- end -}}
{{- end }}
