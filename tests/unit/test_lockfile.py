"""The ledger of a run, and what is different between two locks."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.errors import Unplannable
from composer.lockfile import ImagePin, Ledger, Lock, ModelPin, differences, lock_path, read_lock, write_lock

A, B = (ImagePin(digest=f"sha256:{letter * 64}", size=1, media_type="x") for letter in "ab")
MODEL = ModelPin(uri="https://host/m", digest=A.digest, size=3)


def test_a_ledger_goes_by_its_lock_then_by_what_was_noted() -> None:
    ledger = Ledger(known=Lock(images={"one": A, "absent": None, "unused": A}))
    assert ledger.image("one") == A
    assert ledger.image("two") is None
    ledger.note_image("two", B)
    assert ledger.image("two") == B
    assert [ledger.lacks(name) for name in ("one", "absent", "nobody knows")] == [False, True, False]
    assert ledger.used == Lock(images={"one": A, "two": B}), "no more than what was asked for"


def test_a_strict_ledger_refuses_what_its_lock_does_not_know() -> None:
    ledger = Ledger(known=Lock(models={"https://host/m": MODEL}), strict=True)
    assert ledger.model("https://host/m") == MODEL
    with pytest.raises(Unplannable, match="does not say what https://host/n is"):
        ledger.model("https://host/n")


def test_what_is_different_is_named() -> None:
    before = Lock(images={"same": A, "moved": A, "gone": A, "lost": A})
    now = Lock(images={"same": A, "moved": B, "lost": None, "never there": None}, models={"new": MODEL})
    found = differences(before, now)
    assert found == {"gone": "gone", "lost": "changed", "moved": "changed", "never there": "new", "new": "new"}
    assert differences(None, now).keys() == {"same", "moved", "lost", "never there", "new"}


def test_a_lock_is_written_as_it_is_read(tmp_path: Path) -> None:
    path = lock_path(tmp_path / "triton.slim.yaml")
    assert path.name == "triton.slim.lock.json"
    assert read_lock(path) is None
    lock = Lock(images={"b": B, "a": None})
    assert write_lock(path, lock)
    assert not write_lock(path, lock), "nothing has changed"
    assert read_lock(path) == lock
    assert path.read_text().index('"a"') < path.read_text().index('"b"'), "the same lock is always the same file"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "x.lock.json"
    for name in (".x.lock.json-0123456789abcdef", ".x.lock.json-old"):
        (tmp_path / name).write_text("half")
    assert write_lock(path, Lock(images={"b": B}))
    assert sorted(file.name for file in tmp_path.iterdir()) == [".x.lock.json-old", path.name]
