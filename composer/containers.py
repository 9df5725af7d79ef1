"""A container of a Docker Engine, for as long as it is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import docker
from docker.errors import NotFound
from docker.models.containers import Container

from composer.interruptions import shielded


@contextmanager
def temporary_container(client: docker.DockerClient, settings: Mapping[str, Any]) -> Iterator[Container]:
    """A container that was not started yet, made with what docker-py takes. It is gone in the end.

    Raises what docker-py raises.
    """
    # An engine that was asked makes the container, whoever has been interrupted meanwhile: hear it out, then remove it.
    with shielded() as shield:
        container = client.containers.create(**settings)
        try:
            with shield.lowered():
                yield container
        finally:
            with suppress(NotFound):
                container.remove(force=True, v=True)
