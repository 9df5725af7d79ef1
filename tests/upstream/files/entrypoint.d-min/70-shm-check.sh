_shm="$(df -k /dev/shm 2>/dev/null | awk 'NR == 2 { print $2 }')"
if [[ "${_shm:-0}" -eq 65536 ]]; then
  echo
  echo "NOTE: the shared memory of this container is limited to the default of 64 MB."
fi
