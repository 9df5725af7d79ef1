"""The decisive lines of a server's log, the same on every machine and at every run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

LINE = re.compile(r"^(?P<level>[EWIF])\d{4} [\d:.]+ \d+ (?P<place>[\w.]+:\d+)\] (?P<words>.*)$")
"""glog's prefix, as all Triton releases so far have it by default. 24.10 quotes the words, older ones do not."""

BENIGN = (
    "CudaDriverHelper has not been initialized",
    "Unable to allocate pinned system memory",
    "failed to allocate pinned system memory",
    "CUDA driver version is insufficient",
    "Failed to initialize NVML",
    "failed to enable peer access",
)
"""What every server says on a machine without a GPU."""

UNTAGGED = ("error: ", "[libprotobuf ERROR", "Signal (", "terminate called", "free():", "double free", "corrupted ")
"""How lines start that end a server, or tell why it ends, without the prefix."""
NUMBERED = re.compile(
    r"0x[0-9a-f]+|(?<=_)judge\d+_\d+|\b\d{4}-\d\d-\d\d[T ][\d:.]+|(?<=/folders/)\w+|(?<=/python_env_)\w+"
)
MOST, WIDEST = 12, 400


def decisive(log: str, levels: str, places: Mapping[str, str]) -> tuple[str, ...]:
    """Lines of these levels (`E`, `EW`), and those without a prefix that say why a server ended; each once.

    `places` says what to write instead of a path of this machine. Lines beyond the twelfth and characters beyond the
    400th of a line are left out.
    """
    chosen = dict.fromkeys(_chosen(log.splitlines(), levels, places))
    return tuple(chosen)[:MOST]


def _chosen(lines: Iterable[str], levels: str, places: Mapping[str, str]) -> Iterable[str]:
    for line in lines:
        if any(words in line for words in BENIGN):
            continue
        found = LINE.match(line)
        if found and found["level"] in levels:
            yield f"{found['level']} {found['place'].partition(':')[0]} {_normal(_unquoted(found['words']), places)}"
        elif not found and line.startswith(UNTAGGED):
            yield _normal(line, places)


def _unquoted(words: str) -> str:
    if len(words) > 1 and words[0] == words[-1] == '"':
        return words[1:-1].replace('\\"', '"')
    return words


def _normal(words: str, places: Mapping[str, str]) -> str:
    for place, name in places.items():
        words = words.replace(place, name)
    words = re.sub(r"^\[libprotobuf ERROR [^\]]*\]", "[libprotobuf ERROR]", words)
    words = words.encode("ascii", "backslashreplace").decode()
    return NUMBERED.sub("#", words)[:WIDEST]
