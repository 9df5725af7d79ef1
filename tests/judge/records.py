"""Verdicts on file: a line of JSON for each repository, so that a change of one is a change of one line."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .corpus import Entry
from .judging import Outcome, Verdict, clear, judge
from .server import Server

FOLDER = Path(__file__).parent
WORKERS = 2
EVERY = 20
"""Verdicts after which the file is written anew, so that little is lost when a run is ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A verdict that was recorded, and of what: the digest of an entry."""

    outcome: Outcome
    words: tuple[str, ...]
    judge: str
    digest: str

    @property
    def good(self) -> bool:
        return self.outcome == "served"


def recorded(path: Path) -> dict[str, Record]:
    """The verdicts of a file, by the name of the entry; none if there is no file."""
    if not path.exists():
        return {}
    rows: Mapping[str, dict[str, Any]] = json.loads(path.read_text())
    return {name: Record(**{**row, "words": tuple(row["words"])}) for name, row in rows.items()}


def verdicts(release: str) -> Path:
    """Where the verdicts on the corpus are."""
    return FOLDER / f"verdicts-{release}.json"


def mutation_verdicts(release: str) -> Path:
    """Where the verdicts on the mutations are."""
    return FOLDER / f"verdicts-{release}-mutations.json"


def configs(release: str) -> Path:
    """Where the configs are that the server made for models that have none, by entry and by model."""
    return FOLDER / f"configs-{release}.json"


def write_rows(path: Path, rows: Mapping[str, object]) -> None:
    """Write an object with a line for each key, by name."""
    lines = [f"{json.dumps(name)}: {json.dumps(row, sort_keys=True)}" for name, row in sorted(rows.items())]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def record(
    entries: Sequence[Entry],
    server: Server,
    path: Path,
    *,
    made: Path | None = None,
    again: bool = False,
    keep: Callable[[str], bool],
    say: Callable[[str], None],
) -> None:
    """Judge the entries whose verdict is not on file, two at a time, and put it there.

    `made`: where the configs go. `again`: judge all of them. `keep`: whether the verdict of another name stays.
    """
    known = {name: record for name, record in recorded(path).items() if keep(name)}
    texts = {} if made is None or not made.exists() else json.loads(made.read_text())
    texts = {name: row for name, row in texts.items() if keep(name)}
    due = [entry for entry in entries if again or not _is_known(entry, known.get(entry.name), server)]
    say(f"{len(due)} of {len(entries)} to judge: {server.release}, {server.backend}")
    for number, (entry, verdict) in enumerate(_judged(due, server), 1):
        before = known.get(entry.name)
        known[entry.name] = _record(entry, verdict)
        texts[entry.name] = _completed(entry, verdict)
        say(
            f"[{number}/{len(due)}] {verdict.seconds:5.1f} s {verdict.outcome:8} {entry.name}{_change(before, verdict)}"
        )
        if number % EVERY == 0 or number == len(due):
            _write(path, known, made, texts)
    _write(path, known, made, texts)


def _write(path: Path, known: Mapping[str, Record], made: Path | None, texts: Mapping[str, Any]) -> None:
    write_rows(path, {name: _row(record) for name, record in known.items()})
    if made is not None:
        write_rows(made, {name: row for name, row in texts.items() if row})


def _is_known(entry: Entry, record: Record | None, server: Server) -> bool:
    """Whether the verdict stands. One of the real backend stands where only the stand-in could judge anew."""
    if record is None or record.digest != entry.digest:
        return False
    return record.judge == server.backend or server.backend == "stand-in"


def _change(before: Record | None, verdict: Verdict) -> str:
    return f"   BEFORE: {before.outcome}" if before and before.outcome != verdict.outcome else ""


def _judged(entries: Iterable[Entry], server: Server) -> Iterable[tuple[Entry, Verdict]]:
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = {pool.submit(judge_entry, entry, server): entry for entry in entries}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def judge_entry(entry: Entry, server: Server) -> Verdict:
    """Write an entry's repository somewhere, and have it judged."""
    folder = Path(tempfile.mkdtemp(prefix="repository-"))
    folder.chmod(0o755)
    try:
        repositories = entry.write(folder / "models")
        return judge(repositories, server, requests=entry.requests, flags=entry.flags, user=entry.user)
    finally:
        clear(folder)


def _completed(entry: Entry, verdict: Verdict) -> dict[str, object]:
    """The configs that are the server's own work."""
    configs = {path.split("/")[-2] for path in entry.files if path.endswith("/config.pbtxt")}
    return {model: config for model, config in verdict.configs.items() if model not in configs}


def _record(entry: Entry, verdict: Verdict) -> Record:
    return Record(outcome=verdict.outcome, words=verdict.words, judge=verdict.judge, digest=entry.digest)


def _row(record: Record) -> dict[str, object]:
    return {"outcome": record.outcome, "words": record.words, "judge": record.judge, "digest": record.digest}
