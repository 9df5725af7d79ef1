"""Whether the models that an image should serve are in it, whole, and whether links in it lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from composer import words
from composer.checks.image.loader import HOST
from composer.checks.image.problem import Problem, result, skipped
from composer.checks.image.start import may, user_of
from composer.checks.image.subject import Still, listed, shown
from composer.checks.report import Result
from composer.inventory import HOME
from composer.oci.tar import DIRECTORY, SYMLINK, Entry
from composer.oci.tree import join

_FLAG: Final = re.compile(r"--(?:model-repository|model-store)=(.+)")
_DEFAULT: Final = "/models"
_ELSEWHERE: Final = ("proc", "dev", "sys", "run", "tmp", "var/run")
"""What is there only while a container runs."""

_BACKEND: Final = re.compile(
    r"^[ \t]*(?:backend|platform)\s*:\s*[\"'](python|onnxruntime|pytorch|tensorrt|tensorflow|openvino)\w*[\"']",
    re.MULTILINE,
)
"""The backends that load nothing without a file."""

_LOADED: Final = re.compile(r".*\.so(?:\.[0-9.]+)?|.*/bin/[^/]+|.*\.py|.*_stub")


def repositories(still: Still) -> Sequence[str]:
    """The folders in the image that its server looks for models in. Other places, as buckets, are left out."""
    command = [str(word) for word in still.settings.get("Cmd") or ()]
    named = [found[1] for word in command if (found := _FLAG.fullmatch(word))]
    named += [value for word, value in pairwise(command) if word in ("--model-repository", "--model-store")]
    return [path for path in named or [_DEFAULT] if path.startswith("/")]


def models(still: Still) -> Result:
    """Each model that is expected: its folder, a version, a configuration, and files that the server may read."""
    if not still.models:
        return skipped("models", "no model is expected to be in the image")
    folders = repositories(still)
    places = {name: _place(still, name, folders) for name in still.models}
    problems = [problem for name, place in places.items() for problem in _model(still, name, place, folders)]
    good = f"in the image: {listed(sorted(still.models), 8)}"
    return result("models", good, problems, repositories=list(folders), models=sorted(still.models))


def _place(still: Still, name: str, folders: Sequence[str]) -> str | None:
    found = (still.real(join(folder, name)) for folder in folders)
    return next((entry.path for entry in found if entry and entry.kind == DIRECTORY), None)


def _model(still: Still, name: str, place: str | None, folders: Sequence[str]) -> Iterator[Problem]:
    if place is None:
        known = [one for folder in folders for one in _names(still, folder)]
        hint = f"there are: {listed(known, 8)}" if known else "models: [{path: ./models}]"
        yield Problem(message=f"the model {name} is not in {listed(folders)}", hint=hint)
        return
    versions = [one for one in still.tree.children(place) if one.isdigit() and int(one) > 0]
    held = [entry for one in versions for entry in still.files(join(place, one))]
    text = still.text(join(place, "config.pbtxt"))
    backend = _BACKEND.search(text or "")
    if not versions:
        hint = f"mkdir {name}/1   (and the model's file into it)"
        yield Problem(
            message=f"the model {name} has no version: {shown(place)} holds no folder with a number", hint=hint
        )
    elif not held and text is None:
        yield Problem(message=f"the model {name} is empty: it has neither a file in a version nor a config.pbtxt")
    elif not held and backend:
        # An ensemble's version is an empty folder, and so is that of a backend that reads a configuration alone.
        message = f"the model {name} has no file in {listed(shown(join(place, one)) for one in versions)}"
        yield Problem(message=message, hint=f"put what {backend[1]} loads there")
    yield from _unreadable(still, name, place)


def _names(still: Still, folder: str) -> Sequence[str]:
    top = still.real(folder)
    return still.tree.children(top.path) if top else ()


def _unreadable(still: Still, name: str, place: str) -> Iterator[Problem]:
    shut = [entry for entry in still.files(place) if not may(still, entry, 4)]
    if shut:
        message = f"{user_of(still)} may not read {shown(shut[0].path)} of the model {name} (mode {shut[0].mode:04o})"
        yield Problem(message=message, hint=f"chmod -R a+rX {name}, and build again")


# -- links --------------------------------------------------------------------------------------------------------


def links(still: Still) -> Result:
    """Links below the server's folder and in its models that lead to nothing."""
    tops = [top.path for path in (f"/{HOME}", *repositories(still)) if (top := still.real(path))]
    entries = {entry.path: entry for top in tops for entry in still.tree.walk(top)}
    found = [entry for entry in entries.values() if entry.kind == SYMLINK]
    loose = [entry for entry in found if _dangles(still, entry)]
    problems = [_loose(entry, certain=_counts(entry, tops[1:])) for entry in loose]
    good = f"{words.count(len(found), 'link')} of the server and its models, and none leads to nothing"
    return result("links", good, problems, links=len(found), dangling=[shown(entry.path) for entry in loose])


def _dangles(still: Still, entry: Entry) -> bool:
    target = entry.link.strip("/")
    outside = entry.link.startswith("/") and any(f"{target}/".startswith(f"{one}/") for one in _ELSEWHERE)
    return not outside and not HOST.fullmatch(target.rpartition("/")[2]) and still.real(entry.path) is None


def _counts(entry: Entry, models: Sequence[str]) -> bool:
    """Whether what the link stands for is read for certain: a program, a library, a file of a model."""
    return _LOADED.fullmatch(entry.path) is not None or any(entry.path.startswith(f"{one}/") for one in models)


def _loose(entry: Entry, *, certain: bool) -> Problem:
    message = f"{shown(entry.path)} is a link to {entry.link}, which is not in the image"
    return Problem(message=message, certain=certain)
