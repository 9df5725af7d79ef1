"""Locks as people and machines read them: what is pinned, and what is not what it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from composer.lockfile import Lock
from composer.words import count


def lock_json(file: Path, lock: Lock, changes: Mapping[str, str]) -> dict[str, Any]:
    """The lock itself, and what is `new`, `changed` or `gone` in it."""
    return {"path": str(file), "lock": lock.to_json(), "changes": dict(changes)}


def lock_text(file: Path, lock: Lock, changes: Mapping[str, str]) -> Iterator[str]:
    """A line of what is pinned, and one for each change."""
    images = sum(pin is not None for pin in lock.images.values())
    wheels = sum(map(len, lock.wheels.values()))
    pinned = [count(images, "image"), count(len(lock.models), "model"), count(wheels, "wheel")]
    yield f"{file}: {', '.join(pinned)}, {count(len(changes), 'change') if changes else 'as it was'}"
    for name, what in changes.items():
        yield f"  {what:<8} {name}{_now(lock, name)}"


def _now(lock: Lock, name: str) -> str:
    pin = lock.images.get(name) or lock.models.get(name)
    return f" {pin.digest}" if pin else ""
