"""A container of a Docker Engine, for as long as it is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import docker
from docker.errors import NotFound
from docker.models.containers import Container


@contextmanager
def temporary_container(client: docker.DockerClient, settings: Mapping[str, Any]) -> Iterator[Container]:
    """A container that was not started yet, made with what docker-py takes. It is gone in the end.

    Raises what docker-py raises.
    """
    # An engine that was asked makes the container, whoever has been interrupted meanwhile: wait, then remove it.
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.containers.create, **settings)
        try:
            yield asked.result()
        finally:
            if asked.exception() is None:
                with suppress(NotFound):
                    asked.result().remove(force=True, v=True)
