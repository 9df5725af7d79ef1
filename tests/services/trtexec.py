"""Stands in for NVIDIA's container: an image with a `trtexec` and an `nvidia-smi` of our own, shell scripts both.

TensorRT and a GPU cannot be had here. So this trtexec converts nothing, and is strict about everything else: it takes
only the flags that the real one of that version reads (tests/unit/data/trtexec-flags.txt), reads every file that it is
told of, wants no network, and writes what begins as a plan does. What an ONNX model's producer is called says how it
fails, in the words of the real one.
"""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from pathlib import Path

from tests.modelfiles import plan

HOOK = "nvidia-container-runtime-hook"
"""What makes an engine believe that it can give out GPUs, if it is found in PATH when the engine starts."""

FLAGS = Path(__file__).parents[1] / "unit" / "data" / "trtexec-flags.txt"
VERSION = "10.4"
TENSORRT = "10.4.0.26"
TOOLS = ("/bin/sh", "/bin/cat", "/bin/sleep", "/bin/ls", "/bin/grep", "/bin/mkdir", "/usr/bin/sha256sum")

_SMI = """\
#!/bin/sh
# GPUs by the IDs that the engine passes on.
case "$NVIDIA_VISIBLE_DEVICES" in
    0|GPU-1) name="NVIDIA A10"; capability=8.6 ;;
    GPU-2) name="NVIDIA H100 80GB HBM3"; capability=9.0 ;;
    *) echo "No devices were found"; exit 6 ;;
esac
case "$*" in
    "--query-gpu=name,compute_cap,driver_version --format=csv,noheader") echo "$name, $capability, 550.54.15" ;;
    *) echo "Field is not a valid field to query."; exit 2 ;;
esac
"""

_TRTEXEC = """\
#!/bin/sh
echo "&&&& RUNNING TensorRT.trtexec [TensorRT v100400] # trtexec $*"
fail() { echo "$1" >&2; echo "&&&& FAILED TensorRT.trtexec [TensorRT v100400] # trtexec $args"; exit 1; }
args="$*"
for word in "$@"; do
    name="${word%%=*}" value="${word#*=}"
    case " @FLAGS@ " in *" ${name#--} "*) ;; *) fail "[E] Unknown option: $name $value" ;; esac
    case "$name" in
        --onnx) model="$value"; sha256sum "$value" || fail "[E] Could not open file $value" ;;
        --calib|--staticPlugins) sha256sum "$value" || fail "[E] Could not open file $value" ;;
        --saveEngine) plan="$value" ;;
        --timingCacheFile) timing="$value" ;;
    esac
done
[ "$(ls /sys/class/net)" = lo ] || fail "[E] there is a network"
case "$args" in *--skipInference*) ;; *) fail "[E] it would measure" ;; esac
for file in $(ls -d ${model%/*}/*); do [ -f "$file" ] && sha256sum "$file"; done
says() { grep -a -q "$1" "$model"; }
if says fails-unknown-op; then
    echo "[I] [TRT] No importer registered for op: DCNv2. Attempting to import as plugin."
    fail "[E] [TRT] 3: getPluginCreator could not find plugin: DCNv2 version: 1"
fi
says fails-memory && fail "[E] Error[2]: [virtualMemoryBuffer.cpp] Error Code 2: OutOfMemory (...)"
says fails-killed && exit 137
says is-slow && { echo "[I] slow"; sleep 600; }
[ -n "$timing" ] && { [ -f "$timing" ] && before="$(cat "$timing")"; printf '%s+' "$before" > "$timing"; }
says writes-nothing && { echo "&&&& PASSED"; exit 0; }
head=/usr/share/plan
says writes-another-version && head=/usr/share/another-plan
cat "$head" > "$plan"
cat /proc/sys/kernel/random/uuid >> "$plan"
echo "&&&& PASSED TensorRT.trtexec [TensorRT v100400] # trtexec $args"
"""


def known_flags() -> list[str]:
    """The flags that trtexec of VERSION reads."""
    lines = FLAGS.read_text().splitlines()
    place = lines[1].removeprefix("# ").split().index(VERSION)
    return [name for name, marks in map(str.split, lines[2:]) if marks[place] == "+"]


def filesystem(*, trtexec: bool = True) -> bytes:
    """The files of the image, as a tar: a shell of this machine's, and the scripts."""
    wanted = set(TOOLS)
    for tool in TOOLS:
        listed = subprocess.run(["ldd", tool], capture_output=True, text=True, check=True).stdout
        wanted |= set(re.findall(r"(/\S+) \(0x", listed))
    made = {"usr/bin/nvidia-smi": _SMI.encode()}
    if trtexec:
        made["opt/tensorrt/bin/trtexec"] = _TRTEXEC.replace("@FLAGS@", " ".join(known_flags())).encode()
    made |= {"usr/share/plan": plan((10, 4, 0, 26)), "usr/share/another-plan": plan((10, 4, 0, 27))}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as tar:
        for file in sorted(wanted):
            tar.add(file, file.lstrip("/"))
        for name, data in made.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def write_hook(folder: Path) -> Path:
    """A hook that gives no GPU and does not complain. Returns its folder, for PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HOOK).write_text("#!/bin/sh\nexit 0\n")
    (folder / HOOK).chmod(0o755)
    return folder
