"""Goldens: what they are tied to, when one does not count, and that a run that failed leaves none behind."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from composer.checks.inference.goldens import (
    Made,
    Recorder,
    files_sha256,
    model_digests,
    request_sha256,
    sidecar,
    tensor_sha256,
)
from composer.checks.inference.matchers import Context, Finding, match
from composer.checks.report import About, Report, Result
from composer.errors import CheckFailed, Corrupt, NoRoom, NotFound
from composer.models.repository import read_repository
from composer.protocol.messages import Request
from composer.protocol.tensors import Tensor
from composer.recipe_checks import Golden

FILE = Path("goldens/y.npy")
ANSWER = Tensor(datatype="FP32", shape=(1, 2), values=[2.0, 4.0])
MADE = Made(model="m", version="1", output="Y", model_sha256="aa", request_sha256="bb")
PASSED = Result(id="c", kind="inference", outcome="passed", message="")
GPU = Result(id="gpu:m", kind="gpu", outcome="passed", message="")
SEEN = Result(id="gpu:visible", kind="gpu", outcome="passed", message="", evidence={"visible": 1})
NO_GPU = Result(id="gpu:visible", kind="gpu", outcome="unverified", message="", evidence={"visible": 0})
ABOUT = About(
    tool="tricompose 0.1.0",
    image="oci:out",
    digest="sha256:cc",
    server="triton 2.51.0",
    started="2026-11-21T17:00:00Z",
)
REPORT = Report(results=(PASSED, GPU), about=ABOUT)


def record(base: Path, tensor: Tensor = ANSWER, made: Made = MADE, report: Report = REPORT) -> tuple[Path, ...]:
    recorder = Recorder()
    assert match("golden", Golden(file=FILE), tensor, Context(base=base, made=made, recorder=recorder)).fault is None
    return recorder.write(base, report)


def compare(base: Path, tensor: Tensor = ANSWER, made: Made = MADE, **more: bool) -> Finding:
    return match("golden", Golden(file=FILE), tensor, Context(base=base, made=made, **more))


def test_what_was_recorded_is_what_is_expected(tmp_path: Path) -> None:
    assert record(tmp_path) == (tmp_path / FILE,)
    assert np.load(tmp_path / FILE).tolist() == [[2.0, 4.0]]
    assert compare(tmp_path).fault is None
    assert compare(tmp_path).figures["max_abs"] == 0
    near = replace(ANSWER, values=[2.0, 4.000001])
    assert compare(tmp_path, near).fault is None
    assert compare(tmp_path, replace(ANSWER, values=[2.0, 4.5])).fault == (
        "at [0, 1] 4 is expected, it is 4.5 (1 of 2 differ, max abs error 0.5, max rel error 0.125)"
    )
    assert compare(tmp_path, replace(ANSWER, shape=(2, 1))).fault == (
        "its shape is [2, 1], that of goldens/y.npy is [1, 2]"
    )


def test_beside_it_stands_what_it_is_of(tmp_path: Path) -> None:
    record(tmp_path)
    said = json.loads(sidecar(tmp_path / FILE).read_text())
    assert said.pop("npy_sha256")
    assert said == {
        "schema": 1,
        "model": "m",
        "version": "1",
        "output": "Y",
        "datatype": "FP32",
        "shape": [1, 2],
        "model_sha256": "aa",
        "request_sha256": "bb",
        "image": "oci:out",
        "image_digest": "sha256:cc",
        "server": "triton 2.51.0",
        "device": "gpu",
        "tool": "tricompose 0.1.0",
        "recorded": "2026-11-21T17:00:00Z",
    }
    assert sorted(path.name for path in (tmp_path / "goldens").iterdir()) == ["y.npy", "y.npy.json"]


@pytest.mark.parametrize(("results", "device"), [((), ""), ((NO_GPU,), "cpu"), ((SEEN, GPU), "gpu"), ((SEEN,), "")])
def test_where_it_was_recorded(tmp_path: Path, results: tuple[Result, ...], device: str) -> None:
    record(tmp_path, report=Report(results=(PASSED, *results), about=ABOUT))
    assert json.loads(sidecar(tmp_path / FILE).read_text())["device"] == device


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (replace(MADE, model_sha256="dd"), "the files of m have changed since y.npy was recorded"),
        (replace(MADE, request_sha256="dd"), "y.npy was recorded for another request"),
    ],
)
def test_one_of_another_model_or_request_does_not_count(tmp_path: Path, made: Made, words: str) -> None:
    record(tmp_path)
    found = compare(tmp_path, made=made)
    assert found.fault == words
    assert "--record" in found.hint
    assert "--allow-stale" in found.hint
    assert compare(tmp_path, made=made, allow_stale=True).fault is None


def test_a_model_whose_files_are_not_known_is_taken_for_the_same(tmp_path: Path) -> None:
    record(tmp_path)
    assert compare(tmp_path, made=replace(MADE, model_sha256="")).fault is None
    record(tmp_path, made=replace(MADE, model_sha256=""))
    assert json.loads(sidecar(tmp_path / FILE).read_text())["model_sha256"] is None
    assert compare(tmp_path).fault is None


def test_one_that_was_changed_by_hand_does_not_count(tmp_path: Path) -> None:
    record(tmp_path)
    np.save(tmp_path / FILE, np.array([[2.0, 4.5]], dtype=np.float32))
    assert compare(tmp_path, replace(ANSWER, values=[2.0, 4.5])).fault == "y.npy was changed after it was recorded"


def test_one_without_a_word_of_what_it_is_of_does_not_count(tmp_path: Path) -> None:
    record(tmp_path)
    sidecar(tmp_path / FILE).unlink()
    assert compare(tmp_path).fault == "of which model y.npy was recorded is not known: y.npy.json is not there"
    for text in ("{", "[]", '{"schema": 2}', '{"schema": 1}'):
        sidecar(tmp_path / FILE).write_text(text)
        with pytest.raises(Corrupt, match="does not say what the golden beside it is of"):
            compare(tmp_path)


def test_one_that_was_never_recorded(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing was recorded yet") as caught:
        compare(tmp_path)
    assert "--record" in (caught.value.hint or "")


# -- recording ---------------------------------------------------------------------------------


def test_a_run_that_failed_records_nothing(tmp_path: Path) -> None:
    record(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "goldens").iterdir()}
    failed = Report(results=(PASSED, replace(PASSED, id="d", outcome="failed")), about=ABOUT)
    with pytest.raises(CheckFailed, match="nothing was recorded"):
        record(tmp_path, replace(ANSWER, values=[7.0, 7.0]), report=failed)
    assert {path: path.read_bytes() for path in (tmp_path / "goldens").iterdir()} == before


def test_where_one_cannot_be_written_none_is(tmp_path: Path) -> None:
    recorder = Recorder()
    recorder.keep(Path("a/y.npy"), ANSWER, MADE)
    recorder.keep(Path("b/z.npy"), ANSWER, replace(MADE, output="Z"))
    (tmp_path / "b").write_text("a file, and no folder")
    with pytest.raises(NoRoom, match="cannot be written"):
        recorder.write(tmp_path, REPORT)
    assert list((tmp_path / "a").iterdir()) == []


def test_no_half_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path)
    before = (tmp_path / FILE).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoRoom, match="No space left") as raised:
        record(tmp_path, replace(ANSWER, values=[7.0, 7.0]))
    assert str(tmp_path / FILE) in raised.value.message
    assert raised.value.hint == f"df -h {(tmp_path / FILE).parent}"
    assert (tmp_path / FILE).read_bytes() == before
    assert len(list((tmp_path / "goldens").iterdir())) == 2


@pytest.mark.parametrize(
    ("second", "made", "words"),
    [
        (ANSWER, MADE, None),
        # Over another protocol, or by another order of additions.
        (replace(ANSWER, values=[2.0, 4.000001]), MADE, None),
        (replace(ANSWER, values=[2.0, 4.1]), MADE, "it is not the same each time, so that it cannot be recorded"),
        (ANSWER, replace(MADE, request_sha256="zz"), "is already taken by another request: give each its own file"),
        (replace(ANSWER, values=[2.0, float("nan")]), MADE, "it has values that are not a number"),
        (Tensor(datatype="BYTES", shape=(1,), values=["a\0"]), MADE, "ends in a zero byte"),
    ],
)
def test_what_cannot_be_recorded(second: Tensor, made: Made, words: str | None) -> None:
    recorder = Recorder()
    faults = [
        match("golden", Golden(file=FILE), tensor, Context(made=one, recorder=recorder)).fault
        for tensor, one in ((ANSWER, MADE), (second, made))
    ]
    assert faults[0] is None
    assert faults[1] is None if words is None else words in str(faults[1])
    assert recorder.files == (FILE,)
    assert recorder.kept(FILE) is ANSWER


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor(datatype="BF16", shape=(2,), values=[1.0, 0.10009765625]),
        Tensor(datatype="BYTES", shape=(2, 1), values=["é", "a longer one"]),
        Tensor(datatype="BOOL", shape=(2,), values=[True, False]),
        Tensor(datatype="INT64", shape=(), values=[-(2**63)]),
    ],
)
def test_every_datatype_comes_back(tmp_path: Path, tensor: Tensor) -> None:
    record(tmp_path, tensor)
    assert compare(tmp_path, tensor).fault is None


# -- digests -----------------------------------------------------------------------------------


def models(folder: Path) -> Path:
    files = {
        "m/config.pbtxt": 'backend: "python"',
        "m/1/model.py": "one",
        "m/2/model.py": "two",
        "m/labels.txt": "cat",
        "n/config.pbtxt": 'backend: "python"',
        "n/1/model.py": "n",
        "e/config.pbtxt": """platform: "ensemble" ensemble_scheduling { step [
            { model_name: "m" model_version: -1 }, { model_name: "e2" model_version: -1 }] }""",
        "e/1/.keep": "",
        "e2/config.pbtxt": """platform: "ensemble" ensemble_scheduling { step [
            { model_name: "n" model_version: -1 }, { model_name: "e" model_version: -1 }] }""",
        "e2/1/.keep": "",
    }
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return model_digests([read_repository(folder)])


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ("m/2/model.py", {"m", "e", "e2"}),
        ("m/config.pbtxt", {"m", "e", "e2"}),
        ("m/labels.txt", {"m", "e", "e2"}),
        ("n/1/model.py", {"n", "e", "e2"}),
        # Only the latest version is served.
        ("m/1/model.py", set()),
        # What tools leave behind does not go into an image.
        ("m/2/__pycache__/model.pyc", set()),
    ],
)
def test_what_changes_a_models_digest(tmp_path: Path, change: str, changed: set[str]) -> None:
    before = digests(models(tmp_path))
    assert set(before) == {"m", "n", "e", "e2"}
    path = tmp_path / change
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + "\n# other")
    after = digests(tmp_path)
    assert {name for name in before if before[name] != after[name]} == changed


def test_a_digest_is_of_paths_and_bytes_alone(tmp_path: Path) -> None:
    before = digests(models(tmp_path / "a"))
    assert digests(models(tmp_path / "b")) == before
    os.utime(tmp_path / "a/m/2/model.py", (0, 0))
    assert digests(tmp_path / "a") == before
    (tmp_path / "a/m/labels.txt").rename(tmp_path / "a/m/names.txt")
    assert digests(tmp_path / "a")["m"] != before["m"]
    assert files_sha256({"a": "1", "b": "2"}) == files_sha256({"b": "2", "a": "1"})


def request(**inputs: Tensor) -> Request:
    return Request(model="m", inputs=inputs)


X = Tensor(datatype="FP32", shape=(2,), values=[1.0, 2.0])


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (request(X=replace(X, values=(1, 2))), True),
        (replace(request(X=X), timeout=3.0, version="7"), True),
        (request(X=replace(X, values=[1.0, 2.5])), False),
        (request(X=replace(X, datatype="FP64")), False),
        (request(X=replace(X, shape=(1, 2))), False),
        (request(Z=X), False),
        (replace(request(X=X), parameters={"a": 1}), False),
    ],
)
def test_what_changes_a_requests_digest(other: Request, same: bool) -> None:
    assert (request_sha256(request(X=X)) == request_sha256(other)) is same


def test_a_request_of_a_sequence_is_of_all_before_it() -> None:
    first, second = request(X=X), request(X=replace(X, values=[3.0, 4.0]))
    said: Callable[..., str] = request_sha256
    assert len({said(first), said(second), said(first, second), said(second, first)}) == 4


def test_digests_that_others_can_make() -> None:
    """They lie in files beside recipes: to change them would be to refuse all of those."""
    values = hashlib.sha256(b"FP32 [2]\n" + np.array([1, 2], dtype="<f4").tobytes()).hexdigest()
    assert tensor_sha256(X) == values
    said = f'[{{"inputs": {{"X": "{values}"}}, "parameters": {{}}}}]'
    assert request_sha256(request(X=X)) == hashlib.sha256(said.encode()).hexdigest()
    assert files_sha256({"b": "22", "a": "11"}) == hashlib.sha256(b"11 a\n22 b\n").hexdigest()
