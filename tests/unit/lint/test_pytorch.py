"""PyTorch files: what the server can run, and whether names, counts and datatypes of the config fit `forward`."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.models.lint import Case
from composer.models.lint.rule import RULES
from composer.releases import RELEASES
from tests.modelfiles import aoti_package, exported_program, legacy_pickle, state_dict, torchscript

from . import Files, assert_finds, assert_finds_at, assert_silent, model

R2410 = Case(release=RELEASES["24.10"])
R2204 = Case(release=RELEASES["22.04"], server={"strict-model-config": False})
AOTI = Case(release=RELEASES["26.03"])

_CODE = """class Model(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  def forward(self: __torch__.Model{arguments}) -> {returns}:
    return x
"""


def script(*arguments: str, returns: str = "Tensor") -> bytes:
    """A TorchScript archive whose forward takes these."""
    return torchscript(_CODE.format(arguments="".join(f",\n    {one}" for one in arguments), returns=returns))


ONE = script("x: Tensor")
TWO = script("x: Tensor", "y: Tensor", returns="Tuple[Tensor, Tensor]")


def config(inputs: list[str], outputs: list[str], more: str = "") -> str:
    """The config of a PyTorch model with FP32 tensors of two numbers."""
    text = 'name: "m"\nbackend: "pytorch"\nmax_batch_size: 4\n'
    for side, names in (("input", inputs), ("output", outputs)):
        for name in names:
            mark, plain = "^" if name.startswith("^") else "", name.removeprefix("^")
            text += f'{side} [ {{ name: {mark}"{plain}" data_type: TYPE_FP32 dims: [ 2 ] }} ]\n'
    return text + more


PLAIN = config(["x"], ["OUTPUT__0"])


def pt(data: bytes = ONE) -> Files:
    return {"1/model.pt": data}


# -- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "data", "words"),
    [
        ("PT001", state_dict(), "what torch.save writes"),
        ("PT001", exported_program(), "not compiled"),
        ("PT001", torchscript(_CODE, without=["constants.pkl"]), "weights"),
        ("PT002", legacy_pickle(), "before torch 1.6"),
        ("PT002", b"hello" * 99, "neither a zip archive"),
        ("PT002", ONE[:-200], "ends in the middle"),
        ("PT009", aoti_package(), "package of AOTInductor's"),
    ],
)
def test_what_the_server_cannot_run(tmp_path: Path, rule: str, data: bytes, words: str) -> None:
    assert words in assert_finds_at(tmp_path, rule, "1/model.pt", PLAIN, pt(data), R2410).message


def test_what_it_runs(tmp_path: Path) -> None:
    assert_silent(tmp_path, "PT001", PLAIN, pt(), R2410)


def test_packages_of_aotinductor(tmp_path: Path) -> None:
    aoti = PLAIN + 'platform: "torch_aoti"\ndefault_model_filename: "model.pt2"\n'
    assert_silent(tmp_path, "PT009", aoti, {"1/model.pt2": aoti_package()}, AOTI)
    (tmp_path / "bad").mkdir()
    found = assert_finds_at(tmp_path / "bad", "PT009", "1/model.pt2", aoti, {"1/model.pt2": ONE}, AOTI)
    assert "aoti_compile_and_package" in found.fix
    (tmp_path / "late").mkdir()
    found = assert_finds_at(tmp_path / "late", "PT009", "1/model.pt", PLAIN, pt(aoti_package()), AOTI)
    assert found.fix == 'platform: "torch_aoti"'


@pytest.mark.parametrize("runtime", ['runtime: "model.py"\n', ""])
def test_python_in_place_of_libtorch(tmp_path: Path, runtime: str) -> None:
    files: Files = {"1/model.pt": state_dict(), "1/model.py": "class Net:\n    pass\n"}
    found = model(tmp_path, PLAIN + runtime, files, R2410)
    assert ("PT001" in [one.rule.id for one in found]) != bool(runtime)


def test_other_rules_speak_of_some_files(tmp_path: Path) -> None:
    found = model(tmp_path, PLAIN, pt(b"version https://git-lfs.github.com/spec/v1\n"), R2410)
    assert [one.rule.id for one in found] == ["LAY025"]


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "rule", "severity"),
    [
        (["x", "y"], None, None),
        (["y", "x"], None, None),
        (["INPUT__0", "INPUT__1"], None, None),
        (["INPUT__1", "INPUT__0"], None, None),
        (["INPUT__", "INPUT__1"], None, None),
        (["^a", "b"], "PT003", "warning"),
        (["x", "^b"], "PT003", "warning"),
        (["INPUT__0", "^y"], "PT004", "warning"),
        (["INPUT__0", "^INPUT__x"], "PT004", "warning"),
        (["INPUT__0", "^INPUT__2"], "PT004", "error"),
        (["INPUT__1", "^OTHER__1"], "PT004", "error"),
    ],
)
def test_names_of_inputs(tmp_path: Path, inputs: list[str], rule: str | None, severity: str | None) -> None:
    text = config(inputs, ["OUTPUT__0", "OUTPUT__1"])
    if rule is None:
        assert_silent(tmp_path, "PT003", text, pt(TWO), R2410)
        assert not [one for one in model_again(tmp_path) if one.startswith("PT")]
    else:
        assert assert_finds(tmp_path, rule, text, pt(TWO), R2410).severity == severity


def model_again(folder: Path) -> list[str]:
    from composer.models.lint import lint
    from composer.models.repository import read_repository

    return [one.rule.id for one in lint([read_repository(folder)], R2410)]


@pytest.mark.parametrize(
    ("outputs", "rule"),
    [
        (["OUTPUT__0", "OUTPUT__1"], None),
        (["OUTPUT__1"], None),
        (["a", "b"], None),
        (["OUTPUT__0", "^b"], "PT004"),
        (["OUTPUT__0", "^OTHER__0"], "PT004"),
        (["^OUTPUT__2"], "PT005"),
        (["OUTPUT__0", "^OUTPUT__3"], "PT005"),
        (["a", "b", "^c"], "PT005"),
    ],
)
def test_names_of_outputs(tmp_path: Path, outputs: list[str], rule: str | None) -> None:
    text = config(["x", "y"], outputs)
    if rule is None:
        assert_silent(tmp_path, "PT005", text, pt(TWO), R2410)
    else:
        assert_finds(tmp_path, rule, text, pt(TWO), R2410)


def test_names_of_old_releases(tmp_path: Path) -> None:
    found = assert_finds(tmp_path, "PT014", config(["^a", "y"], ["O__0"]), pt(TWO), R2204)
    assert found.fix == 'name: "INPUT__0"'
    (tmp_path / "output").mkdir()
    found = assert_finds(tmp_path / "output", "PT014", config(["x", "y"], ["^a"]), pt(TWO), R2204)
    assert found.says == "output 'a' does not follow naming convention i.e. <name>__<index>."
    (tmp_path / "new").mkdir()
    assert_silent(tmp_path / "new", "PT014", config(["x", "y"], ["a"]), pt(TWO), R2410)


def test_outputs_that_cannot_be_told(tmp_path: Path) -> None:
    assert_silent(tmp_path, "PT005", config(["x"], ["O__7"]), pt(script("x: Tensor", returns="Any")), R2410)


# -- the signature --------------------------------------------------------------------------------


def test_count_of_inputs(tmp_path: Path) -> None:
    found = assert_finds(tmp_path, "PT006", config(["x"], ["O__0"]).replace("input", "^input"), pt(TWO), R2410)
    assert found.says == "unable to load model 'm', configuration expects 1 inputs, model provides 2"
    (tmp_path / "more").mkdir()
    text = config(["INPUT__0", "INPUT__1"], ["O__0"]).replace("input", "^input", 1)
    assert_finds(tmp_path / "more", "PT006", text, pt(), R2410)
    (tmp_path / "old").mkdir()
    assert_silent(tmp_path / "old", "PT006", config(["x"], ["O__0"]), pt(TWO), Case(release=RELEASES["22.01"]))


def test_a_dictionary_takes_any_names(tmp_path: Path) -> None:
    text = config(["a", "b", "c"], ["O__0"])
    assert_silent(tmp_path, "PT006", text, pt(script("x: Dict[str, Tensor]")), R2410)


@pytest.mark.parametrize("kind", ["int", "Optional[Tensor]", "Tuple[Tensor, Tensor]", "Dict[str, Tensor]"])
def test_arguments_that_are_no_tensors(tmp_path: Path, kind: str) -> None:
    data = script("x: Tensor", f"y: {kind}")
    found = assert_finds_at(tmp_path, "PT013", "1/model.pt", config(["x", "y"], ["O__0"]), pt(data), R2410)
    assert kind in found.says


def test_lists_of_texts_are_taken(tmp_path: Path) -> None:
    text = 'backend: "pytorch"\ninput { name: "x" data_type: TYPE_STRING dims: [ -1 ] }\n'
    text += 'output { name: "O__0" data_type: TYPE_FP32 dims: [ 2 ] }\n'
    assert_silent(tmp_path, "PT007", text, pt(script("x: List[str]")), R2410)


@pytest.mark.parametrize(
    ("batch", "dims", "good"), [(0, "dims: [ -1 ]", True), (4, "^dims: [ 1 ]", False), (0, "^dims: [ 2, 2 ]", False)]
)
def test_strings_of_more_dims(tmp_path: Path, batch: int, dims: str, good: bool) -> None:
    text = f'backend: "pytorch"\nmax_batch_size: {batch}\ninput {{ name: "x" data_type: TYPE_STRING {dims} }}\n'
    text += 'output { name: "O__0" data_type: TYPE_FP32 dims: [ 2 ] }\n'
    if good:
        assert_silent(tmp_path, "PT007", text, pt(script("x: List[str]")), R2410)
    else:
        assert_finds(tmp_path, "PT007", text, pt(script("x: List[str]")), R2410)


# -- parameters and instances ---------------------------------------------------------------------


def parameter(key: str, value: str) -> str:
    return f'{PLAIN}parameters {{ key: "{key}" value {{ string_value: ^"{value}" }} }}\n'


@pytest.mark.parametrize(
    ("key", "value", "case", "words"),
    [
        ("INFERENCE_MODE", "yes", R2410, "failed to convert 'yes' to boolean"),
        ("DISABLE_CUDNN", "", R2410, "failed to convert '' to boolean"),
        ("INTRA_OP_THREAD_COUNT", "all", R2410, "failed to convert 'all' to integral number"),
        ("INFERENCE_MODE", "On", R2410, None),
        ("INTER_OP_THREAD_COUNT", "0", R2410, None),
        ("DISABLE_CUDNN", "yes", R2204, None),
        ("OF_OUR_OWN", "yes", R2410, None),
    ],
)
def test_parameters(tmp_path: Path, key: str, value: str, case: Case, words: str | None) -> None:
    if words is None:
        assert_silent(tmp_path, "PT008", parameter(key, value).replace("^", ""), pt(), case)
    else:
        assert assert_finds(tmp_path, "PT008", parameter(key, value), pt(), case).says == words


def test_the_device_is_left_to_the_model(tmp_path: Path) -> None:
    text = PLAIN + "instance_group [ { kind: ^KIND_MODEL } ]\n"
    assert assert_finds(tmp_path, "PT012", text, pt(), R2410).severity == "info"


def test_every_rule_says_where_it_is_from() -> None:
    own = [one for name, one in RULES.items() if name.startswith("PT") and name[2:].isdecimal()]
    assert len(own) == 12, [one.id for one in own]
    assert all(one.source and one.fix for one in own)
