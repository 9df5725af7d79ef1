"""Whose name is given to which registry: `composer.oci.credentials`, with real files and real helper programs."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from composer.events import Event, Warned
from composer.oci.credentials import Credential, Credentials


def auth(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def found(tmp_path: Path, config: Mapping[str, Any], host: str, repository: str = "a/b") -> Credential | None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return Credentials(files=(tmp_path / "config.json",)).find(host, repository)


def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    program = tmp_path / "bin" / f"docker-credential-{name}"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("harbor.example.com", "harbor.example.com"),
        ("harbor.example.com:5000", "harbor.example.com:5000"),
        ("https://harbor.example.com", "harbor.example.com"),
        ("https://harbor.example.com/v2/", "harbor.example.com"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "registry-1.docker.io"),
    ],
)
def test_a_host_is_found_as_every_docker_wrote_it(tmp_path: Path, key: str, host: str) -> None:
    credential = found(tmp_path, {"auths": {key: {"auth": auth("me:pass:word")}}}, host)
    assert credential is not None
    assert (credential.username, credential.secret, credential.identity) == ("me", "pass:word", False)
    assert "config.json" in credential.source


def test_another_host_is_anonymous(tmp_path: Path) -> None:
    config = {"auths": {"harbor.example.com": {"auth": auth("me:x")}, "nvcr.io": {}, "broken.io": {"auth": "%"}}}
    for host in ("example.com", "harbor.example.com:5000", "xharbor.example.com", "nvcr.io", "broken.io"):
        assert found(tmp_path, config, host) is None


def test_the_longest_prefix_wins(tmp_path: Path) -> None:
    config = {"auths": {place: {"auth": auth(f"{place}:x")} for place in ("host.io", "host.io/team", "host.io/te")}}
    for repository, expected in (("team/app", "host.io/team"), ("tea/app", "host.io"), ("te", "host.io/te")):
        credential = found(tmp_path, config, "host.io", repository)
        assert credential is not None
        assert credential.username == expected


def test_an_identity_token_is_no_password(tmp_path: Path) -> None:
    credential = found(tmp_path, {"auths": {"host.io": {"auth": auth("me:"), "identitytoken": "xyz"}}}, "host.io")
    assert credential is not None
    assert credential.identity
    assert credential.secret == "xyz"


def test_a_helper_is_asked_for_its_host_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'read host; echo "{\\"ServerURL\\": \\"$host\\", \\"Username\\": \\"u-$host\\", \\"Secret\\": \\"s\\"}"'
    install(tmp_path, monkeypatch, "one", script)
    config = {"credHelpers": {"host.io": "one", "docker.io": "one"}}
    credential = found(tmp_path, config, "host.io")
    assert credential == Credential(username="u-host.io", secret="s", source="from docker-credential-one")
    hub = found(tmp_path, config, "docker.io")
    assert hub is not None
    assert hub.username == "u-https://index.docker.io/v1/"
    assert found(tmp_path, config, "other.io") is None


def test_a_store_serves_every_host_and_knows_identity_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "all", """echo '{"Username": "<token>", "Secret": "t"}'""")
    credential = found(tmp_path, {"credsStore": "all", "auths": {"host.io": {}}}, "host.io")
    assert credential is not None
    assert credential.identity


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (None, "docker-credential-gone is not installed"),
        ("echo broken; exit 3", "exit status 3"),
        ("echo nonsense", "not what the protocol says"),
        ("echo 'credentials not found in native keychain'; exit 1", None),
    ],
)
def test_a_helper_that_fails_is_a_warning_and_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, words: str | None
) -> None:
    if script:
        install(tmp_path, monkeypatch, "gone", script)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"credsStore": "gone", "auths": {"host.io": {"auth": auth("me:x")}}}))
    events: list[Event] = []
    credential = Credentials(files=(path,), emit=events.append).find("host.io", "a")
    assert credential is not None
    assert credential.username == "me"
    messages = [event.message for event in events if isinstance(event, Warned)]
    assert [words in message for message in messages if words] == ([True] if words else [])
    assert len(messages) == (1 if words else 0)


def test_a_broken_file_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{")
    events: list[Event] = []
    assert Credentials(files=(path,), emit=events.append).find("host.io", "a") is None
    assert len(events) == 1


def test_files_are_looked_for_where_docker_and_podman_keep_them(tmp_path: Path) -> None:
    home = tmp_path / "home"
    plain = Credentials.from_environment({}, home=home)
    assert plain.files == (home / ".docker/config.json",)
    environment = {"DOCKER_CONFIG": "/dc", "REGISTRY_AUTH_FILE": "/raf", "XDG_RUNTIME_DIR": "/run/1"}
    named = Credentials.from_environment(environment, home=home)
    assert named.files == (Path("/raf"), Path("/dc/config.json"), Path("/run/1/containers/auth.json"))


def test_the_secret_is_not_shown(tmp_path: Path) -> None:
    credential = found(tmp_path, {"auths": {"host.io": {"auth": auth("me:hush")}}}, "host.io")
    assert "hush" not in repr(credential)
