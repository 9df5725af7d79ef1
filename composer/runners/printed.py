"""How an image is started, written out for people to take along: a command, or a file for Compose or Kubernetes.

Only the texts are made here; nothing is looked up and nothing started. What cannot be carried over stands in the text
as a comment.
"""

from __future__ import annotations

import csv
import io
import ipaddress
import json
import math
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from composer import words
from composer.config import READY
from composer.errors import NotFound, Unplannable
from composer.oci.image import Image
from composer.oci.names import Reference
from composer.rendering import render
from composer.runners import ports as port_rules

if TYPE_CHECKING:
    from composer.recipe import Mount, Run

EXIT_TIMEOUT: Final = 30
"""Seconds that Triton waits for what is under way when it is to end. Source: `tritonserver --help`."""

_SLACK: Final = 15
"""Seconds more until it is killed: its models are unloaded after that."""

_PROBE_EVERY: Final = 5
_USERS: Final = {"triton-server": 1000}
"""Users of NVIDIA's images whose numbers are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Printable:
    """An image and how it is to be started.

    `digest` is what `reference` stands for now: of the index, or of the image where there is none; empty where that is
    not known. Paths of `run` start from `base`. `deadline` is the seconds that the server may take to be ready.
    """

    reference: Reference
    digest: str
    image: Image
    run: Run
    base: Path
    deadline: float
    models: Sequence[str] = ()

    @property
    def settings(self) -> Mapping[str, Any]:
        """The `config` object of the image's config."""
        return self.image.config.get("config") or {}

    @property
    def name(self) -> str:
        """What to call it: of letters, digits and hyphens, as DNS has labels (RFC 1035)."""
        last = re.sub(r"[^a-z0-9]+", "-", self.reference.place.rpartition("/")[2].lower()).strip("-")[:50].strip("-")
        return last if last[:1].isalpha() else f"triton-{last}".strip("-")

    @property
    def stop_after(self) -> int:
        """Seconds that the server is given to end."""
        command = port_rules.command_of(self.image)
        told = [word.partition("=")[2] for word in command if word.startswith("--exit-timeout-secs=")]
        return (int(told[-1]) if told and told[-1].isdecimal() else EXIT_TIMEOUT) + _SLACK

    @property
    def pairs(self) -> Mapping[str, tuple[int, int]]:
        """By protocol, the port outside and the one in the container."""
        inner = port_rules.listened(port_rules.command_of(self.image))
        return {name: (getattr(self.run.ports, name), port) for name, port in inner.items()}

    @property
    def command(self) -> Sequence[str]:
        """What stands in for the image's own command: where no port can be published, where to listen. Else nothing."""
        whole = port_rules.command_of(self.image)
        if self.run.network != "host" or not port_rules.starts_triton(whole):
            return ()
        ports = {name: outside for name, (outside, _) in self.pairs.items()}
        return port_rules.moved(whole, ports)[len(self.settings.get("Entrypoint") or ()) :]

    def source(self, mount: Mount) -> str:
        """The absolute path of what is mounted."""
        return os.path.abspath(self.base / mount.source.expanduser())


def printed(kind: str, what: Printable) -> str:
    """The text of a kind. Raises `NotFound` for a kind that there is not, `Unplannable` where it could not work."""
    if kind not in KINDS:
        raise NotFound(f"nothing is written for {kind!r}", hint=f"one of: {', '.join(KINDS)}")
    return KINDS[kind](what)


# -- docker -------------------------------------------------------------------------------------------------------


def _docker(what: Printable) -> str:
    notes = [f"# {line}" for line in _notes(what)]
    if what.run.gpus == "auto":
        notes.append("# without a GPU: leave out --gpus all")
    words = shlex.join([_in_docker(what), *what.command])
    return "\n".join([*notes, " \\\n  ".join(["docker run --rm", *_flags(what), words]), ""])


def _flags(what: Printable) -> Iterator[str]:
    run = what.run
    if run.gpus != "none":
        yield f"--gpus {shlex.quote(_gpus_flag(run))}"
    yield f"--shm-size {_size(run.shm_size, 'k', 'm', 'g')}"
    yield f"--stop-timeout {what.stop_after}"
    for name, one in run.ulimits.items():
        yield f"--ulimit {name}={one.soft}:{one.hard}"
    if run.network:
        yield f"--network {shlex.quote(run.network)}"
    if run.network != "host":
        for outside, inside in what.pairs.values():
            yield f"--publish {port_rules.HOST}:{outside}:{inside}"
    for name, value in run.env.items():
        yield f"--env {shlex.quote(f'{name}={value}')}"
    for mount in run.mounts:
        yield f"--mount {shlex.quote(_mount_flag(what, mount))}"
    for name, at in run.extra_hosts.items():
        yield f"--add-host {shlex.quote(f'{name}:{at}')}"


def _gpus_flag(run: Run) -> str:
    if isinstance(run.gpus, tuple):
        return f'"device={",".join(run.gpus)}"'
    return "all" if run.gpus == "auto" else str(run.gpus)


def _mount_flag(what: Printable, mount: Mount) -> str:
    """One line of CSV, as Docker reads it: a path may hold a comma."""
    fields = ["type=bind", f"source={what.source(mount)}", f"target={mount.target}"]
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow([*fields, *(["readonly"] if mount.read_only else [])])
    return written.getvalue()


def _in_docker(what: Printable) -> str:
    """What Docker calls the image. Raises `Unplannable` where it could not have it."""
    at = what.reference
    if at.transport == "docker":
        return _pinned(what)
    if at.transport == "docker-daemon":
        return at.digest or f"{at.place}:{at.name}"
    raise Unplannable(
        f"Docker cannot start {at}: it is neither in a registry nor in Docker",
        hint=f"tricompose copy {shlex.quote(str(at))} docker-daemon:{what.name}:latest"
        f" && tricompose run docker-daemon:{what.name}:latest --print ...",
    )


def _pinned(what: Printable) -> str:
    at = what.reference
    digest = at.digest or what.digest
    return f"{at.place}@{digest}" if digest else f"{at.place}:{at.name}"


def _notes(what: Printable) -> Iterator[str]:
    """Comments: a name with a line break in it must not end one."""
    at = what.reference
    yield _one_line(f"{at}, started as tricompose run does")
    if what.models:
        yield _one_line(f"serves {', '.join(sorted(what.models))}")


def _one_line(text: str) -> str:
    return " ".join(words.plain(text).split())


# -- compose ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compose:
    """What the template is given: YAML already, but for what it spells out."""

    what: Printable
    notes: Sequence[str]
    name: str
    image: str
    shm_size: str
    ports: Sequence[str]
    devices: Mapping[str, str]
    environment: Sequence[tuple[str, str]]
    mounts: Sequence[tuple[str, str, bool]]
    hosts: Sequence[str]
    health: str
    command: Sequence[str]
    network: str
    start_period: int


def _compose(what: Printable) -> str:
    run = what.run
    value = _Compose(
        what=what,
        notes=tuple(_notes(what)),
        name=what.name,
        image=_yaml(_in_docker(what), dollars=True),
        shm_size=_size(run.shm_size, "k", "m", "g"),
        ports=[_yaml(f"{port_rules.HOST}:{outside}:{inside}") for outside, inside in what.pairs.values()],
        devices=_devices(run),
        environment=[(name, _yaml(text, dollars=True)) for name, text in run.env.items()],
        mounts=[
            (_yaml(what.source(one), dollars=True), _yaml(one.target, dollars=True), one.read_only)
            for one in run.mounts
        ],
        hosts=[_yaml(f"{name}:{at}", dollars=True) for name, at in run.extra_hosts.items()],
        health="" if what.settings.get("Healthcheck") else _yaml(_asking(what), dollars=True),
        command=[_yaml(word, dollars=True) for word in what.command],
        network=_yaml(run.network) if run.network and run.network != "host" else "",
        start_period=math.ceil(what.deadline),
    )
    return render("run/compose.yaml.j2", "c", value)


def _devices(run: Run) -> Mapping[str, str]:
    """Which GPUs, in the words of Compose; nothing where none are wanted."""
    if run.gpus == "none":
        return {}
    if isinstance(run.gpus, tuple):
        return {"device_ids": f"[{', '.join(_yaml(one) for one in run.gpus)}]"}
    return {"count": str(run.gpus) if isinstance(run.gpus, int) else "all"}


def _asking(what: Printable) -> str:
    outside, inside = what.pairs["http"]
    return READY.format(port=outside if what.command else inside)


# -- kubernetes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kubernetes:
    """What the template is given: YAML already, but for what it spells out."""

    what: Printable
    notes: Sequence[str]
    name: str
    image: str
    ports: Sequence[tuple[str, int, int]]
    gpus: int
    gpus_note: str
    shm_size: str
    uid: int | None
    gid: int | None
    user_note: str
    environment: Sequence[tuple[str, str]]
    mounts: Sequence[tuple[str, str, str]]
    hosts: Sequence[tuple[str, Sequence[str]]]
    every: int
    failures: int


def _kubernetes(what: Printable) -> str:
    if what.reference.transport != "docker":
        raise Unplannable(
            f"Kubernetes cannot pull {what.reference}: it pulls from registries",
            hint=f"tricompose copy {shlex.quote(str(what.reference))} docker://registry.example.com/{what.name}:latest"
            f" && tricompose run docker://registry.example.com/{what.name}:latest --print kubernetes",
        )
    if "--allow-http=false" in port_rules.command_of(what.image):
        raise Unplannable("the server answers no HTTP, so no probe can ask it", hint="server: {allow-http: true}")
    run = what.run
    uid, gid, note = _user(str(what.settings.get("User") or ""))
    value = _Kubernetes(
        what=what,
        notes=(*_notes(what), *_not_in_kubernetes(run)),
        name=what.name,
        image=_yaml(_pinned(what)),
        ports=[(name, outside, inside) for name, (outside, inside) in what.pairs.items()],
        gpus=_count(run),
        gpus_note=_gpus_note(run),
        shm_size=_size(run.shm_size, "Ki", "Mi", "Gi"),
        uid=uid,
        gid=gid,
        user_note=note,
        environment=[(name, _yaml(text.replace("$(", "$$("))) for name, text in run.env.items()],
        mounts=[(_yaml(what.source(one)), _yaml(one.target), str(one.read_only).lower()) for one in run.mounts],
        hosts=_aliases(run.extra_hosts),
        every=_PROBE_EVERY,
        failures=math.ceil(what.deadline / _PROBE_EVERY),
    )
    return render("run/kubernetes.yaml.j2", "k", value)


def _count(run: Run) -> int:
    if isinstance(run.gpus, int):
        return run.gpus
    return len(run.gpus) if isinstance(run.gpus, tuple) else int(run.gpus != "none")


def _gpus_note(run: Run) -> str:
    if run.gpus == "auto":
        return "auto: one. Without a GPU leave out this line, or the pod is never placed"
    if run.gpus == "all":
        return "all: Kubernetes knows numbers only"
    return f"Kubernetes chooses which: not {', '.join(run.gpus)}" if isinstance(run.gpus, tuple) else ""


def _user(user: str) -> tuple[int | None, int | None, str]:
    """The numbers of the image's user and group, and what is to be said of them. Root is nobody to insist on."""
    name, _, group = user.partition(":")
    number = int(name) if name.isdecimal() else _USERS.get(name)
    note = f"the image's user, {name}" if number is not None and not name.isdecimal() else ""
    if number is None and name not in ("", "root"):
        note = f"the image starts as {name}: add runAsUser with its number and runAsNonRoot: true"
    return number or None, int(group) if group.isdecimal() and number else None, note


def _not_in_kubernetes(run: Run) -> Iterator[str]:
    if run.ulimits:
        yield f"not carried over, a pod has the limits of its node: ulimits {', '.join(run.ulimits)}"
    if run.network:
        yield f"not carried over, a pod has a network of its own: network {run.network}"
    for name in (name for name, at in run.extra_hosts.items() if not _is_address(at)):
        yield f"not carried over, a pod knows addresses only: host {name}"


def _aliases(hosts: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Names by address."""
    found: dict[str, list[str]] = {}
    for name, at in hosts.items():
        if _is_address(at):
            found.setdefault(_yaml(at), []).append(_yaml(name))
    return list(found.items())


def _is_address(text: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(text))
    return False


# -- spelling -----------------------------------------------------------------------------------------------------


def _yaml(text: str, *, dollars: bool = False) -> str:
    """A text in quotes. JSON's are YAML's too, but for one character. `dollars` keeps Compose from filling them in."""
    quoted = json.dumps(text.replace("$", "$$") if dollars else text, ensure_ascii=False)
    return quoted.replace("\x7f", "\\x7f")


def _size(size: int, *units: str) -> str:
    """Bytes in the largest of the units (1024 each, small to large) in which they are a whole number."""
    steps = [("", 1), *((unit, 1024 ** (power + 1)) for power, unit in enumerate(units))]
    unit, step = next((unit, step) for unit, step in reversed(steps) if size % step == 0)
    return f"{size // step}{unit}"


KINDS: Final[Mapping[str, Callable[[Printable], str]]] = {
    "docker": _docker,
    "compose": _compose,
    "kubernetes": _kubernetes,
}
"""What can be written out."""
