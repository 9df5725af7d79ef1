"""What the documentation says is so: its commands, links, recipes, tables and lists. `python -m tests.unit.test_docs`
writes the tables that are made from the code."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from inspect import getdoc
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import click
import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from composer import errors
from composer.cli import tricompose
from composer.command import USAGE
from composer.console.failures import BROKEN_PIPE, BUG, INTERRUPTED
from composer.oci.image import Platform
from composer.recipe import (
    Check,
    Conversion,
    GpuProof,
    ImageExpect,
    Load,
    Network,
    Recipe,
    Run,
    Validate,
    not_yet,
    parse_recipe,
    refuse_unbuilt,
)
from tests.flags import flag_table
from tests.parity.place import BASE, Place, packed, server
from tests.repositories import put_model

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
RESULTS: Final = ROOT / "tests" / "bench" / "RESULTS.md"
PAGES: Final = (
    README,
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "recipes" / "README.md",
    ROOT / "templates" / "README.md",
)
PLAIN: Final = [page for page in PAGES if page.name != "cli.md"]
"""Those that people write; the page of all commands is made, and longer."""

FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(page.read_text()) if language in languages]


def between(page: Path, name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", page.read_text(), re.DOTALL)
    assert found, f"{name_of(page)} has no part {name!r}"
    return found[1]


# -- tables made from the code ------------------------------------------------------------------------------------


def error_table() -> str:
    rows = [("0", "", "Done."), (f"{USAGE}", "usage", "A command line that cannot be meant.")]
    kinds = [kind for kind in errors.TricomposeError.__subclasses__() if kind.__module__ == errors.__name__]
    kinds.sort(key=lambda kind: kind.status)
    rows += [(f"{kind.status}", kind.code, (getdoc(kind) or "").partition("\n\n")[0]) for kind in kinds]
    rows += [
        (f"{BUG}", "bug", "A bug in tricompose."),
        (f"{INTERRUPTED}", "interrupted", "Ctrl-C, or SIGTERM."),
        (f"{BROKEN_PIPE}", "broken-pipe", "Nobody reads the output any more."),
    ]
    return table(("status", "code", "when"), [(status, code and f"`{code}`", text) for status, code, text in rows])


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cells).replace("\n", " ") + " |\n" for cells in lines).replace("|  |", "| |")


def key_table(prefix: str, model: type[BaseModel]) -> str:
    rows = [row for row in key_rows(prefix, model) if not hidden(row[0].strip("`"))]
    return table(("key", "default", "meaning"), rows)


def key_rows(prefix: str, model: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    """Every key of a part of the recipe, and of the parts within it, with what the schema says of it."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        if key.startswith("validate") and not prefix:
            continue
        parts = list(parts_of(field.annotation))
        default = "" if field.is_required() or parts else shown(field.default)
        yield f"`{key}`", default, (field.description or "").replace("|", "\\|")
        for many, part in [] if key in ELSEWHERE else parts:
            yield from key_rows(f"{key}{many}.", part)


def parts_of(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "", annotation
    for inner in get_args(annotation) if get_origin(annotation) is not Literal else ():
        many = {tuple: "[]"}.get(get_origin(annotation), ".*" if is_mapping(annotation) else "")  # type: ignore[arg-type]
        yield from ((f"{many}{deeper}", part) for deeper, part in parts_of(inner))


def is_mapping(annotation: Any) -> bool:
    return isinstance(get_origin(annotation), type) and issubclass(get_origin(annotation), Mapping)


def shown(value: object) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`" if value else ""
    if isinstance(value, int) and value and value % (1 << 30) == 0:
        return f"`{value >> 30}GiB`"
    if isinstance(value, float):
        return f"`{value:g}s`" if value else "`0`"
    return f"`{value}`" if isinstance(value, int | str | Platform) and value != "" else ""


def bench_table() -> str:
    """The summary of the benchmark, or nothing where it has not been run."""
    if not RESULTS.exists():
        return ""
    found = re.search(r"^\| \| wall .*?(?=^[^|]|^$)", RESULTS.read_text(), re.MULTILINE | re.DOTALL)
    assert found, "RESULTS.md has no summary"
    return found[0]


# -- what is not built --------------------------------------------------------------------------------------------

# Every key of the recipe, with values that are not its default. Those of one choice among words are found by it.
SAMPLES: Final[Mapping[str, tuple[str, ...]]] = {
    "version": ("1",),
    "name": ("slim",),
    "triton": ('"24.09"',),
    "variant": ("vllm-python-py3",),
    "upstream": ("",),
    "platforms": ("[linux/arm64]",),
    "backends": ("[python]",),
    "repoagents": ("[checksum]",),
    "caches": ("[local]",),
    "custom_backends": ("[{name: mine, path: ./mine}]",),
    "packages": ("{pip: [numpy]}", "{apt: [libgl1]}"),
    "models": (
        "[{path: ./models}]",
        f"[{{name: a, source: ./a.onnx, sha256: '{'0' * 64}', config: auto}}]",
        "[{name: b, convert: {to: tensorrt, from: ./b.onnx, precision: fp16}}]",
    ),
    "files": ("[{source: ./a, target: /a, mode: '0644'}]",),
    "server": ("{log-verbose: 1}",),
    "run": (
        "{gpus: all, shm_size: 2g, ports: {http: 9000, grpc: 9001, metrics: 9002}, ulimits: {memlock: -1}}",
        "{env: {A: b}, mounts: [{source: ./a, target: /a}], network: host, extra_hosts: {a: 10.0.0.1}}",
    ),
    "env": ("{A: b}",),
    "labels": ("{a: b}",),
    "user": ("triton-server",),
    "healthcheck": ("true",),
    "slim": (),
    "keep": ("[/usr/bin/a]",),
    "drop": ("[/usr/bin/b]",),
    "max_layer_size": ("2GiB",),
    "engine": (),
    "dockerfile": ("{source: network, extras: [clang]}",),
    "steps": ("[echo]",),
    "network": ("",),
    "validate": ("",),
    "outputs": ("['oci:a:b']",),
}
IN_NETWORK: Final[Mapping[str, str]] = {
    "mirrors": "{nvcr.io: [harbor.example.com]}",
    "blocked": "[nvcr.io]",
    "hosts": "{nvcr.io: [10.0.0.1, 10.0.0.2]}",
    "dns": "[10.0.0.1]",
    "apt_mirror": "http://a.example.com",
    "apt_key": "./key.asc",
    "cuda_mirror": "http://a.example.com",
    "pip_index": "http://a.example.com",
    "proxy": "{https: 'http://a.example.com'}",
    "ca_bundle": "./ca.pem",
    "certs_d": "./certs.d",
    "insecure": "['127.0.0.1:5000']",
    "credentials": "{nvcr.io: {password: TOKEN}}",
}
CHECK: Final = (
    "{id: a, model: m, version: 1, protocols: [http, grpc], request: {inputs: {X: {npy: x.npy}}, timeout: 1s},"
    " expect: {outputs: {Y: {finite: true}}}}"
)
IN_VALIDATE: Final[Mapping[str, tuple[str, ...]]] = {
    "gpu": ("required", "off", "{mode: auto, visible: {count: 1, min_driver: '535'}, used_by: [m]}"),
    "startup": ("{deadline: 1s, stall: 1s, poll: 1s}",),
    "protocols": ("[http]",),
    "strict_logs": ("{allow: [a], fail_on: [W]}",),
    "expect": ("{models: {m: {versions: [1]}}, extensions: [statistics], image: {max_size: 1g}}",),
    "checks": (f"[{CHECK}]",),
    "load": (f"[{{id: b, check: a, requests: 1}}], checks: [{CHECK}]",),
    "after": ("[health]",),
}


def samples() -> Iterator[str]:
    for name, field in Recipe.model_fields.items():
        key = field.alias or name
        for value in SAMPLES[key] or get_args(field.annotation):
            yield f"{key}: {value}" if value else ""
    yield from (f"network: {{{key}: {value}}}" for key, value in IN_NETWORK.items())
    for key, values in IN_VALIDATE.items():
        for value in values or get_args(Validate.model_fields[key].annotation):
            yield f"validate: {{{key}: {value}}}"


ENVIRON: Final = {"REGISTRY": "harbor.example.com", "PROXY_USER": "jane", "PROXY_PASSWORD": "hush"}
"""What the pages have people export."""


def recipe(text: str) -> Recipe:
    """A recipe of which only a part is shown, as a whole one."""
    keys = re.findall(r"^(\w+):", text, re.MULTILINE)
    origin = "" if {"triton", "upstream"} & set(keys) else 'triton: "24.10"\n'
    content = "" if {"backends", "models"} & set(keys) else "backends: [python]\n"
    return parse_recipe(origin + content + text, path=ROOT / "recipe.yaml", environ=ENVIRON)


def unbuilt() -> list[str]:
    found = [problem.message.split('"')[1] for text in samples() for problem in not_yet(recipe(text))]
    return list(dict.fromkeys(found))


ELSEWHERE: Final = (
    *("models[].convert", "run"),
    *("validate.checks", "validate.load", "validate.gpu", "validate.expect.image"),
    *("validate.checks[].steps[].request", "validate.checks[].steps[].expect"),
    "validate.checks[].expect.responses.outputs",
)
"""Keys with a table of their own, on another page; and those whose parts are told already."""


@cache
def left_out() -> frozenset[str]:
    """What is not built, as keys; and what only goes with it, or has but one value."""
    return frozenset(what.partition(":")[0] for what in unbuilt())


def hidden(key: str) -> bool:
    """Whether a table leaves a key out."""
    return any(f"{key}.".startswith((f"{one}.", f"{one}[]")) for one in left_out())


GENERATED: Final = {
    "errors": error_table,
    "flags": flag_table,
    "bench": bench_table,
    "keys": lambda: key_table("", Recipe),
    "running": lambda: key_table("run.", Run),
    "validate": lambda: key_table("validate.", Validate),
    "checks": lambda: key_table("validate.checks[].", Check),
    "load": lambda: key_table("validate.load[].", Load),
    "gpu": lambda: key_table("validate.gpu.", GpuProof),
    "image": lambda: key_table("validate.expect.image.", ImageExpect),
    "conversion": lambda: key_table("models[].convert.", Conversion),
}


# -- tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PLAIN, ids=name_of)
def test_tables_are_what_the_code_says(page: Path) -> None:
    for name in set(re.findall(r"<!-- (\w+) -->", page.read_text())) & set(GENERATED):
        assert between(page, name) == GENERATED[name](), "run: python -m tests.unit.test_docs"


def test_the_tables_are_there() -> None:
    for page, name in ((README, "errors"), (README, "bench"), (ROOT / "docs/errors.md", "errors")):
        between(page, name)
    assert "| 12 | `check-failed` |" in between(README, "errors")
    assert "`files[].mode`" in between(ROOT / "docs/recipe.md", "keys")
    assert "`validate.checks[].request.inputs.*.npy`" in between(ROOT / "docs/checks-keys.md", "checks")


def test_what_is_not_built_is_said() -> None:
    assert set(SAMPLES) == {field.alias or name for name, field in Recipe.model_fields.items()}
    assert set(IN_NETWORK) == set(Network.model_fields)
    assert set(IN_VALIDATE) == set(Validate.model_fields)
    said = re.findall(r"`([^`]+)`", between(README, "not yet"))
    assert sorted(said) == sorted(unbuilt())


@pytest.mark.parametrize("page", [page for page in PLAIN if page.parent.name == "docs"], ids=name_of)
def test_a_page_is_short(page: Path) -> None:
    assert len(page.read_text().splitlines()) < 150


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[\w+\]: (\S+)$", text, re.MULTILINE):
        if re.match(r"https?://", target):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)} links to {target}"
        assert not heading or heading in headings(file), f"{name_of(page)} links to {target}"


def headings(page: Path) -> set[str]:
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in found}


def test_a_page_that_is_there_is_linked_to() -> None:
    for page in ROOT.glob("docs/*.md"):
        assert f"docs/{page.name}" in README.read_text()


RECIPES: Final = [
    pytest.param(text, id=f"{name_of(page)}-{number}")
    for page in PAGES
    for number, text in enumerate(blocks(page, "yaml"))
    if not text.startswith("# .git")
]


@pytest.mark.parametrize("text", RECIPES)
def test_a_recipe_can_be_built(text: str) -> None:
    refuse_unbuilt(recipe(text))


def test_there_are_recipes() -> None:
    assert len(RECIPES) > 6


def test_what_is_for_other_services_is_yaml() -> None:
    snippets = [text for text in blocks(ROOT / "docs" / "ci.md", "yaml") if text.startswith("# .git")]
    assert len(snippets) == 2
    for text in snippets:
        assert isinstance(YAML(typ="safe").load(text), dict)


# -- commands -----------------------------------------------------------------------------------------------------

LINE: Final = re.compile(r"^\s*(?:- )?(?:run: )?(?:\$ )?(?:[A-Z_]+=\S+ |\w+=\$\()*tricompose (.+)$", re.MULTILINE)


def commands(page: Path) -> Iterator[tuple[list[str], bool]]:
    """Each command that a page shows, and whether it is whole: within a sentence it may lack its arguments."""
    text = page.read_text()
    for block in blocks(page, "sh", "yaml", "text", "console"):
        yield from ((words, True) for line in LINE.findall(block) if (words := of_shell(line)))
    for line in re.findall(r"`tricompose ([^`]+)`", FENCE.sub("", text).replace("\n", " ")):
        yield of_shell(line), False


def of_shell(line: str) -> list[str]:
    """The arguments, up to where the shell takes over."""
    words = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    words.whitespace_split = True
    found: list[str] = []
    for word in words:
        if word and word[0] in "|&;<>()":
            break
        found.append(word)
    return found


def parse(words: list[str], *, whole: bool) -> None:
    """Read a command line as the command would. Raises `ClickException` where it cannot be meant."""
    command: click.Command = tricompose
    context = click.Context(command, info_name="tricompose", help_option_names=["-h", "--help"])
    while isinstance(command, click.Group) and words:
        if words[0].startswith("-"):
            break
        found = command.get_command(context, words[0])
        if found is None:
            raise click.UsageError(f"no command {words[0]}")
        command, words = found, words[1:]
    if whole:
        command.make_context("tricompose", list(words), parent=context)
    else:
        command.make_parser(context).parse_args(list(words))


def place_for_commands(folder: Path) -> None:
    (folder / "model_repository").mkdir()
    (folder / "corp-ca.pem").touch()
    (folder / "network.yaml").touch()
    (folder / "mirror-rules").mkdir()
    (folder / "mirror-rules" / "network.yaml").touch()


@pytest.mark.parametrize("page", PLAIN, ids=name_of)
def test_commands_are_real(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place_for_commands(tmp_path)
    monkeypatch.chdir(tmp_path)
    for words, whole in commands(page):
        try:
            parse(words, whole=whole)
        except click.ClickException as error:
            pytest.fail(f"tricompose {shlex.join(words)}: {error.format_message()}")


def test_there_are_commands() -> None:
    assert sum(whole for page in PLAIN for _, whole in commands(page)) > 25


@pytest.mark.parametrize(
    "line", ["biuld recipe.yaml", "build recipe.yaml --no-such", "build", "copy oci:a", "plan r.yaml --scan some"]
)
def test_a_command_that_is_not_real_would_be_noticed(line: str) -> None:
    with pytest.raises(click.ClickException):
        parse(of_shell(line), whole=True)


# -- what is run --------------------------------------------------------------------------------------------------

RUN: Final = re.compile(r"^<!-- run -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small upstream, a recipe and a model, as the pages take for granted."""
    place = Place(tmp_path)
    place.upstream(BASE, packed(server("onnxruntime", "python", "tensorrt")), base=1)
    put_model(tmp_path / "models/one", "python")
    (tmp_path / "recipe.yaml").write_text(f"{place.origin}\nbackends: [python]\nmodels: [{{path: ./models}}]\n")
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PLAIN if RUN.search(page.read_text())], ids=name_of)
def test_what_is_shown_works(page: Path, folder: Path) -> None:
    environ = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "TRICOMPOSE_CACHE": str(folder / "cache"),
        "LC_ALL": "C.UTF-8",
    }
    for block in RUN.findall(page.read_text()):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], cwd=folder, env=environ, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


def test_enough_is_run() -> None:
    assert sum(len(RUN.findall(page.read_text())) for page in PLAIN) >= 6


# -- writing the tables -------------------------------------------------------------------------------------------


def write_tables() -> None:
    for page in PLAIN:
        text = page.read_text()
        for name, make in GENERATED.items():
            pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
            text = re.sub(pattern, lambda found, make=make: found[1] + make() + found[2], text, flags=re.DOTALL)
        page.write_text(text)


def test_the_houses_tree_lists_every_module_and_no_other() -> None:
    composer = ROOT / "composer"
    told = set(re.findall(r"\b([a-z_0-9]+\.py)\b", (composer / "README.md").read_text()))
    modules = {path.name for path in composer.rglob("*.py")}
    assert modules - told == set()
    assert told - modules == set()


if __name__ == "__main__":
    write_tables()
