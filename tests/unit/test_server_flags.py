"""tritonserver's flags: the table against what real servers printed, values, names by release, and commands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from composer.errors import RecipeError
from composer.recipe import Recipe, flag_warnings, parse_recipe
from composer.releases import LATEST, RELEASES, changes
from composer.releases.flags import NEWEST, OLDEST, Flag, changed_flags, flags, flags_of, is_flag_value, misfit
from composer.server import FlagValue, flag_faults, flag_notes, nearest_flag, server_command, spelled
from tests.flags import SAID

PRINTED = Path(__file__).parent / "data" / "tritonserver-flags.txt"
"""What `tritonserver --help` of fourteen real servers printed."""

HELP = {"<string>": "Str", "<integer>": "Int", "<float>": "Float", "<boolean>": "Bool", "": "None"}


def servers() -> Iterator[tuple[str, dict[str, str]]]:
    """The flags of each real server by its release, with what its help says of their values."""
    release, flags_now = "", dict[str, str]()
    for line in PRINTED.read_text().splitlines():
        sign, _, rest = line.partition(" ")
        name, _, said = rest.partition(" ")
        if sign == "+":
            flags_now[name] = HELP.get(said, said.removeprefix("<").removesuffix(">"))
        elif sign == "-":
            del flags_now[name]
        elif re.match(r"2\.\d+\.0 ", line):
            if release:
                yield release, dict(flags_now)
            release = line.split()[1]
    yield release, flags_now


# -- the table ------------------------------------------------------------------------------------


def test_the_table_is_what_real_servers_print() -> None:
    seen = dict(servers())
    assert len(seen) == 14
    assert (min(seen), max(seen)) == ("23.04", "24.10")
    for release, printed in seen.items():
        known = {flag.name: flag for flag in flags_of(release)}
        assert known.keys() == printed.keys(), release
        wrong = {name: said for name, said in printed.items() if known[name].kind not in SAID[said]}
        assert not wrong, release


def test_the_table_is_whole() -> None:
    assert len(flags()) > 95
    for name, flag in flags().items():
        assert flag.about.endswith(".")
        assert len(flag.about) < 120
        assert all(first in RELEASES and (not last or last in RELEASES) for first, last in flag.spans), name
        assert list(flag.spans) == sorted(flag.spans)
        assert all(last for _, last in flag.spans[:-1])
        assert flag.many or flag.kind not in ("devices", "settings", "resource", "restricted"), name
        assert bool(flag.choices) or flag.kind != "choice"
        assert all(since > flag.spans[0][0] for since in flag.newer.values())
    assert OLDEST in RELEASES
    assert NEWEST == LATEST, "python -m tests.flags <checkout>, then composer/releases/flags.py: NEWEST"


def test_a_default_fits_its_flag() -> None:
    ill = [name for name, flag in flags().items() if flag.default is not None and misfit(flag, flag.default)]
    # A count of -1 stands for no limit, as do others that only the server may say.
    assert ill == []


@pytest.mark.parametrize("name", flags())
def test_what_a_hint_shows_fits(name: str) -> None:
    """Whatever is wrong with a value, the value in the hint can be pasted."""
    import ruamel.yaml

    flag = flags()[name]
    for value in (True, -5, 1.5, "", "x y", {"a": {"b": 1}}, ("a", 1), "256MiB", "8000", "yes"):
        if found := misfit(flag, value):
            read = ruamel.yaml.YAML(typ="safe").load(f"x: {found.example}")["x"]
            assert misfit(flag, read) is None, (value, found)


def test_what_instead_shows_fits() -> None:
    """What a deprecated flag's table says to write now is a flag with a value that fits."""
    import ruamel.yaml

    for flag in flags().values():
        if flag.instead:
            ((name, value),) = ruamel.yaml.YAML(typ="safe").load(flag.instead).items()
            assert misfit(flags()[name], value) is None, flag.name


def test_what_changed() -> None:
    assert ("server flags", "", "http-max-input-size") in changes("25.06")
    assert ("", "grpc-max-response-pool-size") in changed_flags("25.02", "25.03")
    assert ("grpc-infer-thread-count", "") in changed_flags("20.05", "20.06")
    assert ("", "grpc-infer-thread-count") in changed_flags("25.03", "25.04")
    assert changed_flags("24.08", "24.09") == ()
    assert changed_flags("19.01", "24.09") == ()


# -- values ---------------------------------------------------------------------------------------

FITTING: list[tuple[str, FlagValue]] = [
    ("http-port", 8000),
    ("id", "x"),
    ("metrics-interval-ms", 2000),
    ("min-supported-compute-capability", 6.0),
    ("min-supported-compute-capability", 7),
    ("log-info", True),
    ("log-format", "ISO8601"),
    ("rate-limit", "Execution_Count"),
    ("disable-auto-complete-config", False),
    ("load-model", ("a", "b")),
    ("load-model", "*"),
    ("cuda-memory-pool-byte-size", {"0": 1}),
    ("cuda-memory-pool-byte-size", "0:1"),
    ("cuda-memory-pool-byte-size", ("0:1", "1:2")),
    ("model-load-gpu-limit", {"0": 0.9, "1": 1}),
    ("cache-config", {"local": {"size": 1}}),
    ("cache-config", "local,size=1"),
    ("cache-config", ("redis,host=h", "redis,port=1")),
    ("metrics-config", {"x": "y"}),
    ("backend-config", {"default-max-batch-size": 4, "python": {"shm-default-byte-size": 1}}),
    ("trace-config", {"level": "TIMESTAMPS", "triton": {"file": "/tmp/t"}}),
    ("trace-config", "opentelemetry,url=localhost:4318/v1/traces"),
    ("host-policy", {"gpu_0": {"cpu-cores": "0-7"}}),
    ("rate-limit-resource", ("R:4", "S:2:0")),
    ("grpc-restricted-protocol", "health,inference:key=secret"),
    ("sagemaker-safe-port-range", "8000-8010"),
    ("http-header-forward-pattern", "x-.*"),
    ("grpc-infer-thread-count", 128),
    ("trace-count", -1),
    ("pinned-memory-pool-byte-size", 1 << 40),
]
UNFIT: list[tuple[str, FlagValue, str]] = [
    ("http-port", "8000", "8000"),
    ("http-port", 80.5, "8000"),
    ("http-port", True, "8000"),
    ("http-port", 0, "8000"),
    ("http-port", 65536, "8000"),
    ("http-port", (1, 2), "8000"),
    ("id", 5, '"..."'),
    ("id", {"a": 1}, '"..."'),
    ("log-info", 1, "true"),
    ("log-info", "no", "false"),
    ("log-format", "iso8601", "default"),
    ("log-verbose", True, "0"),
    ("model-control-mode", "manual", "none"),
    ("metrics-interval-ms", 0.5, "2000"),
    ("metrics-interval-ms", 0, "2000"),
    ("load-model", ("a", 1), '"..."'),
    ("cuda-memory-pool-byte-size", 1, "{0: 67108864}"),
    ("cuda-memory-pool-byte-size", {"0": {"1": 2}}, "{0: 67108864}"),
    ("cuda-memory-pool-byte-size", {"gpu0": 1}, "{0: 67108864}"),
    ("cuda-memory-pool-byte-size", {"0": 0.5}, "{0: 67108864}"),
    ("cuda-memory-pool-byte-size", {"0": True}, "{0: 67108864}"),
    ("model-load-gpu-limit", {"0": 90}, "{0: 0.9}"),
    ("cache-config", "local", "{name: {setting: value}}"),
    ("cache-config", "size=1", "{name: {setting: value}}"),
    ("cache-config", {"size": 1}, "{name: {setting: value}}"),
    ("cache-config", {"local": {}}, "{name: {setting: value}}"),
    ("metrics-config", {"local": {"x": 1}}, "{setting: value}"),
    ("metrics-config", "a,b=c", "{setting: value}"),
    ("trace-config", {"jaeger": {"url": "x"}}, "{triton: {setting: value}}"),
    ("trace-config", "jaeger,url=x", "{triton: {setting: value}}"),
    ("host-policy", {"gpu_0": {"cores": "0-7"}}, "{name: {numa-node: value}}"),
    ("host-policy", "gpu_0,cores=0-7", "{name: {numa-node: value}}"),
    ("rate-limit-resource", "R", '"memory:4"'),
    ("rate-limit-resource", "R:x", '"memory:4"'),
    ("grpc-restricted-protocol", "everything:key=secret", '"inference,health:x-key=secret"'),
    ("sagemaker-safe-port-range", "8000", '"8000-8010"'),
    ("http-header-forward-pattern", "(", '"x-.*"'),
    ("grpc-infer-thread-count", 1, "2"),
    ("pinned-memory-pool-byte-size", "256MiB", "268435456"),
    ("pinned-memory-pool-byte-size", "1 GB", "1000000000"),
    ("pinned-memory-pool-byte-size", -1, "268435456"),
    ("exit-timeout-secs", 1 << 31, "30"),
]


@pytest.mark.parametrize(("name", "value"), FITTING)
def test_fitting(name: str, value: FlagValue) -> None:
    assert misfit(flags()[name], value) is None
    assert is_flag_value(value)


@pytest.mark.parametrize(("name", "value", "example"), UNFIT)
def test_unfit(name: str, value: FlagValue, example: str) -> None:
    found = misfit(flags()[name], value)
    assert found is not None
    assert found.example == example


@pytest.mark.parametrize("value", [None, ("a", None), {"a": None}, {"a": {"b": {}}}, (("a",),), b"x"])
def test_what_no_flag_is_written_with(value: object) -> None:
    assert not is_flag_value(value)


def test_values_that_came_later() -> None:
    level, model = flags()["trace-level"], flags()["load-model"]
    assert misfit(level, "timestamps", "22.01")
    assert misfit(level, "MIN", "22.01") is None
    assert misfit(level, ("TIMESTAMPS", "TENSORS"), "22.02") is None
    assert misfit(model, "*", "22.04")
    assert misfit(model, "*", "22.05") is None
    assert misfit(model, "*") is None


# -- names by release -----------------------------------------------------------------------------


def faults(release: str | None, **given: Any) -> list[tuple[str, str]]:
    return [(one.message, one.hint) for one in flag_faults(_dashed(given), release)]


def _dashed(given: Mapping[str, Any]) -> dict[str, FlagValue]:
    return {name.replace("_", "-"): value for name, value in given.items()}


@pytest.mark.parametrize(
    ("name", "release", "meant"),
    [
        ("model-control-mod", None, "model-control-mode"),
        ("model_control_mode", "24.09", "model-control-mode"),
        ("--http-port", None, "http-port"),
        ("HTTP-Port", None, "http-port"),
        ("grpc-max-response-pool-siz", "25.03", "grpc-max-response-pool-size"),
        ("zzz", None, None),
    ],
)
def test_nearest(name: str, release: str | None, meant: str | None) -> None:
    assert nearest_flag(name, release) == meant


def test_unknown_flags() -> None:
    assert faults("24.09", http_prot=1) == [('tritonserver 24.09 has no flag "http-prot"', 'did you mean "http-port"?')]
    ((message, hint),) = faults("24.09", zzz=1)
    assert hint == "docker run --rm nvcr.io/nvidia/tritonserver:24.09-py3 tritonserver --help"
    ((message, _),) = faults(None, http_prot=1)
    assert message == 'no tritonserver has a flag "http-prot"'


def test_flags_of_other_releases() -> None:
    assert faults("24.09", grpc_max_response_pool_size=8) == [
        ('tritonserver 24.09 has no flag "grpc-max-response-pool-size"', "it is there since 25.03")
    ]
    assert faults("25.03", grpc_max_response_pool_size=8) == []
    assert faults(None, grpc_max_response_pool_size=8) == []
    ((_, hint),) = faults("24.09", grpc_infer_thread_count=8)
    assert hint == "it is there until 20.05 and since 25.04"
    ((_, hint),) = faults("24.09", tf_allow_soft_placement=True)
    assert hint == ("it is there until 20.07; now it is backend-config: {tensorflow: {allow-soft-placement: true}}")


def test_releases_that_are_not_known() -> None:
    newer = "27.01"
    assert faults(newer, brand_new=1) == []
    assert [note.flag for note in flag_notes({"brand-new": 1}, newer)] == ["brand-new"]
    assert faults(newer, http_port="x") != []
    assert faults(newer, http_port=1) == []
    assert list(flag_notes({"http-port": 1}, newer)) == []
    assert faults("19.04", http_port=1) == []
    assert [note.hint for note in flag_notes({"http-port": 1}, "19.04")] == [f'triton: "{OLDEST}"']


SPELLINGS: list[tuple[str | None, dict[str, FlagValue], list[str]]] = [
    ("22.04", {"disable-auto-complete-config": True}, ["--strict-model-config=true"]),
    ("22.04", {"disable-auto-complete-config": False}, ["--strict-model-config=false"]),
    ("22.04", {"strict-model-config": False}, ["--strict-model-config=false"]),
    ("24.09", {"strict-model-config": True}, ["--disable-auto-complete-config"]),
    # That holds anyway.
    ("24.09", {"strict-model-config": False}, []),
    ("24.09", {"disable-auto-complete-config": True}, ["--disable-auto-complete-config"]),
    (None, {"strict-model-config": True}, ["--strict-model-config=true"]),
    ("24.09", {"response-cache-byte-size": 9}, ["--cache-config=local,size=9"]),
    ("22.04", {"response-cache-byte-size": 9}, ["--response-cache-byte-size=9"]),
    ("22.04", {"cache-config": {"local": {"size": 9}}}, ["--response-cache-byte-size=9"]),
    ("20.05", {"allow-model-control": True}, ["--model-control-mode=explicit"]),
    ("24.09", {"allow-poll-model-repository": False}, ["--model-control-mode=none"]),
    (
        "24.09",
        {"trace-level": ("TIMESTAMPS", "TENSORS")},
        ["--trace-config=level=TIMESTAMPS", "--trace-config=level=TENSORS"],
    ),
    (
        "24.09",
        {"trace-config": {"rate": 5}, "log-info": True, "trace-file": "/t"},
        ["--trace-config=triton,file=/t", "--trace-config=rate=5", "--log-info=true"],
    ),
    (
        "22.04",
        {"trace-config": {"level": "TIMESTAMPS", "rate": 5, "triton": {"file": "/t"}}},
        ["--trace-level=TIMESTAMPS", "--trace-rate=5", "--trace-file=/t"],
    ),
    ("22.04", {"trace-config": "mode=triton", "log-info": True}, ["--trace-config=mode=triton", "--log-info=true"]),
    ("27.01", {"brand-new": 1, "trace-rate": 2}, ["--brand-new=1", "--trace-config=rate=2"]),
]


@pytest.mark.parametrize(("release", "given", "expected"), SPELLINGS)
def test_spelled(release: str | None, given: dict[str, FlagValue], expected: list[str]) -> None:
    assert list(server_command(given, release=release)[2:]) == expected


def test_what_cannot_be_said_in_an_older_release() -> None:
    otel: dict[str, FlagValue] = {"trace-config": {"mode": "opentelemetry"}}
    assert [one.hint for one in flag_faults(otel, "22.04")] == ["it is there since 23.04"]
    redis: dict[str, FlagValue] = {"cache-config": {"redis": {"host": "h"}}}
    assert [one.hint for one in flag_faults(redis, "22.04")] == ["it is there since 23.03"]
    assert list(flag_faults(redis, "23.03")) == []
    tensors: dict[str, FlagValue] = {"trace-config": {"level": "TENSORS"}}
    assert [one.flag for one in flag_faults(tensors, "22.01")] == ["trace-config"]


def test_one_setting_under_two_names() -> None:
    ((message, hint),) = faults("24.09", strict_model_config=True, disable_auto_complete_config=True)
    assert message == "strict-model-config and disable-auto-complete-config are one setting"
    assert hint == "remove strict-model-config"


def test_notes() -> None:
    (note,) = flag_notes({"strict-model-config": True}, "24.09")
    assert note.message == (
        "strict-model-config (deprecated since 22.07 in 24.09) is written --disable-auto-complete-config"
    )
    assert note.hint == "disable-auto-complete-config: true"
    (note,) = flag_notes({"strict-model-config": False}, "24.09")
    assert note.message == "strict-model-config (deprecated since 22.07 in 24.09) is what holds anyway"
    (note,) = flag_notes({"disable-auto-complete-config": True}, "22.04")
    assert note.hint == "strict-model-config: true"
    (note,) = flag_notes({"trace-rate": 5}, "24.09")
    assert note.hint == 'trace-config: ["rate=5"]'
    (note,) = flag_notes({"trace-config": {"level": "TIMESTAMPS", "rate": 5, "triton": {"file": "/t"}}}, "22.04")
    assert note.hint == 'trace-level: TIMESTAMPS, trace-rate: 5, trace-file: "/t"'
    assert list(flag_notes({"strict-model-config": True}, None)) == []


@pytest.mark.parametrize("release", [name for name in RELEASES if name >= OLDEST])
def test_every_flag_is_taken_named_otherwise_or_refused(release: str) -> None:
    """What is not refused is a command of flags that the release has, with values that fit."""
    known = {flag.name for flag in flags_of(release)}
    for flag in flags().values():
        value = sample(flag)
        refused = list(flag_faults({flag.name: value}, release))
        if not refused:
            written = spelled({flag.name: value}, release)
            assert written.keys() <= known, flag.name
            assert not any(misfit(flags()[name], held, release) for name, held in written.items())
        assert not (refused and flag.known_in(release)), flag.name


def sample(flag: Flag) -> FlagValue:
    """A value that fits in every release."""
    if flag.kind == "settings":
        texts = {"named": "local,size=1", "plain": "x=1", "": "rate=1"}
        return "p,numa-node=0" if flag.settings else texts[flag.form]
    if flag.kind == "choice":
        return flag.choices[0]
    texts = {"devices": "0:1", "resource": "R:1", "restricted": "health:a=b", "range": "1-2", "pattern": "x"}
    if flag.kind in ("boolean", "switch"):
        return True
    if flag.kind in ("text", "path", "address"):
        return "x"
    return texts.get(flag.kind) or max(1, flag.least or 0)


# -- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["--model-repository=/models"]),
        ({"log-verbose": 1}, ["--model-repository=/models", "--log-verbose=1"]),
        ({"model-repository": "/m"}, ["--model-repository=/m"]),
        ({"model-store": "/m"}, ["--model-store=/m"]),
        ({"model-repository": ("/a", "/b")}, ["--model-repository=/a", "--model-repository=/b"]),
        ({"log-info": False, "strict-readiness": True}, ["...", "--log-info=false", "--strict-readiness=true"]),
        ({"disable-auto-complete-config": True}, ["...", "--disable-auto-complete-config"]),
        ({"disable-auto-complete-config": False}, ["..."]),
        ({"min-supported-compute-capability": 7.5}, ["...", "--min-supported-compute-capability=7.5"]),
        (
            {"cuda-memory-pool-byte-size": {"0": 67108864, "1": 0}},
            ["...", "--cuda-memory-pool-byte-size=0:67108864", "--cuda-memory-pool-byte-size=1:0"],
        ),
        ({"model-load-gpu-limit": {"0": 0.5}}, ["...", "--model-load-gpu-limit=0:0.5"]),
        ({"cache-config": {"local": {"size": 1048576}}}, ["...", "--cache-config=local,size=1048576"]),
        (
            {"backend-config": {"python": {"shm-default-byte-size": 1, "x": True}, "default-max-batch-size": 4}},
            [
                "...",
                "--backend-config=python,shm-default-byte-size=1",
                "--backend-config=python,x=true",
                "--backend-config=default-max-batch-size=4",
            ],
        ),
        ({"metrics-config": {"summary_latencies": True}}, ["...", "--metrics-config=summary_latencies=true"]),
        ({"a-new-flag": {"x": 1}, "another": ("a", 1)}, ["...", "--a-new-flag=x=1", "--another=a", "--another=1"]),
        # A value of several words stays one argument: nothing here passes through a shell.
        ({"id": "two words; $x"}, ["...", "--id=two words; $x"]),
    ],
)
def test_command(given: dict[str, FlagValue], expected: list[str]) -> None:
    expected = ["--model-repository=/models" if part == "..." else part for part in expected]
    assert server_command(given) == ("tritonserver", *expected)
    assert server_command(given, release="24.10") == ("tritonserver", *expected)


def test_another_repository() -> None:
    assert server_command({}, repository="/srv") == ("tritonserver", "--model-repository=/srv")


def test_flags_keep_the_recipe_s_order() -> None:
    names = ["log-verbose", "http-port", "allow-grpc", "exit-timeout-secs"]
    command = server_command(dict.fromkeys(names, 1))
    assert [argument[2:].partition("=")[0] for argument in command[2:]] == names


# -- in recipes -----------------------------------------------------------------------------------


def read(release: str | None, server: str) -> Recipe:
    first = f'triton: "{release}"' if release else "upstream: oci:x"
    text = f"{first}\nbackends: [python]\nserver: {server}"
    return parse_recipe(text, path=Path("/srv/r.yaml"), environ={})


@pytest.mark.parametrize(
    ("release", "server", "problem"),
    [
        ("24.09", "{http-prot: 1}", '3:10: tritonserver 24.09 has no flag "http-prot"'),
        ("24.09", "{http-max-input-size: 1}", '3:10: tritonserver 24.09 has no flag "http-max-input-size"'),
        ("24.09", "{http-port: x}", "3:21: the flag http-port takes a port from 1 to 65535"),
        (None, "{http-prot: 1}", '3:10: no tritonserver has a flag "http-prot"'),
        ("24.09", "{log-info: {a: [1]}}", "3:20: no flag is written with this"),
        ("24.09", "{5: 1}", "no flag"),
        ("24.09", "[a]", "3:9"),
    ],
)
def test_refused(release: str | None, server: str, problem: str) -> None:
    with pytest.raises(RecipeError) as refused:
        read(release, server)
    said = [f"{one.where}: {one.message}" for one in refused.value.problems]
    assert len(said) == 1
    assert problem in said[0]


def test_warned_of() -> None:
    (warning,) = flag_warnings(read("24.09", "{strict-model-config: true}"))
    assert warning.where == "/srv/r.yaml:3:10"
    assert flag_warnings(read("22.04", "{strict-model-config: true}")) == ()
    assert flag_warnings(read(None, "{strict-model-config: true}")) == ()
