"""Whether the image's Python is the one that the Python backend was built for, and has a NumPy that it can work with.

The backend's stub is linked with one Python. Beside another, on releases before 25.08, the server hangs in every
Python model; with NumPy 2 beside a stub of a release before 24.11, models read zeros and answer nothing, with status
200.

Source: python_backend, stub_launcher.cc; python_backend#384; both seen on a real server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from composer.checks.image.libraries import STUB, files_of, library_path
from composer.checks.image.loader import Process
from composer.checks.image.problem import Problem, result, skipped
from composer.checks.image.repository import repositories
from composer.checks.image.subject import Still, shown
from composer.checks.report import Result
from composer.inventory import HOME
from composer.oci.tree import join

_LINKED: Final = re.compile(r"libpython(3\.\d+)\.so(?:\.1\.0)?")
_NAMED: Final = re.compile(r"python(3\.\d+)")
_NUMPY: Final = re.compile(r"numpy-(\d+)\.([\w.]*?)(?:-py[\w.]*)?\.(?:dist|egg)-info")
_NUMPY_2_SINCE: Final = "24.11"
_OWN_ENVIRONMENT: Final = re.compile(r"\bEXECUTION_ENV_PATH\b")
_IN_PYTHON: Final = re.compile(r"^[ \t]*(?:backend|platform)\s*:\s*[\"']python[\"']", re.MULTILINE)


def python(still: Still) -> Result:
    """The stub against the image's Python and NumPy."""
    stub = still.binary(STUB)
    if stub is None:
        if still.real(f"{HOME}/backends/python") is None:
            return skipped("python", "there is no Python backend")
        problem = Problem(message=f"the Python backend has no stub: {shown(STUB)} is missing, or no program")
        return result("python", "", [problem])
    version = next((found[1] for name in stub.needed if (found := _LINKED.fullmatch(name))), None)
    if version is None:
        return skipped("python", "the stub brings a Python of its own")
    if _all_packed(still):
        return skipped("python", "every Python model brings an environment of its own")
    prefixes = _prefixes(still, version)
    numpy = _numpy(still, version, prefixes)
    problems = [*_another(still, version, prefixes), *(_of_numpy(still, version, numpy) if prefixes else ())]
    good = f"the stub and the image have Python {version}, with NumPy {numpy}"
    return result("python", good, problems, stub=version, image=_default(still), numpy=numpy, release=still.release)


def _all_packed(still: Still) -> bool:
    """Whether no Python model uses the image's own Python."""
    paths = (join(folder.strip("/"), name) for folder in repositories(still) for name in still.models)
    texts = [text for path in paths if (text := still.text(f"{path}/config.pbtxt")) and _IN_PYTHON.search(text)]
    return bool(texts) and all(_OWN_ENVIRONMENT.search(text) for text in texts)


def _default(still: Still) -> str:
    """The version that `python3` means in the image; empty where there is none."""
    path = still.program("python3")
    entry = still.file(path) if path else None
    found = _NAMED.fullmatch(entry.name) if entry else None
    return found[1] if found else ""


def _prefixes(still: Still, version: str) -> Sequence[str]:
    """The folders that the standard library of a Python lies below, that of the stub's libpython first."""
    process = Process(files=files_of(still), library_path=library_path(still))
    process.load(STUB)
    own = next((path for name, path in process.loaded.items() if _LINKED.fullmatch(name)), "")
    beside = [own.partition("/lib")[0]] if "/lib" in own else []
    folders = dict.fromkeys([*beside, "usr", "usr/local"])
    return [folder for folder in folders if still.file(f"{folder}/lib/python{version}/os.py")]


def _another(still: Still, version: str, prefixes: Sequence[str]) -> Iterator[Problem]:
    default = _default(still)
    if prefixes and default in ("", version):
        return
    if prefixes:
        message = (
            f"the stub runs Python {version}, and python3 of the image is {default}: "
            "packages that are installed for that one are not seen by models"
        )
        yield Problem(message=message, hint=f"python{version} -m pip install ...", certain=False)
        return
    has = f"the image has {default}" if default else "the image has none"
    message = f"the Python backend's stub was built for Python {version}, and {has}: no Python model can start"
    hint = f"a base image with Python {version}, or a stub that was built for {default or 'its own'}"
    yield Problem(message=message, hint=hint)


def _numpy(still: Still, version: str, prefixes: Sequence[str]) -> str:
    """The version of NumPy that the stub imports; empty for none. In the order of Debian's `sys.path`."""
    folders = [f"usr/local/lib/python{version}/dist-packages", "usr/lib/python3/dist-packages"]
    folders += [f"{prefix}/lib/python{version}/{name}" for prefix in prefixes for name in ("dist", "site")]
    folders = [*folders[:2], *(f"{folder}-packages" for folder in folders[2:])]
    for folder in folders:
        top = still.real(folder)
        for name in still.tree.children(top.path) if top else ():
            if found := _NUMPY.fullmatch(name):
                return f"{found[1]}.{found[2]}"
    return ""


def _of_numpy(still: Still, version: str, numpy: str) -> Iterator[Problem]:
    if not numpy:
        message = f"there is no NumPy for Python {version}, and the Python backend imports it"
        yield Problem(message=message, hint="packages: {pip: [numpy<2]}" if _old(still) else "packages: {pip: [numpy]}")
        return
    if int(numpy.partition(".")[0]) < 2:
        return
    if _old(still):
        beside = f"NumPy {numpy} beside the Python backend of {still.release}"
        message = f"{beside}: models read zeros and answer nothing, with status 200"
        yield Problem(message=message, hint='packages: {pip: ["numpy<2"]}')
    elif still.release is None:
        unknown = f"NumPy {numpy}, and the image does not say of which release it is"
        message = f"{unknown}: before {_NUMPY_2_SINCE} models would read zeros"
        yield Problem(message=message, hint='packages: {pip: ["numpy<2"]}', certain=False)


def _old(still: Still) -> bool:
    return still.release is not None and _number(still.release) < _number(_NUMPY_2_SINCE)


def _number(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", release))
