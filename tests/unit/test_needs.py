"""What models need of an image."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from composer.models.needs import (
    DOCKERS,
    MIB,
    Needs,
    Wanted,
    absent_from,
    apt_for,
    distributions,
    in_stdlib,
    modules_of,
    needs_of,
    unexplained,
    upstream_packages,
    wanted_by,
)
from composer.models.repository import Model, read_repository
from composer.releases import RELEASES

CONFIG = """backend: "python"
max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""
CODE = "class TritonPythonModel:\n    def execute(self, requests):\n        return list(requests)\n"


def put(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)


def model(root: Path, code: str, files: dict[str, str] | None = None) -> Model:
    """A Python model `m` with this program, and more files below its folder."""
    put(root / "m", {"config.pbtxt": CONFIG, "1/model.py": code + CODE, **(files or {})})
    return read_repository(root).models[0]


def wanted(root: Path, code: str, files: dict[str, str] | None = None) -> list[Wanted]:
    return list(wanted_by(model(root, code, files), RELEASES["24.10"]))


def needs(root: Path, files: dict[str, str], **case: object) -> Needs:
    put(root, files)
    return needs_of([read_repository(root)], **case)  # type: ignore[arg-type]


# -- modules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "package", "known"),
    [
        ("import cv2\n", "opencv-python-headless", True),
        ("from PIL import Image\n", "pillow", True),
        ("import sklearn.linear_model\n", "scikit-learn", True),
        ("import yaml\n", "pyyaml", True),
        ("from google.cloud import storage\n", "google-cloud-storage", True),
        ("import google.protobuf.message\n", "protobuf", True),
        ("import some_thing.of_mine\n", "some-thing", False),
    ],
)
def test_what_brings_a_module(tmp_path: Path, code: str, package: str, known: bool) -> None:
    (found,) = wanted(tmp_path, code)
    assert (found.package, found.known, found.certain) == (package, known, True)
    assert found.file == tmp_path / "m/1/model.py"
    assert found.imported.place.line == 1


@pytest.mark.parametrize(
    "code",
    ["import json, os.path\n", "import triton_python_backend_utils as pb\n", "import c_python_backend_utils\n", ""],
)
def test_what_is_there_anyway(tmp_path: Path, code: str) -> None:
    assert wanted(tmp_path, code) == []


@pytest.mark.parametrize(
    ("code", "files"),
    [
        ("import helper\n", {"1/helper.py": ""}),
        ("import helper\n", {"helper.py": ""}),
        ("import helper.part\n", {"1/helper/part.py": ""}),
        ("from helper import part\n", {"1/helper/__init__.py": "", "1/helper/part.py": ""}),
        ("import helper\n", {"1/helper.cpython-310-x86_64-linux-gnu.so": ""}),
        ("from .helper import x\n", {"1/helper.py": ""}),
        ("from . import helper\n", {"1/helper.py": ""}),
        ("from . import anything\n", {"1/__init__.py": ""}),
        ("try:\n    from . import helper\nexcept ImportError:\n    pass\n", {}),
    ],
)
def test_what_lies_beside_the_program(tmp_path: Path, code: str, files: dict[str, str]) -> None:
    found = model(tmp_path, code, files)
    assert list(wanted_by(found, None)) == []
    assert list(absent_from(found, None)) == []


@pytest.mark.parametrize(
    ("code", "files", "module"),
    [
        ("from .helper import x\n", {}, "1.helper"),
        ("from . import helper\n", {}, "1.helper"),
        ("from ..helper import x\n", {"helper.py": ""}, "helper"),
        ("import lib.outer\n", {"1/lib/inner.py": ""}, "lib.outer"),
    ],
)
def test_what_should_lie_beside_the_program(tmp_path: Path, code: str, files: dict[str, str], module: str) -> None:
    (found,) = absent_from(model(tmp_path, code, files), None)
    assert (found.module, found.certain) == (module, True)


def test_files_are_followed_and_circles_too(tmp_path: Path) -> None:
    files = {"1/one.py": "import two\nimport torch\n", "1/two.py": "import one\ndef f():\n    import pandas\n"}
    found = model(tmp_path, "import one\n", files)
    both = {(one.package, one.certain, one.file.name) for one in wanted_by(found, None)}
    assert both == {("torch", True, "one.py"), ("pandas", False, "two.py")}
    assert {entry.path for entry, _ in modules_of(found, None)} == {"1/model.py", "1/one.py", "1/two.py"}


def test_versions_that_are_not_served_are_not_read(tmp_path: Path) -> None:
    put(tmp_path / "m", {"2/model.py": CODE})
    assert wanted(tmp_path, "import torch\n") == []


def test_a_path_that_is_changed_makes_all_unsure(tmp_path: Path) -> None:
    (found,) = wanted(tmp_path, "import sys\nsys.path.insert(0, '/opt/lib')\nimport torch\n")
    assert not found.certain


def test_packages_by_their_names() -> None:
    assert distributions("PIL.Image")[0][0] == "pillow"
    assert apt_for("pytesseract", "pytesseract") == ("tesseract-ocr",)
    assert "libgl1" in apt_for("cv2", "opencv-python")
    assert unexplained({"numpy", "Opencv_Python", "mystery"}) == {"mystery"}
    assert upstream_packages(None) == {"numpy"}
    assert "numpy" in upstream_packages(RELEASES["24.10"])


@pytest.mark.parametrize(
    ("module", "release", "there"),
    [
        ("distutils", "24.10", True),
        ("distutils", "25.02", False),
        ("tomllib", "24.10", False),
        ("zoneinfo", "22.01", False),
        ("zoneinfo", "24.10", True),
        ("json", "24.10", True),
        ("numpy", "24.10", False),
    ],
)
def test_what_pythons_own_library_has(module: str, release: str, there: bool) -> None:
    assert in_stdlib(module, RELEASES[release]) is there


def test_the_librarys_history_is_that_of_this_python() -> None:
    """The table agrees with the Python that runs this."""
    for name in ("tomllib", "graphlib", "binhex", "formatter", "dataclasses"):
        assert in_stdlib(name, None) is (name in sys.stdlib_module_names)


# -- all of it ----------------------------------------------------------------------------------------------------


def test_backends_behind_others(tmp_path: Path) -> None:
    step = '{ model_name: "v" input_map { key: "a" value: "b" } output_map { key: "c" value: "d" } }'
    found = needs(
        tmp_path,
        {
            "e/config.pbtxt": f'platform: "ensemble" ensemble_scheduling {{ step [ {step} ] }}',
            "v/config.pbtxt": 'backend: "vllm"',
            "v/1/model.json": "{}",
            "o/1/model.onnx": "",
            "t/config.pbtxt": 'backend: "tensorrt"',
            "p/config.pbtxt": CONFIG,
            "p/1/model.py": "import triton_python_backend_utils as pb\n"
            + CODE.replace(
                "return", 'pb.InferenceRequest(model_name="o"); pb.InferenceRequest(model_name=x)\n        return'
            ),
        },
    )
    assert found.backends == {"onnxruntime": ("o",), "python": ("p", "v"), "tensorrt": ("t",), "vllm": ("v",)}
    assert list(found.gpu) == ["t"]


def test_packages_to_add(tmp_path: Path) -> None:
    code = "import cv2, numpy, pytesseract\ntry:\n    import torch\nexcept ImportError:\n    pass\n" + CODE
    found = needs(tmp_path, {"p/config.pbtxt": CONFIG, "p/1/model.py": code})
    assert found.pip(["numpy"]) == ("opencv-python-headless", "pytesseract")
    assert found.pip(["numpy", "OpenCV.python", "pytesseract"]) == ()
    assert found.apt == ("tesseract-ocr",)


# -- shared memory ------------------------------------------------------------------------------------------------


def shared(root: Path, config: str, release: str | None = "24.10", **case: object) -> Needs:
    put(root, {"p/config.pbtxt": config, "p/1/model.py": CODE})
    more = {"release": RELEASES[release]} if release else {}
    return needs_of([read_repository(root)], **more, **case)  # type: ignore[arg-type]


def test_shared_memory_of_instances(tmp_path: Path) -> None:
    eight = CONFIG + "instance_group [ { count: 8 kind: KIND_CPU } ]\n"
    new = shared(tmp_path, eight).shared_memory
    assert (new.instances, new.at_start, new.at_work) == (8, 8 * MIB, 0)
    assert new.advised == DOCKERS
    old = shared(tmp_path, eight, "23.08").shared_memory
    assert (old.at_start, old.at_work) == (8 * 64 * MIB, 0)
    assert old.advised == 10 * 64 * MIB


def test_shared_memory_of_gpus_and_versions(tmp_path: Path) -> None:
    config = CONFIG + "instance_group [ { count: 2 kind: KIND_GPU } ]\nversion_policy { all { } }\n"
    put(tmp_path, {"p/2/model.py": CODE})
    assert shared(tmp_path, config, gpus=4).shared_memory.instances == 16
    assert shared(tmp_path, config).shared_memory.instances == 4
    named = config.replace("count: 2", "count: 2 gpus: [ 0 ]")
    assert shared(tmp_path, named, gpus=4).shared_memory.instances == 4


def test_shared_memory_of_large_tensors(tmp_path: Path) -> None:
    large = CONFIG.replace("max_batch_size: 4", "max_batch_size: 64").replace("[ 2 ]", "[ 3, 1024, 1024 ]")
    found = shared(tmp_path, large).shared_memory
    assert found.at_work == 2 * (64 * 3 * 4 + 1) * MIB
    assert found.advised >= found.at_start + found.at_work
    assert found.advised % DOCKERS == 0


def test_what_was_measured(tmp_path: Path) -> None:
    """A real server of 24.10 had 11 MiB in use after a request of 4 MiB that was answered with as much."""
    config = CONFIG.replace("max_batch_size: 4", "max_batch_size: 1").replace("[ 2 ]", "[ 1024, 1024 ]")
    found = shared(tmp_path, config).shared_memory
    assert found.at_start + found.at_work == 11 * MIB


def test_tensors_of_no_fixed_size_do_not_count(tmp_path: Path) -> None:
    found = shared(tmp_path, CONFIG.replace("[ 2 ]", "[ -1 ]", 1).replace("FP32", "STRING", 2)).shared_memory
    assert found.at_work == 0


def test_the_servers_flags_count(tmp_path: Path) -> None:
    flags = {"backend-config": {"python": {"shm-default-byte-size": 16 * MIB, "shm-growth-byte-size": "2097152"}}}
    found = shared(tmp_path, CONFIG, server=flags).shared_memory
    assert (found.at_start, found.at_work) == (16 * MIB, 0)


def test_nothing_of_python_needs_no_shared_memory(tmp_path: Path) -> None:
    put(tmp_path, {"o/1/model.onnx": ""})
    found = needs_of([read_repository(tmp_path)]).shared_memory
    assert (found.instances, found.at_start, found.advised) == (0, 0, DOCKERS)
