"""The command line against a registry that asks for a password: it is used, and never shown."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from composer import command
from composer.cli import tricompose
from tests.parity.place import BASE, Place, packed, server
from tests.services.registry import PASSWORD, Registry, login

WRONG = "hunter2hunter2"
MODES = [("--progress", "plain", "-v"), ("--progress", "json"), ("--json", "-v"), ("--progress", "rich", "-v"), ("-q",)]


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    place = Place(tmp_path)
    place.upstream(BASE, packed(server("python")), base=1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRICOMPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return place


@pytest.fixture
def call(upstream: Place, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*arguments: str) -> tuple[int, str]:
        status = command.run(tricompose, arguments)
        return status, "".join(capfd.readouterr())

    return run


@pytest.mark.parametrize("mode", MODES, ids=" ".join)
def test_a_password_is_used_and_never_shown(
    upstream: Place, call: Callable[..., tuple[int, str]], guarded: Registry, repository: str, mode: tuple[str, ...]
) -> None:
    target = f"docker://{guarded.host}/{repository}:1"
    trust = ("--ca-bundle", str(guarded.certificate))
    login(upstream.path, guarded.host)
    status, said = call("push", "oci:upstream:full", target, *trust, *mode)
    assert status == 0, said
    encoded = base64.b64encode(f"tester:{PASSWORD}".encode()).decode()
    assert PASSWORD not in said
    assert encoded not in said

    wrong = base64.b64encode(f"tester:{WRONG}".encode()).decode()
    login(upstream.path, guarded.host, auth=wrong)
    status, said = call("inspect", target, *trust, *mode)
    assert status == 8
    assert f"with the credentials for {guarded.host} in " in said, "which ones were used is said"
    assert WRONG not in said
    assert wrong not in said


def test_a_registry_of_a_recipe_needs_no_option(
    upstream: Place, call: Callable[..., tuple[int, str]], guarded: Registry, repository: str
) -> None:
    """`network.ca_bundle` starts from the recipe's folder, and without it the certificate is not trusted."""
    login(upstream.path, guarded.host)
    (upstream.path / "corp.pem").write_bytes(Path(str(guarded.certificate)).read_bytes())
    recipe = f"{upstream.origin}\nbackends: [python]\noutputs: ['docker://{guarded.host}/{repository}:2']\n"
    Path("plain.yaml").write_text(recipe)
    Path("trusting.yaml").write_text(recipe + "network: {ca_bundle: ./corp.pem}\n")
    status, said = call("build", "plain.yaml")
    assert status == 9
    assert "certificate" in said
    assert call("build", "trusting.yaml")[0] == 0
