"""What is wrong here, and the command that mends it: every host that a recipe needs, Docker, the GPU, this machine.

Each look is a function that yields findings; the tables below have them in their order. Hosts are visited all at once,
and nobody waits longer than he was told: what is not finished then is told as such.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from composer.doctor import hosts, machine, registries
from composer.doctor.engine import docker
from composer.doctor.finding import Checkup, Finding, Group, Lines, together
from composer.doctor.gpus import gpu
from composer.doctor.needs import Host, hosts_of
from composer.doctor.remedies import Remedies
from composer.doctor.rules import Rules, rules_of_this_machine
from composer.doctor.subject import Subject
from composer.doctor.visit import Visit
from composer.errors import TricomposeError
from composer.events import Emit, StageFinished, StageStarted
from composer.network.routes import Routes
from composer.network.trust import Trust
from composer.recipe import Recipe
from composer.workplace import Workplace

HOST: Final[Mapping[str, Callable[[Visit], Iterator[Finding]]]] = {
    "the name": hosts.names,
    "the connection": hosts.connection,
    "the proxy": hosts.proxy,
    "TLS": hosts.tls,
    "the first answer": hosts.greeting,
    "the login": registries.login,
    "pulling": registries.pull,
    "pushing": registries.push,
    "mounting": registries.mount,
    "the speed": registries.speed,
}
"""The looks at a host, in the order of the way there. Where the way ends, so do they."""

Look = Callable[[Subject], Iterator[Finding]]

MACHINE: Final[Mapping[str, tuple[Look, ...]]] = {
    "Docker": (docker,),
    "GPU": (gpu,),
    "this machine": (machine.disk, machine.memory, machine.namespaces),
}
"""The looks at this machine, by what they are told under."""

_OF_REGISTRIES: Final = ("the login", "pulling", "pushing", "mounting", "the speed")
_LEAST: Final = 3.0
"""Seconds that looks at this machine get at least, however long the hosts took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What is asked besides what the recipes say. `timeout` in seconds is for all of it.

    `dns` are name servers that are asked too, `mirrors` places (`host/path`) that may have the same images: where
    they know better, they stand in the lines to paste.
    """

    timeout: float = 30.0
    dns: Sequence[str] = ()
    mirrors: Sequence[str] = ()


def examine(
    recipes: Sequence[tuple[Recipe | None, Workplace]], questions: Questions, *, home: Path, emit: Emit
) -> Checkup:
    """Look at everything that these recipes need, each from its own workplace. Never raises for what it finds."""
    begun = time.monotonic()
    remedies, rules = Remedies.of_this_machine(), rules_of_this_machine(home)
    visits = _visits(recipes, questions, remedies, rules)
    named = ", ".join(dict.fromkeys(visit.host.authority for visit in visits))
    emit(StageStarted(stage="look", detail=f"at {named}, and at this machine"))
    subject = Subject(
        recipes=[recipe for recipe, _ in recipes if recipe], place=recipes[0][1], remedies=remedies, visits=visits
    )
    until = begun + questions.timeout
    machines = {name: _Running(partial(_looked, looks, subject)) for name, looks in _EARLY.items()}
    runs = [_Running(partial(_visit, visit)) for visit in visits]
    for run in runs:
        run.wait(until - 1)
    groups = [_told(visit, run) for visit, run in zip(visits, runs, strict=True)]
    late: list[Look] = [*MACHINE["this machine"], partial(machine.rules, rules=rules)]
    machines["this machine"] = _Running(partial(_looked, late, subject))
    for name, run in machines.items():
        run.wait(max(until, time.monotonic() + (_LEAST if name not in _EARLY else 0)))
        groups.append(Group(name=name, findings=run.found("the looks at it")))
    checkup = Checkup(groups=_settled(visits, groups), network={}, seconds=time.monotonic() - begun)
    emit(StageFinished(stage="look", detail=""))
    return replace(checkup, network=_lines(visits, checkup))


_EARLY: Final = {name: looks for name, looks in MACHINE.items() if name != "this machine"}
"""Those that need nothing of what the hosts say."""


def _visits(
    recipes: Sequence[tuple[Recipe | None, Workplace]], questions: Questions, remedies: Remedies, rules: Rules
) -> list[Visit]:
    """One for each host, and for each way to go there where recipes differ in that."""
    made: list[tuple[Routes, Host, Visit]] = []
    for recipe, place in recipes:
        trust = Trust(place.routes.ca_bundle, place.routes.certs)
        for host in hosts_of(recipe, place, spare_places(questions, rules)):
            visit = Visit(host=host, place=place, trust=trust, remedies=remedies, besides=questions.dns)
            visit.platforms = recipe.platforms if recipe else ()
            if not any(routes == place.routes and other == host for routes, other, _ in made):
                made.append((place.routes, host, visit))
    return [visit for _, _, visit in made]


def spare_places(questions: Questions, rules: Rules) -> Routes:
    """Mirrors that nothing goes by, and that may be worth it: those asked about, and those of other programs."""
    return Routes(mirrors={**rules.mirrors, **({"*": tuple(questions.mirrors)} if questions.mirrors else {})})


# -- doing it -----------------------------------------------------------------------------------------------------


class _Running:
    """Looks that are under way in a thread of their own, and may never end."""

    def __init__(self, look: Callable[[list[Finding]], None]) -> None:
        self._findings: list[Finding] = []
        self._raised: list[BaseException] = []
        self._look = look
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._look(self._findings)
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            self._raised.append(error)

    def wait(self, until: float) -> None:
        """Wait no longer than that. Raises what the looks raised."""
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._raised:
            raise self._raised[0]

    def found(self, at: str) -> list[Finding]:
        """What was found so far, and where it hangs, if so."""
        findings = list(self._findings)
        if self._thread.is_alive():
            saw = f"{at} did not end in time"
            why = "what comes after it was not looked at"
            findings.append(Finding(id="time.out", level="unknown", saw=saw, why=why, fix="--timeout SECONDS"))
        return findings


def _looked(looks: Sequence[Look], subject: Subject, findings: list[Finding]) -> None:
    for look in looks:
        _take(partial(look, subject), findings)


def _visit(visit: Visit, findings: list[Finding]) -> None:
    visit.findings = findings
    for name, look in HOST.items():
        if visit.blocked or (name in _OF_REGISTRIES and not visit.host.registry):
            continue
        visit.now = name
        if not _take(partial(look, visit), findings):
            return


def _take(look: Callable[[], Iterator[Finding]], findings: list[Finding]) -> bool:
    """Take what a look finds, as it comes. Whether it came to its end: for the rest no look has a word."""
    try:
        findings += look()
    except TricomposeError as error:
        findings.append(Finding(id="host.failing", level="problem", saw=error.message, fix=error.hint or ""))
    except OSError as error:
        findings.append(Finding(id="host.failing", level="problem", saw=str(error)))
    else:
        return True
    return False


def _told(visit: Visit, run: _Running) -> Group:
    return Group(name=visit.host.authority, findings=run.found(visit.now), uses=visit.host.uses)


# -- what it comes to ---------------------------------------------------------------------------------------------


def _settled(visits: Sequence[Visit], groups: Sequence[Group]) -> list[Group]:
    """What is wrong with a host that nothing depends on is no problem: another place has the same images."""
    had = {finding.facts["image"] for group in groups for finding in group.findings if finding.id == "pull.ok"
           and not finding.facts.get("spare")}  # fmt: skip
    settled = []
    for visit, group in zip(visits, groups, strict=False):
        settled.append(_excused(group) if _can_be_spared(visit.host, had) else group)
    return [*settled, *groups[len(visits) :]]


def _can_be_spared(host: Host, had: set[str]) -> bool:
    if host.pushes or host.urls or not host.pulls:
        return False
    return all(image.spare or image.optional or str(image.origin) in had for image in host.pulls)


def _excused(group: Group) -> Group:
    why = "nothing depends on it: other places have what is needed"
    findings = [
        replace(one, level="warning", why=f"{one.why}; {why}" if one.why else why) if one.level == "problem" else one
        for one in group.findings
    ]
    return replace(group, findings=findings)


def _lines(visits: Sequence[Visit], checkup: Checkup) -> Lines:
    """The lines that would mend it: of all problems, and for images that only a mirror has that nobody goes by."""
    problems = [one.network for one in checkup.findings if one.level == "problem" and one.network]
    had = {one.facts["image"] for one in checkup.findings if one.id == "pull.ok" and not one.facts.get("spare")}
    spare = [
        mirror_lines(image.origin.place, image.place.place)
        for visit, group in zip(visits, checkup.groups, strict=False)
        for image in visit.host.pulls
        if image.spare and str(image.origin) not in had
        and any(one.id == "pull.ok" and one.facts["place"] == str(image.place) for one in group.findings)
    ]  # fmt: skip
    return together([*problems, *spare])


def mirror_lines(origin: str, place: str) -> Lines:
    """The rule by which a place stands in for another: as much of both as is not the same at their ends."""
    ours, theirs = origin.split("/"), place.split("/")
    while len(ours) > 1 and len(theirs) > 1 and ours[-1] == theirs[-1]:
        del ours[-1], theirs[-1]
    return {"mirrors": {"/".join(ours): ["/".join(theirs)]}}
