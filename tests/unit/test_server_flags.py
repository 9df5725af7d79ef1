"""tritonserver's flags: the table against what the real server printed, and the command lines made from recipes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from composer.server import FLAGS, FlagValue, misfit, nearest_flag, server_command

PRINTED = Path(__file__).parent / "data" / "tritonserver-2.51.0-flags.txt"
"""The lines of flags in `tritonserver --help` of the real server 2.51.0, the one of release 24.10."""

KINDS = {
    "<string>": "text",
    "<integer>": "integer",
    "<float>": "number",
    "<boolean>": "boolean",
    "": "switch",
    "<<integer>:<integer>>": "device",
    "<<device_id>:<fraction>>": "device",
    "<<string>=<string>>": "setting",
    "<<string>,<string>=<string>>": "setting",
    "<<string>:<string>=<string>>": "text",
    "<<string>:<integer>:<integer>>": "text",
    "<<integer>-<integer>>": "text",
}


def test_the_table_is_what_the_server_prints() -> None:
    lines = (re.fullmatch(r"--(\S+) ?(.*)", line) for line in PRINTED.read_text().splitlines())
    printed = {match[1]: KINDS[match[2]] for match in lines if match}
    del printed["help"]
    assert len(printed) > 80
    assert dict(FLAGS) == printed


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, ["--model-repository=/models"]),
        ({"log-verbose": 1}, ["--model-repository=/models", "--log-verbose=1"]),
        ({"model-repository": "/m"}, ["--model-repository=/m"]),
        ({"model-store": "/m"}, ["--model-store=/m"]),
        ({"model-repository": ("/a", "/b")}, ["--model-repository=/a", "--model-repository=/b"]),
        ({"log-info": False, "strict-readiness": True}, ["...", "--log-info=false", "--strict-readiness=true"]),
        ({"disable-auto-complete-config": True}, ["...", "--disable-auto-complete-config"]),
        ({"disable-auto-complete-config": False}, ["..."]),
        ({"metrics-interval-ms": 500.5}, ["...", "--metrics-interval-ms=500.5"]),
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
def test_command(flags: dict[str, FlagValue], expected: list[str]) -> None:
    expected = ["--model-repository=/models" if part == "..." else part for part in expected]
    assert server_command(flags) == ("tritonserver", *expected)


def test_another_repository() -> None:
    assert server_command({}, repository="/srv") == ("tritonserver", "--model-repository=/srv")


def test_flags_keep_the_recipe_s_order() -> None:
    names = ["log-verbose", "http-port", "allow-grpc", "exit-timeout-secs"]
    command = server_command(dict.fromkeys(names, 1))
    assert [argument[2:].partition("=")[0] for argument in command[2:]] == names


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("model-control-mod", "model-control-mode"),
        ("model_control_mode", "model-control-mode"),
        ("--http-port", "http-port"),
        ("HTTP-Port", "http-port"),
        ("zzz", None),
    ],
)
def test_nearest(name: str, meant: str | None) -> None:
    assert nearest_flag(name) == meant


FITTING: list[tuple[str, FlagValue]] = [
    ("http-port", 8000),
    ("id", "x"),
    ("metrics-interval-ms", 2000),
    ("metrics-interval-ms", 0.5),
    ("log-info", True),
    ("disable-auto-complete-config", False),
    ("load-model", ("a", "b")),
    ("cuda-memory-pool-byte-size", {"0": 1}),
    ("cuda-memory-pool-byte-size", "0:1"),
    ("cache-config", {"local": {"size": 1}}),
    ("cache-config", "local,size=1"),
    ("metrics-config", {"x": "y"}),
    ("unknown", {"what": {"ever": 1}}),
]
UNFIT: list[tuple[str, FlagValue]] = [
    ("http-port", "8000"),
    ("http-port", 80.5),
    ("http-port", True),
    ("id", 5),
    ("id", {"a": 1}),
    ("log-info", 1),
    ("log-info", "true"),
    ("metrics-interval-ms", True),
    ("load-model", ("a", 1)),
    ("cuda-memory-pool-byte-size", 1),
    ("cuda-memory-pool-byte-size", {"0": {"1": 2}}),
    ("cache-config", "local"),
]


@pytest.mark.parametrize(("name", "value"), FITTING)
def test_fitting(name: str, value: FlagValue) -> None:
    assert misfit(name, value) is None


@pytest.mark.parametrize(("name", "value"), UNFIT)
def test_unfit(name: str, value: FlagValue) -> None:
    assert misfit(name, value) is not None
