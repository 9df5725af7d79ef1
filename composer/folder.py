"""The folder that Docker builds an image from: the Dockerfile, and everything that it copies.

It builds with plain `docker build`, on a machine without tricompose. Nothing of it but models, files and packages gets
into the image: the rest is used in the side stage.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from composer.disk import room
from composer.dockerfile import FOLDER, SCRIPTS, Dockerfile, render
from composer.errors import Unplannable
from composer.files import LocalFile
from composer.models.repository import ModelRepository
from composer.network.addresses import is_address
from composer.network.names import THIS_MACHINE
from composer.recipe import Network
from composer.rendering import template_text

_PRIVATE: Final = 0o600
"""The mode of what the recipe's network says: proxies may have passwords in their addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file of the folder: its bytes, or the file of this machine that has them; a folder if it has neither."""

    data: bytes | None = None
    source: Path | None = None
    mode: int = 0o644


def contents(
    dockerfile: Dockerfile,
    *,
    network: Mapping[str, bytes],
    options: Sequence[str],
    placed: Iterable[LocalFile] = (),
    backends: Iterable[LocalFile] = (),
    repositories: Iterable[ModelRepository] = (),
) -> Mapping[str, Member]:
    """The members of the folder by their paths. `options` are those of `docker build`; `placed` go to their targets."""
    members = {"Dockerfile": Member(data=render(dockerfile).encode())}
    members |= {f"{FOLDER}/{name}": Member(data=template_text(f"dockerfile/{name}").encode()) for name in SCRIPTS}
    members |= {f"{FOLDER}/{name}": Member(data=data, mode=_PRIVATE) for name, data in network.items()}
    members[f"{FOLDER}/build.sh"] = Member(data=_command(options).encode())
    members |= _local(placed, f"{FOLDER}/rootfs", "")
    members |= _local(backends, "", "opt/tritonserver/")
    for repository in repositories:
        for model in repository.models:
            members |= {f"models/{path}": Member(mode=0o755) for path in model.folders}
            for file in model.files:
                members[f"models/{file.path}"] = Member(source=file.source, mode=file.mode)
    return members


def _local(files: Iterable[LocalFile], folder: str, prefix: str) -> dict[str, Member]:
    return {
        f"{folder}/{file.target.removeprefix(prefix)}".lstrip("/"): Member(source=file.source, mode=file.mode)
        for file in files
    }


def build_options(network: Network, *, classic: bool) -> tuple[str, ...]:
    """What `docker build` is to be told besides: `VARIABLE=VALUE` before the command, then options."""
    hosts = [f"--add-host={name}:{address}" for name, address in addresses(network).items()]
    return (*(["DOCKER_BUILDKIT=0"] if classic else []), *hosts)


def addresses(network: Network) -> Mapping[str, str]:
    """The first address of each host, as Docker writes it: those of IPv6 without brackets.

    Docker knows no ports of hosts: what is said of one port only is not for it.
    """
    first = {name: given[0].strip("[]") for name, given in network.hosts.items()}
    return {name: one for name, one in first.items() if (one == THIS_MACHINE or is_address(one)) and not _port(name)}


def _port(name: str) -> str:
    return name.rpartition("]")[2].partition(":")[2]


def _command(options: Sequence[str]) -> str:
    """The text of build.sh."""
    exported = [f"export {shlex.quote(one)}" for one in options if not one.startswith("-")]
    words = " ".join(shlex.quote(one) for one in options if one.startswith("-"))
    lines = (
        "# Builds the image:  sh tricompose/build.sh NAME:TAG [options of docker build]",
        'cd "$(dirname "$0")/.."',
        *exported,
        f'exec docker build {words}{" " if words else ""}--tag "$@" .',
    )
    return "\n".join(lines) + "\n"


def write_folder(folder: Path, members: Mapping[str, Member]) -> None:
    """Write the folder, all of it or nothing. Raises `Unplannable` where there is something: people edit these."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Unplannable(
            f"{folder} is there already, and is not empty", hint=f"rm -r {folder}   (or choose another folder)"
        )
    with room(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            made.chmod(0o755)
            fill(made, members)
            os.replace(made, folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise


def fill(folder: Path, members: Mapping[str, Member], *, link: bool = False) -> None:
    """Put members into an empty folder; times stay. With `link` files may be the same as their sources: read only."""
    for path, member in members.items():
        target = folder / path
        if member.data is None and member.source is None:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if member.source is None:
            target.write_bytes(member.data or b"")
        else:
            _bring(member.source, target, link=link and member.source.stat().st_mode & 0o7777 == member.mode)
        if target.stat().st_mode & 0o7777 != member.mode:
            target.chmod(member.mode)


def _bring(source: Path, target: Path, *, link: bool) -> None:
    if link:
        with suppress(OSError):
            os.link(source.resolve(), target)
            return
    shutil.copyfile(source, target)
    shutil.copystat(source, target)
