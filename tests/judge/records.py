"""Verdicts on file: a line of JSON for each repository, so that a change of one is a change of one line."""

from __future__ import annotations

import fcntl
import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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


def merge_rows(path: Path, rows: Mapping[str, object], *, keep: Callable[[str], bool] | None = None) -> None:
    """Put rows into a file that has a line for each key, by name; `keep` says which of the others stay.

    Others may do so at the same time: each reads what is there, and writes, while it alone has the lock.
    """
    with Path(tempfile.gettempdir(), f"tricompose-judge-{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before: dict[str, object] = json.loads(path.read_text()) if path.exists() else {}
        kept = {name: row for name, row in before.items() if keep is None or keep(name)}
        lines = [
            f"{json.dumps(name)}: {json.dumps(row, sort_keys=True)}" for name, row in sorted({**kept, **rows}.items())
        ]
        work = path.with_suffix(".new")
        work.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        work.replace(path)


def record(
    entries: Sequence[Entry],
    server: Server,
    path: Path,
    *,
    again: bool = False,
    say: Callable[[str], None],
) -> None:
    """Judge the entries whose verdict is not on file, two at a time, and put it there. `again`: judge all of them."""
    known = recorded(path)
    due = [entry for entry in entries if again or not _is_known(entry, known.get(entry.name), server)]
    say(f"{len(due)} of {len(entries)} to judge: {server.release}, {server.backend}")
    rows: dict[str, object] = {}
    for number, (entry, verdict) in enumerate(_judged(due, server), 1):
        rows[entry.name] = _row(entry, verdict)
        change = _change(known.get(entry.name), verdict)
        say(f"[{number}/{len(due)}] {verdict.seconds:5.1f} s {verdict.outcome:8} {entry.name}{change}")
        if number % EVERY == 0 or number == len(due):
            merge_rows(path, rows)


def forget(path: Path, names: Collection[str]) -> None:
    """Take the rows out of a file that are of none of these."""
    if path.exists():
        merge_rows(path, {}, keep=names.__contains__)


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


def _row(entry: Entry, verdict: Verdict) -> dict[str, object]:
    return {"outcome": verdict.outcome, "words": verdict.words, "judge": verdict.judge, "digest": entry.digest}
