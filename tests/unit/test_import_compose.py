"""Command lines of compose.py as recipes: every flag of every release, as its argparse takes it."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer import command, errors
from composer.cli import tricompose
from composer.compose_flags import FLAGS, SHORT, Fault, Given, arguments, parse
from composer.errors import Problem
from composer.events import Logged, Warned
from composer.import_compose import Imported, import_compose
from composer.oci.names import parse_reference
from composer.recipe import Recipe, load_recipe, parse_recipe
from composer.releases import RELEASES

GROUPS: Final = json.loads((Path(__file__).parents[1] / "compose/flags.json").read_text())["groups"]
"""What the command line of each release was: recorded from its branch."""

FACTS: Final[dict[str, dict[str, Any]]] = {release: group for group in GROUPS for release in group["releases"]}
EVERY: Final = pytest.mark.parametrize("release", FACTS)

FULL, MIN = "nvcr.io/nvidia/tritonserver:24.09-py3", "nvcr.io/nvidia/tritonserver:24.09-py3-min"


def translated(line: str | Sequence[str], **options: Any) -> Imported:
    return import_compose(shlex.split(line) if isinstance(line, str) else line, **options)


def read(text: str) -> Recipe:
    return parse_recipe(text, path=Path("recipe.yaml"), environ={})


def recipe(line: str | Sequence[str], **options: Any) -> Recipe:
    made = translated(line, **options)
    assert made.problems == ()
    return read(made.text)


def problems(line: str | Sequence[str], **options: Any) -> list[Problem]:
    made = translated(line, **options)
    assert (made.text, made.said) == ("", ())
    assert made.problems
    assert all(one.hint for one in made.problems)
    return list(made.problems)


def notes(line: str, **options: Any) -> list[str]:
    """What is said beside the recipe."""
    made = translated(line, **options)
    assert made.problems == ()
    return [f"{one.source}: {one.text}" if isinstance(one, Logged) else one.message for one in made.said]


def warnings(line: str, **options: Any) -> list[Warned]:
    return [one for one in translated(line, **options).said if isinstance(one, Warned)]


# -- every flag of every release ----------------------------------------------------------------------------------


def test_the_releases_are_all_there() -> None:
    assert len(FACTS) == 61
    assert (min(FACTS), max(FACTS)) == ("21.08", "26.08")
    assert set(FACTS) <= set(RELEASES)


def test_every_flag_is_known_and_since_when() -> None:
    recorded = {flag for group in GROUPS for flag in group["flags"]}
    assert {flag.name for flag in FLAGS} == {flag for flag in recorded if flag.startswith("--")} | {"--help"}
    assert {f"-{short}" for short in SHORT} == {flag for flag in recorded if not flag.startswith("--")} | {"-h"}
    for flag in FLAGS:
        there = [release for release, facts in FACTS.items() if flag.name in facts["flags"]]
        assert flag.name == "--help" or flag.since == min(there)


def example(release: str, flag: str) -> str:
    """A value that the flag takes in that release."""
    known = RELEASES[release]
    return {
        "--output-name": "host:5000/tools/slim:1",
        "--work-dir": "some where",
        "--container-version": release,
        "--image": f"full,{FULL}",
        "--enable-gpu": "true",
        "--backend": (known.backends or ("onnxruntime",))[-1],
        "--repoagent": (known.repoagents or ("checksum",))[0],
        "--cache": (known.caches or ("local",))[0],
    }[flag]


def shortest(flag: str, others: Sequence[str]) -> str:
    """As few letters as argparse needs."""
    return next(
        flag[:length]
        for length in range(3, len(flag) + 1)
        if length == len(flag) or [one for one in others if one.startswith(flag[:length])] == [flag]
    )


def spellings(release: str, flag: str) -> list[list[str]]:
    """All ways to write a flag that the release has."""
    facts = FACTS[release]["flags"]
    names = [flag, shortest(flag, [*facts, "--help"])] if flag.startswith("--") else [flag]
    if facts[flag] == "nothing":
        return [[name] for name in names]
    value = example(release, flag)
    ways = [way for name in names for way in ([name, value], [f"{name}={value}"])]
    return [*ways, [flag]] if facts[flag] == "perhaps one" else ways


@EVERY
def test_every_flag_of_every_release_leads_to_a_recipe(release: str) -> None:
    backend = example(release, "--backend")
    for flag, takes in FACTS[release]["flags"].items():
        for words in spellings(release, flag):
            rest = ["--enable-gpu", "--backend", backend]
            rest += ["--container-version", release] if flag != "--container-version" else []
            rest += ["--image", f"min,{MIN}"] if flag == "--image" else []
            made = recipe([*rest, *words], checkout=release)
            assert backend in made.backends
            assert made.triton == release
            assert made.variant == "py3"
            assert takes in ("nothing", "one", "perhaps one", "one, many times")


@EVERY
def test_all_flags_of_a_release_together(release: str) -> None:
    facts = FACTS[release]["flags"]
    words = [word for flag in facts if flag not in ("-v", "--verbose") for word in spellings(release, flag)[0]]
    made = recipe([*words, "--image", f"min,{MIN}"])
    assert made.triton == release
    assert made.backends == (example(release, "--backend"),)
    assert made.repoagents == (example(release, "--repoagent"),)
    assert made.caches == ((example(release, "--cache"),) if "--cache" in facts else ())
    assert made.upstream is not None
    assert (str(made.upstream.full), str(made.upstream.min)) == (f"docker://{FULL}", f"docker://{MIN}")
    assert [str(output) for output in made.outputs] == ["docker-daemon:host:5000/tools/slim:1"]
    assert made.name == "slim"


@EVERY
def test_without_enable_gpu_it_is_as_it_was_in_that_release(release: str) -> None:
    line = f"--backend {example(release, '--backend')} --container-version {release}"
    made = recipe(line)
    cpu = FACTS[release]["without --enable-gpu"] == "a CPU image"
    assert made.variant == ("cpu-only-py3" if cpu else "py3")
    said = " ".join(notes(line))
    assert ("makes a CPU image unless --enable-gpu is given" in said) == cpu
    assert ("does nothing without it" in said) == (FACTS[release]["without --enable-gpu"] == "refused")


@EVERY
def test_the_kinds_of_images_of_a_release(release: str) -> None:
    for kind in FACTS[release]["images"]:
        line = f"--backend python --image {kind},host.x/a:1 --image full,{FULL} --image min,{MIN}"
        made = recipe(f"{line} --container-version {release}")
        assert made.upstream is not None
        assert made.upstream.full == parse_reference(f"docker://{FULL}")


# -- as argparse reads it -----------------------------------------------------------------------------------------


class Refused(Exception):
    """What argparse does not take."""


class Argparse(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise Refused(message)


@cache
def peer(release: str) -> Argparse:
    """An argparse parser with the flags that were recorded."""
    parser = Argparse(add_help=False)
    parser.add_argument("-h", "--help", action="store_true")
    facts = FACTS[release]["flags"]
    either = parser.add_mutually_exclusive_group()
    either.add_argument("-q", "--quiet", action="store_true")
    either.add_argument("-v", "--verbose", action="store_true")
    for flag, takes in facts.items():
        if flag in ("-q", "-v", "--quiet", "--verbose"):
            continue
        if takes == "nothing":
            parser.add_argument(flag, action="store_true")
        elif takes == "perhaps one":
            parser.add_argument(flag, nargs="?", const="", default=None)
        else:
            parser.add_argument(flag, action="append" if "many" in takes else "store")
    return parser


@cache
def words_of(release: str) -> st.SearchStrategy[list[str]]:
    flags = [flag for flag in FACTS[release]["flags"] if flag != "--enable-gpu" or release > "21.11"]
    names = st.sampled_from([*flags, "--nothing", "-x"])
    cut = names.flatmap(lambda name: st.integers(2, len(name)).map(lambda length: name[:length]))
    cut = cut.filter(lambda name: name != "--" and not (release <= "21.11" and "--enable-gpu".startswith(name)))
    values = st.sampled_from(["python", "true", "false", "a,b", "", "-", "24.09", "x=y"])
    one = names | cut | st.tuples(names | cut, values).map("=".join) | st.sampled_from(["-qq", "-qv", "-vx"]) | values
    return st.lists(one, max_size=5)


def read_by_peer(release: str, words: list[str]) -> dict[str, Any] | None:
    try:
        found = vars(peer(release).parse_args(words))
    except Refused:
        return None
    return {name: value for name, value in found.items() if value not in (None, False)}


def read_by_us(release: str, words: list[str]) -> dict[str, Any] | None:
    found = list(parse(words, release=release))
    if any(isinstance(one, Fault) for one in found):
        return None
    made: dict[str, Any] = {}
    for one in found:
        assert isinstance(one, Given)
        name = one.flag[2:].replace("-", "_")
        if FACTS[release]["flags"].get(one.flag) == "one, many times":
            made.setdefault(name, []).append(one.value)
        elif one.flag == "--enable-gpu":
            made[name] = one.value or ""
        else:
            made[name] = True if one.value is None else one.value
    return None if {"quiet", "verbose"} <= set(made) else made


@given(st.data())
def test_lines_are_read_as_argparse_reads_them(data: st.DataObject) -> None:
    release = data.draw(st.sampled_from(["21.08", "21.10", "22.03", "22.12", "23.01", "23.03", "26.08"]))
    words = data.draw(words_of(release))
    assert read_by_us(release, words) == read_by_peer(release, words)


@given(st.lists(st.text(max_size=12) | st.sampled_from([flag.name for flag in FLAGS])))
def test_whatever_the_words_there_is_a_recipe_or_a_problem(words: list[str]) -> None:
    made = translated(["--container-version", "24.09", "--backend", "python", "--work-dir", *words])
    assert bool(made.text) != bool(made.problems)
    if made.text:
        assert read(made.text).triton == "24.09"


@pytest.mark.parametrize("name", ["a\nbackends: [dali]", "a'b\"c", "#", "${HOME}", "a: b", "\x85", "\udcff", "]\n#"])
def test_no_value_breaks_out_of_its_place(name: str) -> None:
    words = ["--container-version", "24.09", "--backend", "python", "--work-dir", name, "--dry-run"]
    made = translated(words, path=name)
    assert read(made.text).backends == ("python",)
    assert sum("compose.py --container-version" in line for line in made.text.splitlines()) == 1
    for flag in ("--backend", "--repoagent", "--cache", "--output-name", "--container-version"):
        assert problems(["--container-version", "24.09", "--backend", "python", flag, name])


# -- what it comes to ---------------------------------------------------------------------------------------------

LINE = "--backend onnxruntime --backend python --backend tensorrt --container-version 24.09"


def test_a_line_is_a_recipe() -> None:
    made = recipe(f"{LINE} --repoagent checksum --cache local --cache redis")
    assert (made.triton, made.variant, made.upstream, made.engine) == ("24.09", "py3", None, "direct")
    assert made.backends == ("onnxruntime", "python", "tensorrt")
    assert (made.repoagents, made.caches) == (("checksum",), ("local", "redis"))
    assert [str(one) for one in made.outputs] == ["docker-daemon:tritonserver:latest"]
    assert made.name == "tritonserver"
    assert notes(LINE) == []


@pytest.mark.parametrize(
    "before", ["compose.py", "./compose.py", "python3 compose.py", "sudo python -u /src/server/compose.py"]
)
def test_the_call_itself_may_stay(before: str) -> None:
    assert translated(f"{before} {LINE}") == translated(LINE)
    assert arguments(shlex.split(f"--work-dir compose.py {LINE}"))[0] == "--work-dir"


def test_the_line_stands_in_the_recipe() -> None:
    text = translated(f"{LINE} --work-dir 'my dir'").text
    assert text.startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    assert f"#     compose.py {LINE} --work-dir 'my dir'\n" in text


@pytest.mark.parametrize(("engine", "cpu"), [(None, "direct"), ("direct", "direct"), ("dockerfile", "dockerfile")])
def test_the_engine(engine: Any, cpu: str) -> None:
    assert recipe(LINE, engine=engine).engine == (engine or "direct")
    assert recipe(f"{LINE} --enable-gpu=false", engine=engine).engine == (engine or "dockerfile")
    of_ones_own = f"{LINE} --enable-gpu=false --image full,host.x/cpu:1 --image min,docker.io/ubuntu:22.04"
    assert recipe(of_ones_own, engine=engine).engine == cpu


@pytest.mark.parametrize(
    ("words", "gpu"),
    [
        ("", True),
        ("--enable-gpu", True),
        ("--enable-gpu TRUE", True),
        ("--enable-gpu=no", False),
        ("--en false", False),
    ],
)
def test_enable_gpu(words: str, gpu: bool) -> None:
    assert recipe(f"{LINE} {words}").variant == ("py3" if gpu else "cpu-only-py3")


def test_the_last_of_several_counts() -> None:
    made = recipe(f"{LINE} --container-version 24.08 --output-name a --output-name b:2 --enable-gpu=false --enable-gpu")
    assert (made.triton, made.name, made.variant) == ("24.08", "b", "py3")


def test_names_that_are_given_twice_stand_once() -> None:
    assert recipe(f"{LINE} --backend python").backends == ("onnxruntime", "python", "tensorrt")
    assert notes(f"{LINE} --backend python") == ["--backend python: given twice, and once in the recipe"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("host.x/a/b:1", "docker://host.x/a/b:1"),
        ("localhost/a", "docker://localhost/a"),
        (f"h:5000/a@sha256:{'0' * 64}", f"docker://h:5000/a@sha256:{'0' * 64}"),
        ("user/app:1", "docker://docker.io/user/app:1"),
        ("ubuntu", "docker://docker.io/library/ubuntu"),
    ],
)
def test_images_are_found_where_docker_finds_them(name: str, found: str) -> None:
    line = f"--backend python --image full,{FULL} --image=min,{name}"
    made = recipe(line)
    assert made.triton is None
    assert made.upstream is not None
    assert str(made.upstream.min) == found
    local = [one.hint for one in warnings(line)]
    assert local == (
        [f"if only your Docker has it, write into the recipe: docker-daemon:{name}"] * ("docker.io" in found)
    )


def test_images_without_a_registry_that_are_not_to_be_pulled_are_docker_s_own() -> None:
    made = recipe(f"--backend python --skip-pull --image full,mine:1 --image min,{MIN}")
    assert made.upstream is not None
    assert [str(made.upstream.full), str(made.upstream.min)] == ["docker-daemon:mine:1", f"docker://{MIN}"]


def test_the_release_is_that_of_the_checkout_where_none_is_named() -> None:
    assert recipe("--backend python", checkout="24.12").triton == "24.12"
    assert recipe("--backend python --container-version 24.11", checkout="24.12").triton == "24.11"
    (one,) = problems("--backend python")
    assert one.where == "compose.py"
    assert "tricompose import-compose --release" in str(one.hint)
    assert problems("--backend python", checkout="newest")[0].hint == "--release 24.10"


def test_what_has_no_place_in_a_recipe_is_said() -> None:
    assert notes(f"{LINE} --dry-run --work-dir 'my dir'", path="a b.yaml") == [
        "--dry-run: tricompose plan 'a b.yaml' --dockerfile 'my dir'   (builds nothing)"
    ]
    assert "--dockerfile build " in notes(f"{LINE} --work-dir build")[0]
    assert "nothing is fetched twice" in notes(f"{LINE} --skip-pull")[0]
    assert notes(f"{LINE} -qq") == ["--quiet: tricompose build -q recipe.yaml"]
    assert notes(f"{LINE} --verbose") == ["--verbose: tricompose build -v recipe.yaml"]
    assert (
        "made from the full image alone"
        in notes(f"{LINE} --image gpu-min,h.x/a --image full,{FULL} --image min,{MIN}")[0]
    )


# -- names that a release does not have ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("--backend onnx --container-version 24.09", "onnxruntime"),
        ("--backend pytorh --container-version 24.09", "pytorch"),
        ("--backend python --cache reddis --container-version 24.09", "redis"),
        ("--backend python --repoagent checksums --container-version 24.09", "checksum"),
    ],
)
def test_a_misspelt_name_is_refused(line: str, hint: str) -> None:
    (one,) = problems(line)
    assert hint in str(one.hint)


@pytest.mark.parametrize(
    ("backend", "release", "hint"),
    [
        ("tensorflow1", "24.09", "tensorflow"),
        ("tensorflow", "23.03", "tensorflow"),
        ("openvino", "22.03", "openvino_2021_4"),
        ("tensorflow", "25.03", ""),
        ("vllm", "24.09", "vllm-python-py3"),
        ("tensorrtllm", "24.09", "trtllm-python-py3"),
    ],
)
def test_a_name_of_another_release_or_image_is_a_warning(backend: str, release: str, hint: str) -> None:
    line = f"--backend {backend} --container-version {release}"
    assert recipe(line).backends == (backend,)
    (one,) = warnings(line)
    assert one.message == f'{release} has no backend "{backend}"'
    assert hint in str(one.hint)


def test_an_image_of_ones_own_may_have_anything() -> None:
    line = f"--backend mine --container-version 24.09 --image full,h.x/a:1 --image min,{MIN}"
    assert recipe(line).backends == ("mine",)
    assert len(warnings(line)) == 1


def test_a_release_that_nobody_knows_is_said() -> None:
    assert recipe("--backend mine --container-version 40.01").backends == ("mine",)
    assert [one.message for one in warnings("--backend mine --container-version 40.01")] == [
        "nothing is known of release 40.01: names were not checked"
    ]


# -- what cannot be meant -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("--backnd python", 'compose.py has no flag "--backnd"', "did you mean --backend?"),
        ("-backend python", 'compose.py has no flag "-backend"', "did you mean --backend?"),
        ("--DRY_RUN", 'compose.py has no flag "--DRY_RUN"', "did you mean --dry-run?"),
        ("--c 24.09", '"--c" may be --container-version or --cache', "write it in full"),
        ("python", '"python" belongs to no flag', "a value stands right after its flag: --backend python"),
        ("--", '"--" belongs to no flag', None),
        ("--backend", "--backend lacks its value", "--backend onnxruntime"),
        ("--backend --dry-run", "--backend lacks its value", "--backend onnxruntime"),
        ("--dry-run=true", "--dry-run takes no value", "--dry-run"),
        ("-q --verbose", "--quiet and --verbose exclude each other", "keep one of them"),
        ("--help", "compose.py would show its help, and do nothing", "tricompose import-compose --help"),
        ("--backend a,b", '"a,b" is not a name', "--backend a --backend b"),
        ("--backend=", '"" is not a name', "remove --backend"),
        ("--image full", '"full" is not a kind and an image', "--image full,host/repository:tag"),
        ("--image full,a,b", '"full,a,b" is not a kind and an image', None),
        ("--image fulll,h.x/a --image min,h.x/a", '--image has no kind "fulll"', 'did you mean "full"?'),
        (f"--image full,{FULL}", "--image min is missing: full and min go together", None),
        (f"--image full,{FULL} --image min,H/UP", "'docker://docker.io/H/UP' is not a registry name", None),
        ("--output-name UP", "'docker-daemon:UP' has a name that Docker does not take", None),
        (f"--output-name a@sha256:{'0' * 64}", "is a digest", "--output-name name:tag"),
        ("--container-version latest", '"latest" is not a Triton release', None),
    ],
)
def test_what_cannot_be_meant_is_refused(words: str, message: str, hint: str | None) -> None:
    first = problems(f"--backend python --container-version 24.09 {words}")[0]
    assert message in first.message
    assert hint is None or first.hint == hint
    assert first.where.startswith("argument ")


def test_a_line_without_backends_is_refused() -> None:
    (one,) = problems("--container-version 24.09")
    assert (one.where, one.hint) == ("compose.py", "--backend onnxruntime")


def test_all_problems_are_told_in_the_order_of_the_line() -> None:
    found = problems("python3 compose.py --backnd x --backend onnx --cache --container-version 24.09 -q -v y")
    assert [one.where for one in found] == [f"argument {place}" for place in (1, 3, 5, 9, 10)]


# -- the command --------------------------------------------------------------------------------------------------


def call(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capfd.readouterr()
    status = command.run(tricompose, ["import-compose", *words])
    said = capfd.readouterr()
    return status, said.out, said.err


def test_the_command_prints_a_recipe(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capfd, "--", "python3", "compose.py", *LINE.split(), "--dry-run")
    assert status == 0
    assert read(out).backends == ("onnxruntime", "python", "tensorrt")
    assert err.startswith("--dry-run: tricompose plan recipe.yaml --dockerfile ")
    assert call(capfd, *LINE.split(), "--dry-run") == (status, out, err)  # without the two dashes


def test_the_command_writes_a_recipe(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("-o", "new/my.yaml", "--engine", "dockerfile", "--release", "24.09", "--", "--backend=python")
    status, out, _ = call(capfd, *words)
    assert status == 0
    assert out == "new/my.yaml is written. See what it would make:\n  tricompose plan new/my.yaml\n"
    made = load_recipe(Path("new/my.yaml"), environ={})
    assert (made.backends, made.engine, made.triton) == (("python",), "dockerfile", "24.09")
    status, _, err = call(capfd, *words)
    assert status == errors.Unplannable.status
    assert "new/my.yaml is there already" in err


def test_the_command_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capfd, "--json", "--", *LINE.split(), "--skip-pull", "--backend", "tensorflow1")
    document = json.loads(out)
    assert (status, document["schema"], document["imported"]["path"]) == (0, 1, None)
    assert read(document["imported"]["recipe"]).triton == "24.09"
    warning, note = document["imported"]["notes"]
    assert warning["message"] == '24.09 has no backend "tensorflow1"'
    assert warning["hint"]
    assert note == {"message": note["message"], "hint": None}
    assert note["message"].startswith("--skip-pull: ")


def test_the_command_tells_all_problems(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capfd, "--json", "--", "--backnd=x", "--image=full,https://me:secret@h.x/a")
    assert status == 2
    error = json.loads(out)["error"]
    assert (error["code"], error["message"]) == ("usage", 'compose.py has no flag "--backnd"')
    assert [one["where"] for one in error["problems"]][:2] == ["argument 1", "argument 2"]
    assert "error: argument 1: compose.py has no flag" in err
    assert "secret" not in out + err
