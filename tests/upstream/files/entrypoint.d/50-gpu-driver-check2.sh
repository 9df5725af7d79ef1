if [[ -n "${NVIDIA_CPU_ONLY:-}" || ! -e /dev/nvidiactl ]]; then
  if [[ -z "${NVIDIA_CPU_ONLY:-}" ]]; then
    echo
    echo "WARNING: no NVIDIA driver was found. GPU functionality will not be available."
  fi
  export TRITON_SERVER_CPU_ONLY=1
fi
