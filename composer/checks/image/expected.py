"""Whether an image is as the recipe expects: `validate.expect.image`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from composer import words
from composer.checks.image.problem import Problem, result
from composer.checks.image.start import ids_of
from composer.checks.image.subject import Still
from composer.checks.report import Result
from composer.oci.tar import DIRECTORY, FILE, LINK, Entry

if TYPE_CHECKING:
    from composer.recipe_proof import FileExpect, ImageExpect

_ROOT: Final = ("", "0", "root", "0:0", "root:root")


def expected(still: Still, wanted: ImageExpect, contents: Mapping[str, bytes]) -> Result:
    """Every word of `expect.image`. `contents` are the files that `contains:` asks of, by their paths in the recipe."""
    problems = [
        *_user(still, wanted),
        *_variables(still, wanted),
        *_labels(still, wanted),
        *_ports(still, wanted),
        *_entrypoint(still, wanted),
        *(problem for file in wanted.files for problem in _file(still, file, contents)),
        *_size(still, wanted),
    ]
    count = len(wanted.model_fields_set)
    size = sum(layer.size for layer in still.image.layers)
    return result("expected", f"as the recipe expects: {words.count(count, 'key')}", problems, size=size)


def _user(still: Still, wanted: ImageExpect) -> Iterator[Problem]:
    has = str(still.settings.get("User") or "")
    if wanted.user is not None and has != wanted.user and not (has in _ROOT and wanted.user in _ROOT):
        yield Problem(message=f"its user is {has or 'root'}, not {wanted.user}", hint=f"user: {wanted.user}")


def _variables(still: Still, wanted: ImageExpect) -> Iterator[Problem]:
    for name, value in wanted.env.items():
        if still.env.get(name) != value:
            fault = f"is {still.env[name]!r}, not {value!r}" if name in still.env else "is not set"
            yield Problem(message=f"the variable {name} {fault}", hint=f'env: {{{name}: "{value}"}}')


def _labels(still: Still, wanted: ImageExpect) -> Iterator[Problem]:
    labels = still.settings.get("Labels") or {}
    for name, value in wanted.labels.items():
        if labels.get(name) != value:
            fault = f"is {labels[name]!r}, not {value!r}" if name in labels else "is not set"
            yield Problem(message=f"the label {name} {fault}", hint=f'labels: {{{name}: "{value}"}}')


def _ports(still: Still, wanted: ImageExpect) -> Iterator[Problem]:
    if wanted.ports is None:
        return
    has = {port.removesuffix("/tcp") for port in still.settings.get("ExposedPorts") or {}}
    named = {str(port) for port in wanted.ports}
    if has != named:
        yield Problem(
            message=f"it exposes {_listed(sorted(has, key=_sorted))}, not {_listed(sorted(named, key=_sorted))}"
        )


def _sorted(port: str) -> tuple[int, str]:
    return (int(port), "") if port.isdigit() else (1 << 16, port)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "no port"


def _entrypoint(still: Still, wanted: ImageExpect) -> Iterator[Problem]:
    has = tuple(still.settings.get("Entrypoint") or ())
    if wanted.entrypoint is not None and has != wanted.entrypoint:
        yield Problem(message=f"its entrypoint is {' '.join(has) or 'empty'}, not {' '.join(wanted.entrypoint)}")


def _size(still: Still, wanted: ImageExpect) -> Iterator[Problem]:
    size = sum(layer.size for layer in still.image.layers)
    if wanted.max_size is not None and size > wanted.max_size:
        message = f"its layers come to {words.size(size)} compressed, and {words.size(wanted.max_size)} is the most"
        yield Problem(message=message, hint="tricompose inspect shows them; leave out backends that no model needs")


# -- files --------------------------------------------------------------------------------------------------------


def _file(still: Still, wanted: FileExpect, contents: Mapping[str, bytes]) -> Iterator[Problem]:
    entry = still.real(wanted.path)
    if wanted.absent:
        if still.has(wanted.path):
            yield Problem(message=f"{wanted.path} is there, and must not be")
        return
    if entry is None:
        fault = "is a link to nothing" if still.has(wanted.path) else "is missing"
        yield Problem(message=f"{wanted.path} {fault}")
        return
    if wanted.mode is not None and _mode(still, entry) != wanted.mode:
        yield Problem(message=f"{wanted.path} has mode {_mode(still, entry):04o}, not {wanted.mode:04o}")
    if wanted.user is not None:
        yield from _owner(still, wanted.path, _target(still, entry), wanted.user)
    if wanted.contains is not None:
        yield from _content(wanted, entry, contents)


def _target(still: Still, entry: Entry) -> Entry:
    """Where a hard link has its owner and mode."""
    return still.tree.get(entry.link) or entry if entry.kind == LINK else entry


def _mode(still: Still, entry: Entry) -> int:
    return _target(still, entry).mode


def _owner(still: Still, path: str, entry: Entry, user: str) -> Iterator[Problem]:
    number, groups = ids_of(still, user)
    if number is None:
        yield Problem(message=f"{path} cannot belong to {user}, which the image's /etc/passwd does not have")
        return
    _, named, _ = user.partition(":")
    if entry.uid != number or (named and entry.gid not in groups):
        yield Problem(message=f"{path} belongs to {entry.uid}:{entry.gid}, not to {user}")


def _content(wanted: FileExpect, entry: Entry, contents: Mapping[str, bytes]) -> Iterator[Problem]:
    if entry.kind == DIRECTORY or entry.kind not in (FILE, LINK):
        yield Problem(message=f"{wanted.path} is no file, and so contains nothing")
        return
    text = contents.get(wanted.path, b"").decode("utf-8", "replace")
    if wanted.contains is not None and not re.search(wanted.contains, text, re.MULTILINE):
        yield Problem(message=f"{wanted.path} contains nothing like {wanted.contains!r}")
