"""Ensembles, and models that call others."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.models.lint import Case, Finding, lint
from composer.models.repository import read_repository
from tests.modelfiles import node, onnx_model

from . import write

MEMBER = """name: "NAME"
backend: "python"
max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""
CODE = "class TritonPythonModel:\n    def execute(self, requests):\n        return list(requests)\n"
STREAM = CODE.replace("return list(requests)", "return None")
DECOUPLED = MEMBER + "model_transaction_policy { decoupled: true }\n"
HEAD = """name: "e"
platform: "ensemble"
max_batch_size: 4
input [ { name: "IN" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "OUT" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""
TENSOR = 'name: "Z" data_type: TYPE_FP32 dims: [ 2 ]'


def step(model: str, inputs: str, outputs: str, version: str = "model_version: -1") -> str:
    return f'{{ model_name: "{model}" {version} {maps("input_map", inputs)} {maps("output_map", outputs)} }}'


def maps(name: str, pairs: str) -> str:
    split = (pair.split("=") for pair in pairs.split())
    return " ".join(f'{name} {{ key: "{key}" value: "{value}" }}' for key, value in split)


FIRST, SECOND = step("a", "X=IN", "Y=mid"), step("b", "X=mid", "Y=OUT")


def ensemble(*steps: str, head: str = HEAD) -> str:
    return f"{head}ensemble_scheduling {{ step [ {', '.join(steps or (FIRST, SECOND))} ] }}\n"


def found(folder: Path, config: str, case: Case | None = None, **members: str | bytes) -> list[Finding]:
    """What lint finds of an ensemble of `a`, `b` and others, by their configs. Bytes are ONNX files without one."""
    write(folder / "e/config.pbtxt", config)
    write(folder / "e/1", None)
    for name, member in {"a": MEMBER, "b": MEMBER, **members}.items():
        if isinstance(member, bytes):
            write(folder / name / "1/model.onnx", member)
        elif member.startswith("class") or "pb." in member:
            write(folder / name / "config.pbtxt", MEMBER.replace("NAME", name))
            write(folder / name / "1/model.py", member)
        else:
            write(folder / name / "config.pbtxt", member.replace("NAME", name))
            write(folder / name / "1/model.py", STREAM if "decoupled: true" in member else CODE)
    return [one for one in lint([read_repository(folder)], case or Case()) if one.severity != "info"]


def rules(findings: list[Finding]) -> set[str]:
    return {one.rule.id for one in findings if one.rule.id.startswith("ENS")}


def assert_finds(
    folder: Path, rule: str, config: str, at: str, case: Case | None = None, **members: str | bytes
) -> None:
    """This rule speaks, once, and points at the line and column where the text `at` stands in the ensemble's config."""
    everything = found(folder, config, case, **members)
    own = [one for one in everything if one.rule.id == rule]
    assert len(own) == 1, everything
    place, offset = own[0].place, config.index(at)
    assert place is not None
    line, column = config.count("\n", 0, offset) + 1, offset - config.rfind("\n", 0, offset)
    assert (place.line, place.column) == (line, column)
    assert "{" not in own[0].says
    assert own[0].message
    assert own[0].fix


def test_a_good_ensemble(tmp_path: Path) -> None:
    assert found(tmp_path, ensemble()) == []


@pytest.mark.parametrize(
    ("rule", "config", "at"),
    [
        ("ENS001", ensemble(head=HEAD.replace('"ensemble"', '"other"')), '"other"'),
        ("ENS002", HEAD, '"ensemble"'),
        ("ENS003", ensemble(head=HEAD + "instance_group [ { count: 1 } ]\n"), "instance_group"),
        ("ENS004", ensemble(head=HEAD + "optimization { }\n"), "optimization"),
        ("ENS005", ensemble(head=HEAD + 'model_warmup [ { name: "w" } ]\n'), "model_warmup"),
        ("ENS006", HEAD + "ensemble_scheduling { }\n", "ensemble_scheduling"),
        ("ENS007", ensemble(FIRST, SECOND.replace('model_name: "b"', "")), SECOND.replace('model_name: "b"', "")),
        ("ENS007", ensemble(FIRST, step("b", "", "Y=OUT")), step("b", "", "Y=OUT")),
        ("ENS008", ensemble(FIRST, step("c", "X=mid", "Y=OUT")), '"c"'),
        ("ENS009", ensemble(step("e", "IN=IN", "OUT=OUT")), '"e" model_version'),
        ("ENS011", ensemble(head=HEAD.replace("input [", f"input [ {{ {TENSOR} }},")), '"Z"'),
        ("ENS012", ensemble(head=HEAD.replace("output [", f"output [ {{ {TENSOR} }},")), '"Z"'),
        ("ENS018", ensemble(head=HEAD.replace("4", "8")).replace('"b"', '"a"'), "8"),
    ],
)
def test_what_is_wrong_with_an_ensemble(tmp_path: Path, rule: str, config: str, at: str) -> None:
    if rule == "ENS018":
        findings = [one for one in found(tmp_path, config) if one.rule.id == rule]
        assert {(one.place.line, one.place.column) for one in findings if one.place} == {(3, 17)}
        return
    assert_finds(tmp_path, rule, config, at)


@pytest.mark.parametrize(
    ("rule", "steps"),
    [
        ("ENS010", (step("a", "X=IN", "Y=OUT"), step("b", "X=IN", "Y=OUT"))),
        ("ENS013", (step("a", "X=IN", "Y=mid"), step("b", "X=IN", "Y=OUT"))),
        ("ENS014", (FIRST, step("b", "Z=mid", "Y=OUT"))),
        ("ENS014", (FIRST, step("b", "X=mid", "Z=OUT"))),
        ("ENS015", (FIRST, step("b", "Z=mid", "Y=OUT"))),
        ("ENS020", (FIRST, step("b", "X=mid", "Y=OUT", ""))),
        ("ENS021", (FIRST, step("b", "X=mid", "Y=OUT", "model_version: 2"))),
    ],
)
def test_what_is_wrong_with_steps(tmp_path: Path, rule: str, steps: tuple[str, ...]) -> None:
    assert rule in rules(found(tmp_path, ensemble(*steps)))


def test_version_0_may_be_meant(tmp_path: Path) -> None:
    write(tmp_path / "b/0/model.py", CODE)
    config = MEMBER + "version_policy { all { } }\n"
    assert rules(found(tmp_path, ensemble(FIRST, step("b", "X=mid", "Y=OUT", "")), b=config)) == set()


@pytest.mark.parametrize(
    ("rule", "member"),
    [
        ("ENS016", MEMBER.replace("FP32", "INT32")),
        ("ENS017", MEMBER.replace("[ 2 ]", "[ 3 ]")),
        ("ENS017", MEMBER.replace("[ 2 ]", "[ 2, 2 ]")),
        ("ENS015", MEMBER.replace("input [", f"input [ {{ {TENSOR} }},")),
        ("ENS018", MEMBER.replace("4", "2")),
        (None, MEMBER.replace("[ 2 ]", "[ -1 ]")),
        (None, MEMBER.replace("input [", f"input [ {{ {TENSOR} optional: true }},")),
        (None, MEMBER.replace("4", "0").replace("[ 2 ]", "[ -1, 2 ]")),
        (None, MEMBER.replace("4", "8")),
    ],
)
def test_whether_members_fit(tmp_path: Path, rule: str | None, member: str) -> None:
    assert rules(found(tmp_path, ensemble(), b=member)) == ({rule} if rule else set())


def test_what_the_server_would_complete_counts(tmp_path: Path) -> None:
    model = onnx_model(
        inputs={"X": ("FP32", ["N", 2])}, outputs={"Y": ("FP32", ["N", 2])}, nodes=[node("Identity", ["X"], ["Y"])]
    )
    assert rules(found(tmp_path / "good", ensemble(), b=model)) == set()
    assert rules(found(tmp_path / "names", ensemble(FIRST, step("b", "x=mid", "Y=OUT")), b=model)) == {
        "ENS014",
        "ENS015",
    }
    assert "ENS018" in rules(
        found(tmp_path / "size", ensemble(head=HEAD.replace("4", "8")), a=MEMBER.replace("4", "8"), b=model)
    )


def test_a_program_that_completes_its_config_may_have_any_input(tmp_path: Path) -> None:
    code = CODE + "    @staticmethod\n    def auto_complete_config(config):\n        return fill(config)\n"
    assert rules(found(tmp_path, ensemble(FIRST, step("b", "Z=mid", "Y=OUT")), b=code)) == {"ENS015"}


def test_two_decoupled_models_are_not_joined(tmp_path: Path) -> None:
    joined = (step("a", "X=IN", "Y=one"), step("b", "X=IN", "Y=two"), step("c", "X=one Z=two", "Y=OUT"))
    third = MEMBER.replace("input [", f"input [ {{ {TENSOR} }},")
    assert rules(found(tmp_path / "1", ensemble(*joined), c=third, a=DECOUPLED, b=DECOUPLED)) == {"ENS019"}
    assert rules(found(tmp_path / "2", ensemble(*joined), c=third, a=DECOUPLED)) == {"ENS019"}
    assert rules(found(tmp_path / "3", ensemble(*joined), c=third)) == set()
    assert rules(found(tmp_path / "4", ensemble(), a=DECOUPLED, b=DECOUPLED)) == set()


# -- calls --------------------------------------------------------------------------------------------------------


def calling(name: str, at: str = "execute") -> str:
    line = f'        pb.InferenceRequest(model_name="{name}", inputs=[]).exec()\n'
    loading = f"    def initialize(self, args):\n{line}" if at == "initialize" else ""
    asked = line if at == "execute" else ""
    head = "import triton_python_backend_utils as pb\n\n\nclass TritonPythonModel:\n"
    return f"{head}{loading}    def execute(self, requests):\n{asked}        return list(requests)\n"


def test_calls_of_models(tmp_path: Path) -> None:
    assert rules(found(tmp_path / "1", ensemble(), a=calling("b"))) == set()
    (missing,) = (one for one in found(tmp_path / "2", ensemble(), a=calling("B")) if one.rule.id == "ENS023")
    assert missing.path.name == "model.py"
    assert missing.place is not None
    assert (missing.place.line, missing.place.column) == (6, 9)
    assert 'there is "b"' in missing.message
    assert rules(found(tmp_path / "3", ensemble(), a=calling("b", "initialize"))) == {"ENS024"}
    assert rules(found(tmp_path / "4", ensemble(), a=calling("a"))) == {"ENS025"}


def test_calls_of_models_that_are_not_loaded(tmp_path: Path) -> None:
    explicit = {"model-control-mode": "explicit"}
    only = Case(server={**explicit, "load-model": "a"})
    assert rules(found(tmp_path / "1", ensemble(), only, a=calling("b"))) == {"ENS022"}
    both = Case(server={**explicit, "load-model": ("a", "b")})
    assert rules(found(tmp_path / "2", ensemble(), both, a=calling("b"))) == set()
    with_members = Case(server={**explicit, "load-model": "e"})
    assert rules(found(tmp_path / "3", ensemble(), with_members, a=calling("b"))) == set()


def test_large_and_circular_ensembles_end_soon(tmp_path: Path) -> None:
    steps = [step("a", f"X={f't{i}' if i else 'IN'}", f"Y=t{i + 1}") for i in range(400)]
    assert "ENS012" in rules(found(tmp_path, ensemble(*steps)))
