"""Records what the compose.py of every release writes: `python -m tests.compose.record SERVER`.

SERVER is a clone of github.com/triton-inference-server/server with its branches rXX.YY. Only facts are recorded, none
of the text. recorded.json has them by case, and in each the releases with which something changed; all cases but the
first have only that in which they differ from it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from composer.releases import RELEASES, Release
from tests.compose.facts import read
from tests.compose.peer import BUILD_ID, BUILD_REF, Case, Peer

PATH: Final = Path(__file__).parent / "recorded.json"
FIRST: Final = "identity"
"""The case that the others are compared with: every release has it, and it needs nothing."""

FEW: Final = ("onnxruntime", "python", "tensorrt")
Facts = Mapping[str, Any]


def cases(release: Release) -> Iterator[Case]:
    """What is asked of each release: single backends, a common set, and that on other machines."""
    yield from (Case(backends=(name,)) for name in release.backends or ())
    for backends in (FEW, (*FEW, "pytorch")):
        yield Case(backends=backends)
        yield Case(backends=backends, architecture="arm64")
    if release.name >= "21.10":
        # Before it, --enable-gpu had to be given.
        yield Case(backends=("onnxruntime", "python"), gpu=False)
    if release.name >= "22.04":
        # Before it, the libraries that PyTorch is linked to were missing.
        yield Case(backends=("onnxruntime", "python", "pytorch"), gpu=False)
    if release.name >= "24.07":
        # It is in an image of its own, and needed nothing before. vLLM is not asked for: most compose.py crash.
        yield Case(backends=("tensorrtllm",))


# -- the file -----------------------------------------------------------------------------------------------------


def fold(found: Mapping[str, Mapping[str, Facts]]) -> dict[str, dict[str, Facts | None]]:
    """From release and case to case and release, without what is as in the release before, or as in the first case."""
    names = dict.fromkeys(name for one in found.values() for name in (FIRST, *one))
    return {name: dict(_changes(found, name)) for name in names}


def _changes(found: Mapping[str, Mapping[str, Facts]], case: str) -> Iterator[tuple[str, Facts | None]]:
    last: Facts | None = None
    for release, records in found.items():
        now = records.get(case)
        if now is not None and case != FIRST:
            now = {key: value for key, value in now.items() if value != records[FIRST][key]}
        if now != last:
            yield release, None if now is None else _difference(last or {}, now)
        last = now


def _difference(last: Facts, now: Facts) -> Facts:
    """What is to be written over `last` to have `now`; None takes a key away."""
    gone = {key: None for key in last if key not in now}
    return gone | {key: value for key, value in now.items() if last.get(key) != value}


def unfold(recorded: Mapping[str, Mapping[str, Facts | None]]) -> dict[str, dict[str, Facts]]:
    """The other way: from release and case to facts."""
    found: dict[str, dict[str, Facts]] = {release: {} for release in RELEASES if RELEASES[release].composed}
    for case, changed in recorded.items():
        last: dict[str, Any] | None = None
        for release, records in found.items():
            if release in changed:
                change = changed[release]
                last = None if change is None else _without_none({**(last or {}), **change})
            if last is not None:
                records[case] = {**(records[FIRST] if case != FIRST else {}), **last}
    return found


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


@cache
def recorded() -> Mapping[str, Mapping[str, Facts]]:
    """What compose.py writes, by release and case. `{release}` and `{triton}` stand for their versions."""
    return unfold(json.loads(PATH.read_text())["cases"])


@cache
def versions() -> Mapping[str, Facts]:
    """What the build.py of each release says it builds."""
    return json.loads(PATH.read_text())["versions"]


# -- recording ----------------------------------------------------------------------------------------------------


def record(repository: Path, release: str) -> tuple[Facts, Mapping[str, Facts]]:
    """The versions of a release, and its facts by case."""
    with TemporaryDirectory() as folder:
        peer = Peer.of(repository, release, Path(folder))
        found = {case.name: _facts(peer, release, case) for case in cases(RELEASES[release])}
        return {**peer.versions(), **peer.everything()}, found


def _facts(peer: Peer, release: str, case: Case) -> Facts:
    text = peer.dockerfile(release, case).replace(BUILD_ID, "{id}").replace(BUILD_REF, "{ref}")
    facts = json.dumps(asdict(read(text)), sort_keys=True)
    for value, gap in ((str(peer.versions()["triton"]), "{triton}"), (release, "{release}")):
        facts = facts.replace(f'"{value}"', f'"{gap}"').replace(f":{value}-", f":{gap}-")
    return json.loads(facts)


def _lines(document: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """JSON with a line for each fact, so that a change shows as one."""
    yield "{\n"
    yield f'"versions": {{\n{_rows(document["versions"])}\n}},\n'
    blocks = (f"{json.dumps(case)}: {{\n{_releases(changed)}\n}}" for case, changed in document["cases"].items())
    yield '"cases": {\n' + ",\n".join(blocks) + "\n}\n}\n"


def _releases(changed: Mapping[str, Facts | None]) -> str:
    blocks = (
        f"{json.dumps(release)}: " + ("null" if facts is None else f"{{\n{_rows(facts)}\n}}")
        for release, facts in changed.items()
    )
    return ",\n".join(blocks)


def _rows(facts: Facts) -> str:
    return ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in facts.items())


def main(arguments: Sequence[str]) -> None:
    repository = Path(arguments[0])
    names = [release.name for release in RELEASES.values() if release.composed]
    with ProcessPoolExecutor() as pool:
        results = dict(zip(names, pool.map(partial(record, repository), names), strict=True))
    found = {name: records for name, (_, records) in results.items()}
    versions = {name: one for name, (one, _) in results.items()}
    PATH.write_text("".join(_lines({"versions": versions, "cases": fold(found)})))
    assert recorded() == found, "what was written is not what was found"


if __name__ == "__main__":
    main(sys.argv[1:])
