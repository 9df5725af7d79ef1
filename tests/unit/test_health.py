"""What a server that calls itself ready has in truth, by what it says of its models, its log and its processes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from composer.checks.health import health, silent, still_healthy
from composer.checks.health.logs import logs, unexcused
from composer.checks.health.settings import differences
from composer.checks.health.silent import Served, dead, faults, pythonpath
from composer.checks.processes import Stub, of_model, stubs
from composer.checks.report import Result
from composer.checks.subject import Subject, Terms
from composer.events import ignore
from composer.models.configuration import parse_configuration
from composer.models.lint import RULES
from composer.models.repository import ModelRepository, read_repository
from composer.protocol.messages import NoAnswer
from composer.recipe import Validate, parse_recipe

CONFIG: dict[str, Any] = {
    "name": "m",
    "platform": "",
    "backend": "python",
    "version_policy": {"latest": {"num_versions": 1}},
    "max_batch_size": 8,
    "input": [{"name": "X", "data_type": "TYPE_FP32", "format": "FORMAT_NONE", "dims": ["2"], "optional": False}],
    "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [2], "label_filename": ""}],
    "optimization": {"priority": "PRIORITY_DEFAULT", "input_pinned_memory": {"enable": True}},
    "instance_group": [{"name": "m_0", "kind": "KIND_CPU", "count": 1, "gpus": [], "passive": False}],
    "default_model_filename": "model.py",
    "parameters": {"A": {"string_value": "a"}},
    "model_warmup": [],
}
"""As a server of 24.10 writes it."""

# -- a file and what is served ------------------------------------------------------------------------------------


def differing(text: str, **served: object) -> list[str]:
    return differences(parse_configuration(text.encode(), path=Path("config.pbtxt")), CONFIG | served)


@pytest.mark.parametrize(
    "text",
    [
        "",
        'name: "m" backend: "python" max_batch_size: 8',
        'name: "" backend: "" default_model_filename: ""',
        'input { name: "X" data_type: TYPE_FP32 dims: [2] } output [{ name: "Y" data_type: TYPE_FP32 dims: 2 }]',
        "instance_group { kind: KIND_AUTO }",
        'instance_group { name: "own" kind: KIND_CPU count: 0 gpus: [0] }',
        'parameters { key: "A" value { string_value: "a" } }',
        "version_policy { latest { num_versions: 1 } } optimization { input_pinned_memory { enable: true } }",
        "this is no configuration",
        r'parameters { key: "A" value { string_value: "\xff" } }',
    ],
)
def test_what_the_server_completes_is_no_difference(text: str) -> None:
    assert differing(text) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("max_batch_size: 4", "max_batch_size is 8, the file says 4"),
        ("max_batch_size: 0", "max_batch_size is 8, the file says 0"),
        ('platform: "ensemble"', 'platform is "", the file says ensemble'),
        ("input { data_type: TYPE_FP64 }", "input.data_type is TYPE_FP32, the file says TYPE_FP64"),
        ("input { dims: [3, -1] }", "input.dims is [2], the file says [3, -1]"),
        ('input { name: "X" } input { name: "Z" }', "input: there are 1, the file has 2"),
        ("instance_group { count: 2 }", "instance_group.count is 1, the file says 2"),
        ("instance_group { kind: KIND_GPU }", "instance_group.kind is KIND_CPU, the file says KIND_GPU"),
        ("dynamic_batching { }", "dynamic_batching is not set, the file has it"),
        ('parameters { key: "B" value { string_value: "b" } }', "parameters has no B, the file has it"),
        (
            'parameters { key: "A" value { string_value: "b" } }',
            'parameters: A is string_value: "a", the file says string_value: "b"',
        ),
        ("version_policy { all { } }", "version_policy.all is not set, the file has it"),
        (
            "optimization { priority: PRIORITY_MAX }",
            "optimization.priority is PRIORITY_DEFAULT, the file says PRIORITY_MAX",
        ),
    ],
)
def test_what_is_served_otherwise(text: str, found: str) -> None:
    assert differing(text) == [found]


def test_nan_is_nan() -> None:
    text = "sequence_batching { direct { minimum_slot_utilization: nan } }"
    assert differing(text, sequence_batching={"direct": {"minimum_slot_utilization": "NaN"}}) == []


def test_a_configuration_that_is_none() -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        differing("max_batch_size: 4", max_batch_size="many")


# -- silent -------------------------------------------------------------------------------------------------------


def served(**changes: Any) -> Served:
    return Served(name="m", config=CONFIG | changes, versions=[1])


def group(**changes: object) -> dict[str, object]:
    return {"name": "m_0", "kind": "KIND_CPU", "count": 1, "gpus": [], "passive": False} | changes


def test_a_model_that_is_well() -> None:
    assert list(faults(served())) == []
    assert list(faults(Served(name="e", config={"name": "e", "platform": "ensemble"}, versions=[1]))) == []


@pytest.mark.parametrize(
    ("changes", "thing", "words"),
    [
        ({"instance_group": [group(passive=True)]}, "passive", "all its instances are passive"),
        ({"input": [{"name": "X"}, {"name": "Y"}, {"name": "X"}]}, "inputs", "2 of its inputs are called X"),
        ({"max_batch_size": 0, "dynamic_batching": {}}, "batching", "it never batches"),
        (
            {"version_policy": {"specific": {"versions": [1, "3", 4]}}},
            "version_policy",
            "names version 3, 4, which is not there: version 1 is served",
        ),
    ],
)
def test_what_a_server_takes_without_a_word(changes: dict[str, Any], thing: str, words: str) -> None:
    (fault,) = faults(served(**changes))
    assert fault.thing == thing
    assert words in fault.message
    assert fault.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"instance_group": [group(passive=True), group()]},
        {"max_batch_size": 1, "dynamic_batching": {}},
        {"version_policy": {"specific": {"versions": ["1"]}}},
    ],
)
def test_what_is_in_order(changes: dict[str, Any]) -> None:
    assert list(faults(served(**changes))) == []


def local(folder: Path, files: Mapping[str, str | bytes]) -> ModelRepository:
    for path, content in files.items():
        (folder / "m" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "m" / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_repository(folder)


def of_files(folder: Path, files: Mapping[str, str | bytes], **changes: Any) -> list[str]:
    (model,) = local(folder, {"1/model.py": "", **files}).models
    found = faults(Served(name="m", config=CONFIG | changes, versions=[1], local=model))
    return [f"{fault.thing}: {fault.message}" for fault in found]


@pytest.mark.parametrize("name", ["Config.pbtxt", "config.pbtxt.txt", "config.txt", "1/config.pbtxt"])
def test_a_config_that_nobody_reads(tmp_path: Path, name: str) -> None:
    assert of_files(tmp_path, {name: "max_batch_size: 4"}) == [
        f"config: the server does not read {name}, and guessed: max_batch_size is 8, the file says 4"
    ]
    (found,) = of_files(tmp_path, {name: "max_batch_size: 8"})
    assert found.endswith("guessed: what stands there, and what does not")
    assert of_files(tmp_path, {name: "this is no config"}) == []


def test_a_config_that_is_another(tmp_path: Path) -> None:
    assert of_files(tmp_path, {"config.pbtxt": "max_batch_size: 8"}) == []
    (found,) = of_files(tmp_path, {"config.pbtxt": "max_batch_size: 4"})
    assert found == "config: it is not served as its config.pbtxt says: max_batch_size is 8, the file says 4"


def test_labels_that_look_right(tmp_path: Path) -> None:
    named = {"output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [2], "label_filename": "l.txt"}]}
    assert of_files(tmp_path, {"l.txt": "cat\ndog\n"}, **named) == []
    (crlf,) = of_files(tmp_path, {"l.txt": "cat\r\ndog\r\n"}, **named)
    assert crlf.startswith("labels: lines of l.txt end in CR LF")
    (marked,) = of_files(tmp_path, {"l.txt": b"\xef\xbb\xbfcat\ndog\n"}, **named)
    assert marked.startswith("labels: l.txt begins with a byte order mark")


# -- processes ----------------------------------------------------------------------------------------------------

STUB = "/opt/tritonserver/backends/python/triton_python_backend_stub"
NUMPY_1 = "/usr/lib/python3/dist-packages/numpy/core/_multiarray_umath.cpython-311-x86_64-linux-gnu.so"
NUMPY_2 = NUMPY_1.replace("/core/", "/_core/")


def process(proc: Path, pid: int, *words: str, env: Sequence[str] = (), loaded: Sequence[str] = ()) -> None:
    folder = proc / str(pid)
    (folder / "root").mkdir(parents=True)
    (folder / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))
    (folder / "environ").write_bytes(b"".join(word.encode() + b"\0" for word in env))
    rows = [f"7f00-7f01 r-xp 00000000 08:01 {number} {path}\n" for number, path in enumerate(loaded)]
    (folder / "maps").write_text("".join(["7f00-7f01 rw-p 00000000 00:00 0\n", *rows]))


def stub_of(proc: Path, pid: int, instance: str, **more: Sequence[str]) -> None:
    region = "triton_python_backend_shm_region_2886687d-b359-4a64-a91a-ed11916e2169"
    words = (STUB, "/models/m/1/model.py", region, "1048576", "1048576", "1", "/opt/x", "336", instance, "DEFAULT")
    process(proc, pid, *words, **more)


def test_processes_as_the_kernel_shows_them(tmp_path: Path) -> None:
    process(tmp_path, 1, "/opt/tritonserver/bin/tritonserver", "--model-repository=/models")
    libpython = "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0"
    stub_of(tmp_path, 2, "m_0_1", env=["A=b=c", "odd"], loaded=[NUMPY_1, libpython])
    process(tmp_path, 3, "/bin/sh", "-c", STUB)
    (stub,) = stubs([1, 2, 3, 4], tmp_path) or ()
    assert (stub.pid, stub.instance, stub.group, stub.env) == (2, "m_0_1", "m_0", {"A": "b=c"})
    assert (stub.numpy, stub.python) == (1, libpython)
    assert of_model(CONFIG, [stub]) == (stub,)
    assert of_model(CONFIG | {"instance_group": [group(name="other")]}, [stub]) == ()


def test_processes_that_cannot_be_seen(tmp_path: Path) -> None:
    assert stubs([], tmp_path) is None
    stub_of(tmp_path, 2, "m_0_0")
    assert stubs([2], tmp_path) is None, "whose these are is not known"


def stub(root: Path, *, env: Mapping[str, str] | None = None, loaded: Sequence[str] = (), program: str = STUB) -> Stub:
    return Stub(pid=2, program=program, instance="m_0_0", env=env or {}, libraries=frozenset(loaded), root=root)


def things(*some: Stub, server: tuple[int, ...] = (2, 51, 0), **changes: Any) -> list[str]:
    model = Served(name="m", config=CONFIG | changes, versions=[1], stubs=some, server=server)
    return [fault.thing for fault in faults(model)]


ENV = {"parameters": {"EXECUTION_ENV_PATH": {"string_value": "/env"}}}


def test_an_environment_without_a_python(tmp_path: Path) -> None:
    said = {"LD_LIBRARY_PATH": "/env/lib:/usr/lib"}
    assert things(stub(tmp_path, env=said), **ENV) == ["environment"]
    assert things(stub(tmp_path, env=said)) == [], "none was asked for"
    assert things(stub(tmp_path), **ENV) == [], "its environment cannot be seen"
    assert things(stub(tmp_path, env=said, loaded=["/env/lib/libpython3.11.so.1.0"]), **ENV) == []
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/bin/python3").symlink_to("/nowhere/python3")
    assert things(stub(tmp_path, env=said), **ENV) == []


def test_numpy_2_beside_a_stub_that_cannot_read_it(tmp_path: Path) -> None:
    assert things(stub(tmp_path, loaded=[NUMPY_2])) == ["numpy"]
    assert things(stub(tmp_path, loaded=[NUMPY_1])) == []
    assert things(stub(tmp_path, loaded=[NUMPY_2]), server=(2, 52, 0)) == []
    assert things(stub(tmp_path, loaded=[NUMPY_2]), server=()) == []
    own = "/models/m/triton_python_backend_stub"
    assert things(stub(tmp_path, loaded=[NUMPY_2], program=own)) == [], "a stub of its own may be newer"


def test_a_pythonpath_that_nobody_looks_at(tmp_path: Path) -> None:
    def lost(path: str, server: tuple[int, ...] = (2, 51, 0)) -> bool:
        return bool(list(pythonpath([stub(tmp_path, env={"PYTHONPATH": path})], server)))

    for folder in ("mine", "empty", "opt/tritonserver/backends/dali/wheel/dali", "packages/one"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "mine/module.py").touch()
    (tmp_path / "packages/one/__init__.py").touch()
    (tmp_path / "opt/tritonserver/backends/dali/wheel/dali/module.py").touch()
    assert lost("/mine")
    assert lost("/nowhere:/packages")
    assert not lost("/empty:/nowhere::relative")
    assert not lost("/opt/tritonserver/backends/dali/wheel/dali:")
    assert not lost("/mine", (2, 52, 0))


@pytest.mark.parametrize(
    ("groups", "versions", "seen", "words"),
    [
        ([group()], [1], 1, ""),
        ([group(count=2)], [1], 1, "1 of the 2 processes"),
        ([group()], [1], 0, "1 of the 1 processes"),
        ([group()], [1, 2], 1, "1 of the 2 processes"),
        ([group(kind="KIND_GPU", gpus=[0, 1], count=2)], [1], 3, "1 of the 4 processes"),
        ([group()], [1], None, ""),
    ],
)
def test_processes_that_are_gone(
    tmp_path: Path, groups: list[object], versions: list[int], seen: int | None, words: str
) -> None:
    some = None if seen is None else [stub(tmp_path)] * seen
    model = Served(name="m", config=CONFIG | {"instance_group": groups}, versions=versions, stubs=some)
    message = "; ".join(fault.message for fault in dead(model))
    assert words in message
    assert bool(message) == bool(words)


# -- a server -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any

    def json(self) -> Any:
        return self.body

    def complaint(self) -> str:
        return str(self.body)


@dataclass
class Pretender:
    """A server that says what it is told to, and the process that it pretends to be."""

    says: dict[str, Any]
    log: str = ""
    code: int | None = None
    processes: Sequence[int] = ()
    http: str = "http://127.0.0.1:9"
    grpc: str = "127.0.0.1:9"
    metrics: str = "http://127.0.0.1:9/metrics"
    engine: str = "none"
    asked: list[tuple[str, float]] = field(default_factory=list)

    def get(self, path: str, *, timeout: float = 10.0) -> Answer:
        self.asked.append((path, timeout))
        if path not in self.says:
            raise NoAnswer("the server refuses connections", waited=False)
        found = self.says[path]
        return found if isinstance(found, Answer) else Answer(200, found)

    def post(self, path: str, body: bytes, headers: Mapping[str, str], *, timeout: float = 10.0) -> Answer:
        return self.get(path, timeout=timeout)

    def close(self) -> None:
        pass

    def logs(self) -> str:
        return self.log

    def exit_code(self) -> int | None:
        return self.code

    def oom_killed(self) -> bool:
        return False

    def pids(self) -> Sequence[int]:
        return self.processes

    def stop(self) -> None:
        pass


INDEX = [{"name": "m", "version": "1", "state": "READY"}]


def server(index: object = INDEX, **configs: object) -> Pretender:
    says: dict[str, Any] = {
        "/v2": {"name": "triton", "version": "2.51.0", "extensions": ["statistics", "trace"]},
        "/v2/health/live": "",
        "/v2/health/ready": "",
        "/v2/repository/index": index,
        "/v2/models/m/ready": "",
    }
    configs = {"m": CONFIG} | configs
    return Pretender(says | {f"/v2/models/{name}/config": config for name, config in configs.items()})


def validation(text: str = "") -> Validate:
    recipe = 'triton: "24.10"\nbackends: [python]\nvalidate:\n  startup: {deadline: 1s, stall: 400ms, poll: 20ms}\n'
    wanted = parse_recipe(recipe + text, path=Path("recipe.yaml"), environ={}).validation
    assert wanted
    return wanted


def subject(server: Pretender, text: str = "", models: Sequence[str] | None = ("m",), **terms: Any) -> Subject:
    held = Terms(validation=validation(text), models=models, base=Path(), **terms)
    return Subject(running=server, terms=held, client=server, emit=ignore)  # type: ignore[arg-type]


def outcomes(results: Sequence[Result]) -> dict[str, str]:
    return {result.id: result.outcome for result in results}


def failed(results: Sequence[Result]) -> dict[str, str]:
    return {result.id: result.message for result in results if result.outcome == "failed"}


def test_a_server_that_is_well() -> None:
    found = list(health(subject(server())))
    assert outcomes(found) == {"ready": "passed", "models": "passed", "model:m": "passed"}
    assert found[2].message == "version 1 by python; instances: 1 of KIND_CPU"
    assert found[2].evidence["max_batch_size"] == 8
    assert all(json.dumps(result.to_json()) for result in found)
    again = list(still_healthy(subject(server())))
    assert outcomes(again) == {"ready": "passed", "models": "passed", "model:m": "passed"}


EXPECT = "  expect: {{models: {{m: {{{}}}}}}}\n"


@pytest.mark.parametrize(
    ("expected", "failure"),
    [
        ("versions: [1], backend: python, instances: {KIND_CPU: 1}", None),
        ("instances: {KIND_CPU: 1, KIND_GPU: 0}", None),
        ("versions: [1, 2]", ("versions", "m: its versions: expected 1, 2, found 1")),
        ("platform: ensemble", ("platform", "m: its platform: expected ensemble, found none")),
        ("backend: onnxruntime", ("backend", "m: its backend: expected onnxruntime, found python")),
        (
            "instances: {KIND_GPU: 1}",
            ("instances", "m: its instances: expected 1 of KIND_GPU, found 1 of KIND_CPU"),
        ),
        (
            "instances: {KIND_CPU: 2}",
            ("instances", "m: its instances: expected 2 of KIND_CPU, found 1 of KIND_CPU"),
        ),
    ],
)
def test_a_model_as_the_recipe_expects_it(expected: str, failure: tuple[str, str] | None) -> None:
    found = list(health(subject(server(), EXPECT.format(expected))))
    assert failed(found) == ({f"model:m:{failure[0]}": failure[1]} if failure else {})


def test_instances_on_gpus_are_counted_on_each_and_passive_ones_not() -> None:
    groups = [group(kind="KIND_GPU", gpus=[0, 1], count=3), group(), group(passive=True)]
    found = list(
        health(
            subject(
                server(m=CONFIG | {"instance_group": groups}), EXPECT.format("instances: {KIND_GPU: 6, KIND_CPU: 1}")
            )
        )
    )
    assert failed(found) == {}
    assert found[2].message == "version 1 by python; instances: 6 of KIND_GPU, 1 of KIND_CPU"


def test_each_thing_that_is_wrong_is_a_result() -> None:
    bad = CONFIG | {"max_batch_size": 0, "dynamic_batching": {}, "instance_group": [group(passive=True)]}
    found = list(health(subject(server(m=bad), EXPECT.format("versions: [2]"))))
    assert list(failed(found)) == ["model:m:versions", "model:m:passive", "model:m:batching"]
    assert all(message.startswith("m: ") for message in failed(found).values())


def test_models_are_exactly_those_expected() -> None:
    more = [*INDEX, {"name": "n", "version": "1", "state": "READY"}]
    assert failed(list(health(subject(server(more, n=CONFIG))))) == {"models": "n is served, and is not expected"}
    named = "  expect: {models: {m: {}, n: {}}}\n"
    assert failed(list(health(subject(server(more, n=CONFIG), named)))) == {}
    assert failed(list(health(subject(server(), named)))) == {"models": "n is not in the server's repository"}
    assert failed(list(health(subject(server(more, n=CONFIG), models=None)))) == {}


def test_a_model_that_nobody_asked_for() -> None:
    pretender = server([{"name": "m"}])
    assert failed(list(health(subject(pretender))))["models"].startswith("m is not ready: it was not loaded, and the")
    pretender.log = "| model_control_mode               | MODE_EXPLICIT |"
    assert failed(list(health(subject(pretender)))) == {
        "models": "m is not ready: the server loads only what load-model names"
    }


def test_a_model_that_is_to_be_unavailable() -> None:
    gone = [{"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}]
    down = EXPECT.format("state: UNAVAILABLE")
    assert failed(list(health(subject(server(gone), down)))) == {}
    assert failed(list(health(subject(server(), down)))) == {"models": "m is ready, UNAVAILABLE is expected"}


def test_a_server_of_which_nobody_said_what_it_serves() -> None:
    assert outcomes(list(health(subject(server([]), models=None)))) == {"ready": "passed", "models": "unverified"}
    assert outcomes(list(health(subject(server([{"name": "m"}]), models=None))))["models"] == "unverified"
    bad = [{"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "Internal: x"}]
    assert failed(list(health(subject(server(bad), models=None)))) == {"models": "m is not ready: Internal: x"}


def test_extensions() -> None:
    found = list(health(subject(server(), "  expect: {extensions: [statistics]}\n")))
    assert outcomes(found)["extensions"] == "passed"
    found = list(health(subject(server(), "  expect: {extensions: [statistics, binary_tensor_data]}\n")))
    assert failed(found) == {"extensions": "the server has no binary_tensor_data"}


def test_a_model_of_a_strange_name() -> None:
    index = [{"name": "a:b@c", "version": "1", "state": "READY"}]
    pretender = server(index)
    pretender.says["/v2/models/a:b@c/config"] = CONFIG
    assert failed(list(health(subject(pretender, models=["a:b@c"])))) == {}


def test_a_configuration_that_makes_no_sense() -> None:
    found = list(health(subject(server(m=["no"]))))
    assert outcomes(found) == {"ready": "passed", "models": "passed", "model:m": "error"}
    refused = list(health(subject(server(m=Answer(400, "no such model")))))
    assert failed(refused) == {"model:m": "the server does not answer /v2/models/m/config: no such model"}


def test_a_model_that_was_ready_once() -> None:
    pretender = server()
    pretender.says["/v2/models/m/ready"] = Answer(400, "")
    assert failed(list(still_healthy(subject(pretender)))) == {"model:m:ready": "m: it was ready, and is not any more"}


def test_local_models_are_compared(tmp_path: Path) -> None:
    repository = local(tmp_path, {"1/model.py": "", "config.pbtxt": "max_batch_size: 2"})
    found = failed(list(health(subject(server(), repositories=[repository]))))
    assert found == {
        "model:m:config": "m: it is not served as its config.pbtxt says: max_batch_size is 8, the file says 2"
    }


# -- up in time ---------------------------------------------------------------------------------------------------

HANGS = (
    'I1121 13:00:00.1 1 model_lifecycle.cc:472] "loading: good:1"\n'
    'I1121 13:00:00.1 1 model_lifecycle.cc:472] "loading: bad:2"\n'
    "I1121 13:00:00.2 9 pb_stub.cc:298]  Failed to preinitialize Python stub: Python model file not found in '/m/2'\n"
    "I1121 13:00:00.3 1 model_lifecycle.cc:839] \"successfully loaded 'good'\"\n"
)


def not_ready(pretender: Pretender) -> Result:
    (found,) = health(subject(pretender))
    assert (found.id, found.outcome) == ("ready", "failed")
    return found


def test_a_hang_names_the_model_and_the_last_words_of_its_process() -> None:
    found = not_ready(Pretender({}, log=HANGS))
    assert found.message == (
        "the server made no progress for 0.4 s; these models never finished loading: bad version 2; the last of a "
        "Python process: Failed to preinitialize Python stub: Python model file not found in '/m/2'"
    )
    assert found.evidence["loading"] == ["bad version 2"]
    assert found.hint == "startup: {stall: 1.6s}   (if it needs longer)"
    assert len(found.evidence["log"]) == 4


def test_a_hang_after_failures_tells_both() -> None:
    log = (
        HANGS + "E1121 13:00:00.4 1 model_lifecycle.cc:642] \"failed to load 'worse' version 1: Internal: a\\n\\nb\"\n"
    )
    assert (
        "; these failed: worse: Internal: a b; these models never finished" in not_ready(Pretender({}, log=log)).message
    )


@pytest.mark.parametrize(
    ("code", "log", "words"),
    [
        (1, "", "the server ended with status 1 and wrote nothing"),
        (139, "Signal (11) received.\n", "the server ended by SIGSEGV: Signal (11) received."),
        (
            1,
            'E1121 13:00:00.1 1 main.cc:1] "no port"\n'
            'E1121 13:00:00.1 1 server.cc:241] "CudaDriverHelper has not been initialized."\n',
            "the server ended with status 1: no port",
        ),
        (127, "inside: tritonserver: not found\n", "the server ended with status 127: inside: tritonserver: not found"),
    ],
)  # fmt: skip
def test_how_a_server_ended(code: int, log: str, words: str) -> None:
    assert not_ready(Pretender({}, code=code, log=log)).message == words


def test_a_server_that_speaks_no_http_is_not_waited_for() -> None:
    (found,) = health(subject(Pretender({}), off=["http"]))
    assert (found.id, found.outcome, found.seconds) == ("ready", "error", 0)
    assert found.hint == "server: {allow-http: true}, or build without proof: --no-validate"


def test_no_call_waits_longer_than_is_left() -> None:
    pretender = server()
    del pretender.says["/v2/health/ready"]
    pretender.log = "x"
    list(health(subject(pretender)))
    assert max(timeout for _, timeout in pretender.asked) <= 1.0
    assert pretender.asked[-1][1] < 0.8


# -- logs ---------------------------------------------------------------------------------------------------------

ON_CPU = (
    'W1121 13:00:00.1 1 pinned_memory_manager.cc:273] "Unable to allocate pinned system memory, pinned memory pool '
    'will not be available: CUDA driver version is insufficient for CUDA runtime version"\n'
    'I1121 13:00:00.1 1 cuda_memory_manager.cc:117] "CUDA memory pool disabled"\n'
    'E1121 13:00:00.1 1 server.cc:241] "CudaDriverHelper has not been initialized."\n'
)
ERROR = "E1121 13:00:00.1 1 model_lifecycle.cc:123] \"version 3 is specified for model 'm', but it is not present\"\n"
WARNING = 'W1121 13:00:00.1 1 model_lifecycle.cc:111] "ignore version directory"\n'
SEEN = 'I1121 00:00:00.1 1 metrics.cc:1] "Collecting metrics for GPU 0: NVIDIA H200"\n'


@pytest.mark.parametrize(
    ("log", "strict", "count"),
    [
        (ON_CPU, "{}", 0),
        (ON_CPU, "{fail_on: [W, E]}", 0),
        (ON_CPU + SEEN, "{}", 1),
        (ERROR + WARNING, "{}", 1),
        (ERROR + WARNING, "{fail_on: [W]}", 1),
        (ERROR + WARNING, "{fail_on: [W, E]}", 2),
        (ERROR, "{allow: ['is specified for model']}", 0),
        (ERROR, r"{allow: ['lifecycle.cc:\d+']}", 0),
        (ERROR, "{allow: ['another thing']}", 1),
        ("ERROR in what a model prints\nE is a letter\n", "{}", 0),
        (ERROR.replace("E1121 13:00:00.1", "2026-11-21T13:00:00Z E"), "{}", 1),
        (ERROR.replace('"', ""), "{}", 1),
    ],
)
def test_lines_that_should_not_be_there(log: str, strict: str, count: int) -> None:
    wanted = validation(f"  strict_logs: {strict}\n").strict_logs
    assert wanted
    assert len(unexcused(log, wanted)) == count


def test_strict_logs_are_a_result_only_where_they_are_wanted() -> None:
    assert list(logs(subject(server()))) == []
    strict = "  strict_logs: {}\n"
    assert outcomes(list(logs(subject(server(), strict)))) == {"logs": "unverified"}
    bad = server()
    bad.log = ERROR + ON_CPU
    (found,) = logs(subject(bad, strict))
    assert (
        found.message
        == "a line of level E, F that nothing allows: version 3 is specified for model 'm', but it is not present"
    )
    assert found.evidence["lines"] == [ERROR.rstrip()]
    hint = re.fullmatch(r"strict_logs: \{allow: \['(.*)'\]\} .*", found.hint)
    assert hint
    assert outcomes(list(logs(subject(bad, f"  strict_logs: {{allow: ['{hint[1]}']}}\n")))) == {"logs": "passed"}


HEALTHY = sorted(Path(__file__).parent.glob("diagnosis/healthy/*.txt"))


@pytest.mark.parametrize("path", HEALTHY, ids=lambda path: path.stem)
@pytest.mark.parametrize("levels", ["[E, F]", "[W, E, F]"])
def test_servers_that_are_well_say_nothing_that_is_strictly_wrong(path: Path, levels: str) -> None:
    """Recorded without a GPU."""
    wanted = validation(f"  strict_logs: {{fail_on: {levels}}}\n").strict_logs
    assert wanted
    log = path.read_text().partition("\n---\n")[2]
    assert log
    assert [line.raw for line in unexcused(log, wanted)] == []


def test_there_are_servers_that_are_well() -> None:
    assert len(HEALTHY) >= 5


# -- what the recipe passes over ----------------------------------------------------------------------------------


def test_what_lint_is_told_to_ignore_is_no_failure_here() -> None:
    bad = server(m=CONFIG | {"max_batch_size": 0, "dynamic_batching": {}, "instance_group": [group(passive=True)]})
    one = {"BAT003": "it is asked one by one"}
    found = list(health(subject(bad, ignored=one)))
    assert list(failed(found)) == ["model:m:passive"]
    (skipped,) = [result for result in found if result.outcome == "skipped"]
    assert skipped.id == "model:m:batching"
    assert skipped.message.endswith("(BAT003 is ignored: it is asked one by one)")
    both = one | {"INS007": "so it is"}
    assert outcomes(list(health(subject(bad, ignored=both))))["model:m"] == "passed"


def test_what_a_comment_passes_over_is_no_failure_here(tmp_path: Path) -> None:
    text = "dynamic_batching { }  # tricompose: ignore[BAT003] the exporter writes it\n"
    repository = local(tmp_path, {"1/model.py": "", "config.pbtxt": text})
    bad = server(m=CONFIG | {"max_batch_size": 0, "dynamic_batching": {}})
    found = outcomes(list(health(subject(bad, repositories=[repository]))))
    assert (found["model:m:batching"], found["model:m"]) == ("skipped", "passed")


def test_rules_that_are_named_are_rules() -> None:
    text = Path(silent.__file__).read_text()
    named = set(re.findall(r'"([A-Z]+\d{3})"', text))
    assert len(named) >= 8
    assert named <= set(RULES)
