"""From a command line of NVIDIA's compose.py to a recipe that asks for the same image.

Source of what the flags do: compose.py in the branches r21.08 to r26.08 of the server's repository.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from composer.compose_flags import Fault, Given, arguments, parse
from composer.errors import NotFound, Problem
from composer.events import Logged, Warned
from composer.oci.names import Reference, parse_reference
from composer.recipe_faults import nearest
from composer.recipe_values import CPU, Name, Release
from composer.releases import RELEASES, absent
from composer.rendering import render

Engine = Literal["direct", "dockerfile"]

_TEMPLATE: Final = "imported.yaml.j2"

_KINDS: Final = {
    "backends": ("--backend", "backend"),
    "repoagents": ("--repoagent", "repository agent"),
    "caches": ("--cache", "cache"),
}
"""What can be chosen, by its key in a recipe: the flag, and the word for one."""

_IMAGES: Final = ("full", "min", "gpu-min")

_IN_OTHER_IMAGES: Final = ("vllm", "tensorrtllm")
"""Backends that no py3 image has: NVIDIA publishes each in an image of its own."""

_NEEDS_GPU: Final = ("21.08", "21.09")
_CPU_UNLESS_ASKED: Final = ("21.10", "21.11")
"""What compose.py of these releases does where --enable-gpu is not given: refuse, and make a CPU image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What came of a command line: the text of a recipe and what there is to say of it; or problems, and no text."""

    text: str
    said: Sequence[Logged | Warned]
    problems: Sequence[Problem]

    def to_json(self) -> dict[str, object]:
        """The recipe and what was said of it, as a JSON object."""
        return {"recipe": self.text, "notes": [_note(one) for one in self.said]}


def _note(event: Logged | Warned) -> dict[str, str | None]:
    if isinstance(event, Warned):
        return {"message": event.message, "hint": event.hint}
    return {"message": f"{event.source}: {event.text}", "hint": None}


def import_compose(
    words: Sequence[str], *, checkout: str | None = None, engine: Engine | None = None, path: str = "recipe.yaml"
) -> Imported:
    """Translate a command line, with or without `python3 compose.py` before it.

    `checkout` is the release of the server's sources that it was run in: where the command line has no version,
    compose.py takes that. `engine` is the recipe's; where None is given, `direct`, except for what only
    `dockerfile` can make. `path` is where the recipe will lie.
    """
    # Bytes that are no text are shown as what they are: no recipe can hold them.
    words = arguments([word.encode(errors="backslashreplace").decode() for word in words])
    found = list(parse(words, release=checkout))
    reader = _Reader([one for one in found if isinstance(one, Given)], checkout=checkout, path=path)
    values = reader.values(engine)
    if faults := [one for one in found if isinstance(one, Fault)] + reader.faults:
        return Imported(text="", said=(), problems=_problems(faults))
    text = render(
        _TEMPLATE, "imported", {"command": _comment(["compose.py", *words]), "path": _comment([path]), **values}
    )
    return Imported(text=text, said=reader.said, problems=())


def _problems(faults: Sequence[Fault]) -> list[Problem]:
    """The faults in the order of the command line, and after them what is not there."""
    placed = sorted(faults, key=lambda fault: fault.place or math.inf)
    wheres = [f"argument {fault.place}" if fault.place else "compose.py" for fault in placed]
    return [
        Problem(where=where, message=fault.message, hint=fault.hint)
        for where, fault in zip(wheres, placed, strict=True)
    ]


def _comment(words: Sequence[str]) -> str:
    """Words of a shell as they can stand in a comment, which is one line."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in shlex.join(words))


class _Reader:
    """Reads what flags mean; collects on the way what there is to say, and what is wrong."""

    def __init__(self, given: Sequence[Given], *, checkout: str | None, path: str) -> None:
        self.said: list[Logged | Warned] = []
        self.faults: list[Fault] = []
        self._given = given
        self._flags = {one.flag for one in given}
        self._checkout = checkout
        self._path = shlex.quote(path)

    def values(self, engine: Engine | None) -> Mapping[str, object]:
        """What the recipe's template needs. Of no use where there are faults."""
        self._exclude()
        images = self._images()
        release = self._release(images)
        gpu = self._gpu(release)
        output = self._output()
        names = {kind: self._names(kind, release, images) for kind in _KINDS}
        self._remark()
        return {
            **names,
            "name": output.place.rpartition("/")[2] if output else "",
            "release": release,
            "variant": None if gpu else CPU,
            "full": str(images.get("full", "")),
            "min": str(images.get("min", "")),
            "engine": engine or ("direct" if gpu or images else "dockerfile"),
            "output": str(output),
        }

    # -- where the server comes from ------------------------------------------------------------------------------

    def _images(self) -> dict[str, Reference]:
        """What --image names: `full` and `min`, both or none."""
        found: dict[str, Reference] = {}
        for one in self._all("--image"):
            kind, comma, name = _value(one).partition(",")
            if not comma or "," in name:
                self._fault(one, f'"{one.value}" is not a kind and an image', "--image full,host/repository:tag")
            elif kind not in _IMAGES:
                self._fault(one, f'--image has no kind "{kind}"', nearest(kind, _IMAGES) or "full, min or gpu-min")
            elif kind == "gpu-min":
                self._say("--image gpu-min", "not needed: a CPU image is made from the full image alone")
            elif reference := self._image(one, name):
                found[kind] = reference
        self._pair()
        return found

    def _pair(self) -> None:
        given = self._all("--image")
        named = {_value(one).partition(",")[0] for one in given}
        for kind in ("full", "min") if given else ():
            if kind not in named:
                hint = f"--image {kind},host/repository:tag"
                self._fault(given[0], f"--image {kind} is missing: full and min go together", hint)

    def _image(self, given: Given, name: str) -> Reference | None:
        """An image that Docker names so. Docker looks among its own first, and then in a registry."""
        head, slash, _ = name.partition("/")
        if slash and ("." in head or ":" in head or head == "localhost"):
            return self._reference(given, f"docker://{name}")
        if "--skip-pull" in self._flags:
            return self._reference(given, f"docker-daemon:{name}")
        message = f'"{name}" names no registry: it is looked for at docker.io'
        self._warn(message, f"if only your Docker has it, write into the recipe: docker-daemon:{name}")
        return self._reference(given, f"docker://docker.io/{name if slash else f'library/{name}'}")

    def _reference(self, given: Given, text: str) -> Reference | None:
        try:
            return parse_reference(text)
        except NotFound as error:
            self._fault(given, error.message, error.hint or "host/repository:tag")
            return None

    def _release(self, images: Mapping[str, Reference]) -> str | None:
        """The release that was named, else that of the checkout."""
        given = self._all("--container-version")
        if not given:
            return self._from_checkout()
        text = _value(given[-1])
        if trouble := _trouble(_RELEASE, text):
            name = f"nvcr.io/nvidia/tritonserver:{text}-py3"
            self._fault(given[-1], trouble, f"--image full,{name} --image min,{name}-min")
        if images:
            self._say("--container-version", "nothing to compose.py beside --image; here it says what those images are")
        return self._known(text)

    def _known(self, release: str) -> str:
        if release not in RELEASES:
            self._warn(
                f"nothing is known of release {release}: names were not checked", f"tricompose plan {self._path}"
            )
        return release

    def _from_checkout(self) -> str | None:
        if self._checkout is None and "--image" not in self._flags:
            message = "no release is named; compose.py would take that of the checkout it lies in"
            self._lack(message, "tricompose import-compose --release 24.10 -- ...")
        if self._checkout is None:
            return None
        if trouble := _trouble(_RELEASE, self._checkout):
            self._lack(trouble, "--release 24.10")
        return self._known(self._checkout)

    def _gpu(self, release: str | None) -> bool:
        """Whether the image is for GPUs. Anything but `true` means no, as in compose.py."""
        given = self._all("--enable-gpu")
        gpu = _value(given[-1], "true").lower() == "true" if given else release not in _CPU_UNLESS_ASKED
        if not given and not gpu:
            message = f"compose.py of {release} makes a CPU image unless --enable-gpu is given"
            self._warn(message, "for a GPU image add --enable-gpu")
        if not given and release in _NEEDS_GPU:
            self._say("--enable-gpu", f"compose.py of {release} does nothing without it; taken as given")
        if not gpu and "--image" not in self._flags:
            self._say(
                "--enable-gpu=false", "NVIDIA publishes no CPU image: engine: dockerfile makes it from the py3 one"
            )
        return gpu

    # -- what goes in, and where it goes --------------------------------------------------------------------------

    def _names(self, kind: str, release: str | None, images: Mapping[str, Reference]) -> list[str]:
        """The names of one kind, each once."""
        flag = _KINDS[kind][0]
        found: list[str] = []
        for one in self._all(flag):
            name = _value(one)
            if trouble := _trouble(_NAME, name):
                parts = [part for part in name.split(",") if part]
                self._fault(one, trouble, " ".join(f"{flag} {part}" for part in parts) or f"remove {flag}")
            elif name in found:
                self._say(f"{flag} {name}", "given twice, and once in the recipe")
            else:
                found.append(name)
                self._check(one, kind, release, own=bool(images))
        if kind == "backends" and not self._all(flag):
            self._lack("no backend is named, so that the image could serve nothing", "--backend onnxruntime")
        return found

    def _check(self, given: Given, kind: str, release: str | None, *, own: bool) -> None:
        """Whether the release has what is asked for. What an image of one's own has is not known."""
        known = RELEASES.get(release or "")
        name = _value(given)
        hint = absent(known, kind, name) if known else None
        if known is None or hint is None:
            return
        message = f'{known.name} has no {_KINDS[kind][1]} "{name}"'
        if own or name in _IN_OTHER_IMAGES or _somewhere(kind, name):
            self._warn(message, hint)
        else:
            self._fault(given, message, hint)

    def _output(self) -> Reference | None:
        """Where compose.py leaves the image: in Docker, under its name."""
        given = self._all("--output-name")
        name = _value(given[-1]) if given else "tritonserver"
        one = given[-1] if given else Given(flag="--output-name", value=name, place=0)
        if "@" in name or name.startswith("sha256:"):
            self._fault(one, f'"{name}" is a digest, which nobody can choose', "--output-name name:tag")
        found = self._reference(one, f"docker-daemon:{name}")
        return found.at(found.name) if found else None

    # -- what has no place in a recipe ----------------------------------------------------------------------------

    def _exclude(self) -> None:
        for one in self._all("--help"):
            self._fault(one, "compose.py would show its help, and do nothing", "tricompose import-compose --help")
        if {"--quiet", "--verbose"} <= self._flags:
            self._fault(self._all("--verbose")[0], "--quiet and --verbose exclude each other", "keep one of them")

    def _remark(self) -> None:
        folder = next((_value(one) for one in reversed(self._all("--work-dir"))), "")
        for flag, text in (
            ("--dry-run", self._dockerfile(folder)),
            ("--work-dir", "" if "--dry-run" in self._flags else self._dockerfile(folder)),
            ("--skip-pull", "not needed: images are known by digest, and nothing is fetched twice"),
            ("--quiet", f"tricompose build -q {self._path}"),
            ("--verbose", f"tricompose build -v {self._path}"),
        ):
            if flag in self._flags and text:
                self._say(flag, text)

    def _dockerfile(self, folder: str) -> str:
        where = shlex.quote(folder or "compose")
        return f"tricompose plan {self._path} --dockerfile {where}   (builds nothing)"

    # -- the words ------------------------------------------------------------------------------------------------

    def _all(self, flag: str) -> list[Given]:
        return [one for one in self._given if one.flag == flag]

    def _say(self, flag: str, text: str) -> None:
        self.said.append(Logged(text=text, source=flag))

    def _warn(self, message: str, hint: str) -> None:
        self.said.append(Warned(message=message, hint=hint))

    def _fault(self, given: Given, message: str, hint: str) -> None:
        self.faults.append(Fault(place=given.place, message=message, hint=hint))

    def _lack(self, message: str, hint: str) -> None:
        self.faults.append(Fault(place=0, message=message, hint=hint))


def _value(given: Given, otherwise: str = "") -> str:
    return otherwise if given.value is None else given.value


_NAME: Final = TypeAdapter[str](Name)
_RELEASE: Final = TypeAdapter[str](Release)


def _trouble(kind: TypeAdapter[str], text: str) -> str | None:
    """Why a recipe could not hold this, in the recipe's own words."""
    try:
        kind.validate_python(text)
    except ValidationError as error:
        return str(error.errors(include_url=False)[0]["ctx"]["message"])
    return None


def _somewhere(kind: str, name: str) -> bool:
    """Whether any release has it, so that it is not a slip of the pen."""
    return any(name in (getattr(one, kind) or ()) for one in RELEASES.values())
