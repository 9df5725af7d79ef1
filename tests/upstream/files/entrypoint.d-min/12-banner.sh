echo
echo "CUDA Version ${CUDA_VERSION}"
