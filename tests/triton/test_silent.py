"""Every way to be ready and not to serve that was seen on a real server, each once more: ready says 200, and validation
fails in words of its own. As a user would have it: a recipe, its models, and an image that nobody has linted."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import requests

from composer.checks import Report
from composer.events import Event, Logged
from composer.oci.names import parse_reference
from composer.pipeline import Workplace, validate
from composer.recipe import load_recipe
from composer.with_server import Proving
from tests.judge.server import CACHE
from tests.triton.images import Bench, python_model
from tests.upstream.wheels import Wheel, fetch_wheel

pytestmark = pytest.mark.triton

NUMPY_2: Final = Wheel("numpy", "2.1.3", "bc6f24b3d1ecc1eebfbf5d6051faa49af40b03be1aaa781ebdadcbc090b4539b")

INPUT, OUTPUT = {"X": "FP32 [2]"}, {"Y": "FP32 [2]"}


def each(returned: str) -> str:
    return f"def execute(self, requests):\n    return [{returned} for request in requests]"


ECHO: Final = each("answer(Y=tensor(request, 'X'))")
FADES: Final = f"""\
asked = 0
{ECHO}
execute_well = execute
def execute(self, requests):
    self.asked += len(requests)
    if self.asked == 30:
        import threading
        threading.Timer(0.01, os._exit, (3,)).start()
    return self.execute_well(requests)
"""
COMPLETES: Final = f"""\
@staticmethod
def auto_complete_config(config):
    for add, name in ((config.add_input, 'X'), (config.add_output, 'Y')):
        add({{'name': name, 'data_type': 'TYPE_FP32', 'dims': [2]}})
    config.set_max_batch_size(0)
    return config
{ECHO}"""


def changed(files: Mapping[str, str], old: str, new: str) -> dict[str, str]:
    """A model with something else in its config."""
    assert any(old in text for text in files.values())
    return {path: text.replace(old, new) if path.endswith(".pbtxt") else text for path, text in files.items()}


def added(files: Mapping[str, str], text: str) -> dict[str, str]:
    """A model with something more in its config."""
    return {path: f"{old}\n{text}" if path.endswith(".pbtxt") else old for path, old in files.items()}


def moved(files: Mapping[str, str], path: str, new: str) -> dict[str, str]:
    """A model of which a file is elsewhere."""
    return {new if one == path else one: text for one, text in files.items()}


def echo(name: str, body: str = ECHO, batch: int = 0) -> dict[str, str]:
    return python_model(name, body, INPUT, OUTPUT, batch)


def environment(path: str) -> str:
    return f'parameters {{ key: "EXECUTION_ENV_PATH" value {{ string_value: "{path}" }} }}'


@dataclass(frozen=True)
class Case:
    """A model that is ready and does not serve: its files, and the results that tell of it, with words of each.

    `check` is what the recipe expects of the answer, none where it is not asked.
    """

    files: Mapping[str, str]
    fails: Mapping[str, str]
    check: str = "allclose: {values: [1, 2]}"
    passes: tuple[str, ...] = ()
    timeout: str = "1s"


CASES: Final[Mapping[str, Case]] = {
    "badname": Case(
        {"badname/config.pbtxt": 'name: "goodname" backend: "python"', "badname/1/model.py": ""},
        {"models": "badname is not ready: unexpected directory name 'badname' for model 'goodname'"},
        check="",
    ),
    "dtype": Case(
        echo("dtype", each("answer(Y=tensor(request, 'X').astype(np.float64))")),
        {"dtype": "its datatype is FP64, the model's configuration says FP32"},
    ),
    "shape": Case(
        echo("shape", each("answer(Y=np.zeros(3, np.float32))")),
        {"shape": "its shape is [3], the model's configuration says [2]"},
    ),
    "other": Case(
        echo("other", each("answer(Z=tensor(request, 'X'))")),
        {"other": "output Y is missing: the answer has no outputs"},
    ),
    "nothing": Case(
        echo("nothing", "def execute(self, requests):\n    return None"),
        {"nothing": "the server counts the request as answered"},
    ),
    "idle": Case(echo("idle", "pass"), {"idle": "does not implement `execute` method"}),
    "raises": Case(
        echo("raises", "def execute(self, requests):\n    raise ValueError('no luck')"),
        {"raises": "ValueError: no luck"},
    ),
    "nan": Case(
        echo("nan", each("answer(Y=tensor(request, 'X') * np.float32('nan'))")),
        {"nan": "finite: at [0]"},
        check="finite: true",
    ),
    "dies": Case(
        echo("dies", "def execute(self, requests):\n    os._exit(3)"),
        {"dies": "Stub process 'dies_0_0' is not healthy"},
        timeout="5s",
    ),
    "twice": Case(
        added(echo("twice"), 'input [{ name: "X" data_type: TYPE_FP32 dims: [2] }]'),
        {"model:twice:inputs": "2 of its inputs are called X", "twice": "expected 2 inputs but got 1 inputs"},
    ),
    "misnamed": Case(
        moved(echo("misnamed", COMPLETES, batch=8), "misnamed/config.pbtxt", "misnamed/Config.pbtxt"),
        {
            "model:misnamed:config": "the server does not read Config.pbtxt, and guessed: max_batch_size is 0, the "
            "file says 8",
        },
        passes=("misnamed",),
    ),
    "inside": Case(
        moved(echo("inside", COMPLETES, batch=4), "inside/config.pbtxt", "inside/1/config.pbtxt"),
        {"model:inside:config": "does not read 1/config.pbtxt, and guessed: max_batch_size is 0, the file says 4"},
        passes=("inside",),
    ),
    "nobatch": Case(
        added(echo("nobatch"), "dynamic_batching { }"),
        {"model:nobatch:batching": "it has dynamic_batching and max_batch_size 0, so that it never batches"},
        passes=("nobatch",),
    ),
    "empty-env": Case(
        added(echo("empty-env"), environment("$$TRITON_MODEL_DIRECTORY/env"))
        | {"empty-env/env/bin/activate": "true\n"},
        {"model:empty-env:environment": "EXECUTION_ENV_PATH is $$TRITON_MODEL_DIRECTORY/env, where there is no Python"},
        passes=("empty-env",),
    ),
    "numpy-2": Case(
        added(echo("numpy-2"), environment("/numpy-2")),
        {"model:numpy-2:numpy": "it runs with NumPy 2", "numpy-2": "output Y: it has 0 bytes, FP32 [2] takes 8"},
    ),
    "versions": Case(
        added(echo("versions"), "version_policy { specific { versions: [1, 3] } }"),
        {"model:versions:version_policy": "names version 3, which is not there: version 1 is served"},
        passes=("versions",),
    ),
    "labels": Case(
        changed(echo("labels"), 'name: "Y"', 'name: "Y" label_filename: "labels.txt"')
        | {"labels/labels.txt": "cat\r\ndog\r\n"},
        {"model:labels:labels": "lines of labels.txt end in CR LF"},
        passes=("labels",),
    ),
    "passive": Case(
        changed(echo("passive"), "KIND_CPU", "KIND_CPU passive: true"),
        {"model:passive:passive": "all its instances are passive"},
        check="",
    ),
}
GOOD: Final = echo("good")
FADING: Final = changed(echo("fades", FADES), "instance_group [{ kind: KIND_CPU }]", "")


def check(name: str, expected: str, timeout: str = "1s") -> str:
    sent = "X: {dtype: FP32, shape: [2], data: [1, 2]}"
    return f"""
    - id: {name}
      model: {name}
      request: {{inputs: {{{sent}}}, timeout: {timeout}}}
      expect: {{outputs: {{Y: {{{expected}}}}}}}"""


@dataclass(frozen=True, kw_only=True)
class Proved:
    """What came of a proof, and what `/v2/health/ready` answered each time a check was done."""

    report: Report
    ready: Mapping[str, int]


@pytest.fixture(scope="module")
def extra() -> Iterator[Path]:
    """Folders that servers see: modules for PYTHONPATH, and an environment with NumPy 2."""
    folder = Path(tempfile.mkdtemp(prefix="silent-", dir="/dev/shm"))
    (folder / "modules").mkdir()
    (folder / "modules/mine.py").write_text("")
    environment = folder / "numpy-2"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin/activate").write_text("export PATH=/numpy-2/bin:$PATH\n")
    (environment / "bin/python3").symlink_to("/usr/bin/python3.11")
    (environment / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    with zipfile.ZipFile(fetch_wheel(NUMPY_2, CACHE)) as wheel:
        wheel.extractall(environment / "lib/python3.11/site-packages")
    yield folder
    shutil.rmtree(folder)


def proved(bench: Bench, folder: Path, models: Mapping[str, str], *flags: str, checks: str, more: str = "") -> Proved:
    """Write a recipe with its models, and have an image that serves them proved by it."""
    for path, text in models.items():
        (folder / "models" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "models" / path).write_bytes(text.encode())
    image = bench.image(models, *flags)
    bench.store.publish(image.manifest.raw, image.manifest.media_type, "silent")
    (folder / "recipe.yaml").write_text(
        f'triton: "24.10"\nbackends: [python]\nmodels: [{{path: ./models}}]\n{more}'
        f"validate:\n  startup: {{deadline: 60s, poll: 100ms}}\n{checks}"
    )
    ready: dict[str, int] = {}
    where = ""

    def hear(event: Event) -> None:
        nonlocal where
        if isinstance(event, Logged) and (port := re.search(r"--http-port=(\d+)", event.text)):
            where = f"http://127.0.0.1:{port[1]}/v2/health/ready"
        if isinstance(event, Logged) and event.source == "check" and where:
            with suppress(requests.ConnectionError):
                ready[event.text.split(": ")[1]] = requests.get(where, timeout=5).status_code

    recipe = load_recipe(folder / "recipe.yaml", environ={})
    place = Workplace.from_environment({}, home=folder, recipe=recipe, cache=folder / "cache", emit=hear)
    reference = parse_reference(f"oci:{bench.store.path}:silent")
    report = validate(recipe, place, image=reference, how=Proving(runner="rootfs"))
    return Proved(report=report, ready=ready)


@pytest.fixture(scope="module")
def all_of_them(bench: Bench, tmp_path_factory: pytest.TempPathFactory, extra: Path) -> Proved:
    """One server with all the models that do not take others down."""
    checks = "".join(check(name, case.check, case.timeout) for name, case in CASES.items() if case.check)
    checks += check("good", "equals: [1, 2]") + check("fades", "equals: [1, 2]", "5s")
    models = {path: text for case in CASES.values() for path, text in case.files.items()} | GOOD | FADING
    expected = ", ".join(f"{name}: {{}}" for name in [*CASES, "good"])
    more = f"  expect: {{models: {{{expected}, fades: {{instances: {{KIND_GPU: 1}}}}}}}}\n"
    more += "  load: [{id: many, check: fades, requests: 40}]\n  after: [fades, health]\n"
    run = (
        f"run:\n  env: {{PYTHONPATH: /modules}}\n  mounts:\n"
        f"    - {{source: {extra}/modules, target: /modules}}\n    - {{source: {extra}/numpy-2, target: /numpy-2}}\n"
    )
    folder = tmp_path_factory.mktemp("silent")
    return proved(bench, folder, models, "--exit-on-error=false", checks=f"  checks:{checks}\n{more}", more=run)


@pytest.mark.parametrize("name", CASES)
def test_ready_and_caught(all_of_them: Proved, name: str) -> None:
    case = CASES[name]
    found = {result.id: result for result in all_of_them.report.results}
    for one, words in case.fails.items():
        assert found[one].outcome == "failed", found[one].message
        assert words in found[one].message
        assert all_of_them.ready[one] == 200
    for one in case.passes:
        assert found[one].outcome == "passed", found[one].message


def test_pythonpath_is_not_looked_at(all_of_them: Proved) -> None:
    (found,) = [result for result in all_of_them.report.results if result.id == "PYTHONPATH"]
    assert found.message == "PYTHONPATH names /modules, and the Python backend does not look there"
    assert all_of_them.ready["PYTHONPATH"] == 200


def test_a_model_that_is_well_among_them(all_of_them: Proved) -> None:
    found = {result.id: result for result in all_of_them.report.results}
    assert (found["model:good"].outcome, found["good"].outcome) == ("passed", "passed")


def test_each_has_a_message_of_its_own(all_of_them: Proved) -> None:
    messages = {
        name: result.message.replace(name, "")
        for name, case in CASES.items()
        for result in all_of_them.report.results
        if result.id in case.fails
    }
    assert len(set(messages.values())) == len(CASES)


def test_a_model_whose_process_dies_under_load(all_of_them: Proved) -> None:
    """It answers well until then, and the server calls it ready to the end."""
    found = {result.id: result for result in all_of_them.report.results}
    for name, words in {
        "after:model:fades:process": "1 of the 1 processes that run it ended, though the server calls it ready",
        "after:fades": "Stub process 'fades_0' is not healthy",
    }.items():
        assert (found[name].outcome, all_of_them.ready[name]) == ("failed", 200)
        assert words in found[name].message
    assert (found["fades"].outcome, found["after:ready"].outcome) == ("passed", "passed")


def test_a_model_that_was_to_run_on_a_gpu(all_of_them: Proved) -> None:
    (found,) = [result for result in all_of_them.report.results if result.id == "model:fades:instances"]
    assert found.message == "fades: its instances: expected 1 of KIND_GPU, found 1 of KIND_CPU"
    assert all_of_them.ready[found.id] == 200


def test_a_model_that_ends_the_server(bench: Bench, tmp_path: Path) -> None:
    made = proved(bench, tmp_path, CASES["passive"].files, checks=f"  checks:{check('passive', 'equals: [1, 2]')}\n")
    found = {result.id: result for result in made.report.results}
    assert found["ready"].outcome == "passed"
    assert made.ready["model:passive:passive"] == 200
    assert found["passive"].outcome == "failed"
    assert "the server ended by SIGSEGV" in found["passive"].message


NOTHING: Final[Mapping[str, tuple[Mapping[str, str], tuple[str, ...], str]]] = {
    "empty": ({"README": ""}, (), "good is not in the server's repository"),
    "explicit": (
        GOOD,
        ("--model-control-mode=explicit",),
        "good is not ready: the server loads only what load-model names",
    ),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_server_that_serves_nothing(bench: Bench, tmp_path: Path, name: str) -> None:
    models, flags, words = NOTHING[name]
    made = proved(bench, tmp_path, models, *flags, checks="  expect: {models: {good: {}}}\n")
    found = {result.id: result for result in made.report.results}
    assert (found["models"].outcome, made.ready["models"]) == ("failed", 200)
    assert found["models"].message.startswith(words)
    assert not made.report.ok
