"""Blobs that are half here, and gates of hosts that asked for a pause: what is hard to see from outside."""

from __future__ import annotations

import errno
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from composer.errors import Corrupt, Unreachable
from composer.oci import partials
from composer.oci.gates import Gate
from composer.oci.image import OCI_LAYER, Descriptor
from composer.oci.patience import Interrupted, Patience

MIB = 1 << 20
DATA = random.Random(0).randbytes(40 * MIB)
BLOB = Descriptor.of(DATA, OCI_LAYER)
NAME = BLOB.digest.replace(":", "-")


class Line:
    """A store at the end of a line: `seconds` pass before each MiB, and it ends at `end`."""

    label = "far"

    def __init__(self, *, seconds: float = 0.0, end: int = len(DATA)) -> None:
        self.seconds = seconds
        self.end = end
        self.sent = 0

    def read(self, descriptor: Descriptor) -> Iterator[bytes]:
        return self.read_from(descriptor, 0)

    def read_from(self, descriptor: Descriptor, place: int) -> Iterator[bytes]:
        for start in range(place, self.end, MIB):
            time.sleep(self.seconds)
            self.sent += len(DATA[start : start + MIB])
            yield DATA[start : start + MIB]
        if self.end < len(DATA):
            raise Unreachable("gone")


def read(line: Line, folder: Path) -> tuple[bytes, int]:
    """The bytes, and how many of them were there."""
    resumed: list[int] = []
    data = b"".join(partials.kept(line, BLOB, folder, resumed.append))  # type: ignore[arg-type]
    return data, sum(resumed)


def test_on_a_fast_line_nothing_stays(tmp_path: Path) -> None:
    chunks = partials.kept(Line(), BLOB, tmp_path, lambda size: None)  # type: ignore[arg-type]
    seen = max(partials.held(tmp_path, BLOB.digest) for _ in chunks)
    assert 0 < seen < 17 * MIB
    assert list(tmp_path.iterdir()) == []


def test_on_a_slow_line_what_came_is_there_the_next_time(tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        read(Line(seconds=0.001, end=12 * MIB), tmp_path)
    assert partials.held(tmp_path, BLOB.digest) == 12 * MIB
    line = Line()
    assert read(line, tmp_path) == (DATA, 12 * MIB)
    assert line.sent == 28 * MIB
    assert list(tmp_path.iterdir()) == []


def test_a_reader_who_stops_leaves_what_came(tmp_path: Path) -> None:
    chunks = partials.kept(Line(), BLOB, tmp_path, lambda size: None)  # type: ignore[arg-type]
    for _ in range(8):
        next(chunks)
    chunks.close()
    assert partials.held(tmp_path, BLOB.digest) == 8 * MIB


def test_wrong_bytes_are_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / NAME).write_bytes(bytes(5 * MIB))
    with pytest.raises(Corrupt, match="far sent sha256"):
        read(Line(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_does_not_stop_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: partials.Partial, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(partials.Partial, "write", full)
    assert read(Line(), tmp_path) == (DATA, 0)
    assert list(tmp_path.iterdir()) == []


def test_the_second_reader_has_nothing_of_the_first(tmp_path: Path) -> None:
    first = partials.take(tmp_path, BLOB.digest)
    assert first is not None
    with first:
        first.write(DATA[: 5 * MIB])
        assert partials.take(tmp_path, BLOB.digest) is None
        assert read(Line(), tmp_path) == (DATA, 0)
        assert partials.held(tmp_path, BLOB.digest) == 5 * MIB


def test_a_partial_that_became_a_blob_is_not_written_to(tmp_path: Path) -> None:
    """Another opens the file, and gets its lock only when it has its place among the blobs."""
    first = partials.take(tmp_path, BLOB.digest)
    assert first is not None
    with first:
        first.write(b"whole")
        first.become(tmp_path / "blob")
    second = partials.take(tmp_path, BLOB.digest)
    assert second is not None
    with second:
        second.write(b"another")
    assert (tmp_path / "blob").read_bytes() == b"whole"


# -- gates -------------------------------------------------------------------------------------


def elsewhere(gate: Gate) -> Interrupted | None:
    """What another thread hears who wants to go in."""
    heard: list[Interrupted | None] = []

    def enter() -> None:
        try:
            gate.enter()
        except Interrupted as cut:
            heard.append(cut)
        else:
            heard.append(None)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return heard[0]


def test_one_goes_first_and_the_rest_when_it_was_answered() -> None:
    gate, why = Gate(), Unreachable("wait")
    gate.enter()
    assert gate.shut(why, 0.5) == 0.5
    with pytest.raises(Interrupted) as caught:
        gate.enter()
    assert caught.value.after is not None
    assert 0 < caught.value.after <= 0.5
    time.sleep(0.51)
    gate.enter()
    gate.enter()  # the same one, for a token
    assert elsewhere(gate) is not None
    gate.leave(answered=True)
    assert elsewhere(gate) is None


def test_one_who_got_no_answer_lets_another_go_first() -> None:
    gate = Gate()
    gate.shut(Unreachable("wait"), 0.0)
    gate.enter()
    gate.leave(answered=False)
    assert elsewhere(gate) is None
    with pytest.raises(Interrupted):
        gate.enter()


def test_without_a_word_of_how_long_pauses_grow() -> None:
    gate = Gate()
    assert [gate.shut(Unreachable("wait"), None) for _ in range(7)] == [1, 2, 4, 8, 16, 16, 16]


def test_few_bytes_are_no_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    patience = Patience(60, lambda seconds: None, lambda text: None)
    cut = Interrupted(Unreachable("cut"))
    for _ in range(5):
        now[0] += 10
        patience.gained(1)
        patience.wait(cut)
    now[0] += 10
    patience.gained(1)
    with pytest.raises(Unreachable, match=r"given up after 60 s without progress \(--max-wait 60\)"):
        patience.wait(cut)
    patience.gained(1 << 20)
    patience.wait(cut)
