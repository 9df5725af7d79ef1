"""The command line: what it says, what it exits with, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import pytest

from composer import command, errors, moving, pipeline
from composer.checks import Report, Result
from composer.cli import tricompose
from composer.console import Console, results
from composer.recipe import load_recipe
from composer.runners.ports import free_ports
from tests.parity.place import BASE, Place, packed, server
from tests.repositories import put_model

PROGRAM = [sys.executable, "-m", "composer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a command came to."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        assert document["schema"] == 1
        return document


Tool = Callable[..., Said]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A folder with an upstream of three backends and recipe.yaml; we are in it, and the cache is too."""
    made = Place(tmp_path)
    made.upstream(BASE, packed(server("onnxruntime", "python", "tensorrt")), base=1)
    (tmp_path / "recipe.yaml").write_text(f"{made.origin}\nname: small\nbackends: [python]\noutputs: ['oci:out:1']\n")
    monkeypatch.chdir(tmp_path)
    for name in ("SOURCE_DATE_EPOCH", "NO_COLOR", "FORCE_COLOR", "DOCKER_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRICOMPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker"))
    return made


@pytest.fixture
def tool(place: Place, capfd: pytest.CaptureFixture[str]) -> Tool:
    """Call the command in this process."""

    def call(*arguments: str) -> Said:
        capfd.readouterr()
        status = command.run(tricompose, arguments)
        captured = capfd.readouterr()
        return Said(status=status, out=captured.out, err=captured.err)

    return call


@contextmanager
def started(*arguments: str, **how: Any) -> Iterator[subprocess.Popen[str]]:
    """The command as a process of its own, which is gone at the end."""
    process = subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# -- help ---------------------------------------------------------------------------------------------------------


def every_command(group: click.Group = tricompose, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, one in group.commands.items():
        yield (*path, name)
        if isinstance(one, click.Group):
            yield from every_command(one, (*path, name))


def test_every_command_stands_in_a_section_of_the_help(tool: Tool) -> None:
    assert sorted(name for names in command.SECTIONS.values() for name in names) == sorted(tricompose.commands)
    said = tool("--help")
    assert said.status == 0
    for name in tricompose.commands:
        assert re.search(rf"^  {name} ", said.out, re.MULTILINE)
    for section in command.SECTIONS:
        assert f"\n{section}:\n" in said.out


@pytest.mark.parametrize("path", list(every_command()), ids=" ".join)
def test_every_command_has_help_with_an_example(tool: Tool, path: tuple[str, ...]) -> None:
    said = tool(*path, "--help")
    assert said.status == 0
    examples = said.out.partition("Examples:")[2]
    assert f"tricompose {' '.join(path)}" in examples


@pytest.mark.parametrize("arguments", [(), ("cache",), ("knowledge",)], ids=["tool", "cache", "knowledge"])
def test_a_group_without_a_command_shows_its_help(tool: Tool, arguments: Sequence[str]) -> None:
    said = tool(*arguments)
    assert (said.status, said.err) == (0, "")
    assert "Usage: tricompose" in said.out


def test_version(tool: Tool) -> None:
    assert re.fullmatch(r"tricompose \d+\.\d+\.\d+\n", tool("--version").out)


# -- how soon it is there -----------------------------------------------------------------------------------------

HEAVY = ("rich", "pydantic", "requests", "docker", "ruamel", "jinja2", "zstandard", "isal")


@pytest.mark.parametrize("text", ["import composer", "import composer.cli"])
def test_nothing_heavy_is_imported_before_it_is_needed(text: str) -> None:
    script = f"import sys; {text}; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("arguments", ["import composer", "--version", "--help"])
def test_it_is_there_at_once(arguments: str) -> None:
    line = [sys.executable, "-c", arguments] if " " in arguments else [*PROGRAM, arguments]
    spent = []
    for _ in range(5):  # processor time, as other tests run beside this one
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(line, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.150


# -- plan and build -----------------------------------------------------------------------------------------------


def test_plan_says_what_it_cannot_know(tool: Tool) -> None:
    said = tool("plan", "recipe.yaml")
    assert said.status == 0
    assert "to be read" in said.out
    assert "nobody has read" in said.out
    assert "tricompose plan --scan new recipe.yaml" in said.out
    assert "or less" in said.out


def test_plan_shows_each_component_once_it_is_known(tool: Tool) -> None:
    said = tool("plan", "recipe.yaml", "--scan", "new")
    assert said.status == 0
    assert re.search(r"backends/python +kept", said.out)
    assert re.search(r"backends/tensorrt +dropped", said.out)
    assert re.search(r"\w{12} +reused .* shared with oci:", said.out)
    assert re.search(r"result +\d.* B: \d+ % of the upstream, [\d.]+ times smaller", said.out)
    assert re.search(r"to read +nothing", said.out)
    assert "read: done:" in said.err


def test_plan_as_json(tool: Tool) -> None:
    (before,) = tool("plan", "recipe.yaml", "--json").json["plans"]
    (after,) = tool("plan", "recipe.yaml", "--json", "--scan", "new").json["plans"]
    assert [step["step"] for step in before["steps"]] == ["reuse", "read"]
    assert (before["complete"], before["exact"]) == (False, False)
    assert [step["step"] for step in after["steps"]] == ["reuse", "split"]
    assert (after["complete"], after["exact"], after["to_read"]) == (True, True, 0)
    assert [one["name"] for one in after["dropped"]] == ["onnxruntime", "tensorrt"]
    assert after["size"] < before["size"] == before["upstream"]["size"]


def test_plan_builds_nothing(tool: Tool, place: Place) -> None:
    assert tool("plan", "recipe.yaml").status == 0
    assert not (place.path / "out").exists()


def test_build_says_what_was_saved_and_where_it_is(tool: Tool) -> None:
    said = tool("build", "recipe.yaml")
    assert said.status == 0, said.err
    assert re.search(r"upstream +[\d.]+ k?B in 2 layers", said.out)
    assert re.search(r"result +[\d.]+ k?B in 3 layers: \d+ % of the upstream", said.out)
    assert re.search(r"backends/tensorrt +40 kB +1\n", said.out)
    assert re.search(r"proof +none: the image was not started", said.out)
    digest = re.search(r"digest +(sha256:[0-9a-f]{64})", said.out)
    assert digest
    assert "delivered  oci:out:1" in said.out
    assert tool("inspect", "oci:out:1", "--json").json["image"]["digest"] == digest[1]


def test_build_as_json(tool: Tool) -> None:
    (built,) = tool("build", "recipe.yaml", "--json").json["builds"]
    assert built["recipe"] == "recipe.yaml"
    assert built["delivered"] == ["oci:out:1"]
    assert built["cached"] is None
    (image,) = built["images"]
    assert image["platform"] == "linux/amd64"
    assert image["validation"] is None
    assert {one["name"] for one in image["dropped"]} == {"onnxruntime", "tensorrt"}
    assert 0 < image["size"] < image["upstream"]["size"]


def test_build_quietly_shows_the_digest_alone(tool: Tool) -> None:
    said = tool("build", "recipe.yaml", "-q")
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", said.out)
    assert said.err == ""


def test_outputs_of_the_command_line_stand_in_for_those_of_the_recipe(tool: Tool, place: Place) -> None:
    said = tool("build", "recipe.yaml", "-o", "oci:a:1", "-o", "oci-archive:b.tar:1", "--json")
    assert said.json["builds"][0]["delivered"] == ["oci:a:1", "oci-archive:b.tar:1"]
    assert (place.path / "b.tar").is_file()
    assert not (place.path / "out").exists()


def test_paths_start_from_the_recipe_in_it_and_from_here_on_the_command_line(
    tool: Tool, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert tool("build", "../recipe.yaml").status == 0
    assert tool("build", "../recipe.yaml", "-o", "oci:here:1").status == 0
    assert (place.path / "out").is_dir()
    assert (place.path / "elsewhere/here").is_dir()


def test_an_image_without_outputs_can_be_had_from_the_cache_as_it_is_said(tool: Tool, place: Place) -> None:
    text = Path("recipe.yaml").read_text().replace("outputs: ['oci:out:1']", "")
    Path("recipe.yaml").write_text(text)
    said = tool("build", "recipe.yaml")
    line = next(line for line in said.out.splitlines() if line.startswith("  tricompose copy "))
    assert f"oci:{place.path}/cache@sha256:" in line
    assert tool(*line.split()[1:]).status == 0
    assert (place.path / "small.tar").is_file()
    assert tool("cache", "info", "--json").json["cache"]["images"] == 1
    cached = tool("build", "recipe.yaml", "--json").json["builds"][0]["cached"]
    assert cached in line


def test_several_recipes_are_built_one_after_another(tool: Tool) -> None:
    Path("other.yaml").write_text(Path("recipe.yaml").read_text().replace("oci:out:1", "oci:out:2"))
    builds = tool("build", "recipe.yaml", "other.yaml", "--json").json["builds"]
    assert [(one["recipe"], one["delivered"]) for one in builds] == [
        ("recipe.yaml", ["oci:out:1"]),
        ("other.yaml", ["oci:out:2"]),
    ]


def test_what_was_built_before_a_failure_is_told(tool: Tool) -> None:
    Path("other.yaml").write_text(Path("recipe.yaml").read_text().replace("[python]", "[dali]"))
    said = tool("build", "recipe.yaml", "other.yaml", "--json")
    assert said.status == errors.NotFound.status
    assert [one["recipe"] for one in said.json["builds"]] == ["recipe.yaml"]
    assert said.json["error"]["code"] == "not-found"


def test_one_output_for_several_recipes_is_refused(tool: Tool) -> None:
    said = tool("build", "recipe.yaml", "other.yaml", "-o", "oci:out:1")
    assert said.status == 2
    assert said.err == (
        "error: -o with 2 recipes would give all their images one name\n"
        "hint: tricompose build recipe.yaml -o oci:out:1   (one recipe, or outputs: in each of them)\n"
    )


def test_every_problem_of_every_recipe_is_told_before_anything_is_built(tool: Tool, place: Place) -> None:
    Path("one.yaml").write_text("triton: 24.10\nbackend: [python]\n")
    Path("two.yaml").write_text("backends: []\n")
    said = tool("build", "recipe.yaml", "one.yaml", "two.yaml", "--json")
    assert said.status == 3
    problems = said.json["error"]["problems"]
    assert [one["where"] for one in problems][:2] == ["one.yaml:1:1", "one.yaml:1:9"]
    assert {one["where"].partition(":")[0] for one in problems} == {"one.yaml", "two.yaml"}
    for one in problems:
        assert f"error: {one['where']}: {one['message']}\n" in said.err
        assert one["hint"] is None or f"hint: {one['hint']}\n" in said.err
    assert not (place.path / "out").exists()


def test_source_date_epoch(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert tool("build", "recipe.yaml").status == 0
    image = tool("inspect", "oci:out:1", "--json").json["image"]["images"][0]
    assert image["config"]["created"] == "2023-11-14T22:13:20Z"


@pytest.mark.parametrize("value", ["soon", "-1", "1.5", "253402300800", "١٢"])
def test_a_bad_source_date_epoch_is_refused(tool: Tool, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", value)
    said = tool("build", "recipe.yaml", "--json")
    assert said.status == 2
    assert said.json["error"]["message"].startswith(f"SOURCE_DATE_EPOCH is {value!r}")


def test_knowledge_is_published_and_used(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = tool("knowledge", "publish", "recipe.yaml", "oci:known")
    assert (nothing.status, "tricompose plan --scan new recipe.yaml" in nothing.err) == (5, True)
    assert tool("plan", "recipe.yaml", "--scan", "new").status == 0
    assert tool("knowledge", "publish", "recipe.yaml", "oci:known", "--json").json["published"]["artifacts"] == 2
    (plan,) = tool("plan", "recipe.yaml", "--cache", "new", "--knowledge", "oci:known", "--json").json["plans"]
    assert (plan["complete"], plan["to_read"]) == (True, 0)


def test_the_network_of_the_recipe_counts_beside_the_options(place: Place) -> None:
    text = Path("recipe.yaml").read_text() + "network: {insecure: ['127.0.0.1:5000']}\n"
    Path("recipe.yaml").write_text(text)
    recipe = load_recipe(Path("recipe.yaml"), environ={})
    made = pipeline.Workplace.from_environment(
        {"XDG_CACHE_HOME": "/x"}, home=Path("/home"), recipe=recipe, insecure=["localhost:1"]
    )
    assert made.access.insecure == {"127.0.0.1:5000", "localhost:1"}
    assert made.cache == Path("/x/tricompose")
    assert made.access.session() is made.access.session()


# -- proving ------------------------------------------------------------------------------------------------------


def test_an_image_that_does_not_start_is_not_delivered(tool: Tool, place: Place) -> None:
    """The server of this upstream is two bytes that no kernel runs."""
    recipe = Path("recipe.yaml")
    recipe.write_text(recipe.read_text() + "validate: {}\nserver: {log-verbose: 1}\n")
    said = tool("build", "recipe.yaml", "--runner", "rootfs", "--json")
    assert said.status == errors.CheckFailed.status
    (report,) = said.json["reports"]
    assert report["platform"] == "linux/amd64"
    assert {one["id"]: one["outcome"] for one in report["results"]}["ready"] == "failed"
    assert said.json["error"]["code"] == "check-failed"
    assert "tricompose build --no-validate -o oci:look recipe.yaml" in said.json["error"]["hint"]
    assert not (place.path / "out").exists()

    assert tool("build", "recipe.yaml", "--no-validate").status == 0
    failed = tool("validate", "recipe.yaml", "--runner", "rootfs")
    assert failed.status == errors.CheckFailed.status
    assert re.search(r"^failed +ready ", failed.out, re.MULTILINE)
    assert re.search(r"^skipped +inference ", failed.out, re.MULTILINE)
    assert re.search(r"^error: image:\w+: .* \(and \d more\)$", failed.err, re.MULTILINE)

    ports = [f"--{name}-port={port}" for name, port in free_ports().items()]
    ended = tool("run", "oci:out:1", "--runner", "rootfs", *ports, "--json")
    assert ended.status == errors.CheckFailed.status
    assert "the server ended" in ended.json["error"]["message"]


def test_what_is_not_built_yet_is_told(tool: Tool) -> None:
    for said in (tool("run", "recipe.yaml"), tool("validate", "recipe.yaml")):
        assert said.status == errors.NotFound.status
        assert said.err.splitlines()[-1] == "hint: if it is not built yet: tricompose build recipe.yaml"


def test_a_runner_that_is_none_is_not_taken_for_an_image_that_is_none(tool: Tool) -> None:
    for name in ("podman", "remote:", "remote:host:abc"):
        said = tool("validate", "recipe.yaml", "--runner", name)
        assert said.status == errors.NotFound.status
        assert "not built yet" not in said.err


@pytest.mark.parametrize(
    "words",
    [
        ("--runner", "remote:127.0.0.1", "--static"),
        ("--runner", "remote:127.0.0.1", "--image", "oci:out:1"),
        ("--static", "--record"),
        ("--static", "--report", "json=recipe.yaml"),
        ("--static", "--report", "a.json", "--report", "json=./a.json"),
    ],
)
def test_what_cannot_be_meant_is_refused(tool: Tool, words: tuple[str, ...]) -> None:
    before = Path("recipe.yaml").read_text()
    assert tool("validate", "recipe.yaml", *words).status == 2
    assert Path("recipe.yaml").read_text() == before


def test_what_was_proved_is_told(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    found = [
        Result(id="ready", kind="health", outcome="passed", message="it is ready"),
        Result(id="gpu", kind="health", outcome="unverified", message="no GPU here"),
    ]
    outcome = replace(place.build("backends: [python]"), reports={"linux/amd64": Report(results=found)})
    with Console(json_output=False, progress="none", verbose=False, quiet=False) as console:
        console.result("builds", {}, *results.outcome_text(outcome, "small"))
    said = capsys.readouterr().out
    assert re.search(r"^proof +1 passed, 1 unverified$", said, re.MULTILINE)
    assert "  unverified  gpu: no GPU here\n  unverified: it could not be seen on this machine" in said
    validation = results.outcome_json(outcome, "recipe.yaml", "small")["images"][0]["validation"]
    assert validation["results"][1]["outcome"] == "unverified"


def test_ports_must_differ(tool: Tool) -> None:
    said = tool("run", "oci:out:1", "--http-port", "9000", "--grpc-port", "9000")
    assert said.status == 2
    assert "two of the ports are the same" in said.err


# -- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["copy", "push"])
def test_copy_prints_the_digest(tool: Tool, name: str) -> None:
    said = tool(name, "oci:upstream:full", "oci:there:1")
    assert said.status == 0
    assert said.out.strip() == tool("inspect", "oci:there:1", "--json").json["image"]["digest"]
    again = tool(name, "oci:upstream:full", "oci:there:1", "--json", "--platform", "linux/amd64")
    assert again.json["copied"]["digest"] == said.out.strip()
    assert "2 layers reused, 0 copied, 0 B sent" in again.err


def test_inspect(tool: Tool) -> None:
    said = tool("inspect", "oci:upstream:full")
    assert re.search(r"^platform +linux/amd64$", said.out, re.MULTILINE)
    assert re.search(r"^size +\d+ B in 2 layers$", said.out, re.MULTILINE)
    assert all(line == line.rstrip() for line in said.out.splitlines())


# -- setup --------------------------------------------------------------------------------------------------------


def test_schema(tool: Tool) -> None:
    plain = json.loads(tool("schema").out)
    assert plain["title"] == "tricompose recipe"
    assert tool("schema", "--json").json["json_schema"] == plain


def test_the_cache_is_removed_only_where_it_is_one_and_someone_says_so(tool: Tool, place: Place) -> None:
    assert tool("cache", "info", "--json").json["cache"]["size"] == 0
    assert tool("plan", "recipe.yaml", "--scan", "all").status == 0
    found = tool("cache", "info", "--json").json["cache"]
    assert (found["inventories"], found["cuts"]) == (2, 1)
    assert found["size"] > 0

    unasked = tool("cache", "clear")
    assert (unasked.status, "tricompose cache clear --yes" in unasked.err) == (2, True)
    assert tool("cache", "info", "--json").json["cache"]["blobs"] == found["blobs"]
    assert tool("cache", "clear", "--yes", "--json").json["cleared"]["size"] == found["size"]
    assert list((place.path / "cache").iterdir()) == []


@pytest.mark.parametrize("what", ["upstream", "models"])
def test_somebody_elses_folder_is_no_cache(tool: Tool, place: Place, what: str) -> None:
    (place.path / "models").mkdir()
    (place.path / "models/file").write_text("mine")
    before = sorted((place.path / what).rglob("*"))
    assert tool("cache", "clear", "--yes", "--cache", what).status == errors.NoRoom.status
    assert sorted((place.path / what).rglob("*")) == before


def test_models_ls_needs_a_folder_that_can_be_read(tool: Tool, place: Place) -> None:
    (place.path / "file").write_text("")
    for path in ("file", "nowhere"):
        said = tool("models", "ls", path)
        assert said.status == 5
        assert path in said.err
    assert tool("init", "new", "--from-models", "/dev/null").status == 5


def test_models_config_knows_the_folder_that_it_is_in(
    tool: Tool, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_model(place.path / "models/net", "onnxruntime")
    monkeypatch.chdir(place.path / "models/net")
    said = tool("models", "config", ".")
    assert said.status == 0
    assert 'name: "net"' in said.out


def test_init_writes_a_recipe_for_the_models(tool: Tool, place: Place) -> None:
    put_model(place.path / "my models/first", "python")
    put_model(place.path / "my models/second", "tensorrt")
    said = tool("init", "new", "--from-models", "my models")
    assert said.status == 0
    path = place.path / "new/recipe.yaml"
    recipe = load_recipe(path, environ={})
    assert recipe.backends == ("python", "tensorrt")
    assert recipe.triton == "24.10"
    text = path.read_text()
    path.write_text(text.replace('triton: "24.10"', place.origin.replace("oci:", "oci:../")))
    (plan,) = tool("plan", "new/recipe.yaml", "--scan", "new", "--json").json["plans"]
    assert [one["name"] for one in plan["models"]] == ["first", "second"]
    assert [one["name"] for one in plan["dropped"]] == ["onnxruntime"]

    again = tool("init", "new")
    assert again.status == errors.Unplannable.status
    assert "new/recipe.yaml is there already" in again.err


def test_init_leaves_open_what_a_model_does_not_say_yet(tool: Tool, place: Place) -> None:
    """The backends of a recipe are for its models as they will be, once lint has nothing to say."""
    folder = put_model(place.path / "models/first", "python")
    (folder / "config.pbtxt").unlink()
    (folder / "1/model.py").rename(folder / "model.py")
    put_model(place.path / "models/second", "tensorrt")
    said = tool("init", "new", "--from-models", "models")
    assert "tricompose models lint new/recipe.yaml" in said.out
    assert load_recipe(place.path / "new/recipe.yaml", environ={}).backends == "auto"


def test_init_without_models(tool: Tool) -> None:
    Path("recipe.yaml").unlink()
    assert tool("init", "--json").json["recipe"] == "recipe.yaml"
    assert load_recipe(Path("recipe.yaml"), environ={}).backends == ("onnxruntime", "python")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(tool: Tool, shell: str) -> None:
    said = tool("completion", shell)
    assert said.status == 0
    assert "_TRICOMPOSE_COMPLETE" in said.out


def test_completion_completes() -> None:
    environment = {
        **os.environ,
        "_TRICOMPOSE_COMPLETE": "bash_complete",
        "COMP_WORDS": "tricompose bui",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(PROGRAM, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "plain,build\n"


# -- failing ------------------------------------------------------------------------------------------------------


def corrupt_upstream(place: Place) -> None:
    for blob in (place.path / "upstream/blobs/sha256").iterdir():
        data = blob.read_bytes()
        if data[:2] == b"\x1f\x8b":
            blob.write_bytes(data[:-9] + b"x" + data[-8:])


FAILURES = {
    "a wrong recipe": (("build", "wrong.yaml"), errors.RecipeError),
    "no recipe": (("build", "nowhere.yaml"), errors.NotFound),
    "no such backend": (("build", "dali.yaml"), errors.NotFound),
    "no image": (("copy", "oci:upstream:nope", "oci:out:1"), errors.NotFound),
    "no name": (("inspect", "tritonserver"), errors.NotFound),
    "a digest as target": (("copy", "oci:upstream:full", f"oci:out@sha256:{'0' * 64}"), errors.Unplannable),
    "nobody there": (("inspect", "docker://127.0.0.1:1/a:1"), errors.Unreachable),
    "rotten bytes": (("build", "recipe.yaml"), errors.Corrupt),
    "no room": (("build", "recipe.yaml", "--cache", "upstream/oci-layout/cache"), errors.NoRoom),
}


@pytest.mark.parametrize("case", FAILURES)
def test_errors_say_what_is_wrong_and_exit_as_documented(tool: Tool, place: Place, case: str) -> None:
    arguments, kind = FAILURES[case]
    Path("wrong.yaml").write_text("version: 2\n")
    Path("dali.yaml").write_text(Path("recipe.yaml").read_text().replace("[python]", "[dali]"))
    if case == "rotten bytes":
        corrupt_upstream(place)
    people, program = tool(*arguments), tool(*arguments, "--json")
    assert people.status == program.status == kind.status
    assert people.out == ""
    assert program.json["error"]["code"] == kind.code
    message, hint = program.json["error"]["message"], program.json["error"]["hint"]
    lines = people.err.splitlines()
    assert [line for line in lines if line.startswith("error: ")]
    if kind is not errors.RecipeError:
        assert f"error: {message}" in lines
        assert hint is None or f"hint: {hint}" in lines
    assert "Traceback" not in people.err + program.err
    assert not (place.path / "out/index.json").exists()


USAGE = {
    "no such command": (("bulid",), "No such command 'bulid'. Did you mean 'build'?", "tricompose --help"),
    "no such option": (("build", "--otput", "x"), "No such option '--otput'", "tricompose build --help"),
    "no argument": (("copy", "oci:a:1"), "Missing argument 'DST'.", "tricompose copy --help"),
    "no such choice": (
        ("plan", "recipe.yaml", "--scan", "some"),
        "Invalid value for '--scan'",
        "tricompose plan --help",
    ),
}


@pytest.mark.parametrize("case", USAGE)
def test_a_wrong_command_line(tool: Tool, case: str) -> None:
    arguments, message, hint = USAGE[case]
    people, program = tool(*arguments), tool(*arguments, "--json")
    assert people.status == program.status == 2
    assert people.err.startswith(f"error: {message}")
    assert people.err.endswith(f"hint: {hint}\n")
    assert program.json["error"]["code"] == "usage"


def test_a_bug_is_called_one(tool: Tool, monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("fetching https://me:swordfish@host/ went wrong")

    monkeypatch.setattr(moving, "inspect", broken)
    monkeypatch.setattr("tempfile.tempdir", str(place.path))
    said = tool("inspect", "oci:upstream:full", "--json")
    assert said.status == 70
    assert said.json["error"]["code"] == "bug"
    lines = said.err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: this is a bug in tricompose, not a fault of yours (RuntimeError: ")
    (report,) = place.path.glob("tricompose-bug-*.txt")
    assert lines[1] == f"hint: please report it, with the traceback in {report}"
    text = report.read_text()
    assert "Traceback" in text
    assert "in broken" in text
    assert "swordfish" not in text + said.out + said.err


def test_a_login_in_a_name_is_not_shown(tool: Tool) -> None:
    said = tool("inspect", "docker://me:swordfish@host/a:1", "--json")
    assert said.status == errors.NotFound.status
    assert "swordfish" not in said.out + said.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_is_told_and_leaves_nothing(place: Place, number: signal.Signals) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]
        source = f"docker://127.0.0.1:{port}/a:1"
        with started("copy", source, "oci:there:1", "--insecure", f"127.0.0.1:{port}", "--json") as process:
            silent.accept()[0].recv(1)
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert json.loads(out)["error"]["code"] == "interrupted"
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert not (place.path / "there").exists()


def test_nobody_reads_the_output(place: Place) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        done = subprocess.run([*PROGRAM, "schema"], stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("arguments", [("schema",), ("schema", "--json"), ("--help",)], ids=" ".join)
def test_the_disk_of_the_output_is_full(place: Place, arguments: Sequence[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PROGRAM, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == errors.NoRoom.status
    assert done.stderr.startswith("error: no space is left on a disk")


def test_closed_streams_are_no_trouble(place: Place) -> None:
    line = f"{shlex.join(PROGRAM)} build recipe.yaml >&- 2>&-"
    assert subprocess.run(["bash", "-c", line], check=False).returncode == 0
    assert (place.path / "out").is_dir()


def test_letters_that_the_output_cannot_show(place: Place) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    Path("récipe.yaml").write_text(Path("recipe.yaml").read_text().replace("oci:out:1", "oci:göal:1"))
    done = subprocess.run(
        [*PROGRAM, "build", "récipe.yaml"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "oci:g\\xf6al:1" in done.stdout


# -- the library --------------------------------------------------------------------------------------------------


def test_the_public_names_are_there() -> None:
    import composer

    for name in composer.__all__:
        assert getattr(composer, name) is not None
    assert composer.plans is pipeline.plan
    assert composer.build is pipeline.build
    assert set(composer.__all__) <= set(dir(composer))
    with pytest.raises(AttributeError, match="nothing"):
        _ = composer.nothing
