"""Lint of the server's flags: what the server refuses of them, and what makes no sense with a baked-in repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from composer.models.configuration import Place
from composer.models.lint import Case, lint
from composer.models.lint.case import case_of
from composer.models.lint.server import strict
from composer.models.repository import ModelRepository, read_repository
from composer.recipe import parse_recipe
from composer.releases import RELEASES
from tests import judged

FAMILY = ("SRV", "CCH003", "CCH004", "CCH005", "RL003", "CFG030", "CFG035")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two models of the python backend, and an ensemble of the second."""
    write(tmp_path / "a", "")
    write(tmp_path / "b", "")
    steps = 'step { model_name: "b" model_version: -1 }'
    write(tmp_path / "e", f'platform: "ensemble" ensemble_scheduling {{ {steps} }}')
    return tmp_path


def write(folder: Path, config: str) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text("class TritonPythonModel:\n    pass\n")
    (folder / "config.pbtxt").write_text(config or f'name: "{folder.name}" backend: "python"')


def found(models: Path, flags: dict[str, Any], release: str | None = "24.10", **case: Any) -> list[tuple[str, str]]:
    """Ids and severities of what these rules find, errors and warnings first."""
    about = Case(release=RELEASES[release] if release else None, server=flags, **case)
    every: tuple[ModelRepository, ...] = (read_repository(models),)
    findings = [one for one in lint(every, about) if one.rule.id.startswith(FAMILY)]
    for one in findings:
        assert one.message
        assert one.fix
        assert "{" not in one.says.replace("{model}", ""), one.says
    return sorted((one.rule.id, one.severity) for one in findings)


EXPLICIT = {"model-control-mode": "explicit"}


@pytest.mark.parametrize(
    ("flags", "release", "expected"),
    [
        ({}, "24.10", []),
        ({"http-port": 9000, "log-verbose": 1, "exit-timeout-secs": 5}, "24.10", []),
        # SRV001: names and values
        ({"http-prot": 1}, "24.10", [("SRV001", "error")]),
        ({"http-max-input-size": 1}, "24.10", [("SRV001", "error")]),
        ({"http-max-input-size": 1}, "25.06", []),
        ({"http-max-input-size": 1}, None, []),
        ({"log-info": "perhaps"}, "24.10", [("SRV001", "error")]),
        # SRV002, SRV003, SRV004, SRV009: which models are loaded
        ({**EXPLICIT, "load-model": "a"}, "24.10", []),
        ({**EXPLICIT, "load-model": ("a", "b")}, "24.10", []),
        ({**EXPLICIT, "load-model": "*"}, "24.10", []),
        ({**EXPLICIT, "load-model": ("a", "zzz")}, "24.10", [("SRV002", "error")]),
        ({**EXPLICIT, "load-model": ("*", "a")}, "24.10", [("SRV003", "error")]),
        ({**EXPLICIT, "load-model": ("*", "a")}, "22.04", [("SRV001", "error")]),
        (EXPLICIT, "24.10", [("SRV004", "warning")]),
        ({"model-control-mode": "Explicit"}, "24.10", [("SRV004", "warning")]),
        ({"load-model": "a"}, "24.10", [("SRV009", "error")]),
        ({"load-model": "a"}, "24.05", [("SRV009", "warning")]),
        ({"load-model": "a"}, None, [("SRV009", "error")]),
        ({"load-model": "zzz", "model-control-mode": "poll"}, "24.10", [("SRV009", "error")]),
        # SRV005: where the repository is
        ({"model-repository": "/srv/models"}, "24.10", []),
        ({"model-repository": "models"}, "24.10", [("SRV005", "warning")]),
        ({"model-store": ("/a", "./b")}, "24.10", [("SRV005", "warning")]),
        ({"model-repository": "s3://bucket/models"}, "24.10", []),
        # SRV006, SRV015: TLS
        ({"grpc-use-ssl": True, "grpc-server-cert": "/c", "grpc-server-key": "/k"}, "24.10", []),
        ({"grpc-use-ssl": True}, "24.10", [("SRV006", "error"), ("SRV006", "error")]),
        (
            {"grpc-use-ssl-mutual": True, "grpc-server-cert": "/c", "grpc-server-key": "/k"},
            "24.10",
            [("SRV006", "warning")],
        ),
        # The server takes the flag for both, whatever its value is.
        ({"grpc-use-ssl-mutual": False}, "24.10", [("SRV006", "error"), ("SRV006", "error")]),
        ({"grpc-use-ssl-mutual": False, "grpc-use-ssl": False}, "24.10", []),
        ({"grpc-use-ssl": True, "allow-grpc": False}, "24.10", []),
        ({"grpc-server-cert": "/c"}, "24.10", [("SRV015", "warning")]),
        # SRV007, SRV014: ports
        ({"http-port": 8001}, "24.10", [("SRV007", "error")]),
        ({"http-port": 8001, "allow-grpc": False}, "24.10", []),
        ({"http-port": 8001, "grpc-port": 8000}, "24.10", []),
        ({"http-port": 8002, "grpc-port": 8002}, "24.10", [("SRV007", "error")] * 3),
        ({"http-port": 8001, "http-address": "127.0.0.1", "grpc-address": "127.0.0.2"}, "24.10", []),
        ({"http-port": 8001, "http-address": "127.0.0.1"}, "24.10", [("SRV007", "error")]),
        ({"allow-sagemaker": True}, "24.10", []),
        ({"allow-sagemaker": True, "http-port": 8080}, "24.10", [("SRV007", "error")]),
        ({"http-port": 8080}, "24.10", []),
        ({"allow-sagemaker": True, "sagemaker-safe-port-range": "8000-8001"}, "24.10", [("SRV014", "error")]),
        ({"allow-sagemaker": True, "sagemaker-safe-port-range": "8000-8002"}, "24.10", []),
        # SRV008, SRV011: polling
        ({"model-control-mode": "poll"}, "24.10", []),
        ({"repository-poll-secs": 5}, "24.10", [("SRV011", "warning")]),
        ({"model-control-mode": "poll", "repository-poll-secs": 5}, "24.10", []),
        # SRV012, SRV013
        ({"allow-http": False}, "24.10", []),
        ({"allow-http": False, "allow-grpc": False}, "24.10", [("SRV012", "warning")]),
        ({"allow-http": False, "allow-grpc": False, "allow-vertex-ai": True}, "24.10", []),
        ({"exit-on-error": False}, "24.10", [("SRV013", "warning")]),
        ({"strict-readiness": False, "exit-on-error": True}, "24.10", [("SRV013", "warning")]),
        # SRV016, CCH004, CCH005: what the image has
        ({"backend-config": {"python": {"x": 1}, "y": 1}}, "24.10", []),
        ({"backend-config": {"tensorflow": {"x": 1}}}, "24.10", [("SRV016", "warning")]),
        ({"cache-config": {"local": {"size": 1}}}, "24.10", [("CCH005", "info")]),
        ({"cache-config": "redis,host=h"}, "24.10", [("CCH004", "error"), ("CCH005", "info")]),
        ({"response-cache-byte-size": 9}, "24.10", [("CCH005", "info")]),
        ({"response-cache-byte-size": 9}, "22.04", [("CCH005", "info")]),
    ],
)
def test_flags(models: Path, flags: dict[str, Any], release: str | None, expected: list[tuple[str, str]]) -> None:
    image: dict[str, Any] = {"backends": frozenset(["python"]), "caches": frozenset(["local"])}
    assert found(models, flags, release, **image) == expected


def test_what_is_not_known_of_an_image_is_not_judged(models: Path) -> None:
    assert found(models, {"backend-config": {"tensorflow": {"x": 1}}}) == []
    assert found(models, {"cache-config": "redis,host=h"}) == [("CCH005", "info")]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"model-control-mode": "poll"}, [("SRV008", "warning")]),
        ({"model-repository": "models"}, [("SRV005", "error")]),
        ({"model-repository": "s3://bucket/models"}, [("SRV005", "warning")]),
        # An ensemble brings what it calls; `a` is left.
        ({**EXPLICIT, "load-model": "e"}, [("SRV010", "info")]),
        ({**EXPLICIT, "load-model": ("e", "a")}, []),
        ({**EXPLICIT, "load-model": "*"}, []),
    ],
)
def test_models_in_an_image(models: Path, flags: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert found(models, flags, baked=True) == expected


def test_models_that_a_server_is_given_when_it_starts() -> None:
    """Of an image without models nothing is known of what it will serve."""
    flags: dict[str, Any] = {**EXPLICIT, "load-model": "mounted", "model-repository": "models", "http-port": 8001}
    said = {one.rule.id: one for one in lint((), Case(release=RELEASES["24.10"], server=flags, baked=True))}
    assert {name: one.severity for name, one in said.items()} == {"SRV005": "warning", "SRV007": "error"}


def test_where_the_recipe_has_a_flag() -> None:
    text = 'triton: "24.10"\nbackends: [python]\nserver:\n  log-info: true\n  grpc-port: 8000\n  allow-grpc: true\n'
    recipe = parse_recipe(text, path=Path("/srv/r.yaml"), environ={})
    (one,) = lint((), case_of(recipe))
    assert (one.rule.id, one.path, one.place) == ("SRV007", Path("/srv/r.yaml"), Place(line=5, column=3, length=9))
    text = text.replace("grpc-port: 8000", "http-port: 8001")
    (one,) = lint((), case_of(parse_recipe(text, path=Path("/srv/r.yaml"), environ={})))
    # The other port is not written: what is pointed at is all of `server`.
    assert one.place == Place(line=3, column=1, length=6)


def test_certificates_in_an_image(models: Path) -> None:
    flags = {"grpc-use-ssl": True, "grpc-server-cert": "/c.pem", "grpc-server-key": "/k.pem"}
    assert found(models, flags, files=frozenset(["/c.pem", "/k.pem"])) == []
    assert found(models, flags, files=frozenset(["/c.pem"])) == [("SRV006", "warning")]
    assert found(models, flags, files=frozenset(["/c.pem", "/"])) == []


def test_what_models_rely_on(tmp_path: Path) -> None:
    limits = 'rate_limiter { resources { name: "R" count: 1 } }'
    write(tmp_path / "m", f'backend: "python" response_cache {{ enable: true }} instance_group {{ {limits} }}')
    assert found(tmp_path, {}) == [("CCH003", "warning"), ("RL003", "warning")]
    assert found(tmp_path, {"rate-limit": "execution_count", "cache-config": {"local": {"size": 9}}}) == []
    assert found(tmp_path, {"rate-limit": "execution_count", "response-cache-byte-size": 9}, "22.04") == []
    assert found(tmp_path, {"rate-limit": "off"}, "22.04") == [("CCH003", "warning"), ("RL003", "warning")]


def test_a_configuration_of_another_name(models: Path) -> None:
    assert found(models, {"model-config-name": "h100"}) == [("CFG030", "warning")] * 3
    for name in ("a", "b", "e"):
        (models / name / "configs").mkdir()
        (models / name / "configs" / "h100.pbtxt").write_text("")
    assert found(models, {"model-config-name": "h100"}) == []


@pytest.mark.parametrize(
    ("flags", "release", "expected"),
    [
        ({}, None, False),
        ({}, "22.07", False),
        ({}, "22.06", True),
        ({"strict-model-config": False}, "22.06", False),
        ({"strict-model-config": True}, "24.10", True),
        ({"strict-model-config": True}, None, True),
        ({"disable-auto-complete-config": True}, "22.06", True),
        ({"disable-auto-complete-config": False}, "22.06", False),
        ({"disable-auto-complete-config": True}, None, True),
    ],
)
def test_strict(tmp_path: Path, flags: dict[str, Any], release: str | None, expected: bool) -> None:
    assert strict(Case(release=RELEASES[release] if release else None, server=flags)) is expected
    write(tmp_path / "m", "")
    (tmp_path / "m" / "config.pbtxt").unlink()
    assert (("CFG035", "error") in found(tmp_path, flags, release)) is expected


# -- the real server ------------------------------------------------------------------------------

VERDICTS: list[dict[str, Any]] = json.loads(judged.VERDICTS.read_text())

EARLIER = (
    # What the server takes, and what cannot be meant.
    {"strict-model-config": False, "disable-auto-complete-config": True},
)


def test_the_verdicts_are_those_of_the_cases() -> None:
    assert [one["server"] for one in VERDICTS] == judged.CASES
    assert {one["verdict"] for one in VERDICTS} == {"serves", "ends"}


@pytest.mark.parametrize("one", VERDICTS, ids=lambda one: json.dumps(one["server"]))
def test_an_error_is_where_the_real_server_ends(tmp_path: Path, one: dict[str, Any]) -> None:
    """`python -m tests.judged <tritonserver>` starts the server with all of them, and writes down what it does."""
    image: dict[str, Any] = {"backends": frozenset(["python"]), "caches": frozenset(["local"])}
    errors = [
        rule for rule, said in found(tmp_path, judged.given(one["server"]), baked=True, **image) if said == "error"
    ]
    assert bool(errors) == (one["verdict"] == "ends" or one["server"] in EARLIER), errors
