#!/bin/bash
# In the shape of the entrypoint of NVIDIA's images: texts are shown and scripts sourced in the order of their names,
# then the command takes over.
shopt -s nullglob extglob
_here="$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
_parts=("${_here}/entrypoint.d"/*@(.txt|.sh))
shopt -u nullglob extglob

for _part in "${_parts[@]}"; do
  case "${_part}" in
    *.txt) cat "${_part}" ;;
    *.sh) source "${_part}" ;;
  esac
done
echo

if [[ $# -eq 0 ]]; then
  exec /bin/bash
fi
exec "$@"
