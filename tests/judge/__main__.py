"""`python -m tests.judge record` asks the real server; `compare` says where lint and the recorded verdicts differ."""

from __future__ import annotations

import argparse
import fnmatch
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.upstream.inputs import UpstreamError

from . import agreement, records
from .corpus import Entry, entries
from .mutations import mutations
from .server import RELEASES, prepared


def main() -> int:
    """Do what the command line says. Returns the exit status."""
    options = _parser().parse_args()
    try:
        return int(options.do(options))
    except UpstreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.judge", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, do, words in (
        ("record", _record, "judge what has no verdict yet, or has changed"),
        ("compare", _compare, "say where lint and the verdicts differ; the status is 1 if that is too much"),
        ("show", _show, "print recorded verdicts, and judge nothing"),
        ("report", _report, "write all tables of agreement into AGREEMENT.md"),
        ("write", _write, "write the repositories into a folder"),
    ):
        command = commands.add_parser(name, help=words)
        command.set_defaults(do=do)
        command.add_argument("--release", choices=RELEASES, default=RELEASES[0])
        command.add_argument("--mutations", action="store_true", help="the mutations, in place of the corpus")
        command.add_argument("--only", default="*", metavar="PATTERN", help="names of entries, as a shell would match")
        if name == "compare":
            command.add_argument("--rules", action="store_true", help="say too where another rule speaks than expected")
        if name == "record":
            command.add_argument("--again", action="store_true", help="judge those too that have a verdict")
        if name == "write":
            command.add_argument("folder", type=Path)
    return parser


def _all(options: argparse.Namespace) -> list[Entry]:
    return mutations(options.release) if options.mutations else entries(options.release)


def _chosen(options: argparse.Namespace) -> list[Entry]:
    return [entry for entry in _all(options) if fnmatch.fnmatch(entry.name, options.only)]


def _path(options: argparse.Namespace) -> Path:
    return (records.mutation_verdicts if options.mutations else records.verdicts)(options.release)


def _record(options: argparse.Namespace) -> int:
    names = {entry.name for entry in _all(options)}
    path = _path(options)
    records.forget(path, names)
    with prepared(options.release) as server:
        records.record(_chosen(options), server, path, again=options.again, say=_said())
    print(dict(Counter(record.outcome for record in records.recorded(path).values())))
    return 0


def _said() -> Callable[[str], None]:
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - start:6.1f} s {line}", flush=True)

    return say


def _compare(options: argparse.Namespace) -> int:
    known = records.recorded(_path(options))
    found = list(agreement.opinions(_chosen(options), known, options.release))
    print("\n".join(agreement.table(found)))
    if options.rules:
        print("\n".join(["", "another rule:", "", *agreement.unnamed(found)]))
    return int(not agreement.enough(found, mutated=options.mutations))


def _show(options: argparse.Namespace) -> int:
    known = records.recorded(_path(options))
    for entry in _chosen(options):
        record = known.get(entry.name)
        print(f"{entry.name}  [{entry.note or entry.rule or 'good'}]  {record.outcome if record else 'not judged'}")
        for words in record.words if record else ():
            print(f"    {words}")
    return 0


def _report(options: argparse.Namespace) -> int:
    found = agreement.judged(RELEASES)
    agreement.PAGE.write_text(agreement.report(found))
    page = agreement.SUMMARY.read_text()
    agreement.SUMMARY.write_text(
        re.sub(agreement.PART, lambda part: part[1] + agreement.summary(found) + part[2], page)
    )
    print(agreement.PAGE, agreement.SUMMARY)
    return 0


def _write(options: argparse.Namespace) -> int:
    for entry in _chosen(options):
        folder = options.folder / entry.name
        entry.write(folder)
        print(json.dumps({"name": entry.name, "rule": entry.rule, "folder": str(folder), "flags": entry.flags}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
