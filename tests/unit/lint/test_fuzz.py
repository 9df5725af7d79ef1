"""Whole repositories made by chance, of good pieces and bad: whatever lies there ends in findings, and soon."""

from __future__ import annotations

import json
import random
import re
import shutil
import xml.etree.ElementTree as Xml
from contextlib import suppress
from pathlib import Path

import pytest

from composer.console import findings
from composer.errors import TricomposeError
from composer.models.lint import Case, lint
from composer.models.lint.fixes import fix
from composer.models.model_files import config_for
from composer.models.needs import needs_of
from composer.models.repository import read_repository
from composer.releases import RELEASES
from tests.judge.corpus import Entry, Fifo, File, Folder, Link, Moded, Sparse, entries, write

SEEDS = 300
ALL = [entry for entry in entries() if entry.user is None and entry.files]
CONFIGS = [str(file) for one in ALL for path, file in one.files.items() if path.endswith("config.pbtxt")]
NAMES = (
    *(
        "1",
        "2",
        "01",
        "0",
        "-1",
        "99999999999999999999",
        "config.pbtxt",
        "config.txt",
        "configs",
        "warmup",
        "labels.txt",
    ),
    *(
        "model.py",
        "model.onnx",
        "model.pt",
        "model.plan",
        "env.tar.gz",
        "a\nb",
        "a\x1b[31mx",
        "\udcff\udcfe",
        "x" * 255,
    ),
    *(" ", "'\"`$(id)", "::error::", "]]>", "{0}", "m", ".git", "\u202eabc"),
)
LINKS = (
    "nowhere",
    ".",
    "..",
    "/",
    "/dev/zero",
    "/etc/passwd",
    "/proc/self/fd",
    "../m",
    "../../m/1",
    "1",
    "config.pbtxt",
)
BYTES = (
    *(b"", b"\0", b"{" * 5000, b"input {" * 2000, b"[" * 3000, b"\xef\xbb\xbf", b"(" * 3000, b"x." * 5000 + b"a"),
    *(b"PK\x03\x04" + b"\xff" * 40, b"\x80\x04\x95", b'"' * 2001, b"#" * 100_000, b"\n" * 100_000, b"a\rb\r\n"),
)
CASES = (
    *(Case(release=RELEASES[name], baked=baked) for name in ("24.10", "23.07") for baked in (False, True)),
    Case(release=RELEASES["24.10"], gpus=0, backends=frozenset(["python"]), as_root=False, shm_size=1),
    Case(),
)


def mutated(draw: random.Random, data: bytes) -> bytes:
    """The bytes with some put in, changed, cut off."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        at = draw.randint(0, len(changed))
        if draw.random() < 0.5:
            changed[at : at + 1] = draw.randbytes(1)
        elif draw.random() < 0.7:
            changed[at:at] = draw.choice([b"\xff" * 8, b"\0" * 8, b"\x80" * 9 + b"\x01", draw.randbytes(9)])
        else:
            del changed[at:]
    return bytes(changed)


def piece(draw: random.Random) -> File:
    """Something that may lie in a repository, and mostly should not."""
    some: list[File] = [
        Link(draw.choice(LINKS)),
        Fifo(),
        Folder(),
        Moded(draw.choice(CONFIGS), draw.choice([0, 0o4755])),
        Sparse(draw.choice([1, 10 << 30])),
        draw.choice(BYTES),
        draw.randbytes(300),
        draw.choice(CONFIGS),
    ]
    return draw.choice(some)


def made(draw: random.Random) -> dict[str, File]:
    """The files of a repository or two, some of them changed, and others put beside them."""
    some: list[Entry] = draw.sample(ALL, draw.randint(1, 2))
    files = {path: file for one in some for path, file in one.files.items()}
    for _ in range(draw.randint(1, 6)):
        path = draw.choice(sorted(files))
        file, folder = files[path], path.rpartition("/")[0]
        if isinstance(file, bytes | str) and draw.random() < 0.5:
            files[path] = mutated(draw, file.encode(errors="surrogateescape") if isinstance(file, str) else file)
        elif draw.random() < 0.5:
            files[path] = piece(draw)
        else:
            files[f"{folder}/{draw.choice(NAMES)}".lstrip("/")] = piece(draw)
    return files


def put(files: dict[str, File], root: Path) -> None:
    """Write what can be: of two that want the same place, the first."""
    root.mkdir()
    for path, file in files.items():
        with suppress(OSError):
            write({path: file}, root)


@pytest.mark.parametrize("part", range(4))
def test_whatever_lies_there_ends_in_findings(tmp_path: Path, part: int) -> None:
    for seed in range(part, SEEDS, 4):
        draw = random.Random(seed)
        root = tmp_path / str(seed)
        put(made(draw), root)
        case = draw.choice(CASES)
        repository = read_repository(root, baked=case.baked)
        found = lint([repository], case)
        names = [model.name for model in repository.models]
        json.dumps([findings.finding_json(one) for one in found])
        json.loads(findings.sarif(found, version="1"))
        Xml.fromstring(findings.junit(found, names))
        lines = re.split("[\r\n]", findings.github(found))
        assert all(line.startswith("::") for line in lines[:-1]), seed
        assert all("\x1b" not in str(text) for text in findings.findings_text(found)), seed
        needs_of([repository], release=case.release)
        for model in repository.models:
            with suppress(TricomposeError):
                config_for(model.folder, release="24.10")
        rounds = 0
        while fix(lint([read_repository(root)], case)):
            rounds += 1
            assert rounds < 6, f"there is no end to what is mended in {seed}"
        shutil.rmtree(root)
