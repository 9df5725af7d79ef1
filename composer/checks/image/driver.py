"""Whether an image keeps the host's driver and GPUs from its server, or promises what does not hold.

NVIDIA's container runtime puts the driver's libraries into a container when it starts. One that is in the image
already, where the loader finds it, stands in for the host's, and fits one driver at most.

Source: NVIDIA's container toolkit, "Specialized Configurations"; CUDA's guide to forward compatibility.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from composer.checks.image.libraries import configured, library_path
from composer.checks.image.loader import HOST, default_folders
from composer.checks.image.problem import Problem, result, skipped
from composer.checks.image.subject import Still, listed, shown
from composer.checks.report import Result
from composer.inventory import HOME
from composer.oci.tree import join

_HIDDEN: Final = ("void", "none", "")
_NEEDED: Final = ("compute", "utility")
_LIBCUDA: Final = re.compile(r"libcuda\.so(?:\.\d+)*")


def driver(still: Still) -> Result:
    """What the image has of a driver, and its variables that are about GPUs."""
    if not still.gpu:
        return skipped("driver", "no GPU is wanted")
    problems = [*_forced(still), *_baked(still), *_hidden(still), *_incapable(still), *_ignored(still)]
    names = ("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "LD_LIBRARY_PATH")
    said = {name: still.env[name] for name in names if name in still.env}
    return result("driver", "the driver is left to the host, and no variable hides a GPU", problems, env=said)


def _forced(still: Still) -> Iterator[Problem]:
    """CUDA's libcuda for older drivers, always first: it fails on newer drivers, and on GeForce."""
    for folder in [*library_path(still), *configured(still)]:
        if found := _in(still, folder, _LIBCUDA):
            always = folder in library_path(still)
            named = "LD_LIBRARY_PATH" if always else "/etc/ld.so.conf"
            message = f"{named} leads to {shown(join(folder, found[0]))}, which stands in for the host's driver"
            hint = _without(still, folder) if always else "leave the folder out of /etc/ld.so.conf.d"
            yield Problem(message=message, hint=hint, certain=always)


def _in(still: Still, folder: str, form: re.Pattern[str]) -> list[str]:
    """The files of a folder that are called so; not stubs, which only compilers are led to."""
    top = still.real(folder)
    names = still.tree.children(top.path) if top and "stubs" not in folder.split("/") else ()
    return [name for name in names if form.fullmatch(name) and still.file(join(folder, name))]


def _without(still: Still, folder: str) -> str:
    kept = [one for one in still.env.get("LD_LIBRARY_PATH", "").split(":") if one.strip("/") != folder]
    return f'env: {{LD_LIBRARY_PATH: "{":".join(kept)}"}}'


def _baked(still: Still) -> Iterator[Problem]:
    """Libraries of a driver where the runtime is to put the host's."""
    found: dict[str, str] = {}
    for folder in default_folders(still.image.platform.architecture):
        for name in _in(still, folder, HOST):
            entry = still.file(join(folder, name))
            if entry:
                found.setdefault(entry.path, name)
    if found:
        empty = all((entry := still.tree.get(path)) is None or entry.size == 0 for path in found)
        whose = "empty files of a container that had a GPU" if empty else "libraries of a driver"
        message = f"the image holds {whose}: {listed(map(shown, sorted(found)))}"
        hint = "build the image where no GPU is passed in, and copy no libcuda or libnvidia-* into it"
        yield Problem(message=message, hint=hint)


def _hidden(still: Still) -> Iterator[Problem]:
    value = still.env.get("NVIDIA_VISIBLE_DEVICES")
    if value is not None and value.strip() in _HIDDEN:
        message = f"NVIDIA_VISIBLE_DEVICES={value} hides all GPUs from the container"
        yield Problem(message=message, hint="env: {NVIDIA_VISIBLE_DEVICES: all}")


def _incapable(still: Still) -> Iterator[Problem]:
    value = still.env.get("NVIDIA_DRIVER_CAPABILITIES", "")
    given = {word.strip() for word in value.split(",") if word.strip()}
    missing = [one for one in _NEEDED if one not in given]
    if given and "all" not in given and missing:
        message = f"NVIDIA_DRIVER_CAPABILITIES={value} lacks {' and '.join(missing)}: the driver is not passed in whole"
        hint = f'env: {{NVIDIA_DRIVER_CAPABILITIES: "{",".join([*_NEEDED, *sorted(given - {*_NEEDED})])}"}}'
        yield Problem(message=message, hint=hint)


def _ignored(still: Still) -> Iterator[Problem]:
    if still.env.get("PYTHONPATH") and still.real(f"{HOME}/backends/python"):
        message = "PYTHONPATH is set, and the Python backend does not read it: what lies there cannot be imported"
        hint = "packages: {pip: [...]}, or EXECUTION_ENV_PATH in the model's config.pbtxt"
        yield Problem(message=message, hint=hint, certain=False)
