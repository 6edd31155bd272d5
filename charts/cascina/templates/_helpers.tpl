{{/* Every name begins with this. It isn't a value: the operator binds tenants to the cluster roles by their fixed names. */}}
{{- define "cascina.name" -}}
cascina
{{- end }}

{{- define "cascina.selector" -}}
app.kubernetes.io/name: {{ include "cascina.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "cascina.labels" -}}
{{ include "cascina.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end }}
