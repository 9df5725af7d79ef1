"""What a server takes without a word, though nobody can mean it: judged by a model's configuration as it has it.

Each of these was seen on a real server that called itself and the model ready.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from composer.checks.health.settings import differences
from composer.checks.processes import Stub
from composer.models.configuration import read_configuration
from composer.models.lint.layout import misnamed
from composer.models.repository import Entry, Model

ENV_PATH: Final = "EXECUTION_ENV_PATH"

_MOST_LABELS: Final = 16 << 20
_BOM: Final = b"\xef\xbb\xbf"
_LAST_ISOLATED: Final = (2, 51)
"""The server of 24.10: Python in it takes nothing from the environment, and reads NumPy 2 wrongly. Later ones, which
have a newer pybind11, were not seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model that the server calls ready.

    `config` is its configuration as the server completed it, `versions` those that are ready. `local` is the model as
    it lies here, if it does. `stubs` are the processes that run it, None where they cannot be seen. `server` is the
    server's version, (2, 51) for 2.51.0.
    """

    name: str
    config: Mapping[str, Any]
    versions: Sequence[int]
    local: Model | None = None
    stubs: Sequence[Stub] | None = None
    server: tuple[int, ...] = ()

    @property
    def groups(self) -> Sequence[Mapping[str, Any]]:
        """Its instance groups."""
        return self.config.get("instance_group") or ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that is wrong with a model: `thing` in a word, `hint` what to do.

    `rule` is the rule of lint that says the same before a start, where there is one.
    """

    thing: str
    message: str
    hint: str = ""
    rule: str = ""


def faults(model: Served) -> Iterator[Fault]:
    """All that is wrong with a model."""
    for look in LOOKS:
        yield from look(model)


def _passive(model: Served) -> Iterator[Fault]:
    if model.groups and all(group.get("passive") for group in model.groups):
        yield Fault(
            thing="passive",
            rule="INS007",
            message="all its instances are passive, so none takes a request; on 24.10 the first one ends the server",
            hint="leave passive: true out of one instance_group",
        )


def _repeated_inputs(model: Served) -> Iterator[Fault]:
    names = Counter(str(one.get("name")) for one in model.config.get("input") or ())
    for name in (name for name, count in names.items() if count > 1):
        yield Fault(
            thing="inputs",
            rule="IO012",
            message=f"{names[name]} of its inputs are called {name}: the server refuses every request",
            hint=f'keep one input {{ name: "{name}" ... }} in its config.pbtxt',
        )


def _batching(model: Served) -> Iterator[Fault]:
    if "dynamic_batching" in model.config and not int(model.config.get("max_batch_size") or 0):
        yield Fault(
            thing="batching",
            rule="BAT003",
            message="it has dynamic_batching and max_batch_size 0, so that it never batches",
            hint="max_batch_size: 8   (or leave dynamic_batching out)",
        )


def _policy(model: Served) -> Iterator[Fault]:
    specific = (model.config.get("version_policy") or {}).get("specific") or {}
    wanted = [int(version) for version in specific.get("versions") or ()]
    missing = [version for version in wanted if version not in model.versions]
    if missing:
        there = _versions(model.versions)
        yield Fault(
            thing="version_policy",
            rule="CFG031",
            message=f"its version_policy names {_versions(missing)}, which is not there: {there} is served",
            hint=f"add the folder {missing[0]}, or leave {missing[0]} out of version_policy",
        )


def _versions(some: Sequence[int]) -> str:
    return f"version {', '.join(map(str, some))}" if some else "none"


def _settings(model: Served) -> Iterator[Fault]:
    """Settings that are not those of the file, because it is not read, is another, or the server knows better."""
    if model.local is None:
        return
    stray = misnamed(model.local)
    if stray is not None:
        yield from _unread(model, model.local.folder, stray.path)
    elif found := differences(model.local.configuration, model.config):
        folder = model.local.folder
        yield Fault(
            thing="config",
            rule="BAT009" if found[0].startswith("max_batch_size ") else "",
            message=f"it is not served as its {model.local.configuration.path.name} says: {'; '.join(found)}",
            hint=f"is {folder} what is in the image? If it is, the server changed it: set what it says",
        )


def _unread(model: Served, folder: Path, path: str) -> Iterator[Fault]:
    """A config that the server does not read. What is no config at all, for all its name, does not count."""
    written = read_configuration(folder / path)
    if written.readable and written.message.ListFields():
        found = "; ".join(differences(written, model.config)) or "what stands there, and what does not"
        yield Fault(
            thing="config",
            rule="LAY018",
            message=f"the server does not read {path}, and guessed: {found}",
            hint=f"mv {folder / path} {folder / 'config.pbtxt'}",
        )


def _labels(model: Served) -> Iterator[Fault]:
    for output in model.config.get("output") or ():
        name = str(output.get("label_filename") or "")
        entry = model.local.by_path.get(name) if model.local and name else None
        if entry is None or entry.kind != "file" or entry.size > _MOST_LABELS:
            continue
        data = _content(entry)
        if b"\r" in data:
            yield Fault(
                thing="labels",
                rule="IO028",
                message=f"lines of {name} end in CR LF: the server sends labels with a CR at their end",
                hint=f"sed -i 's/\\r$//' {entry.source}",
            )
        if data.startswith(_BOM):
            yield Fault(
                thing="labels",
                rule="IO028",
                message=f"{name} begins with a byte order mark, and so does the first label that the server sends",
                hint=f"sed -i '1s/^\\xef\\xbb\\xbf//' {entry.source}",
            )


def _content(entry: Entry) -> bytes:
    with suppress(OSError):
        return entry.source.read_bytes()
    return b""


# -- Python ---------------------------------------------------------------------------------------


def _environment(model: Served) -> Iterator[Fault]:
    """An environment of its own that has no Python: the stub then runs the image's, and says nothing."""
    said = ((model.config.get("parameters") or {}).get(ENV_PATH) or {}).get("string_value")
    for stub in (model.stubs or ()) if said else ():
        # It is given the libraries of the unpacked environment before all others.
        folder = stub.env.get("LD_LIBRARY_PATH", "").partition(":")[0].removesuffix("/lib")
        if folder and not stub.has(folder):
            used = stub.python or "the image's own Python"
            yield Fault(
                thing="environment",
                message=f"{ENV_PATH} is {said}, where there is no Python: it runs with {used}",
                hint="conda pack -o env.tar.gz   (and name that file)",
            )
            return


def _numpy(model: Served) -> Iterator[Fault]:
    stub = next((stub for stub in model.stubs or () if (stub.numpy or 0) >= 2), None)
    if stub and _isolated(model.server) and "/backends/python/" in stub.program:
        yield Fault(
            thing="numpy",
            rule="PY018",
            message="it runs with NumPy 2, with which the Python backend of this release reads inputs as zeros and "
            "sends outputs that are empty",
            hint='packages: {pip: ["numpy<2"]}   (or triton: "24.11")',
        )


def pythonpath(stubs: Sequence[Stub], server: tuple[int, ...]) -> Iterator[Fault]:
    """Folders of PYTHONPATH: the stub does not look there, whatever the model."""
    for stub in stubs if _isolated(server) else ():
        lost = [path for path in stub.env.get("PYTHONPATH", "").split(":") if _brings_modules(stub, path)]
        if lost:
            yield Fault(
                thing="PYTHONPATH",
                rule="PY026",
                message=f"PYTHONPATH names {', '.join(lost)}, and the Python backend does not look there",
                hint="put the modules beside model.py, or into packages: {pip: [...]}",
            )
            return


def _brings_modules(stub: Stub, path: str) -> bool:
    """Whether a folder holds modules. Those of the server's own backends are theirs: real images name DALI's."""
    if not path.startswith("/") or path.startswith("/opt/tritonserver/"):
        return False
    return stub.holds(path, "*.py", "*/__init__.py", "*.so")


def _isolated(server: tuple[int, ...]) -> bool:
    return () < server[:2] <= _LAST_ISOLATED


def dead(model: Served) -> Iterator[Fault]:
    """Processes that should run the model, and are gone. Servers before 25.12 call it ready all the same."""
    wanted = len(model.versions) * sum(instances(group) for group in model.groups)
    missing = wanted - len(model.stubs or ())
    if model.stubs is not None and model.config.get("backend") == "python" and missing > 0:
        yield Fault(
            thing="process",
            message=f"{missing} of the {wanted} processes that run it ended, though the server calls it ready",
            hint="it crashed, was killed or called os._exit: look for its last words in the log",
        )


def instances(group: Mapping[str, Any]) -> int:
    """How many instances an instance group comes to, on all its GPUs."""
    return max(1, int(group.get("count") or 1)) * max(1, len(group.get("gpus") or ()))


Look = Callable[[Served], Iterator[Fault]]

LOOKS: Final[tuple[Look, ...]] = (
    *(_passive, _repeated_inputs, _batching, _policy, _settings, _labels),
    *(_environment, _numpy, dead),
)
"""Every way in which a model can be ready and not well."""
