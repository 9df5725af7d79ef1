"""Inputs and outputs, batch inputs and outputs, labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.models.lint import RULES, Case, lint
from composer.models.repository import read_repository
from composer.releases import RELEASES
from tests.modelfiles import node, onnx_model, tensor

from . import FILLING, PLAIN, Files, assert_finds, assert_silent, model, write

PYTHON = 'name: "m"\nbackend: "python"\nmax_batch_size: 4\n'
FLAT = 'name: "m"\nbackend: "python"\nmax_batch_size: 0\n'
X = 'input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]\n'
OLDER = RELEASES["24.10"]
Y = 'output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ]\n'

ONNX = onnx_model(
    inputs={"X": ("FP32", ["N", 2])}, outputs={"Y": ("FP32", ["N", 2])}, nodes=[node("Identity", ["X"], ["Y"])]
)


def x(fields: str, name: str = 'name: "X"', dims: str = "dims: [ 2 ]") -> str:
    """An input X with further fields, and an output."""
    return f"input [ {{ {name} data_type: TYPE_FP32 {dims} {fields} }} ]\n{Y}"


REFUSED = [
    ("IO001", PYTHON + "input [ ^{ data_type: TYPE_FP32 dims: [ 2 ] } ]\n" + Y, PYTHON + X + Y),
    ("IO001", PYTHON + X + "^output { data_type: TYPE_FP32 dims: [ 2 ] }\n", PYTHON + X + Y),
    ("IO002", PYTHON + 'input [ ^{ name: "X" dims: [ 2 ] } ]\n' + Y, PYTHON + X + Y),
    ("IO003", PYTHON + 'input [ ^{ name: "X" data_type: TYPE_FP32 } ]\n' + Y, PYTHON + X + Y),
    ("IO004", PYTHON + x("", dims="dims: [ 2, ^0 ]"), PYTHON + x("", dims="dims: [ 2, -1 ]")),
    ("IO004", PYTHON + x("", dims="dims: [ ^-2 ]"), PYTHON + x("", dims="dims: [ 1 ]")),
    ("IO005", PYTHON + x("reshape { shape: [ 2, ^0 ] }"), PYTHON + x("reshape { shape: [ 2, 1 ] }")),
    ("IO006", PYTHON + x("^reshape { shape: [ 3 ] }"), PYTHON + x("reshape { shape: [ 1, 2 ] }")),
    ("IO006", PYTHON + x("^reshape { shape: [ ] }"), PYTHON + x("reshape { shape: [ ] }", dims="dims: [ 1 ]")),
    (
        "IO006",
        PYTHON + x("^reshape { shape: [ 4, -1, 2 ] }", dims="dims: [ 2, -1, 2 ]"),
        PYTHON + x("reshape { shape: [ 8, -1, 1, 6 ] }", dims="dims: [ 2, 4, -1, 6 ]"),
    ),
    (
        "IO007",
        PYTHON + x("^reshape { shape: [ -1 ] }", dims="dims: [ -1, -1 ]"),
        PYTHON + x("reshape { shape: [ -1, 1, -1 ] }", dims="dims: [ -1, -1 ]"),
    ),
    ("IO008", FLAT + x("^reshape { }", dims="dims: [ 1 ]"), PYTHON + x("reshape { }", dims="dims: [ 1 ]")),
    ("IO009", PYTHON + x("format: ^FORMAT_NCHW"), PYTHON + x("format: FORMAT_NCHW", dims="dims: [ 3, 8, 8 ]")),
    ("IO010", PYTHON + x("is_shape_tensor: ^true"), PYTHON + x("is_shape_tensor: false")),
    ("IO011", PYTHON + x("is_non_linear_format_io: ^true"), PYTHON + x("is_non_linear_format_io: false")),
    (
        "IO012",
        PYTHON + X + 'input { name: ^"X" data_type: TYPE_FP32 dims: [ 2 ] }\n' + Y,
        PYTHON + X + 'input { name: "X" data_type: TYPE_FP32 dims: [ 2 ] optional: true }\n' + Y,
    ),
    ("IO013", PYTHON + X + Y + 'output { name: ^"Y" data_type: TYPE_FP32 dims: [ 2 ] }\n', PYTHON + X + Y),
    (
        "IO021",
        PYTHON + X + Y + "^batch_input { kind: BATCH_ELEMENT_COUNT data_type: TYPE_INT32 }\n",
        PYTHON + X + Y + 'batch_input { kind: BATCH_ELEMENT_COUNT data_type: TYPE_INT32 source_input: "X" }\n',
    ),
    (
        "IO022",
        PYTHON + X + Y + 'batch_input { data_type: ^TYPE_INT64 source_input: "X" }\n',
        PYTHON + X + Y + 'batch_input { data_type: TYPE_FP32 source_input: "X" }\n',
    ),
    (
        "IO023",
        PYTHON + X + Y + 'batch_input { data_type: TYPE_FP32 source_input: [ ^"U" ] }\n',
        PYTHON + X + Y + 'batch_input { data_type: TYPE_FP32 source_input: [ "X" ] target_name: "U" }\n',
    ),
    (
        "IO023",
        PYTHON + X + Y + 'batch_output { target_name: ^"U" source_input: "X" }\n',
        PYTHON + X + Y + 'batch_output { target_name: "Y" source_input: "X" }\n',
    ),
    (
        "IO024",
        PYTHON + X + Y + 'batch_output { target_name: [ "Y", ^"Y" ] source_input: "X" }\n',
        PYTHON + X + Y + 'batch_output { target_name: [ "Y" ] source_input: "X" }\n',
    ),
    (
        "IO030",
        PYTHON + X + Y + '^batch_output { source_input: "X" }\n',
        PYTHON + X + Y + 'batch_output { source_input: "X" target_name: "Y" }\n',
    ),
    ("IO018", "^" + PYTHON + X, PYTHON + X + Y),
    ("IO019", "^" + PYTHON + Y, PYTHON + X + Y),
    ("IO020", PYTHON + x("allow_ragged_batch: ^true"), PYTHON + x("allow_ragged_batch: true") + "dynamic_batching { }"),
]


@pytest.mark.parametrize(("rule", "bad", "good"), REFUSED)
def test_finds_one_thing_in_its_place(tmp_path: Path, rule: str, bad: str, good: str) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "good").mkdir()
    assert_finds(tmp_path / "bad", rule, bad)
    assert_silent(tmp_path / "good", rule, good)


@pytest.mark.parametrize("rule", ["IO001", "IO002", "IO003", "IO008", "IO018", "IO019"])
def test_what_the_model_itself_may_fill_in_is_not_asked_for(tmp_path: Path, rule: str) -> None:
    bad = next(bad for known, bad, _ in REFUSED if known == rule)
    found = model(tmp_path, bad.replace("^", ""), {"1/model.py": FILLING})
    assert rule not in {one.rule.id for one in found}


@pytest.mark.parametrize("rule", ["IO001", "IO002", "IO003"])
def test_a_strict_server_fills_in_nothing(tmp_path: Path, rule: str) -> None:
    bad = next(bad for known, bad, _ in REFUSED if known == rule)
    case = Case(server={"disable-auto-complete-config": True})
    assert_finds(tmp_path, rule, bad, {"1/model.py": FILLING}, case)


TENSORRT = 'name: "m"\nplatform: "tensorrt_plan"\nmax_batch_size: 4\n'


@pytest.mark.parametrize(
    "io",
    [
        'input [ { name: "X" } ]\n',
        x("is_shape_tensor: true"),
        x("is_non_linear_format_io: true", dims="dims: [ 3, 8, 8 ]"),
    ],
)
def test_tensorrt_fills_in_more_and_has_more(tmp_path: Path, io: str) -> None:
    found = model(tmp_path, TENSORRT + io, {"1/model.plan": b"ftrt" + bytes(60)})
    assert not [one for one in found if one.rule.id.startswith("IO")]


def test_non_linear_tensors_have_three_dims(tmp_path: Path) -> None:
    files: Files = {"1/model.plan": b"ftrt" + bytes(60)}
    found = model(tmp_path, TENSORRT + x("is_non_linear_format_io: true"), files)
    assert [one.says for one in found if one.rule.id == "IO011"] == ["Non-linear IO format input requires 3 dims for m"]


# -- what backends have ---------------------------------------------------------------------------


def test_optional_inputs_are_not_for_every_backend(tmp_path: Path) -> None:
    found = model(tmp_path, TENSORRT + x("optional: true"), {"1/model.plan": b"ftrt" + bytes(60)})
    (own,) = [one for one in found if one.rule.id == "IO015"]
    assert own.place
    assert (own.place.line, own.place.column) == (4, 64)


def test_optional_inputs_of_onnx_files_want_no_batches(tmp_path: Path) -> None:
    config = 'name: "m"\nbackend: "onnxruntime"\nmax_batch_size: 4\n' + x("optional: ^true")
    found = model(tmp_path, config.replace("^", ""), {"1/model.onnx": ONNX})
    assert "IO016" in {one.rule.id for one in found}


@pytest.mark.parametrize(("own_value", "refused"), [(True, False), (False, True)])
def test_optional_inputs_want_a_value_in_the_file(tmp_path: Path, own_value: bool, refused: bool) -> None:
    made = onnx_model(
        inputs={"X": ("FP32", [1, 2]), "Z": ("FP32", [1, 2])},
        outputs={"Y": ("FP32", [1, 2])},
        nodes=[node("Add", ["X", "Z"], ["Y"])],
        initializers=[tensor("Z", "FP32", [1, 2], bytes(8))] if own_value else [],
    )
    inputs = 'input [ { name: "X" data_type: TYPE_FP32 dims: [ 1, 2 ] }, '
    optional = '{ name: "Z" data_type: TYPE_FP32 dims: [ 1, 2 ] optional: true } ]\n'
    output = 'output [ { name: "Y" data_type: TYPE_FP32 dims: [ 1, 2 ] } ]\n'
    found = model(tmp_path, f'backend: "onnxruntime"\n{inputs}{optional}{output}', {"1/model.onnx": made})
    assert ("IO016" in {one.rule.id for one in found}) is refused


def test_optional_inputs_of_onnx_files_came_with_23_04(tmp_path: Path) -> None:
    config = 'name: "m"\nbackend: "onnxruntime"\nmax_batch_size: 0\n' + x("optional: true", dims="dims: [ -1, 2 ]")
    found = model(tmp_path, config, {"1/model.onnx": ONNX}, Case(release=RELEASES["23.03"]))
    assert "IO015" in {one.rule.id for one in found}


@pytest.mark.parametrize(("kind", "known"), [("TYPE_UINT16", False), ("TYPE_INT32", True)])
def test_datatypes_that_a_backend_does_not_have(tmp_path: Path, kind: str, known: bool) -> None:
    io = X.replace("TYPE_FP32", kind) + Y
    found = model(tmp_path, TENSORRT + io, {"1/model.plan": b"ftrt" + bytes(60)})
    assert ("IO017" in {one.rule.id for one in found}) is not known


# -- labels ---------------------------------------------------------------------------------------

LABELLED = PYTHON + X + 'output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: ^"labels.txt" } ]\n'


def test_labels_that_are_not_there(tmp_path: Path) -> None:
    found = assert_finds(tmp_path, "IO025", LABELLED)
    assert found.says.startswith("failed to open text file for read ")


def test_labels_that_are_a_folder_end_the_server(tmp_path: Path) -> None:
    assert_finds(tmp_path, "IO026", LABELLED, {"1/model.py": PLAIN, "labels.txt/a": "x"})


def test_labels_may_be_in_a_folder(tmp_path: Path) -> None:
    config = LABELLED.replace("^", "").replace("labels.txt", "/text//labels.txt")
    found = model(tmp_path, config, {"1/model.py": PLAIN, "text/labels.txt": "cat\ndog\n"})
    assert not [one for one in found if one.rule.id.startswith("IO")]


@pytest.mark.parametrize(("release", "refused"), [("26.01", False), ("26.02", True)])
def test_labels_behind_a_link_are_outside(tmp_path: Path, release: str, refused: bool) -> None:
    write(tmp_path / "m/1/model.py", PLAIN)
    write(tmp_path / "m/config.pbtxt", LABELLED.replace("^", ""))
    write(tmp_path / "n/labels.txt", "cat\ndog\n")
    (tmp_path / "m/labels.txt").symlink_to("../n/labels.txt")
    found = lint([read_repository(tmp_path)], Case(release=RELEASES[release]))
    assert ("IO027" in {one.rule.id for one in found}) is refused


@pytest.mark.parametrize(("name", "refused"), [("none.txt", True), ("labels.txt", False)])
def test_labels_above_the_model_may_be_missing_too(tmp_path: Path, name: str, refused: bool) -> None:
    write(tmp_path / "labels.txt", "cat\ndog\n")
    found = model(tmp_path, LABELLED.replace("^", "").replace("labels.txt", f"../{name}"), case=Case(release=OLDER))
    assert ("IO025" in {one.rule.id for one in found}) is refused


def test_labels_above_the_model(tmp_path: Path) -> None:
    case = Case(release=RELEASES["26.02"])
    config = LABELLED.replace("labels.txt", "../labels.txt")
    assert_finds(tmp_path, "IO027", config, None, case)


@pytest.mark.parametrize(
    ("labels", "mended"),
    [
        ("cat\r\ndog\r\n", b"cat\ndog\n"),
        ("\ufeffcat\ndog\n", b"cat\ndog\n"),
        ("cat\ndog\nbird\n", None),
        ("cat\n", None),
    ],
)
def test_odd_labels(tmp_path: Path, labels: str, mended: bytes | None) -> None:
    found = model(tmp_path, LABELLED.replace("^", ""), {"1/model.py": PLAIN, "labels.txt": labels})
    own = [one for one in found if one.rule.id == "IO028"]
    assert [one.edit.write if one.edit else None for one in own] == [mended]


@pytest.mark.parametrize("labels", ["cat\ndog\n", "cat\ndog", "cat\n\n", "cat\ndog\n\n\n"])
def test_a_label_for_each_class(tmp_path: Path, labels: str) -> None:
    found = model(tmp_path, LABELLED.replace("^", ""), {"1/model.py": PLAIN, "labels.txt": labels})
    assert "IO028" not in {one.rule.id for one in found}


def test_two_outputs_of_one_name_with_labels_are_refused(tmp_path: Path) -> None:
    twice = LABELLED.replace("^", "") + LABELLED.partition(X)[2].replace('"Y"', '^"Y"').replace('^"labels', '"labels')
    found = assert_finds(tmp_path, "IO013", twice, {"1/model.py": PLAIN, "labels.txt": "cat\ndog\n"})
    assert found.severity == "error"
    assert found.says == "multiple label files for 'Y'"


def test_labels_for_what_has_no_classes(tmp_path: Path) -> None:
    config = LABELLED.replace("dims: [ 2 ] label", "dims: [ 2, 2 ] label")
    assert_finds(tmp_path, "IO029", config, {"1/model.py": PLAIN, "labels.txt": "a\nb\nc\nd\n"})


def test_labels_that_are_never_given(tmp_path: Path) -> None:
    """A real server answers for FP16 that the class result is not available."""
    start, output = LABELLED.rsplit("output", 1)
    config = f"{start}output{output.replace('TYPE_FP32', 'TYPE_FP16')}"
    found = assert_finds(tmp_path, "IO029", config, {"1/model.py": PLAIN, "labels.txt": "a\nb\n"})
    assert found.severity == "warning"


def test_every_rule_of_the_family_has_a_source_and_a_fix() -> None:
    own = [one for one in RULES.values() if one.id.startswith("IO")]
    assert len(own) >= 27
    assert all(one.source and one.fix for one in own)


@pytest.mark.parametrize(("config", "severity"), [(FLAT, "warning"), (PYTHON, "error")])
def test_with_a_batch_every_request_wants_an_input(tmp_path: Path, config: str, severity: str) -> None:
    assert assert_finds(tmp_path, "IO019", "^" + config + Y).severity == severity
