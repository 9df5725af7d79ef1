# For an image without CUDA: finds what the server and its parts, given as arguments, cannot be without: the libraries
# that they and Python are linked to. collect.sh takes these, the server, Python and the user, and nothing else.
set -eu
server=/opt/tritonserver

# CUDA's and TensorRT's providers are loaded by name where there is a GPU, and would bring all of CUDA along.
gpu_only='.*/libonnxruntime_providers_\(cuda\|tensorrt\)\.so.*'

{
    find "$server/bin" "$server/lib" "$@" /usr/local/lib/python3* /usr/lib/python3* -type f \
        \( -name '*.so*' -o -perm /111 \) ! -regex "$gpu_only" 2> /dev/null || true
    ls /usr/bin/python3* 2> /dev/null || true
} | while read -r file; do
    # Its own folder first: libraries lie beside those that load them, and find each other by it.
    LD_LIBRARY_PATH="${file%/*}:$server/lib:${LD_LIBRARY_PATH:-}" ldd "$file" 2> /dev/null || true
done | sed -n 's/.*=> \(\/[^ ]*\) (.*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) (.*/\1/p' | LC_ALL=C sort -u > /tricompose/linked

# A library goes by the name that it was found by, and by all links from there to the file itself.
while read -r file; do
    while :; do
        file=$(readlink -f "${file%/*}")/${file##*/}
        echo ".$file"
        [ -L "$file" ] || break
        goal=$(readlink "$file")
        case $goal in /*) file=$goal ;; *) file=${file%/*}/$goal ;; esac
    done
done < /tricompose/linked | LC_ALL=C sort -u > /tricompose/needed
