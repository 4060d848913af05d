{{- define "rumormill.selector" -}}
app.kubernetes.io/component: worker
app.kubernetes.io/name: {{ .Release.Name }}
{{- end -}}
{{- define "rumormill.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- define "rumormill.target" -}}
apiVersion: apps/v1
kind: StatefulSet
name: {{ .Release.Name }}
{{- end -}}
