#!/bin/sh
# Installs the tricompose that lies beside this file, from the wheels that lie there too. No network is asked.
#
#     tar xf NAME.tar.001 tool      (or NAME.tar; tar may complain that NAME.tar.001 ends in the middle: so it does)
#     sh tool/install.sh ./venv
#     ./venv/bin/tricompose bundle verify NAME
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${1:-tricompose}

(cd "$here" && sha256sum --quiet -c SHA256SUMS)
"${PYTHON:-python3}" -m venv "$target"
"$target/bin/python" -m pip install --quiet --no-index --disable-pip-version-check --find-links "$here" tricompose
echo "$target/bin/tricompose"
