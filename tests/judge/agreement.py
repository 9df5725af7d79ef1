"""Where lint and the server's recorded verdicts differ. Needs no server: a second or so for each hundred entries."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from composer.models.lint import Case, lint, refusals
from composer.models.lint.case import config_name
from composer.models.repository import read_repository
from composer.releases import RELEASES
from composer.server import FlagValue

from .corpus import Entry, entries
from .judging import clear
from .mutations import mutations
from .records import FOLDER, Record, mutation_verdicts, recorded, verdicts

BACKENDS = frozenset({"onnxruntime", "python"})
CACHES = frozenset({"local"})
PACKAGES = frozenset({"numpy", "onnxruntime"})
"""What the server that judges has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What the server and lint say of one entry. `errors` are rules that found one, `others` those that found less."""

    entry: Entry
    record: Record
    errors: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def agreed(self) -> bool:
        """Whether lint finds an error exactly where the server does not serve."""
        return bool(self.errors) != self.record.good

    @property
    def named(self) -> bool:
        """Whether the rule spoke that the corpus says should; so too where it says none."""
        return self.entry.rule is None or self.entry.rule in self.errors + self.others


def opinions(some: Iterable[Entry], records: Mapping[str, Record], release: str) -> Iterator[Opinion]:
    """Lint every entry that has a verdict which is still of it."""
    for entry in some:
        record = records.get(entry.name)
        if record is not None and record.digest == entry.digest:
            yield _opinion(entry, record, release)


def _opinion(entry: Entry, record: Record, release: str) -> Opinion:
    folder = Path(tempfile.mkdtemp(prefix="repository-"))
    folder.chmod(0o755)
    try:
        paths = entry.write(folder / "models")
        case = case_of(entry, release)
        findings = lint([read_repository(path, config=config_name(case)) for path in paths], case)
    finally:
        clear(folder)
    errors = {one.rule.id for one in refusals(findings)}
    others = {one.rule.id for one in findings} - errors
    return Opinion(entry=entry, record=record, errors=tuple(sorted(errors)), others=tuple(sorted(others)))


def case_of(entry: Entry, release: str) -> Case:
    """What an entry's server has and is told."""
    return Case(
        release=RELEASES[release],
        backends=BACKENDS,
        repoagents=frozenset(),
        caches=CACHES,
        files=frozenset(),
        server=flags_of(entry.flags),
        gpus=0,
        packages=PACKAGES,
        all_packages=True,
        as_root=entry.user is None,
    )


def flags_of(argv: Sequence[str]) -> dict[str, FlagValue]:
    """Flags of a command line as a recipe says them."""
    found: dict[str, list[str]] = {}
    for argument in argv:
        name, _, value = argument.removeprefix("--").partition("=")
        found.setdefault(name, []).append(value)
    return {name: _value(name, values) for name, values in found.items()}


def _value(name: str, values: Sequence[str]) -> FlagValue:
    if name in {"backend-config", "cache-config"}:
        return {cache: dict(_pair(part) for part in rest.split(",") if part) for cache, _, rest in _parted(values, ",")}
    scalars = [_scalar(value) for value in values]
    return scalars[0] if len(scalars) == 1 else tuple(scalars)


def _parted(values: Iterable[str], at: str) -> Iterator[tuple[str, str, str]]:
    return (value.partition(at) for value in values)


def _pair(text: str) -> tuple[str, bool | int | str]:
    name, _, value = text.partition("=")
    return name, _scalar(value)


def _scalar(text: str) -> bool | int | str:
    if text in {"", "true", "false"}:
        return text != "false"
    return int(text) if text.lstrip("-").isdecimal() else text


def table(found: Sequence[Opinion]) -> list[str]:
    """Lines of a table in Markdown: a row for each family, and then every disagreement."""
    lines = [
        "| family | entries | not served | agree | lint is silent | lint errs | another rule |",
        "|--|--|--|--|--|--|--|",
    ]
    families = sorted({_family(opinion) for opinion in found})
    rows = [(family, [one for one in found if _family(one) == family]) for family in families]
    lines += [_row(family, members) for family, members in [*rows, ("**all**", list(found))]]
    apart = [one for one in found if not one.agreed]
    if apart:
        lines += ["", f"{len(apart)} disagreements:", "", *(_difference(one) for one in apart)]
    return lines


PAGE = FOLDER / "AGREEMENT.md"
"""The tables, as they were when someone last looked."""

SUMMARY = FOLDER.parents[1] / "docs" / "models.md"
PART = re.compile(r"(<!-- agreement -->\n).*?(<!-- /agreement -->)", re.DOTALL)
"""Where the page for readers has what they come to."""

_HEAD = """\
# Lint and the real server

<!-- Written by `python -m tests.judge report`. A test holds it. -->

`agree`: lint says error and the server does not serve, or neither. `lint is silent`: the server does not serve, and
lint has no error. `lint errs`: the other way round. `another rule`: they agree, but not by the rule that the corpus
names.
"""


Judged = Mapping[tuple[str, str], Sequence[Opinion]]
"""What lint says beside what the server said, by release and by what was judged: the corpus, mutations."""


def judged(releases: Sequence[str]) -> Judged:
    """Everything that is on file, linted."""
    return {
        (release, title): list(opinions(some(release), recorded(path(release)), release))
        for release in releases
        for title, some, path in (("corpus", entries, verdicts), ("mutations", mutations, mutation_verdicts))
    }


def enough(found: Sequence[Opinion], *, mutated: bool) -> bool:
    """Whether lint agrees: on all of the corpus, on 99 in 100 mutations, and never with an error where it serves."""
    agreed = sum(one.agreed for one in found)
    wrong = any(one.record.good and one.errors for one in found)
    return not wrong and agreed >= len(found) * (0.99 if mutated else 1)


def report(found: Judged) -> str:
    """The page: for each release the corpus and the mutations, with every disagreement by name."""
    parts = ["\n".join([f"## {release}: {title}", "", *table(some)]) for (release, title), some in found.items()]
    return "\n".join([_HEAD, *(f"{part}\n" for part in parts)])


def summary(found: Judged) -> str:
    """The table for docs/models.md: a row for each release and each of the two."""
    lines = [
        "| release | what was judged | repositories | the server serves | lint agrees | served, and lint says error |",
        "|---|---|---|---|---|---|",
    ]
    for (release, title), some in found.items():
        agreed = sum(one.agreed for one in some)
        wrong = sum(one.record.good and bool(one.errors) for one in some)
        good, share = sum(one.record.good for one in some), f"{100 * agreed / len(some):.1f} %"
        lines.append(f"| {release} | {title} | {len(some)} | {good} | {agreed}: {share} | {wrong} |")
    return "\n".join(lines) + "\n"


def unnamed(found: Iterable[Opinion]) -> list[str]:
    """A line for each entry of which another rule spoke than the corpus says."""
    return [
        f"- `{one.entry.name}`: {one.entry.rule} expected, {', '.join(one.errors + one.others) or 'none'} spoke"
        for one in found
        if not one.named
    ]


def _family(one: Opinion) -> str:
    return one.entry.name.partition("/")[0]


def _row(name: str, members: Sequence[Opinion]) -> str:
    counts = (
        len(members),
        sum(not one.record.good for one in members),
        sum(one.agreed for one in members),
        sum(not one.record.good and not one.errors for one in members),
        sum(one.record.good and bool(one.errors) for one in members),
        sum(not one.named for one in members),
    )
    return f"| {name} | " + " | ".join(str(count) for count in counts) + " |"


def _difference(one: Opinion) -> str:
    words = next((words for words in one.record.words if not words.startswith("error: ")), "")
    said = f"lint: {', '.join(one.errors) or 'no error'}"
    if one.others:
        said += f" ({', '.join(one.others)})"
    about = one.entry.note or one.entry.rule or "good"
    return f"- `{one.entry.name}` ({about}): {one.record.outcome}, {said}. {' '.join(words.split())[:160]}"
