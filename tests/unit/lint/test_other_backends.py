"""Models of vLLM, FIL, DALI and OpenVINO; and whether the image has their backends."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.models.lint import Case, Finding, lint
from composer.models.repository import read_repository
from composer.releases import RELEASES

from . import MARK, Files, assert_finds, write

RELEASE = RELEASES["24.10"]


def found(folder: Path, config: str, files: Files, case: Case | None = None) -> list[Finding]:
    for path, content in {"config.pbtxt": config, **files}.items():
        write(folder / "m" / path, content)
    return list(lint([read_repository(folder)], case or Case(release=RELEASE)))


def say(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(one.rule.id, one.severity) for one in findings if one.severity != "info"]


# -- the image ----------------------------------------------------------------------------------------------------

PYTHON = {"1/model.py": "class TritonPythonModel:\n    def execute(self, requests):\n        return list(requests)\n"}


def test_a_backend_that_is_not_there(tmp_path: Path) -> None:
    case = Case(release=RELEASE, backends=frozenset({"onnxruntime"}))
    one = assert_finds(tmp_path, "IMG001", f'backend: {MARK}"python"\n', PYTHON, case)
    assert one.fix == "backends: [python]"


def test_backends_that_are_not_known(tmp_path: Path) -> None:
    assert "IMG001" not in dict(say(found(tmp_path, 'backend: "python"\n', PYTHON)))


def test_a_backend_that_needs_python(tmp_path: Path) -> None:
    files = {"1/model.json": '{"model": "/opt/x"}'}
    one = assert_finds(tmp_path, "IMG003", f'backend: {MARK}"vllm"\n', files, Case(backends=frozenset({"vllm"})))
    assert one.fix == "backends: [python, vllm]"
    both = Case(backends=frozenset({"vllm", "python"}))
    assert say(found(tmp_path / "good", 'backend: "vllm"\n', files, both)) == []


# -- vLLM ---------------------------------------------------------------------------------------------------------

VLLM = 'backend: "vllm"\n'


@pytest.mark.parametrize(
    ("files", "findings"),
    [
        ({"1/model.json": '{"model": "/opt/x"}'}, []),
        ({"1": None}, [("VLL001", "error")]),
        ({"1/model.json": "{"}, [("VLL001", "error")]),
        ({"1/model.json": "[" * 100_000}, [("VLL001", "error")]),
        ({"1/model.json": "[]"}, [("VLL001", "error")]),
        ({"1/model.json": '{"model": "meta/llama"}'}, [("VLL005", "warning")]),
        ({"1/model.json": '{"model": "/opt/x", "enable_lora": true}'}, [("VLL003", "error")]),
        ({"1/model.json": '{"model": "/opt/x", "enable_lora": "True"}', "1/multi_lora.json": "{}"}, []),
        ({"1/model.json": '{"model": "/opt/x", "enable_lora": false}'}, []),
    ],
)
def test_vllm(tmp_path: Path, files: Files, findings: list[tuple[str, str]]) -> None:
    assert say(found(tmp_path, VLLM, files)) == findings


def test_vllm_is_decoupled(tmp_path: Path) -> None:
    config = VLLM + MARK + "model_transaction_policy { decoupled: false }\n"
    assert_finds(tmp_path, "VLL002", config, {"1/model.json": '{"model": "/opt/x"}'})


# -- FIL ----------------------------------------------------------------------------------------------------------


def fil(kind: str) -> str:
    return f'backend: "fil"\nparameters {{ key: "model_type" value {{ string_value: "{kind}" }} }}\n'


@pytest.mark.parametrize(
    ("config", "files", "findings"),
    [
        (fil("xgboost_json"), {"1/xgboost.json": "x"}, []),
        (fil("xgboost_json"), {"1/xgboost.model": "x"}, [("FIL001", "error")]),
        (fil("lightgbm"), {"1/model.txt": "x"}, []),
        (fil("treelite_checkpoint"), {"1/checkpoint.tl": "x"}, []),
        (fil("catboost"), {"1/model.txt": "x"}, [("FIL001", "error")]),
        ('backend: "fil"\n', {"1/xgboost.model": "x"}, []),
        ('backend: "fil"\ndefault_model_filename: "x.json"\n', {"1/x.json": "x"}, []),
    ],
)
def test_fil(tmp_path: Path, config: str, files: Files, findings: list[tuple[str, str]]) -> None:
    assert say(found(tmp_path, config, files)) == findings


def test_fil_and_releases(tmp_path: Path) -> None:
    files: Files = {"1/xgboost.ubj": "x"}
    assert say(found(tmp_path / "new", fil("xgboost_ubj"), files)) == []
    assert say(found(tmp_path / "old", fil("xgboost_ubj"), files, Case(release=RELEASES["24.09"]))) == [
        ("FIL001", "error")
    ]


# -- DALI ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "findings"),
    [({"1/model.dali": "x"}, []), ({"1/dali.py": "x"}, []), ({"1/other": "x"}, [("DAL001", "error")])],
)
def test_dali(tmp_path: Path, files: Files, findings: list[tuple[str, str]]) -> None:
    assert say(found(tmp_path, 'backend: "dali"\n', files)) == findings


def test_dali_without_completion(tmp_path: Path) -> None:
    case = Case(release=RELEASE, server={"disable-auto-complete-config": True})
    assert ("DAL002", "error") in say(found(tmp_path, 'backend: "dali"\n', {"1/model.dali": "x"}, case))


# -- OpenVINO -----------------------------------------------------------------------------------------------------

NETWORK = {"1/model.xml": "<net/>", "1/model.bin": "x"}
OPENVINO = 'backend: "openvino"\n'


def test_openvino_on_a_gpu(tmp_path: Path) -> None:
    config = OPENVINO + f"instance_group [ {{ kind: {MARK}KIND_GPU }} ]\n"
    assert_finds(tmp_path, "OVN001", config, NETWORK)


def test_openvino_without_weights(tmp_path: Path) -> None:
    assert say(found(tmp_path / "1", OPENVINO, {"1/model.xml": "<net/>"})) == [("OVN002", "error")]
    assert say(found(tmp_path / "2", OPENVINO, NETWORK)) == []


@pytest.mark.parametrize(
    ("key", "value", "good"),
    [
        ("NUM_STREAMS", "AUTO", True),
        ("NUM_STREAMS", "4", True),
        ("NUM_STREAMS", "many", False),
        ("PERFORMANCE_HINT", "latency", True),
        ("PERFORMANCE_HINT", "speed", False),
        ("HINT_BF16", "yes", True),
        ("HINT_BF16", "no", False),
        ("INFERENCE_NUM_THREADS", "-1", False),
        ("OTHER", "x", True),
    ],
)
def test_parameters_of_openvino(tmp_path: Path, key: str, value: str, good: bool) -> None:
    config = OPENVINO + f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
    assert say(found(tmp_path, config, NETWORK)) == ([] if good else [("OVN003", "error")])
