{{- define "operator.name" -}}
{{- if contains "operator" .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-operator" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "operator.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "operator.name" .) -}}
{{- end -}}

{{- define "operator.logRules" -}}
{{- printf "%s-log-rules" (include "operator.name" . | trunc 53 | trimSuffix "-") -}}
{{- end -}}

{{/* Roles of the whole cluster carry the namespace, so that two releases of one name do not share one. */}}
{{- define "operator.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "operator.name" .) -}}
{{- end -}}

{{/* The namespaces of jobs as a JSON list; empty is all. `watchNamespace` is what chart 0.1 had. */}}
{{- define "operator.namespaces" -}}
{{- .Values.namespaces | default (list) | concat (without (list .Values.watchNamespace) "" nil) | uniq | sortAlpha | toJson -}}
{{- end -}}

{{- define "operator.subject" -}}
- kind: ServiceAccount
  name: {{ include "operator.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}

{{- define "operator.selector" -}}
app.kubernetes.io/name: internlm2-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "operator.labels" -}}
{{ include "operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "operator.image" -}}
{{ include "image" (dict "image" .Values.image "version" .Chart.AppVersion) }}
{{- end -}}

{{- define "agent.image" -}}
{{- $image := ternary .Values.agent.image .Values.image (ne .Values.agent.image.repository "") -}}
{{ include "image" (dict "image" $image "version" .Chart.AppVersion) }}
{{- end -}}

{{- define "image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .version }}
{{- end -}}
{{- end -}}

{{- define "agent.name" -}}
{{- printf "%s-agent" (include "operator.name" . | trunc 57 | trimSuffix "-") -}}
{{- end -}}

{{- define "agent.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "agent.name" .) -}}
{{- end -}}

{{- define "agent.selector" -}}
app.kubernetes.io/name: internlm2-agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "agent.labels" -}}
{{ include "agent.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "ui.name" -}}
{{- printf "%s-ui" (include "operator.name" . | trunc 60 | trimSuffix "-") -}}
{{- end -}}

{{- define "ui.selector" -}}
app.kubernetes.io/name: internlm2-ui
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ui.labels" -}}
{{ include "ui.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}
