"""Rules of mirrors written out, for us and for other programs: registries.conf, hosts.toml, daemon.json, network.yaml.

    made = written(routes)              # texts of files by their names
    write(folder, made)

Sources as in rules.py. What one of these files cannot say is told: nothing is passed over in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from composer.disk import write_whole
from composer.errors import Unplannable
from composer.network.routes import Routes
from composer.network.rules import DEFAULT, HOST, HOSTS
from composer.oci.names import DOCKER_HUB, asked_at

MARK: Final = "# Written by tricompose mirror"
"""How every file of ours begins that may have comments."""

NETWORK: Final = "network.yaml"
REGISTRIES: Final = "registries.conf"
CERTS: Final = "certs.d"
DAEMON: Final = "daemon.json"

_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*[./][A-Za-z0-9._/-]*[A-Za-z0-9]")
"""What YAML takes for a text without quotes, whatever else it has names for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Rules as files: their texts by name, in one folder. `lacking` is what they cannot say, and what to do instead."""

    files: Mapping[str, str]
    lacking: tuple[str, ...] = ()


def written(routes: Routes, authorities: Mapping[str, str] | None = None) -> Written:
    """The rules of `routes` in all four forms, each in files of its own.

    `authorities` are certificates in PEM by the hosts that they vouch for: they go along, in Docker's layout.
    """
    known = authorities or {}
    lacking: list[str] = []
    files = {NETWORK: network_text(routes, certs=bool(known))}
    for made in (_registries(routes), _hosts(routes, known), _daemon(routes)):
        files |= made.files
        lacking += made.lacking
    for host, text in known.items():
        files[f"{CERTS}/{host}/ca.crt"] = f"{MARK}\n{text}"
        lacking.append(
            f"Podman looks for certificates in /etc/containers/{CERTS}, Docker in /etc/docker/{CERTS}: "
            f"copy {CERTS}/{host} there"
        )
    return Written(files=files, lacking=tuple(lacking))


def network_text(routes: Routes, *, certs: bool = False) -> str:
    """The `network:` mapping, for a recipe or for `--network FILE`; with `certs`, there are certificates beside it."""
    lines = [f"{MARK}, for a recipe or for --network FILE.", "network:"]
    lines += ["  mirrors:"] if routes.mirrors else []
    lines += [f"    {_yaml(key)}: [{', '.join(map(_yaml, places))}]" for key, places in routes.mirrors.items()]
    for name, hosts in (("insecure", routes.insecure), ("blocked", routes.blocked)):
        lines += [f"  {name}: [{', '.join(map(_yaml, sorted(hosts)))}]"] if hosts else []
    lines += [f"  certs_d: {CERTS}"] if certs else []
    return "\n".join(lines if len(lines) > 2 else [lines[0], "network: {}"]) + "\n"


def network_json(routes: Routes) -> dict[str, Any]:
    """What `network_text` says, as values."""
    said = {
        "mirrors": {key: list(places) for key, places in routes.mirrors.items()},
        "insecure": sorted(routes.insecure),
        "blocked": sorted(routes.blocked),
    }
    return {key: value for key, value in said.items() if value}


def _yaml(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _registries(routes: Routes) -> Written:
    """The registries.conf of Podman, skopeo, Buildah and CRI-O."""
    places = [host for host in sorted(routes.insecure) if not _told(host, routes)]
    keys = [key for key in dict.fromkeys([*routes.mirrors, *sorted(routes.blocked), *places]) if _fits_registries(key)]
    lines = [f"{MARK}, for Podman, skopeo, Buildah and CRI-O: /etc/containers/{REGISTRIES}.d/*.conf"]
    for key in keys:
        lines += ["", *_registry(key, routes)]
    lost = [key for key in (*routes.mirrors, *routes.blocked) if not _fits_registries(key)]
    lacking = tuple(f"{REGISTRIES} cannot say {key}: name the registries one by one" for key in dict.fromkeys(lost))
    return Written(files={REGISTRIES: "\n".join(lines) + "\n"}, lacking=lacking)


def _told(host: str, routes: Routes) -> bool:
    """Whether a host's being insecure is told with a mirror or a registry anyway."""
    keys = {key for key in (*routes.mirrors, *routes.blocked) if key == host}
    return bool(keys) or any(place.partition("/")[0] == host for places in routes.mirrors.values() for place in places)


def _fits_registries(key: str) -> bool:
    return key != "*" and not (key.startswith("*") and "/" in key)


def _registry(key: str, routes: Routes) -> Iterator[str]:
    mirrors = list(routes.mirrors.get(key, ()))
    blocked = routes.is_blocked(*key.partition("/")[::2])
    location = mirrors.pop() if blocked and mirrors else key
    yield "[[registry]]"
    yield f"prefix = {_toml_text(key)}"
    if not location.startswith("*"):
        yield f"location = {_toml_text(location)}"
    if blocked and location == key:
        yield "blocked = true"
    yield from _insecure(location, routes)
    for mirror in mirrors:
        yield from ("", "[[registry.mirror]]", f"location = {_toml_text(mirror)}", *_insecure(mirror, routes))


def _insecure(place: str, routes: Routes) -> Sequence[str]:
    return ["insecure = true"] if place.partition("/")[0] in routes.insecure else []


def _toml_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _hosts(routes: Routes, authorities: Mapping[str, str]) -> Written:
    """The `hosts.toml` of each registry, for containerd's `config_path`."""
    keys = dict.fromkeys([*routes.mirrors, *sorted(routes.blocked)])
    fit = [key for key in keys if key == "*" or HOST.fullmatch(key)]
    lacking = [f"{HOSTS} cannot say {key}: containerd has rules for whole hosts only" for key in keys if key not in fit]
    files = {}
    for key in fit:
        if routes.is_blocked(key) and not routes.mirrors.get(key):
            lacking.append(f"{HOSTS} cannot say that {key} is not asked: containerd asks where there is no other")
            continue
        files[f"{CERTS}/{DEFAULT if key == '*' else key}/{HOSTS}"] = (
            "\n".join(_host_lines(key, routes, authorities)) + "\n"
        )
    return Written(files=files, lacking=tuple(lacking))


def _host_lines(key: str, routes: Routes, authorities: Mapping[str, str]) -> Iterator[str]:
    mirrors = routes.mirrors.get(key, ())
    instead = mirrors[-1] if routes.is_blocked(key) else None
    yield f"{MARK}, for containerd: /etc/containerd/certs.d, as config_path says"
    if server := instead or (None if key == "*" else asked_at(key)):
        # Where it is insecure, TLS has been tried by then, if it is a mirror.
        *_, (address, options) = _addresses(server, routes, authorities)
        yield from (f"server = {_toml_text(address)}", *options)
    for mirror in mirrors:
        for address, options in _addresses(mirror, routes, authorities):
            yield from ("", f"[host.{_toml_text(address)}]", *(f"  {line}" for line in (_PULL, *options)))


_PULL: Final = 'capabilities = ["pull", "resolve"]'


def _addresses(place: str, routes: Routes, authorities: Mapping[str, str]) -> Iterator[tuple[str, Sequence[str]]]:
    """The addresses of a place, with what is said of each: with TLS, and where it may be without, so too."""
    host, _, path = place.partition("/")
    insecure = host in routes.insecure
    rest, options = (f"/v2/{path}", ["override_path = true"]) if path else ("", [])
    said = ["skip_verify = true"] if insecure else []
    said += [f"ca = {_toml_text(f'../{host}/ca.crt')}"] if host in authorities else []
    yield f"https://{host}{rest}", [*options, *said]
    if insecure:
        yield f"http://{host}{rest}", options


def _daemon(routes: Routes) -> Written:
    """What Docker can be told: where Docker Hub's mirrors are, if they are whole hosts, and who is insecure."""
    fit = [place for place in routes.mirrors.get(DOCKER_HUB, ()) if "/" not in place]
    document: dict[str, Any] = {}
    if fit:
        document["registry-mirrors"] = [f"http{'' if one in routes.insecure else 's'}://{one}" for one in fit]
    if routes.insecure:
        document["insecure-registries"] = sorted(routes.insecure)
    lost = [key for key, places in routes.mirrors.items() if key != DOCKER_HUB or len(fit) < len(places)]
    lacking = (
        (
            f"{DAEMON} cannot say where {', '.join(lost)} is found: Docker knows mirrors of {DOCKER_HUB} alone, and no "
            f"paths in them: docker pull {routes.mirrors[lost[0]][0]}/NAME:TAG",
        )
        if lost
        else ()
    )
    files = {DAEMON: json.dumps(document, indent=2) + "\n"} if document else {}
    return Written(files=files, lacking=lacking)


def require_ours(folder: Path, rules: Written) -> None:
    """Raise `Unplannable` where a file stands in the way that is not ours: it was not written by `write`."""
    for name, text in rules.files.items():
        path = folder / name
        if path.exists() and not (_begins(path, text) or _begins(path, MARK) or _beside_ours(path)):
            raise Unplannable(
                f"{path} is there, and was not written by tricompose mirror", hint="--rules DIR, another folder"
            )


def _begins(path: Path, text: str) -> bool:
    wanted = text.encode("utf-8", "surrogateescape")
    try:
        with path.open("rb") as file:
            return file.read(len(wanted)) == wanted
    except OSError:
        return False


def _beside_ours(path: Path) -> bool:
    """JSON has no comments: such a file is ours if that beside it is."""
    return path.suffix == ".json" and _begins(path.with_name(NETWORK), MARK)


def write(folder: Path, rules: Written) -> tuple[Path, ...]:
    """Write the files below `folder`, each all at once. Raises `NoRoom`, and what `require_ours` raises."""
    require_ours(folder, rules)
    for name, text in rules.files.items():
        write_whole(folder / name, text.encode("utf-8", "surrogateescape"))
    return tuple(folder / name for name in rules.files)
