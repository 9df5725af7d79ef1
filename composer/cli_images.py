"""The commands for images that are there: `tricompose inspect`, `copy`, `push`, and for the `cache`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import click

from composer.command import Desk, Usage, command

commands = click.Group()
"""Holds the commands until the tool takes them."""


@command("inspect", commands)
@click.argument("image")
@click.pass_obj
def _inspect(desk: Desk, /, image: str) -> None:
    """Show what is in an image: platforms, layers with sizes, what it starts.

    No layer is read.

    \b
    Examples:
      tricompose inspect docker://nvcr.io/nvidia/tritonserver:24.10-py3
      tricompose inspect oci:build/slim --json
    """
    from composer import moving
    from composer.console import results
    from composer.oci.names import parse_reference

    root, images = moving.inspect(parse_reference(image), desk.place())
    desk.console.result("image", results.images_json(image, root, images), *results.images_text(image, root, images))


def _moving(function: Callable[..., None]) -> Callable[..., None]:
    """The arguments of `copy` and `push`."""
    for decorate in (
        click.pass_obj,
        click.option(
            "--platform",
            "platforms",
            multiple=True,
            metavar="OS/ARCH",
            help="Only this platform of several. Repeatable. All by default.",
        ),
        click.argument("target", metavar="DST"),
        click.argument("source", metavar="SRC"),
    ):
        function = decorate(function)
    return function


def _move(desk: Desk, source: str, target: str, platforms: Sequence[str]) -> None:
    from composer import moving
    from composer.oci.image import Platform
    from composer.oci.names import parse_reference

    chosen = [Platform.parse(platform) for platform in platforms] or None
    root = moving.copy(parse_reference(source), parse_reference(target), desk.place(), platforms=chosen)
    document = {"source": source, "target": target, "digest": root.digest, "media_type": root.media_type}
    desk.console.result("copied", document, root.digest)


@command("copy", commands, reach="push")
@_moving
def _copy(desk: Desk, /, source: str, target: str, platforms: Sequence[str]) -> None:
    """Move an image between any two places.

    Digests never change on the way, and bytes that are there already are not moved again. Prints the digest.

    \b
    Examples:
      tricompose copy docker://nvcr.io/nvidia/tritonserver:24.10-py3 oci:mirror:24.10-py3
      tricompose copy oci:build/slim:24.10 docker-daemon:tritonserver:slim
      tricompose copy docker://host/app:1 oci-archive:app.tar:1 --platform linux/arm64
    """
    _move(desk, source, target, platforms)


@command("push", commands, reach="push")
@_moving
def _push(desk: Desk, /, source: str, target: str, platforms: Sequence[str]) -> None:
    """Move an image to a registry: another name for copy.

    \b
    Examples:
      tricompose push oci:build/slim:24.10 docker://harbor.example.com/tools/tritonserver:24.10-slim
      tricompose push oci-archive:image.tar docker://localhost:5000/app:1 --insecure localhost:5000
    """
    _move(desk, source, target, platforms)


@commands.group("cache")
def _cache() -> None:
    """Look at the cache of layers, or remove it.

    \b
    Examples:
      tricompose cache info
      tricompose cache clear --yes
    """


@command("info", _cache, reach="cache")
@click.pass_obj
def _cache_info(desk: Desk, /) -> None:
    """Show where the cache is and what is in it.

    \b
    Examples:
      tricompose cache info
    """
    from dataclasses import asdict

    from composer import cache
    from composer.console import results

    contents = cache.look(desk.cache_folder())
    desk.console.result("cache", asdict(contents) | {"path": str(contents.path)}, results.cache_text(contents))


@command("clear", _cache, reach="cache")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def _cache_clear(desk: Desk, /, yes: bool) -> None:
    """Remove the cache: layers that were cut are cut again when they are needed.

    Images that were built without outputs are in it too. No build may be at work meanwhile.

    \b
    Examples:
      tricompose cache clear
      tricompose cache clear --yes --cache /var/cache/tricompose
    """
    from composer import cache, words

    path = desk.cache_folder()
    size = cache.look(path).size
    if not yes and not sys.stdin.isatty():
        raise Usage("the cache is removed only if someone says so", hint="tricompose cache clear --yes")
    if not yes and not click.confirm(f"Remove {words.size(size)} in {path}?", err=True):
        size = 0
    else:
        cache.clear(path)
    desk.console.result("cleared", {"path": str(path), "size": size}, f"{words.size(size)} removed from {path}")
