"""Folders and files: each rule speaks of one thing, at its place, and not of its neighbour."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from composer.models.lint import Case, Finding, lint, refusals
from composer.models.repository import read_repository
from composer.releases import RELEASES
from tests.judge.corpus import Fifo, File, Files, Folder, Link, write
from tests.modelfiles import onnx_identity

R2410 = Case(release=RELEASES["24.10"])
BAKED = replace(R2410, baked=True)
ONNX = onnx_identity(dims=("N", 2), ir_version=7)
CONFIG = """name: "m"
backend: "onnxruntime"
max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""
GOOD: Files = {"m/config.pbtxt": CONFIG, "m/1/model.onnx": ONNX}
LFS = "version https://git-lfs.github.com/spec/v1\n"
UNCONFIGURED: Files = {"m/1/model.onnx": ONNX}
CODE = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
PYTHON = CONFIG.replace("onnxruntime", "python")
ENSEMBLE = CONFIG.replace('"m"', '"e"').replace('backend: "onnxruntime"', 'platform: "ensemble"') + (
    'ensemble_scheduling { step [ { model_name: "m" model_version: -1 input_map { key: "X" value: "X" } '
    'output_map { key: "Y" value: "Y" } } ] }\n'
)


def found_in(folder: Path, files: Files, case: Case = R2410) -> list[Finding]:
    """What lint says of a repository with these files, `models` in the folder."""
    write(files, folder / "models")
    return list(lint([read_repository(folder / "models", baked=case.baked)], case))


def versions(*names: str, config: str | None = CONFIG) -> dict[str, File]:
    files: dict[str, File] = {f"m/{name}/model.onnx": ONNX for name in names}
    return files if config is None else {"m/config.pbtxt": config, **files}


def test_a_good_repository(tmp_path: Path) -> None:
    assert found_in(tmp_path, GOOD) == []


SPOKEN: list[tuple[str, str, str, Files, Case]] = [
    ("LAY004", "warning", "", {}, R2410),
    ("LAY004", "error", "", {"README.md": "models"}, BAKED),
    ("LAY005", "error", ".git", {**GOOD, ".git/HEAD": "x"}, R2410),
    ("LAY005", "error", "__pycache__", {**GOOD, "__pycache__/x.pyc": ""}, R2410),
    ("LAY005", "info", ".git", {**GOOD, ".git/HEAD": "x"}, BAKED),
    ("LAY006", "info", "README.md", {**GOOD, "README.md": "models"}, R2410),
    ("LAY007", "error", "link", {**GOOD, "link": Link("nowhere")}, R2410),
    ("LAY008", "error", "m/labels.txt", {**GOOD, "m/labels.txt": Link("nowhere")}, R2410),
    ("LAY008", "warning", "m/1/notes", {**GOOD, "m/1/notes": Link("nowhere")}, R2410),
    ("LAY008", "error", "m/1/notes", {**GOOD, "m/1/notes": Link("nowhere")}, BAKED),
    ("LAY009", "error", "m/1/w", {**GOOD, "m/1/w": Link("/etc/passwd")}, BAKED),
    ("LAY009", "warning", "m/1/w", {**GOOD, "m/1/w": Link("/etc/passwd")}, R2410),
    ("LAY009", "error", "n", {**GOOD, "n": Link("/etc")}, BAKED),
    ("LAY029", "error", "m/1/again", {**GOOD, "m/1/again": Link("..")}, BAKED),
    ("LAY030", "warning", "m/1/pipe", {**GOOD, "m/1/pipe": Fifo()}, R2410),
    ("LAY030", "error", "m/1/pipe", {**GOOD, "m/1/pipe": Fifo()}, BAKED),
    ("LAY010", "error", "m", {"m/config.pbtxt": CONFIG}, R2410),
    ("LAY010", "error", "m", {"m/config.pbtxt": CONFIG, "m/1": "a file"}, R2410),
    ("LAY011", "error", "m/01", versions("01"), R2410),
    ("LAY011", "warning", "m/01", versions("01", "2"), R2410),
    ("LAY012", "error", "m/v1", versions("v1"), R2410),
    ("LAY012", "error", "m/latest", versions("latest"), R2410),
    ("LAY012", "warning", "m/v1", versions("v1", "1"), R2410),
    ("LAY012", "info", "m/notes", {**GOOD, "m/notes/x": ""}, R2410),
    ("LAY013", "error", "m/2abc", versions("1", "2abc"), R2410),
    ("LAY013", "warning", "m/1abc", versions("1abc", "2"), R2410),
    ("LAY014", "error", "m/-1", versions("-1"), R2410),
    ("LAY014", "warning", "m/-1", versions("-1", "2"), R2410),
    ("LAY015", "warning", "m/0", versions("0"), R2410),
    ("LAY016", "error", "m/.ipynb_checkpoints", {**UNCONFIGURED, "m/.ipynb_checkpoints": Folder()}, R2410),
    ("LAY017", "error", "m/model.onnx", {"m/config.pbtxt": CONFIG, "m/model.onnx": ONNX}, R2410),
    ("LAY017", "info", "m/model.onnx", {**GOOD, "m/model.onnx": ONNX}, R2410),
    ("LAY021", "error", "e", {**GOOD, "e/config.pbtxt": ENSEMBLE}, R2410),
    ("LAY018", "warning", "m/Config.pbtxt", {**UNCONFIGURED, "m/Config.pbtxt": CONFIG}, R2410),
    ("LAY018", "warning", "m/1/config.pbtxt", {**UNCONFIGURED, "m/1/config.pbtxt": CONFIG}, R2410),
    ("LAY019", "info", "m/warmup/x", {**GOOD, "m/warmup/x": "12345678"}, R2410),
    ("LAY024", "error", "m/1/model.onnx", {**GOOD, "m/1/model.onnx": b""}, R2410),
    ("LAY025", "error", "m/1/model.onnx", {**GOOD, "m/1/model.onnx": LFS}, R2410),
    ("LAY025", "warning", "m/1/w", {**GOOD, "m/1/w": LFS}, R2410),
    ("LAY026", "error", "m/1/model.onnx", {**GOOD, "m/1/model.onnx": "<!DOCTYPE html><html></html>"}, R2410),
    ("LAY028", "info", "m", GOOD, replace(R2410, max_layer_size=10)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "severity", "path", "files", "case"),
    SPOKEN,
    ids=[f"{row[0]}-{row[2] or 'root'}-{row[1]}" for row in SPOKEN],
)
def test_what_is_wrong(tmp_path: Path, rule: str, severity: str, path: str, files: Files, case: Case) -> None:
    found = found_in(tmp_path, files, case)
    own = [one for one in found if one.rule.id == rule]
    assert [(one.severity, one.path) for one in own] == [(severity, tmp_path / "models" / path)], found
    assert not [one.rule.id for one in refusals(found) if one.rule.id != rule]
    assert own[0].message
    assert own[0].fix


SILENT: list[tuple[str, Files, Case]] = [
    ("LAY005", {**GOOD, "a.git/1/model.onnx": ONNX}, R2410),
    ("LAY009", {**GOOD, "m/2": Link("1")}, BAKED),
    ("LAY011", versions("0", "10"), R2410),
    ("LAY012", {**GOOD, "m/warmup/x": ""}, R2410),
    ("LAY013", versions("1", "2"), R2410),
    ("LAY016", versions("1", config=None), R2410),
    ("LAY016", {**GOOD, "m/.ipynb_checkpoints": Folder()}, R2410),
    ("LAY018", {**GOOD, "m/Config.pbtxt": "x"}, R2410),
    ("LAY021", {**GOOD, "e/config.pbtxt": ENSEMBLE, "e/1": Folder()}, R2410),
    ("LAY025", {**GOOD, "m/1/w": "version of our own"}, R2410),
    ("LAY028", GOOD, replace(R2410, max_layer_size=1 << 20)),
]


@pytest.mark.parametrize(("rule", "files", "case"), SILENT)
def test_what_is_not(tmp_path: Path, rule: str, files: Files, case: Case) -> None:
    assert rule not in [one.rule.id for one in found_in(tmp_path, files, case)]


# -- the repository itself ------------------------------------------------------------------------


def test_no_repository(tmp_path: Path) -> None:
    (only,) = lint([read_repository(tmp_path / "nowhere")], R2410)
    assert (only.rule.id, only.fix) == ("LAY001", f"mkdir -p {tmp_path / 'nowhere'}")
    assert only.says == f"error: creating server: Internal - failed to stat file {tmp_path / 'nowhere'}"


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (only,) = lint([read_repository(tmp_path / "file")], R2410)
    assert only.rule.id == "LAY002"


def test_one_model(tmp_path: Path) -> None:
    write(GOOD, tmp_path)
    found = lint([read_repository(tmp_path / "m")], R2410)
    assert "LAY003" in [one.rule.id for one in refusals(found)]


def test_the_same_model_twice(tmp_path: Path) -> None:
    write({f"{name}/{path}": file for name in "ab" for path, file in GOOD.items()}, tmp_path)
    (only,) = lint([read_repository(tmp_path / name) for name in "ab"], R2410)
    assert (only.rule.id, only.path) == ("LAY020", tmp_path / "b/m")
    assert only.says == "failed to poll model 'm': not unique across all model repositories"


# -- names, permissions, paths --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a b", "a;b", "a'b", "a(b", "a&b"])
def test_names_that_a_shell_takes_apart(tmp_path: Path, name: str) -> None:
    config = PYTHON.replace('name: "m"\n', "")
    files = {f"{name}/config.pbtxt": config, f"{name}/1/model.py": CODE}
    assert "LAY022" in [one.rule.id for one in refusals(found_in(tmp_path, files))]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 in names are shown, not stumbled over."""
    name = os.fsdecode(b"m\xff\xfe")
    for number, config in enumerate([CONFIG.replace('name: "m"\n', ""), CONFIG, 'name: "\\377"']):
        found = found_in(tmp_path / str(number), {f"{name}/config.pbtxt": config, f"{name}/1/model.onnx": ONNX})
        assert all(str(one.path).startswith(str(tmp_path)) for one in found)


@pytest.mark.parametrize("path", ["m/config.pbtxt", "m/1/model.onnx", "m/1"])
def test_files_that_others_may_not_read(tmp_path: Path, path: str) -> None:
    write(GOOD, tmp_path / "models")
    (tmp_path / "models" / path).chmod(0o700)
    found = lint([read_repository(tmp_path / "models")], replace(R2410, as_root=False))
    assert (tmp_path / "models" / path) in [one.path for one in found if one.rule.id == "LAY023"]
    assert "LAY023" not in [one.rule.id for one in lint([read_repository(tmp_path / "models")], R2410)]


def test_paths_of_this_machine(tmp_path: Path) -> None:
    config = CONFIG + 'parameters { key: "weights" value { string_value: "/home/me/w" } }\n'
    (only,) = found_in(tmp_path, {**GOOD, "m/config.pbtxt": config}, BAKED)
    assert (only.rule.id, only.place and only.place.line) == ("LAY027", 6)
    assert found_in(tmp_path / "plain", {**GOOD, "m/config.pbtxt": config}) == []


# -- what cannot be walked ------------------------------------------------------------------------


@pytest.mark.timeout(30)
def test_loops_and_pipes_end(tmp_path: Path) -> None:
    """A model made of links to each other, to itself and upwards, and of pipes, is read to its end."""
    links = {
        "a/config.pbtxt": Fifo(),
        "b/config.pbtxt": Link("config.pbtxt"),
        "c/1": Link("."),
        "d/1/model.onnx": Fifo(),
        "e/1/up": Link("../.."),
        "f": Link("g"),
        "g": Link("f"),
        "h": Link("."),
        "i/1": Link("../j/1"),
        "j/1": Link("../i/1"),
    }
    found = found_in(tmp_path, {**GOOD, **links})
    assert {"LAY007", "LAY029", "LAY030"} <= {one.rule.id for one in found}
    assert all(one.message for one in found)


@pytest.mark.timeout(30)
def test_deep_and_wide_folders_end(tmp_path: Path) -> None:
    deep = "/".join(["d"] * 200)
    found = found_in(tmp_path, {**GOOD, f"m/1/{deep}/x": "", **{f"m/1/f{number}": "" for number in range(2000)}})
    assert not refusals(found)
