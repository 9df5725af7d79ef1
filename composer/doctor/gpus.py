"""The GPU: this machine's driver against what the release needs, and how a container would get at it.

Source: releases/drivers.toml; NVIDIA's container toolkit, "Configuring Docker" and "Support for CDI".
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from composer import words
from composer.checks.gpu.nvml import Look, look
from composer.doctor.finding import Finding, Level
from composer.doctor.subject import Subject
from composer.releases.drivers import gpu_needs, parsed

_LOADED: Final = Path("/proc/driver/nvidia/version")
_PCI: Final = Path("/sys/bus/pci/devices")
_NVIDIA: Final = "0x10de"
_DISPLAYS: Final = ("0x0300", "0x0302")
_CDI: Final = (Path("/etc/cdi"), Path("/var/run/cdi"))
_CDI_SECONDS: Final = 5


def gpu(subject: Subject) -> Iterator[Finding]:
    """The GPUs, their driver, the toolkit."""
    here = look()
    if not here.gpus:
        yield _none(subject, here)
        return
    named = ", ".join(one.name for one in here.gpus)
    facts = {
        "driver": here.driver,
        "gpus": [{"name": one.name, "compute_capability": one.compute_capability} for one in here.gpus],
    }
    saw = f"{words.count(len(here.gpus), 'GPU')}: {named}; driver {here.driver}"
    yield Finding(id="gpu.ok", level="ok", saw=saw, facts=facts)
    for release in sorted({recipe.triton for recipe in subject.recipes if recipe.triton}):
        yield from judge_driver(release, here, subject)
    yield from toolkit(subject)


def _wanted(subject: Subject) -> bool:
    validations = [one.validation for one in subject.recipes if one.validation]
    return any(one.gpu.mode == "required" for one in validations)


def _none(subject: Subject, here: Look) -> Finding:
    level: Level = "problem" if _wanted(subject) else "unknown"
    if _LOADED.exists():
        why = "the driver's kernel part is there: its library is of another version, or /dev/nvidia* is not passed in"
        saw = f"no GPU can be used: {here.trouble or 'the driver names none'}"
        return Finding(id="driver.broken", level=level, saw=saw, why=why, fix="nvidia-smi; sudo reboot")
    why = "images are composed without; what needs a GPU cannot be proved here, and is reported as unverified"
    if not has_hardware():
        return Finding(id="gpu.none", level=level, saw="this machine has no NVIDIA GPU", why=why)
    saw = here.trouble or "NVIDIA's driver is there, and names no GPU"
    fix = subject.remedies.install("nvidia-driver") if here.trouble else "nvidia-smi"
    return Finding(id="driver.absent", level=level, saw=saw, why=why, fix=fix)


def has_hardware(devices: Path = _PCI) -> bool:
    """Whether a device of NVIDIA's is on a bus, or this is Windows' Linux, which shows none. Source: sysfs-bus-pci."""
    for device in devices.glob("*/vendor"):
        with suppress(OSError):
            kind = device.with_name("class").read_text().strip()
            if device.read_text().strip() == _NVIDIA and kind.startswith(_DISPLAYS):
                return True
    return Path("/dev/dxg").exists()


def judge_driver(release: str, here: Look, subject: Subject) -> Iterator[Finding]:
    """The driver and the GPUs against a release's needs."""
    needs, driver = gpu_needs(release), parsed(here.driver)
    facts = {"release": release, "cuda": needs.cuda, "least": needs.driver, "own": needs.own, "driver": here.driver}
    fix = subject.remedies.install("nvidia-driver")
    if needs.driver is None:
        saw = f"what {release} needs of a driver is not known"
        yield Finding(id="driver.unknown", level="unknown", saw=saw, facts=facts)
    elif driver < parsed(needs.driver):
        saw = f"driver {here.driver} is too old for {release}: CUDA {needs.cuda} takes {needs.driver} or newer"
        why = "the server finds no GPU; on data center GPUs the libraries for older drivers in the image may do"
        yield Finding(id="driver.old", level="problem", saw=saw, why=why, fix=fix, facts=facts)
    elif needs.own and driver < parsed(needs.own):
        saw = f"driver {here.driver} is older than CUDA {needs.cuda} of {release}, which came with {needs.own}"
        why = "it runs, without some features of that CUDA"
        yield Finding(id="driver.older", level="warning", saw=saw, why=why, fix=fix, facts=facts)
    else:
        saw = f"driver {here.driver} fits {release}, which takes {needs.driver} or newer"
        yield Finding(id="driver.ok", level="ok", saw=saw, facts=facts)
    least = needs.compute_capability
    for one in here.gpus:
        if least and one.compute_capability and parsed(one.compute_capability) < parsed(least):
            saw = f"{one.name} has compute capability {one.compute_capability}, and {release} takes {least} or newer"
            why = "its kernels are not in that release's libraries"
            yield Finding(id="gpu.old", level="problem", saw=saw, why=why, fix="an older release: tricompose releases")


def toolkit(subject: Subject) -> Iterator[Finding]:
    """How a container of Docker's gets at the GPU: NVIDIA's runtime, or CDI."""
    runtimes = _runtimes(subject)
    devices = [path for folder in _CDI for path in sorted(folder.glob("*.y*ml")) + sorted(folder.glob("*.json"))]
    tool = shutil.which("nvidia-ctk")
    facts = {"nvidia-ctk": _version(tool), "runtimes": runtimes, "cdi": [str(path) for path in devices]}
    if tool is None and "nvidia" not in (runtimes or ()):
        level: Level = "problem" if subject.builds_in_docker and _wanted(subject) else "warning"
        why = "Docker cannot give a container the GPU without it"
        yield Finding(
            id="toolkit.absent",
            level=level,
            saw="NVIDIA's container toolkit is not installed",
            why=why,
            fix=f"{subject.remedies.install('nvidia-container-toolkit')}   (from NVIDIA's repository: "
            "docs.nvidia.com/datacenter/cloud-native/container-toolkit)",
            facts=facts,
        )
    elif runtimes is not None and "nvidia" not in runtimes and not devices:
        saw = f"NVIDIA's container toolkit {facts['nvidia-ctk']} is installed, and Docker does not know it"
        fix = subject.remedies.command("toolkit-runtime")
        why = "docker run --gpus fails: could not select device driver"
        yield Finding(id="toolkit.not-configured", level="warning", saw=saw, why=why, fix=fix, facts=facts)
    else:
        version = facts["nvidia-ctk"] or "not in PATH"
        by = "CDI" if devices and "nvidia" not in (runtimes or ()) else "the runtime nvidia"
        got = f"containers get at the GPU by {by}" if devices or runtimes else "there is no Docker to be set up"
        yield Finding(id="toolkit.ok", level="ok", saw=f"{got}; nvidia-ctk is {version}", facts=facts)


def _runtimes(subject: Subject) -> list[str] | None:
    """The runtimes that the engine knows, or None where there is no engine."""
    from composer.doctor.engine import docker

    for one in docker(subject):
        if one.id == "docker.ok":
            return list(one.facts["runtimes"])
    return None


def _version(tool: str | None) -> str | None:
    if tool is None:
        return None
    try:
        said = subprocess.run([tool, "--version"], capture_output=True, text=True, timeout=_CDI_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\d+\.\d+\.\d+", said.stdout)
    return found[0] if found else None
