"""The config of the result: the upstream's, with the recipe's changes on top, and a history that tells the layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from composer.oci.image import Image, canonical_json
from composer.recipe import Recipe
from composer.server import server_command

UPSTREAM_LABEL: Final = "io.tricompose.upstream"
BACKENDS_LABEL: Final = "io.tricompose.backends"
VALIDATION_LABEL: Final = "io.tricompose.validation"

_OURS: Final = "tricompose "
"""How the history of the layers begins that we made."""

READY: Final = (
    "exec 3<>/dev/tcp/127.0.0.1/{port} && "
    "printf 'GET /v2/health/ready HTTP/1.0\\r\\n\\r\\n' >&3 && read -r status <&3 && [[ $status == *' 200 '* ]]"
)
"""Asks the server with bash alone: a slim image has no curl, and NVIDIA's entrypoint needs bash anyway."""


def created(image: Image, epoch: int | None) -> str:
    """The one time of everything we make: `SOURCE_DATE_EPOCH` in seconds if set, else the upstream's. Never now."""
    if epoch is not None:
        return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(image.config.get("created") or "1970-01-01T00:00:00Z")


def seconds(moment: str) -> int:
    """A `created` as seconds since 1970, for the files that we add."""
    try:
        return int(datetime.fromisoformat(moment).timestamp())
    except ValueError:
        return 0


def changed_config(image: Image, recipe: Recipe, labels: Mapping[str, str]) -> Mapping[str, Any]:
    """The `config` object: Env in its order, Entrypoint, WorkingDir, ports and stop signal are the upstream's."""
    config = dict(image.config.get("config") or {})
    config["Env"] = _environment(config.get("Env") or [], recipe.env)
    config["Labels"] = {**(config.get("Labels") or {}), **labels, **recipe.labels}
    if recipe.server or recipe.models:
        config["Cmd"] = list(server_command(recipe.server, release=recipe.triton))
    if recipe.user is not None:
        config["User"] = recipe.user
    if recipe.healthcheck:
        config["Healthcheck"] = healthcheck(recipe)
    return config


def _environment(upstream: Sequence[str], ours: Mapping[str, str]) -> list[str]:
    """A variable that is set again keeps its place, as the order of Env is what `docker inspect` shows."""
    names = {line.partition("=")[0] for line in upstream}
    kept = [f"{name}={ours[name]}" if (name := line.partition("=")[0]) in ours else line for line in upstream]
    return kept + [f"{name}={value}" for name, value in ours.items() if name not in names]


def healthcheck(recipe: Recipe) -> Mapping[str, Any]:
    """Times are in nanoseconds. Docker reads it from either family of config, though only its own documents it."""
    second = 1_000_000_000
    command = READY.format(port=recipe.server.get("http-port", 8000))
    return {
        "Test": ["CMD", "bash", "-c", command],
        "Interval": 30 * second,
        "Timeout": 5 * second,
        "StartPeriod": 300 * second,
        "Retries": 3,
    }


def upstream_history(image: Image) -> Sequence[tuple[Mapping[str, Any], int | None]]:
    """Each entry of the upstream's history with the number of its layer, None for one that made none.

    An image whose history does not agree with its layers, or that has none, gets one entry a layer.
    """
    entries = [entry for entry in image.config.get("history") or [] if isinstance(entry, dict)]
    if sum(not entry.get("empty_layer") for entry in entries) != len(image.layers):
        return [({"created_by": "unknown"}, number) for number in range(len(image.layers))]
    numbers = iter(range(len(image.layers)))
    return [(entry, None if entry.get("empty_layer") else next(numbers)) for entry in entries]


def sizes_by_part(image: Image) -> Mapping[str, int]:
    """Compressed bytes by what layers hold, as the history of our images tells it: each component and model, and under
    `the upstream's own` all layers that were not made here."""
    sizes: dict[str, int] = {}
    for entry, number in upstream_history(image):
        if number is not None:
            made_by = str(entry.get("created_by", ""))
            name = made_by.removeprefix(_OURS) if made_by.startswith(_OURS) else "the upstream's own"
            sizes[name] = sizes.get(name, 0) + image.layers[number].size
    return sizes


def make_config(
    image: Image,
    config: Mapping[str, Any],
    moment: str,
    diff_ids: Sequence[str],
    history: Iterable[Mapping[str, Any]],
) -> bytes:
    """The bytes of the whole config: what the upstream says of platform and author, and what is ours."""
    document = {key: value for key, value in image.config.items() if key not in ("container", "container_config")}
    document |= {
        "created": moment,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        "history": list(history),
    }
    return canonical_json(document)
