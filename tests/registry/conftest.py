"""Real registries, started once for all tests here. Each test has a repository of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.services.registry import Registry, running_registry


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Anybody may do anything, without TLS."""
    require("docker-registry")
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Name and password, and TLS with a certificate of its own making."""
    require("docker-registry", "openssl")
    with running_registry(tmp_path_factory.mktemp("guarded"), basic=True, tls=True) as running:
        yield running


@pytest.fixture
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A repository that no other test uses."""
    return f"tests/{tmp_path.parent.name}-{tmp_path.name}".lower().replace("_", "-").rstrip("-.")
