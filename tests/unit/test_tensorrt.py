"""What trtexec is told, and refused: decided without TensorRT, Docker or a GPU.

The judge of flags is trtexec's own source: data/trtexec-flags.txt was taken from it by a script, for fifteen versions.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composer import pipeline
from composer.engines import trtexec as engine
from composer.engines.trtexec_words import explain
from composer.errors import (
    BuildFailed,
    Corrupt,
    NoRoom,
    NotFound,
    RecipeError,
    UnknownRelease,
    Unplannable,
    Unreachable,
)
from composer.models.configuration import parse_configuration
from composer.models.tensorrt import (
    PLAN,
    RECORD,
    Gpu,
    Job,
    Record,
    decide,
    expected_version,
    image_of,
    read_record,
    same_version,
    suits,
    version_of,
)
from composer.models.tensorrt_config import Interface, config_text, interface_of
from composer.models.tensorrt_source import survey_original
from composer.recipe import Recipe, parse_recipe
from composer.releases import trtexec
from tests.modelfiles import external_tensor, node, onnx_model, plan
from tests.parity.image import unpack
from tests.parity.place import BASE, Place, packed, server

TEN, ELEVEN, SEED = "10.4.0.26", "11.1.0.106", "8.5.1.7"
A10 = Gpu(name="NVIDIA A10", capability="8.6", driver="550.54.15")
BATCH = "shapes: {X: {min: [1, 4], opt: [8, 4], max: [32, 4]}}"


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def judge() -> dict[tuple[int, ...], set[str]]:
    """The flags that trtexec's source reads, by version."""
    lines = (Path(__file__).parent / "data" / "trtexec-flags.txt").read_text().splitlines()
    versions = [version(one) for one in lines[1].removeprefix("# ").split()]
    found: dict[tuple[int, ...], set[str]] = {one: set() for one in versions}
    for name, marks in (line.split() for line in lines[2:]):
        for one, mark in zip(versions, marks, strict=True):
            if mark == "+":
                found[one].add(name)
    return found


def model(folder: Path, *, quantized: bool = False, **how: Any) -> Path:
    """An ONNX file. By default it takes X, a batch of four numbers, and gives Y."""
    ops = [node("QuantizeLinear", ["X", "s"], ["q"]), node("DequantizeLinear", ["q", "s"], ["Y"])]
    usual: dict[str, Any] = {"inputs": {"X": ("FP32", ["N", 4])}, "outputs": {"Y": ("FP32", ["N", 4])}}
    usual["nodes"] = ops if quantized else [node("Relu", ["X"], ["Y"])]
    path = folder / "model.onnx"
    path.write_bytes(onnx_model(**{**usual, **how}))
    return path


def recipe(folder: Path, convert: str = BATCH, more: str = "", *, triton: str = "24.09") -> Recipe:
    text = f'triton: "{triton}"\nbackends: [tensorrt]\nmodels:\n  - name: m\n    convert:\n      to: tensorrt\n'
    text += "      from: model.onnx\n" + "".join(f"      {line}\n" for line in convert.splitlines()) + more
    return parse_recipe(text, path=folder / "recipe.yaml", environ={})


def job(made: Recipe, tensorrt: str = TEN) -> Job:
    original, extras = survey_original(made, 0)
    return decide(made, 0, original, extras, tensorrt)


def problems(made: Recipe, tensorrt: str = TEN) -> list[tuple[str, str | None]]:
    with pytest.raises(RecipeError) as raised:
        job(made, tensorrt)
    return [(problem.message, problem.hint) for problem in raised.value.problems]


# -- what trtexec knows ---------------------------------------------------------------------------


def test_the_facts_are_those_of_trtexec() -> None:
    for at, names in judge().items():
        known = {name for name, flag in trtexec.flags().items() if flag.known_to(at)}
        assert known == names & set(trtexec.flags()), at


def test_every_flag_that_is_not_taken_has_to_do_with_measuring_or_other_inputs() -> None:
    others = set().union(*judge().values()) - set(trtexec.flags())
    assert {"iterations", "duration", "warmUp", "loadEngine", "deploy", "uff", "dumpProfile", "useCudaGraph"} <= others
    assert not {"fp16", "builderOptimizationLevel", "sparsity", "memPoolSize", "refit"} & others


ANYTHING = """\
precision: fp16
shapes: {X: {min: [1, 4], opt: [8, 4], max: [32, 4]}}
input_formats: ["fp16:chw"]
workspace: 4GiB
"""


@pytest.mark.parametrize("at", [one for one in judge() if one < (11,)])
def test_only_flags_of_the_version_are_written(tmp_path: Path, at: tuple[int, ...]) -> None:
    model(tmp_path)
    (tmp_path / "p.so").write_bytes(b"plugin")
    text = ANYTHING + "plugins: [p.so]\n" + ("timing_cache: t\n" if at >= (8, 0) else "")
    argv = job(recipe(tmp_path, text), ".".join(map(str, at))).argv
    assert {word.removeprefix("--").partition("=")[0] for word in argv} <= judge()[at]


VERSIONS = sorted(judge())
FLAGS = sorted(trtexec.flags())
EXAMPLES = {"switch": True, "count": 1, "number": 0.5, "text": "x"}


@settings(max_examples=50)
@given(st.sampled_from(VERSIONS), st.sets(st.sampled_from(FLAGS), max_size=8))
def test_any_flags_are_written_or_refused(at: tuple[int, ...], names: set[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model(folder)
        values = {
            one: flag.takes[0] if isinstance(flag.takes, tuple) else EXAMPLES[flag.takes]
            for one, flag in trtexec.flags().items()
            if one in names
        }
        made = recipe(folder, f"{BATCH}\nflags: {json.dumps(values)}")
        good = all(one in judge()[at] and trtexec.flags()[one].key is None for one in names)
        if good:
            argv = job(made, ".".join(map(str, at))).argv
            assert {word.removeprefix("--").partition("=")[0] for word in argv} <= judge()[at]
        else:
            wrong = {one for one in names if one not in judge()[at] or trtexec.flags()[one].key}
            assert len(problems(made, ".".join(map(str, at)))) == len(wrong)


# -- what is written ------------------------------------------------------------------------------


def test_the_seed_of_22_11(tmp_path: Path) -> None:
    """`trtexec --onnx=... --saveEngine=... --inputIOFormats=fp16:chw --outputIOFormats=fp16:chw --fp16`, as it was."""
    model(tmp_path, inputs={"input_1": ("FP32", ["N", 224, 224, 3])}, outputs={"predictions": ("FP32", ["N", 1000])})
    text = """\
precision: fp16
shapes: {input_1: {min: [1, 224, 224, 3], opt: [8, 224, 224, 3], max: [32, 224, 224, 3]}}
input_formats: ["fp16:chw"]
output_formats: ["fp16:chw"]
"""
    made = recipe(tmp_path, text, triton="22.11")
    assert str(image_of(made, made.models[0].convert)) == "docker://nvcr.io/nvidia/tensorrt:22.11-py3"  # type: ignore[arg-type]
    assert job(made, SEED).argv == (
        "--onnx=/tricompose/model/model.onnx",
        f"--saveEngine={PLAN}",
        "--buildOnly",
        "--fp16",
        "--minShapes=input_1:1x224x224x3",
        "--optShapes=input_1:8x224x224x3",
        "--maxShapes=input_1:32x224x224x3",
        "--inputIOFormats=fp16:chw",
        "--outputIOFormats=fp16:chw",
    )


@pytest.mark.parametrize(
    ("text", "at", "words"),
    [
        ("precision: fp32", TEN, []),
        ("precision: bf16", TEN, ["--bf16"]),
        ("precision: int8\ncalibration: c", TEN, ["--int8", "--fp16", "--calib=/tricompose/calibration.cache"]),
        ("precision: best\ncalibration: c", TEN, ["--best", "--calib=/tricompose/calibration.cache"]),
        ("workspace: 4GiB", TEN, ["--memPoolSize=workspace:4096"]),
        ("input_formats: [chw]", ELEVEN, ["--inputIOFormats=chw"]),
        ("workspace: 4GiB", "8.2.5.1", ["--workspace=4096"]),
        ("timing_cache: t", TEN, ["--timingCacheFile=/tricompose/made/timing.cache"]),
        ("plugins: [a.so, d/a.so]", TEN, [f"--staticPlugins=/tricompose/plugins/{n}/a.so" for n in (0, 1)]),
        ("plugins: [a.so]", SEED, ["--plugins=/tricompose/plugins/0/a.so"]),
        ("version_compatible: true", TEN, ["--versionCompatible"]),
        ("hardware_compatibility: ampere+", TEN, ["--hardwareCompatibilityLevel=ampere+"]),
        (
            "hardware_compatibility: same_compute_capability",
            "10.9.0.34",
            ["--hardwareCompatibilityLevel=sameComputeCapability"],
        ),
        (
            "flags: {sparsity: enable, avgTiming: 4, noTF32: true, refit: false}",
            TEN,
            ["--sparsity=enable", "--avgTiming=4", "--noTF32"],
        ),
    ],
)
def test_each_key(tmp_path: Path, text: str, at: str, words: list[str]) -> None:
    model(tmp_path)
    (tmp_path / "d").mkdir()
    for name in ("c", "a.so", "d/a.so"):
        (tmp_path / name).write_text(name)
    found = job(recipe(tmp_path, f"{BATCH}\n{text}"), at)
    rest = [word for word in found.argv if not re.match("--(onnx|saveEngine|skipInference|buildOnly|...Shapes)", word)]
    assert rest == words
    assert found.files[0].target == "/tricompose/model/model.onnx"
    named = {word.partition("=")[2] for word in words if "/tricompose/" in word and "made" not in word}
    assert named == {file.target for file in found.files[1:]}


def test_quantized_models_need_no_calibration(tmp_path: Path) -> None:
    model(tmp_path, quantized=True)
    for precision in ("int8", "fp8", "best"):
        assert f"--{precision}" in job(recipe(tmp_path, f"{BATCH}\nprecision: {precision}")).argv


def test_a_name_with_a_colon_is_quoted(tmp_path: Path) -> None:
    model(tmp_path, inputs={"x:0": ("FP32", ["N", 4])}, nodes=[node("Relu", ["x:0"], ["Y"])])
    argv = job(recipe(tmp_path, 'shapes: {"x:0": [2, 4]}')).argv
    assert "--minShapes='x:0':2x4" in argv


def test_external_weights_go_along_at_their_place(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "a.bin").write_bytes(bytes(64))
    weights = external_tensor("W", "FP32", [4, 4], location="w/a.bin", offset=0, length=64)
    model(tmp_path, initializers=[weights], nodes=[node("MatMul", ["X", "W"], ["Y"])])
    first = job(recipe(tmp_path))
    assert [file.target for file in first.files] == ["/tricompose/model/model.onnx", "/tricompose/model/w/a.bin"]
    (tmp_path / "w" / "a.bin").write_bytes(b"\1" * 64)
    second = job(recipe(tmp_path))
    assert second.model != first.model
    assert second.key(A10) != first.key(A10)


@pytest.mark.parametrize("place", ["../a.bin", "/etc/passwd"])
def test_weights_from_elsewhere_are_refused(tmp_path: Path, place: str) -> None:
    weights = external_tensor("W", "FP32", [4, 4], location=place, offset=0, length=64)
    model(tmp_path, initializers=[weights])
    ((message, _),) = problems(recipe(tmp_path))
    assert f"weights outside of its folder: {place}" in message


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "at", "message", "hint"),
    [
        (
            "shapes: {}",
            TEN,
            'the shape of the input "X" is not fixed',
            "shapes: {X: {min: [1, 4], opt: [8, 4], max: [32, 4]}}",
        ),
        ("shapes: {Z: [1, 4]}", TEN, 'the model has no input "Z"', "its inputs are X"),
        (
            "shapes: {X: [1, 4, 4]}",
            TEN,
            "it has 2 dimensions, [?, 4], not 3",
            "{min: [1, 4], opt: [8, 4], max: [32, 4]}",
        ),
        ("shapes: {X: [1, 5]}", TEN, "a dimension is fixed to 4 in the model, [?, 4]", None),
        ("precision: bf16", SEED, "TensorRT 8.5.1.7 has no bf16", "it came with 9.0"),
        (
            "precision: fp16",
            ELEVEN,
            "computes in the model's own types",
            "modelopt.onnx.autocast --onnx_path model.onnx",
        ),
        ("precision: int8", TEN, "int8 needs the ranges", "calibration: ./calibration.cache"),
        ("precision: best", TEN, "best needs the ranges", "calibration: ./calibration.cache"),
        ("precision: fp8", TEN, "this one has none", "ModelOpt"),
        ("precision: fp16\nflags: {stronglyTyped: true}", TEN, "strongly typed", "precision: fp32"),
        (
            "hardware_compatibility: same_compute_capability",
            TEN,
            "it came with 10.9",
            "hardware_compatibility: ampere+",
        ),
        ("version_compatible: true", SEED, "TensorRT 8.5.1.7 has no --versionCompatible", "it came with 8.6"),
        ('input_formats: ["fp16:chw", "fp16:chw"]', TEN, "there are 2 formats for 1 inputs", "or for: X"),
        ('input_formats: ["chw"]', TEN, "TensorRT 10.4.0.26 wants the type too", 'input_formats: ["fp32:chw"]'),
        ('output_formats: ["fp16:chw"]', ELEVEN, "the type is the model's own, not fp16", "output_formats: [chw]"),
        ("workspace: 1kB", TEN, "less than one", "workspace: 1GiB"),
        ("flags: {explicitBatch: true}", TEN, "TensorRT 10.4.0.26 has no --explicitBatch", "always has its batch"),
        ("flags: {minTiming: 1}", TEN, "has no --minTiming", "avgTiming: 8"),
        ("flags: {maxTactics: 1}", SEED, "has no --maxTactics", "it came with 10.4"),
        ("flags: {workspace: 1024}", TEN, "--workspace is written by tricompose", "see the key workspace"),
        ("flags: {iterations: 5}", TEN, 'no trtexec has a flag "iterations" that says how to build', "only measure"),
        ("flags: {sparsty: enable}", TEN, 'a flag "sparsty"', 'did you mean "sparsity"?'),
        ("flags: {sparsity: yes}", TEN, "--sparsity takes one of disable, enable, force", "sparsity: disable"),
        ("flags: {avgTiming: -1}", TEN, "--avgTiming takes a whole number", "avgTiming: 3"),
        ("flags: {avgTiming: true}", TEN, "--avgTiming takes a whole number", "avgTiming: 3"),
        ("flags: {refit: 1}", TEN, "--refit takes true", "refit: true"),
    ],
)
def test_refusals(tmp_path: Path, text: str, at: str, message: str, hint: str | None) -> None:
    model(tmp_path)
    made = recipe(tmp_path, text if "shapes" in text else f"{BATCH}\n{text}")
    found = problems(made, at)
    assert any(message in said and (hint is None or hint in (advice or "")) for said, advice in found), found
    with pytest.raises(RecipeError) as raised:
        job(made, at)
    assert re.match(r".*recipe\.yaml:\d+:\d+$", raised.value.problems[0].where)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    model(tmp_path)
    made = recipe(tmp_path, "precision: int8\nflags: {explicitBatch: true, nosuch: 1}", "run: {gpus: none}\n")
    assert len(problems(made)) == 5


def test_shapes_of_a_model_whose_shapes_are_fixed(tmp_path: Path) -> None:
    model(tmp_path, inputs={"X": ("FP32", [1, 4])}, outputs={"Y": ("FP32", [1, 4])})
    assert job(recipe(tmp_path, "precision: fp16")).argv[-1] == "--fp16"
    assert problems(recipe(tmp_path))[0][0].startswith("the shape is fixed in the model, [1, 4]")


def test_an_old_release(tmp_path: Path) -> None:
    model(tmp_path)
    assert "it is not known what trtexec of TensorRT 7.1.3 takes" in problems(recipe(tmp_path), "7.1.3")[0][0]


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("m.pt", b"PK\3\4 and more", "torch.onnx.export"),
        ("m.plan", plan(), "it is a plan already"),
        ("m.onnx", None, "ls -l"),
        ("m.onnx", b"", "ls -l"),
    ],
)
def test_what_is_no_onnx_model(tmp_path: Path, name: str, content: bytes | None, hint: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    text = f'triton: "24.09"\nbackends: [tensorrt]\nmodels: [{{name: m, convert: {{to: tensorrt, from: {name}}}}}]\n'
    made = parse_recipe(text, path=tmp_path / "recipe.yaml", environ={})
    ((message, advice),) = problems(made)
    assert name in message
    assert hint in (advice or "")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    model(tmp_path)
    made = recipe(tmp_path, f"{BATCH}\nprecision: int8\ncalibration: no.cache\nplugins: [no.so]")
    assert sorted(message for message, _ in problems(made)) == [
        f"{tmp_path}/no.cache cannot be read: No such file or directory",
        f"{tmp_path}/no.so cannot be read: No such file or directory",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("precision: fp17", 'convert.precision cannot be "fp17"'),
        ("shapes: {X: {min: [4], opt: [2], max: [8]}}", "opt is smaller than min"),
        ("shapes: {X: {min: [4], opt: [4, 4], max: [8]}}", "opt has 2 dimensions and min 1"),
        ("shapes: {X: [0, 4]}", "0 is no dimension"),
        ("shapes: {X: [a, 4]}", "'a' is no dimension"),
        ('input_formats: ["fp16:nchw"]', "is not a tensor's type and layout"),
        ("calibration: c", "calibration is for int8"),
        ("flags: {a: [1]}", "no flag of trtexec is written with this"),
    ],
)
def test_the_schema_refuses(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        recipe(tmp_path, text)
    assert any(message in problem.message for problem in raised.value.problems)


# -- versions and images --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"config": {"Env": ["PATH=/bin", "TRT_VERSION=10.4.0.26"]}}, "10.4.0.26"),
        ({"config": {"Env": ["TRT_VERSION=8.2.5.1+cuda11.4.2.006"]}}, "8.2.5.1"),
        ({"config": {"Env": ["TENSORRT_VERSION=7.2.1"]}}, "7.2.1"),
        ({"config": {"Labels": {"com.nvidia.tensorrt.version": "8.5.1.7+cuda11.8.0.062"}}}, "8.5.1.7"),
        ({"config": {"Env": ["TRT_VERSION="]}}, None),
        ({"config": None}, None),
        ({}, None),
    ],
)
def test_the_version_that_an_image_names(config: Mapping[str, Any], found: str | None) -> None:
    assert version_of(config) == found


def test_the_version_that_the_server_has(tmp_path: Path) -> None:
    assert expected_version(recipe(tmp_path), {"config": {"Env": ["TRT_VERSION=10.3.0.26"]}}) == "10.3.0.26"
    assert expected_version(recipe(tmp_path), {}) == "10.4.0.26"
    assert expected_version(recipe(tmp_path, triton="23.08"), {}) is None
    assert same_version("8.5.1", "8.5.1.7")
    assert not same_version("10.4.0.26", "10.4.1")


def test_the_image(tmp_path: Path) -> None:
    named = recipe(tmp_path, f"{BATCH}\nimage: oci:here:1")
    assert str(image_of(named, named.models[0].convert)) == f"oci:{tmp_path}/here:1"  # type: ignore[arg-type]
    text = "upstream: docker://a.example/triton:1\nbackends: [tensorrt]\n"
    text += "models: [{name: m, convert: {to: tensorrt, from: model.onnx}}]\n"
    unnamed = parse_recipe(text, path=tmp_path / "r.yaml", environ={})
    with pytest.raises(UnknownRelease, match="which TensorRT the server has"):
        image_of(unnamed, unnamed.models[0].convert)  # type: ignore[arg-type]


# -- what plans are kept under --------------------------------------------------------------------


def test_the_key_is_of_all_that_makes_a_plan_another_one(tmp_path: Path) -> None:
    model(tmp_path)
    (tmp_path / "p.so").write_bytes(b"one")
    text = f"{BATCH}\nplugins: [p.so]"
    first = job(recipe(tmp_path, text))
    keys = [first.key(A10)]
    keys.append(job(recipe(tmp_path, text), "10.4.0.27").key(A10))
    keys.append(job(recipe(tmp_path, f"{text}\nprecision: fp16")).key(A10))
    keys.append(job(recipe(tmp_path, text.replace("32", "64"))).key(A10))
    keys.append(first.key(replace(A10, name="NVIDIA A30")))
    keys.append(first.key(replace(A10, capability="8.0")))
    (tmp_path / "p.so").write_bytes(b"two")
    keys.append(job(recipe(tmp_path, text)).key(A10))
    model(tmp_path, nodes=[node("Tanh", ["X"], ["Y"])])
    keys.append(job(recipe(tmp_path, text)).key(A10))
    assert len(set(keys)) == len(keys) == 8


def test_the_key_is_of_nothing_else(tmp_path: Path) -> None:
    model(tmp_path)
    first = job(recipe(tmp_path))
    (tmp_path / "t").write_bytes(b"timing")
    again = job(recipe(tmp_path, f"{BATCH}\ntiming_cache: t\nplan: ./m.plan", "healthcheck: true\n"))
    assert first.key(A10) == again.key(replace(A10, driver="1"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    model(elsewhere)
    assert job(recipe(elsewhere)).key(A10) == first.key(A10)


# -- records --------------------------------------------------------------------------------------


def record(of: Job, data: bytes, **changes: Any) -> Record:
    made = Record(
        name=of.name,
        model=of.model,
        tensorrt=of.version,
        argv=of.argv,
        fingerprint=of.fingerprint,
        gpu=A10,
        image="docker://nvcr.io/nvidia/tensorrt:24.09-py3",
        digest=hashlib.sha256(data).hexdigest(),
        size=len(data),
    )
    return replace(made, **changes)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    model(tmp_path)
    made = record(job(recipe(tmp_path)), plan())
    assert read_record(made.text(), where="x") == made


@given(st.one_of(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps)))
def test_what_is_no_record(text: str) -> None:
    with pytest.raises(Corrupt, match="is not the record of a plan"):
        read_record(text, where="x")


@pytest.mark.parametrize("key", ["schema", "name", "model", "tensorrt", "argv", "fingerprint", "gpu", "digest"])
def test_a_record_that_lacks_something(tmp_path: Path, key: str) -> None:
    model(tmp_path)
    data = json.loads(record(job(recipe(tmp_path)), plan()).text())
    for wrong in ({name: value for name, value in data.items() if name != key}, {**data, key: None}):
        with pytest.raises(Corrupt, match="is not the record of a plan"):
            read_record(json.dumps(wrong), where="x")


def carry(folder: Path, data: bytes, made: Record) -> None:
    (folder / "m.plan").write_bytes(data)
    (folder / f"m.plan{RECORD}").write_text(made.text())


def carried(made: Recipe, expected: str | None = TEN) -> engine.Made | None:
    original, extras = survey_original(made, 0)
    return engine.carried(made, 0, original, extras, expected)


def test_a_plan_that_was_carried_here(tmp_path: Path) -> None:
    model(tmp_path)
    made = recipe(tmp_path, f"{BATCH}\nplan: m.plan")
    assert carried(made) is None
    carry(tmp_path, plan(), record(job(made), plan()))
    for expected in (TEN, "10.4.0", None):
        found = carried(made, expected)
        assert found is not None
        assert found.before
        assert found.plan == tmp_path / "m.plan"
        assert found.record.gpu == A10


def test_a_plan_that_was_made_of_something_else(tmp_path: Path) -> None:
    model(tmp_path)
    made = recipe(tmp_path, f"{BATCH}\nplan: m.plan")
    good = record(job(made), plan())
    carry(tmp_path, plan(), good)
    with pytest.raises(Unplannable, match=r"made with TensorRT 10\.4\.0\.26, and the server has 10\.3"):
        carried(made, "10.3.0.26")
    with pytest.raises(NotFound, match="these flags differ: --fp16") as raised:
        carried(recipe(tmp_path, f"{BATCH}\nplan: m.plan\nprecision: fp16"))
    assert "tricompose models convert RECIPE --only m" in (raised.value.hint or "")
    carry(tmp_path, plan() + b"!", good)
    with pytest.raises(Corrupt, match=f"and was made with {good.digest}"):
        carried(made)
    carry(tmp_path, b"not a plan", record(job(made), b"not a plan"))
    with pytest.raises(BuildFailed, match="is no TensorRT plan"):
        carried(made)
    other = plan((10, 3, 0, 26))
    carry(tmp_path, other, record(job(made), other))
    with pytest.raises(BuildFailed, match=r"a plan of TensorRT 10\.3\.0\.26, and the server has 10\.4\.0\.26"):
        carried(made)
    carry(tmp_path, plan(), good)
    model(tmp_path, nodes=[node("Tanh", ["X"], ["Y"])])
    with pytest.raises(NotFound, match=f"from another model: its SHA-256 is {good.model}"):
        carried(made)
    (tmp_path / f"m.plan{RECORD}").unlink()
    with pytest.raises(NotFound, match=r"its record m\.plan\.json is not") as raised:
        carried(made)
    assert "source: in place of convert:" in (raised.value.hint or "")


def test_a_plugin_that_has_changed(tmp_path: Path) -> None:
    model(tmp_path)
    (tmp_path / "p.so").write_bytes(b"one")
    before = job(recipe(tmp_path, f"{BATCH}\nplugins: [p.so]"))
    (tmp_path / "p.so").write_bytes(b"two")
    after = job(recipe(tmp_path, f"{BATCH}\nplugins: [p.so]"))
    with pytest.raises(NotFound, match="a plugin or the calibration has changed"):
        suits(record(before, plan()), after, hashlib.sha256(plan()).hexdigest(), where="m.plan")


def test_plans_are_put_out_whole(tmp_path: Path) -> None:
    model(tmp_path)
    of = job(recipe(tmp_path))
    kept = tmp_path / "kept"
    kept.write_bytes(plan())
    made = engine.Made(job=of, record=record(of, plan()), plan=kept, before=False)
    target = tmp_path / "new" / "m.plan"
    engine.carry_out(made, target)
    engine.carry_out(made, target)
    assert sorted(path.name for path in target.parent.iterdir()) == ["m.plan", "m.plan.json"]
    assert target.read_bytes() == plan()
    (tmp_path / "file").write_text("")
    with pytest.raises(NoRoom, match="is in the way"):
        engine.carry_out(made, tmp_path / "file" / "m.plan")


# -- what the server is told ----------------------------------------------------------------------


def test_what_the_server_must_be_told(tmp_path: Path) -> None:
    model(tmp_path)
    (tmp_path / "p.so").write_bytes(b"plugin")
    text = f"{BATCH}\nversion_compatible: true\nplugins: [p.so]"
    notes = dict(job(recipe(tmp_path, text)).notes)
    assert set(notes) == {
        "the server reads a version compatible plan only where it is told to",
        "the server needs the plugin p.so too",
    }
    told = "server: {backend-config: {tensorrt: {version-compatible: true, plugins: /opt/plugins/p.so}}}\n"
    assert job(recipe(tmp_path, text, told)).notes == ()


def seen(folder: Path, text: str, at: str = TEN) -> Interface | None:
    made = recipe(folder, text)
    original, _ = survey_original(made, 0)
    conversion = made.models[0].convert
    assert conversion is not None
    return interface_of(original, conversion, at)


def test_the_config_of_the_seed(tmp_path: Path) -> None:
    """As the author of the seed wrote it by hand."""
    model(tmp_path, inputs={"input_1": ("FP32", ["N", 224, 224, 3])}, outputs={"predictions": ("FP32", ["N", 1000])})
    shapes = "shapes: {input_1: {min: [1, 224, 224, 3], opt: [8, 224, 224, 3], max: [32, 224, 224, 3]}}"
    found = seen(tmp_path, f'{shapes}\ninput_formats: ["fp16:chw"]\noutput_formats: ["fp16:chw"]', SEED)
    assert found is not None
    text = config_text("tensorrt_fp16_model", found)
    config = parse_configuration(text.encode(), path=tmp_path / "config.pbtxt")
    assert config.faults == ()
    said = config.message
    assert (said.name, said.backend, said.max_batch_size) == ("tensorrt_fp16_model", "tensorrt", 32)
    assert [(one.name, one.data_type, list(one.dims)) for one in said.input] == [("input_1", 10, [224, 224, 3])]
    assert [(one.name, one.data_type, list(one.dims)) for one in said.output] == [("predictions", 10, [1000])]


@pytest.mark.parametrize(
    ("inputs", "text", "at", "batch", "told"),
    [
        ({"X": ("FP32", ["N", 4])}, BATCH, TEN, 32, [("FP32", (4,), True)]),
        ({"X": ("INT64", ["N", 4])}, BATCH, SEED, 32, [("INT32", (4,), True)]),
        ({"X": ("INT64", ["N", 4])}, BATCH, TEN, 32, [("INT64", (4,), True)]),
        (
            {"X": ("FP64", ["N", "M"])},
            "shapes: {X: {min: [1, 1], opt: [4, 4], max: [8, 8]}}",
            TEN,
            8,
            [("FP32", (-1,), True)],
        ),
        (
            {"X": ("FP32", [1, "M"])},
            "shapes: {X: {min: [1, 1], opt: [1, 4], max: [1, 8]}}",
            TEN,
            0,
            [("FP32", (1, -1), True)],
        ),
        ({"X": ("FP32", [2, 4])}, 'input_formats: ["int8:chw32"]', TEN, 0, [("INT8", (2, 4), False)]),
        ({"X": ("FP16", [2, 4])}, "input_formats: [hwc8]", ELEVEN, 0, [("FP16", (2, 4), False)]),
        ({"X": ("INT8", [2, 4])}, "precision: fp16", SEED, 0, [("FP32", (2, 4), True)]),
        ({"X": ("INT8", [2, 4])}, "precision: fp16", TEN, 0, [("INT8", (2, 4), True)]),
        (
            {"X": ("FP32", ["N", 4]), "Z": ("FP32", ["N"])},
            "shapes: {X: {min: [1, 4], opt: [8, 4], max: [32, 4]}, Z: {min: [1], opt: [8], max: [16]}}\n"
            'input_formats: ["fp16:chw", "fp32:chw"]',
            TEN,
            16,
            [("FP16", (4,), True), ("FP32", (), True)],
        ),
    ],
)
def test_inputs_as_the_server_sees_them(
    tmp_path: Path, inputs: Any, text: str, at: str, batch: int, told: list[Any]
) -> None:
    first = next(iter(inputs.values()))[1][0]
    model(tmp_path, inputs=inputs, outputs={"Y": ("FP32", [first, 4])})
    found = seen(tmp_path, text, at)
    assert found is not None
    assert found.max_batch_size == batch
    assert [(one.datatype, one.dims, one.linear) for one in found.inputs] == told
    config = parse_configuration(config_text("m", found).encode(), path=tmp_path / "config.pbtxt")
    assert config.faults == ()
    assert len(config.message.input) == len(inputs)


def test_a_model_that_does_not_say_enough(tmp_path: Path) -> None:
    model(tmp_path, outputs={"Y": ("FP32", None)}, nodes=[node("Odd", ["X"], ["Y"], domain="mine")])
    assert seen(tmp_path, BATCH) is None


# -- failures, in words ---------------------------------------------------------------------------

UNKNOWN_OP = """\
[I] [TRT] No importer registered for op: DCNv2. Attempting to import as plugin.
[E] [TRT] 3: getPluginCreator could not find plugin: DCNv2 version: 1
[E] Failed to parse onnx file
[E] Engine could not be created from network
&&&& FAILED TensorRT.trtexec [TensorRT v8501] # trtexec"""


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        (UNKNOWN_OP, "the model has an operator that TensorRT lacks (DCNv2)", "plugins: [./libyours.so]"),
        ("[E] Unknown option: --explicitBatch ", "no flag --explicitBatch", "docker run --rm IMAGE trtexec --help"),
        (
            "Network has dynamic or shape inputs, but no optimization profile has been defined.",
            "shapes of all",
            "shapes:",
        ),
        (
            "[E] [TRT] Requested amount of GPU memory (4294967296 bytes) could not be allocated.",
            "not enough memory",
            "nvidia-smi",
        ),
        ("Cuda Error in allocate: 2 (out of memory)", "not enough memory", "workspace: 1GiB"),
        ("[E] Error[10]: Could not find any implementation for node conv0.", "no kernel for conv0.", "workspace"),
        (
            "CUDA initialization failure with error: 35: CUDA driver version is insufficient",
            "too old",
            "support-matrix",
        ),
        ("Cannot find any available devices (GPUs)!", "sees no GPU", "docker run --rm --gpus all IMAGE nvidia-smi"),
        (
            "[E] libfoo.so.1: cannot open shared object file: No such file",
            "a plugin needs libfoo.so.1",
            "name it in plugins",
        ),
        ("nothing that is known", "trtexec failed", "--verbose"),
    ],
)
def test_why_it_failed(said: str, message: str, hint: str) -> None:
    found = explain(said.splitlines(), 1, image="IMAGE")
    assert message in found[0]
    assert hint in found[1]


def test_exit_status_alone_says_it() -> None:
    assert "no trtexec" in explain([], 127, image="IMAGE")[0]
    assert "want of memory" in explain(["[I] [TRT] ..."], 137, image="IMAGE")[0]


# -- in an image ----------------------------------------------------------------------------------


def test_a_carried_plan_is_baked_into_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All the way, without Docker and without a GPU: the plan, and a config.pbtxt that follows from the model."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/socket")
    place = Place(tmp_path)
    place.upstream(BASE, packed(server("onnxruntime", "tensorrt")), base=1)
    model(tmp_path)
    text = 'triton: "24.09"\nmodels: [{name: m, convert: {to: tensorrt, from: model.onnx, plan: m.plan, '
    text += "shapes: {X: {min: [1, 4], opt: [8, 4], max: [32, 4]}}}}]\n"
    with pytest.raises(Unplannable, match="m was not converted yet"):
        pipeline.plan(place.recipe(text), place.workplace(), scan="none")
    with pytest.raises(Unreachable) as raised:
        place.build(text)
    hint = raised.value.hint or ""
    assert f"tricompose models convert RECIPE --only m; then bring {tmp_path}/m.plan" in hint
    carry(tmp_path, plan(), record(job(place.recipe(text)), plan()))
    (said,) = pipeline.plan(place.recipe(text), place.workplace(), scan="none")
    assert [one.name for one in said.models] == ["m"]
    place.build(text)
    unpacked = unpack(tmp_path / "result", "slim", tmp_path / "slim")
    assert (unpacked / "models/m/1/model.plan").read_bytes() == plan()
    config = parse_configuration((unpacked / "models/m/config.pbtxt").read_bytes(), path=tmp_path)
    assert (config.message.backend, config.message.max_batch_size) == ("tensorrt", 32)
    assert (unpacked / "opt/tritonserver/backends/tensorrt").is_dir()
    assert not (unpacked / "opt/tritonserver/backends/onnxruntime").exists()
