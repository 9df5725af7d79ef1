"""Whose something is that lies about: of a process that lives, or of one that was killed and cannot clear up any more.

A process is known by its number and the time that it began, as numbers are used again; both hold within one
namespace of one boot of a machine. Source: proc_pid_stat(5), field 22; namespaces(7).
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

_FORM: Final = re.compile(r"(\d+)-(\d+)-(\d+)-([0-9a-f]{8})")
_FIRST_NAMESPACE: Final = "4026531836"
"""The namespace of processes that a machine boots with. Source: Linux, include/linux/proc_ns.h."""


def ourselves() -> str:
    """What marks something as ours: `PID-START-NAMESPACE-BOOT`. Empty where there is no /proc."""
    pid = os.getpid()
    with suppress(OSError):
        return f"{pid}-{_began(pid)}-{_place()}"
    return ""


def is_gone(mark: str) -> bool:
    """Whether it is certain that the process of a mark has ended. Of one that we could not see, nothing is."""
    found = _FORM.search(mark)
    if not found:
        return False
    pid, began, namespace, boot = found.groups()
    try:
        if f"{namespace}-{boot}" != _place():
            # Another boot of this very machine: only there the first namespace is the one that we are in.
            return namespace == _FIRST_NAMESPACE == _place().partition("-")[0] and boot != _place().partition("-")[2]
        return began != _began(int(pid))
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _began(pid: int) -> str:
    """When a process began, in ticks since the boot. The name before may hold spaces and brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def _place() -> str:
    namespace = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    return f"{namespace}-{Path('/proc/sys/kernel/random/boot_id').read_text()[:8]}"
