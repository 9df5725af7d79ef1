"""What the real server makes of the configs that it serves: `python -m tests.judge.served` records it.

Validation compares the two, and must not say of a model that is served as it should be that it is not. What is recorded
is what `GET /v2/models/m/config` said of each model of the corpus that was served, without what is empty in it.
Needs the real onnxruntime backend: see README.md.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.upstream.inputs import UpstreamError

from . import records
from .corpus import Entry, entries
from .judging import judge
from .server import RELEASES, Server, prepared

Recorded = Mapping[str, Any]
"""`digest` of what was judged, and the configs in `models`."""


def record_path(release: str) -> Path:
    """Where the configs of a release are."""
    return Path(__file__).with_name(f"served-{release}.json")


def recorded(release: str) -> Mapping[str, Recorded]:
    """What is on file, by the name of the entry."""
    return dict(json.loads(record_path(release).read_text()))


def ask(entry: Entry, server: Server) -> Recorded:
    """Start a server on an entry of the corpus, and keep the configs of its models."""
    with tempfile.TemporaryDirectory() as folder:
        verdict = judge(entry.write(Path(folder)), server, requests=entry.requests, flags=entry.flags, user=entry.user)
    return {
        "digest": entry.digest,
        "models": {name: pruned(config) for name, config in sorted(verdict.configs.items())},
    }


def pruned(value: Any) -> Any:
    """A config without what is at its default: numbers that are 0, texts and lists that are empty. Groups stay."""
    if isinstance(value, Mapping):
        return {key: pruned(inner) for key, inner in value.items() if inner not in (0, "", [], False)}
    return [pruned(inner) for inner in value] if isinstance(value, list) else value


def main() -> int:
    """Record what every entry that is served comes to."""
    release = sys.argv[1] if len(sys.argv) > 1 else RELEASES[0]
    verdicts = records.recorded(records.verdicts(release))
    wanted = [one for one in entries(release) if one.name in verdicts and verdicts[one.name].good]
    with prepared(release) as server, ThreadPoolExecutor(2) as pool:
        if server.backend == "stand-in":
            raise UpstreamError("what ONNX models come to is the real backend's word")
        found = dict(zip((one.name for one in wanted), pool.map(lambda one: ask(one, server), wanted), strict=True))
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in sorted(found.items()))
    record_path(release).write_text(f"{{\n{rows}\n}}\n")
    print(f"Triton {release}, {server.backend}: {sum(len(one['models']) for one in found.values())} models")
    return 0


if __name__ == "__main__":
    sys.exit(main())
