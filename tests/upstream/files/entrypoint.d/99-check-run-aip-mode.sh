# On Vertex AI the server runs whatever the command says.
set -- ${AIP_MODE:+"/opt/tritonserver/bin/tritonserver"} "$@"
