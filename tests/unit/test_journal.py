"""What is remembered of registries: by whom it may be read, for how long, and what comes of it when it is broken."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from composer.oci import journal
from composer.oci.journal import Journal

HOST = "registry.example.com:5000"
DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


def test_an_entry_is_kept_for_the_next_process(tmp_path: Path) -> None:
    entry = Journal(tmp_path).upload(HOST, "a/b", DIGEST)
    assert entry
    assert entry.location is None
    entry.keep("https://registry/v2/a/b/blobs/uploads/1?_state=long")
    entry.keep("/v2/a/b/blobs/uploads/2")
    entry.close()
    again = Journal(tmp_path).upload(HOST, "a/b", DIGEST)
    assert again
    assert again.location == "/v2/a/b/blobs/uploads/2"
    again.drop()
    again.close()
    assert list((tmp_path / "uploads").iterdir()) == []


def test_an_entry_is_for_one_at_a_time(tmp_path: Path) -> None:
    first = Journal(tmp_path).upload(HOST, "a/b", DIGEST)
    assert first
    assert Journal(tmp_path).upload(HOST, "a/b", DIGEST) is None
    for host, repository, digest in (("other", "a/b", DIGEST), (HOST, "a/c", DIGEST), (HOST, "a/b", OTHER)):
        assert Journal(tmp_path).upload(host, repository, digest)
    first.close()
    assert Journal(tmp_path).upload(HOST, "a/b", DIGEST)


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    made = Journal(tmp_path / "transfers")
    entry = made.upload(HOST, "a/b", DIGEST)
    assert entry
    entry.keep("/somewhere?signature=secret")
    made.learn(HOST, "a/b", [DIGEST])
    for file in (tmp_path / "transfers").rglob("*"):
        assert stat.S_IMODE(file.stat().st_mode) == (0o700 if file.is_dir() else 0o600)


def test_what_is_old_is_forgotten(tmp_path: Path) -> None:
    made = Journal(tmp_path)
    entry = made.upload(HOST, "a/b", DIGEST)
    assert entry
    entry.keep("/somewhere")
    entry.close()
    (file,) = (tmp_path / "uploads").iterdir()
    long_ago = time.time() - 8 * 24 * 3600
    os.utime(file, (long_ago, long_ago))
    assert made.upload(HOST, "a/c", OTHER)
    assert not file.exists()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"location": 1}', b"\xff\xfe", b'{"other": "x"}'])
def test_an_entry_that_is_broken_is_none(tmp_path: Path, text: bytes) -> None:
    entry = Journal(tmp_path).upload(HOST, "a/b", DIGEST)
    assert entry
    entry.close()
    (file,) = (tmp_path / "uploads").iterdir()
    file.write_bytes(text)
    again = Journal(tmp_path).upload(HOST, "a/b", DIGEST)
    assert again
    assert again.location is None


def test_where_a_blob_is_the_last_one_first(tmp_path: Path) -> None:
    made = Journal(tmp_path)
    assert made.holders(HOST, DIGEST) == ()
    made.learn(HOST, "a/b", [DIGEST, OTHER])
    Journal(tmp_path).learn(HOST, "c/d", [DIGEST])
    assert made.holders(HOST, DIGEST) == ("c/d", "a/b")
    assert made.holders(HOST, OTHER) == ("a/b",)
    assert made.holders("elsewhere", DIGEST) == ()
    made.unlearn(HOST, "c/d", DIGEST)
    assert Journal(tmp_path).holders(HOST, DIGEST) == ("a/b",)


def test_what_is_known_is_not_written_again(tmp_path: Path) -> None:
    for _ in range(3):
        Journal(tmp_path).learn(HOST, "a/b", [DIGEST, DIGEST, OTHER])
    (file,) = (tmp_path / "blobs").iterdir()
    assert len(file.read_text().splitlines()) == 2


def test_a_long_list_is_cut_to_what_was_learned_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_MOST", 10)
    made = Journal(tmp_path)
    digests = [f"sha256:{number:064x}" for number in range(30)]
    for digest in digests:
        made.learn(HOST, "a/b", [digest])
    assert made.holders(HOST, digests[-1]) == ("a/b",)
    assert made.holders(HOST, digests[0]) == ()
    (file,) = (tmp_path / "blobs").iterdir()
    assert len(file.read_text().splitlines()) <= 11
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_list_of_nonsense_is_no_failure(tmp_path: Path) -> None:
    made = Journal(tmp_path)
    made.learn(HOST, "a/b", [DIGEST])
    (file,) = (tmp_path / "blobs").iterdir()
    with file.open("ab") as stream:
        stream.write(b"\xff\xfe\n\n+\n+ only-a-digest\nwhat is this\n")
    assert Journal(tmp_path).holders(HOST, DIGEST) == ("a/b",)


def test_a_place_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = Journal(tmp_path / "file")
    made.learn(HOST, "a/b", [DIGEST])
    made.unlearn(HOST, "a/b", DIGEST)
    assert made.upload(HOST, "a/b", DIGEST) is None
    assert made.holders(HOST, DIGEST) == ()
