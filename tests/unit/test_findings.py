"""What `models lint` and `models ls` print: for people, and as JSON, SARIF, JUnit and GitHub's annotations."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as Xml

import pytest
from rich.console import Console as Terminal

from composer import command
from composer.cli import tricompose
from composer.console import findings
from composer.models.configuration import Place
from composer.models.lint import RULES, Finding
from tests.judge.corpus import Files, write
from tests.modelfiles import onnx_identity

ONNX = onnx_identity(dims=("N", 2), ir_version=7)
CONFIG = """name: "m"
backend: "onnxruntime"
max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""
GOOD: Files = {"m/config.pbtxt": CONFIG, "m/1/model.onnx": ONNX}
BROKEN: Files = {**GOOD, "m/config.pbtxt": CONFIG.replace("TYPE_FP32", "TYPE_FLOAT", 1)}


def finding(path: Path = Path("m/config.pbtxt"), **more: Any) -> Finding:
    """A finding of an error."""
    told: dict[str, Any] = {
        "rule": RULES["CFG001"],
        "severity": "error",
        "model": "m",
        "path": path,
        "place": Place(line=1, column=7, length=3),
        "message": "there is no such field",
        "says": "no field",
        "fix": "remove it",
    }
    return Finding(**{**told, **more})


def shown(*some: Finding) -> str:
    """The text for people, without colours."""
    terminal = Terminal(width=200, color_system=None, legacy_windows=False)
    with terminal.capture() as captured:
        for one in findings.findings_text(some):
            terminal.print(one, soft_wrap=True, highlight=False)
    return captured.get()


# -- for people -----------------------------------------------------------------------------------


def test_a_caret_stands_below_the_spot(tmp_path: Path) -> None:
    place = tmp_path / "config.pbtxt"
    place.write_text('name: "m"\nbackend:\t"x" # more\n')
    text = shown(finding(place, place=Place(line=2, column=10, length=3)))
    lines = text.splitlines()
    assert lines[0] == f"{place}:2:10: error[CFG001] there is no such field"
    assert lines[1] == '    backend: "x" # more'
    assert lines[2] == "             ^^^"
    assert lines[1][13:16] == '"x"'
    assert lines[3] == "  Triton: no field"
    assert lines[4] == "  fix: remove it"


def test_long_lines_are_cut_around_the_spot(tmp_path: Path) -> None:
    place = tmp_path / "config.pbtxt"
    place.write_text("a" * 5000 + "SPOT" + "b" * 5000)
    lines = shown(finding(place, place=Place(line=1, column=5001, length=4))).splitlines()
    at = lines[2].index("^")
    assert lines[1][at : at + 4] == "SPOT"
    assert len(lines[1]) < 120


def test_carets_end_with_the_line(tmp_path: Path) -> None:
    place = tmp_path / "config.pbtxt"
    place.write_text("abc")
    assert shown(finding(place, place=Place(line=1, column=3, length=900))).splitlines()[2] == "      ^"
    assert shown(finding(place, place=Place(line=1, column=4))).splitlines()[2] == "       ^"


@pytest.mark.parametrize("place", [None, Place(line=99, column=1)])
def test_without_a_line_there_is_no_caret(tmp_path: Path, place: Place | None) -> None:
    (tmp_path / "f").write_text("abc")
    assert "^" not in shown(finding(tmp_path / "f", place=place))
    assert "^" not in shown(finding(tmp_path / "gone", place=Place(line=1, column=1)))


def test_what_a_terminal_would_obey_is_not_printed(tmp_path: Path) -> None:
    place = tmp_path / "f"
    place.write_bytes(b"a\x1b[31mb\x07\xff")
    text = shown(finding(place, place=Place(line=1, column=1)))
    assert "\x1b" not in text
    assert "\x07" not in text


def test_what_is_passed_over_is_not_shown() -> None:
    hushed = finding(suppressed="for now")
    assert shown(hushed) == ""
    assert findings.count_of([finding(), hushed, finding(severity="warning")]) == "1 error, 1 warning, 1 passed over"
    assert findings.count_of([finding(severity="info")] * 2) == "2 notes"
    assert findings.count_of([]) == "nothing to complain of"


@pytest.mark.parametrize("rule", list(RULES.values()), ids=list(RULES))
def test_every_rule_can_be_explained(rule: Any) -> None:
    terminal = Terminal(width=200, color_system=None)
    with terminal.capture() as captured:
        terminal.print(*findings.rule_text(rule))
    assert captured.get().startswith(rule.id)
    assert json.loads(json.dumps(findings.rule_json(rule)))["title"] == rule.title


# -- SARIF ----------------------------------------------------------------------------------------


def check_sarif(text: str) -> list[dict[str, Any]]:
    """Hold it against what SARIF 2.1.0 demands of what is used of it, and return the results."""
    log = json.loads(text)
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert (driver["name"], bool(driver["version"])) == ("tricompose", True)
    known = [rule["id"] for rule in driver["rules"]]
    assert len(known) == len(set(known))
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"]
        assert rule["help"]["text"]
        assert rule["defaultConfiguration"]["level"] in ("error", "warning", "note")
    for result in run["results"]:
        check_result(result, known)
    return list(run["results"])


def check_result(result: dict[str, Any], known: list[str]) -> None:
    assert result["ruleId"] in known
    assert result["level"] in ("error", "warning", "note")
    assert result["message"]["text"]
    (location,) = result["locations"]
    uri = location["physicalLocation"]["artifactLocation"]["uri"]
    assert re.fullmatch(r"[!#-;=?-\[\]_a-z~]+", uri), "no address, by RFC 3986"
    assert urlsplit(uri).path
    if region := location["physicalLocation"].get("region"):
        assert region["startLine"] >= 1
        assert 1 <= region["startColumn"] < region["endColumn"]
    for one in result.get("suppressions", ()):
        assert one["kind"] in ("inSource", "external")


def test_sarif() -> None:
    some = [
        finding(),
        finding(place=None, severity="warning", rule=RULES["LAY015"]),
        finding(severity="info", suppressed="for now"),
        finding(Path("/a b/ä%/" + os.fsdecode(b"\xff"))),
    ]
    results = check_sarif(findings.sarif(some, version="1.2.3"))
    assert [one["level"] for one in results] == ["error", "warning", "note", "error"]
    region = {"startLine": 1, "startColumn": 7, "endColumn": 10}
    assert results[0]["locations"][0]["physicalLocation"]["region"] == region
    assert "region" not in results[1]["locations"][0]["physicalLocation"]
    assert results[2]["suppressions"] == [{"kind": "inSource", "justification": "for now"}]
    assert results[3]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "file:///a%20b/%C3%A4%25/%FF"


def test_sarif_of_nothing() -> None:
    assert check_sarif(findings.sarif([], version="1.2.3")) == []


# -- JUnit ----------------------------------------------------------------------------------------


def test_junit() -> None:
    some = [
        finding(model="a", message='<&">\x00\x1b'),
        finding(model="b", severity="warning"),
        finding(model="c", suppressed="for now"),
        finding(model=None, place=None),
        finding(model="not there", severity="info"),
    ]
    suite = Xml.fromstring(findings.junit(some, ["a", "b", "c", "d\ud800"]))
    cases = {one.get("name"): one for one in suite.iter("testcase")}
    assert list(cases) == ["a", "b", "c", "d?", "(repository)"]
    assert (suite.get("tests"), suite.get("failures")) == ("5", "2")
    failure = cases["a"].find("failure")
    assert failure is not None
    assert (failure.get("message"), failure.get("type")) == ('<&">??', "CFG001")
    assert cases["b"].find("failure") is None
    assert "warning[CFG001]" in (cases["b"].findtext("system-out") or "")
    assert list(cases["c"]) == []
    assert cases["(repository)"].find("failure") is not None


# -- GitHub ---------------------------------------------------------------------------------------


def unescaped(text: str) -> str:
    """As the runner reads it."""
    return re.sub(r"%([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), text)


def test_github() -> None:
    odd = finding(Path("a,b:c%d\ne"), message="one\r\ntwo, 100%: three", fix="::error::no")
    lines = findings.github([odd, finding(severity="info", place=None), finding(suppressed="x")]).splitlines()
    assert len(lines) == 2
    match = re.fullmatch(r"::error ([^:]*)::(.*)", lines[0])
    assert match
    properties = dict(part.split("=", 1) for part in match[1].split(","))
    assert {name: unescaped(value) for name, value in properties.items()} == {
        "file": "a,b:c%d\ne",
        "title": "CFG001",
        "line": "1",
        "col": "7",
    }
    assert unescaped(match[2]) == "one\r\ntwo, 100%: three. Fix: ::error::no"
    assert lines[1].startswith("::notice file=m/config.pbtxt,title=CFG001::")


# -- the command ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Said:
    status: int
    out: str
    err: str


Tool = Callable[..., Said]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Tool:
    """Call the command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TRICOMPOSE_CACHE", str(tmp_path / "cache"))

    def call(*arguments: str) -> Said:
        capfd.readouterr()
        status = command.run(tricompose, arguments)
        captured = capfd.readouterr()
        return Said(status, captured.out, captured.err)

    return call


def put(files: Files) -> None:
    write(files, Path("models"))


def test_a_good_repository(tool: Tool) -> None:
    put(GOOD)
    said = tool("models", "lint", "models", "--release", "24.10")
    assert (said.status, said.out) == (0, "1 model, Triton 24.10: nothing to complain of\n")


def test_a_broken_one(tool: Tool) -> None:
    put(BROKEN)
    said = tool("models", "lint", "models")
    assert said.status == 1
    assert (
        'models/m/config.pbtxt:4:32: error[CFG003] there is no value "TYPE_FLOAT"; did you mean "TYPE_FP32"?'
        in said.out
    )
    assert "tricompose models lint models --fix" in said.err


@pytest.mark.parametrize("form", ["json", "sarif", "junit", "github"])
def test_forms_for_programs(tool: Tool, form: str) -> None:
    put(BROKEN)
    said = tool("models", "lint", "models", "--format", form)
    assert said.status == 1
    if form == "json":
        document = json.loads(said.out)
        assert [(one["rule"], one["line"], one["column"]) for one in document["findings"]] == [("CFG003", 4, 32)]
    elif form == "sarif":
        (result,) = check_sarif(said.out)
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert (result["ruleId"], uri) == ("CFG003", "models/m/config.pbtxt")
    elif form == "junit":
        assert Xml.fromstring(said.out).get("failures") == "1"
    else:
        assert said.out.startswith("::error file=models/m/config.pbtxt,title=CFG003,line=4,col=32::")


def test_the_json_of_the_tool(tool: Tool) -> None:
    put(BROKEN)
    said = tool("models", "lint", "models", "--json")
    document = json.loads(said.out)
    assert (said.status, document["models"], len(document["findings"])) == (1, ["m"], 1)


@pytest.mark.parametrize(("level", "status"), [("error", 0), ("warning", 1), ("info", 1)])
def test_what_counts(tool: Tool, level: str, status: int) -> None:
    put({"m/config.pbtxt": CONFIG, "m/0/model.onnx": ONNX})
    assert tool("models", "lint", "models", "--fail-on", level).status == status


def test_what_is_passed_over(tool: Tool) -> None:
    put(BROKEN)
    assert tool("models", "lint", "models", "--ignore", "CFG003=we mean it").status == 0
    assert tool("models", "lint", "models", "--ignore", "CFG003").status == 2
    assert tool("models", "lint", "models", "--ignore", "NO999=why").status == 2


def test_mending(tool: Tool) -> None:
    put({"m/config.pbtxt": "\ufeff" + CONFIG.replace('"m"', '"n"'), "m/01/model.onnx": ONNX})
    said = tool("models", "lint", "models", "--fix", "--release", "24.10")
    assert (said.status, "nothing to complain of" in said.out) == (0, True), said
    assert Path("models/m/1/model.onnx").is_file()
    assert Path("models/m/config.pbtxt").read_text() == CONFIG
    assert said.err.count("mended") == 3


def test_explaining(tool: Tool) -> None:
    assert tool("models", "lint", "--explain", "onx001").out.startswith("ONX001 error")
    said = tool("models", "lint", "--explain", "ONX0001")
    assert said.status != 0
    assert "ONX001" in said.err


def test_nothing_to_check(tool: Tool) -> None:
    assert tool("models", "lint").status == 2
    said = tool("models", "lint", "nowhere")
    assert (said.status, "LAY001" in said.out) == (1, True)


def test_listing_rules(tool: Tool) -> None:
    rows = tool("models", "rules", "lay", "ONX001").out.splitlines()
    assert {row.split()[0][:3] for row in rows[1:]} == {"LAY", "ONX"}
    said = tool("models", "rules", "XYZ")
    assert (said.status, "tricompose models rules" in said.err) == (5, True)


def test_what_is_not_there_is_not_listed(tool: Tool) -> None:
    said = tool("models", "ls", "nowhere")
    assert (said.status, "nowhere" in said.err) == (5, True)


def test_a_recipe_stands_alone(tool: Tool) -> None:
    for name in ("lint", "ls"):
        said = tool("models", name, "a.yaml", "b.yaml")
        assert (said.status, f"hint: tricompose models {name} a.yaml" in said.err) == (2, True)


def test_the_config_of_the_folder_that_one_is_in(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    put(GOOD)
    told = tool("models", "config", "models/m").out
    monkeypatch.chdir("models/m")
    assert tool("models", "config", ".").out == told
    assert tool("models", "config", ".", "--check").status == 0


def test_an_unknown_release(tool: Tool) -> None:
    put(GOOD)
    assert tool("models", "lint", "models", "--release", "24.99").status not in (0, 1)


def test_odd_names_do_no_harm(tool: Tool) -> None:
    name = os.fsdecode(b"\xff\x1b[31m\n")
    put({f"{name}/config.pbtxt": "nam: 1\n", f"{name}/1/model.onnx": ONNX})
    for form in ("text", "json", "sarif", "junit", "github"):
        said = tool("models", "lint", "models", "--format", form)
        assert said.status == 1, said
        assert "Traceback" not in said.err
        assert form == "github" or "\x1b[31m" not in said.out
    assert "\x1b[31m" not in tool("models", "ls", "models").out


def test_listing(tool: Tool) -> None:
    put({**GOOD, "m/2/model.onnx": ONNX, "p/config.pbtxt": 'backend: "python"', "p/1/model.py": "x"})
    rows = [line.split() for line in tool("models", "ls", "models").out.splitlines()]
    assert rows[0] == ["MODEL", "BACKEND", "VERSIONS", "SERVED", "BATCH", "SIZE"]
    assert rows[1][:5] == ["m", "onnxruntime", "1,", "2", "2"]
    assert rows[2][:2] == ["p", "python"]
    document = json.loads(tool("models", "ls", "models", "--json").out)
    assert [(one["name"], one["versions"], one["served"]) for one in document["models"]] == [
        ("m", [1, 2], [2]),
        ("p", [1], [1]),
    ]
