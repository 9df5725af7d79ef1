"""Rules of mirrors as other programs have them: registries.conf, containerd's hosts.toml, Docker's daemon.json.

    found = read(Path("/etc/containers/registries.conf"))    # routes with mirrors, insecure, blocked

Sources: containers-registries.conf(5), containerd's docs/hosts.md, dockerd(8). What we cannot follow is told: nothing
is passed over in silence.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from composer.errors import NotFound, Problem, RecipeError
from composer.network.routes import Routes
from composer.oci.names import DOCKER_HUB, spellings

HOSTS: Final = "hosts.toml"
"""What containerd calls its file for a registry, in the folder of that registry."""

DEFAULT: Final = "_default"
HOST: Final = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_PATH: Final = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a file or folder says: routes with `mirrors`, `insecure`, `blocked` and `certs`.

    `passed_over` are the rules in it that we cannot follow, as `file: what, and why`.
    """

    routes: Routes
    passed_over: tuple[str, ...] = ()


@dataclass(slots=True)
class _Gathered:
    """Rules on their way."""

    path: str
    mirrors: dict[str, tuple[str, ...]] = field(default_factory=dict)
    insecure: set[str] = field(default_factory=set)
    blocked: set[str] = field(default_factory=set)
    passed_over: list[str] = field(default_factory=list)

    def passes_over(self, what: str) -> None:
        self.passed_over.append(f"{self.path}: {what}")

    def found(self, *certs: Path) -> Found:
        routes = Routes(
            mirrors=self.mirrors, insecure=frozenset(self.insecure), blocked=frozenset(self.blocked), certs=certs
        )
        return Found(routes=routes, passed_over=tuple(self.passed_over))


# -- reading ------------------------------------------------------------------------------------------------------


def read(path: Path) -> Found:
    """The rules in a registries.conf, in a daemon.json, or in a folder of `HOST/hosts.toml`.

    Raises `NotFound` where there is nothing to read, and `RecipeError` with the place of what is wrong.
    """
    if path.is_dir():
        return _read_folder(path)
    text = _text_of(path)
    return read_daemon(text, str(path)) if path.suffix == ".json" else read_registries(text, str(path))


def _read_folder(path: Path) -> Found:
    files = sorted(path.glob(f"*/{HOSTS}"))
    if not files and not any(path.glob("*/*.crt")) and not any(path.glob("*/*.cert")):
        near = next((file for name in ("network.yaml", "certs.d") if (file := path / name).exists()), None)
        hint = f"--network {near}" if near else f"a folder as containerd has it: {path}/nvcr.io/{HOSTS}"
        raise NotFound(f"{path} holds no HOST/{HOSTS}", hint=hint)
    parts = [read_hosts(_text_of(file), file.parent.name, str(file)) for file in files]
    routes = Routes(certs=(path,))
    for part in parts:
        routes = routes.then(part.routes)
    return Found(routes=routes, passed_over=tuple(line for part in parts for line in part.passed_over))


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}", hint=f"ls -l {path}") from error
    except UnicodeDecodeError as error:
        raise _wrong(str(path), "this is not UTF-8", "save it as UTF-8") from error


def read_registries(text: str, path: str) -> Found:
    """What a registries.conf of version 2 says. Raises `RecipeError`."""
    document = _toml(text, path)
    if "registries" in document:
        raise _wrong(_line(text, path, "[registries"), "this is version 1 of the format", "[[registry]]")
    made = _Gathered(path)
    seen: set[str] = set()
    for number, table in enumerate(_tables(document.get("registry", []), "registry", path), 1):
        where = f"{path}: [[registry]] number {number}"
        prefix = _place(table.get("prefix") or table.get("location"), f"{where}: prefix", wild=True)
        if prefix in seen:
            raise _wrong(where, f"{prefix} stands there twice", "one [[registry]] for each prefix")
        seen.add(prefix)
        _take_registry(made, prefix, table, where)
    # Of several prefixes the longest counts alone: what a shorter one blocks, it does not.
    for prefix, places in made.mirrors.items():
        if prefix not in made.blocked and made.found().routes.is_blocked(*prefix.partition("/")[::2]):
            made.mirrors[prefix] = (*places, prefix)
    return made.found()


def _take_registry(made: _Gathered, prefix: str, table: Mapping[str, Any], where: str) -> None:
    location = table.get("location") or prefix
    if location != prefix or not prefix.startswith("*"):
        location = _place(location, f"{where}: location")
    places = list(_mirrors_of(made, prefix, table, where))
    blocked = _flag(table, "blocked", where)
    if location != prefix:
        places += [] if blocked else [location]
        blocked = True
    if _flag(table, "insecure", where):
        _take_insecure(made, location)
    if blocked:
        made.blocked.add(prefix)
    made.mirrors[prefix] = tuple(dict.fromkeys(places))


def _mirrors_of(made: _Gathered, prefix: str, table: Mapping[str, Any], where: str) -> Iterator[str]:
    digests_only = _flag(table, "mirror-by-digest-only", where)
    for mirror in _tables(table.get("mirror", []), "registry.mirror", where):
        place = _place(mirror.get("location"), f"{where}: mirror: location")
        if digests_only or mirror.get("pull-from-mirror") == "digest-only":
            made.passes_over(f"the mirror {place} of {prefix} may be asked for digests only, and we ask for tags too")
            continue
        if _flag(mirror, "insecure", where):
            _take_insecure(made, place)
        yield place


def _take_insecure(made: _Gathered, place: str) -> None:
    host = place.partition("/")[0]
    if host.startswith("*"):
        made.passes_over(f"{host} is insecure: name each such host with --insecure")
    else:
        made.insecure.add(host)


def read_hosts(text: str, folder: str, path: str) -> Found:
    """What the `hosts.toml` in the folder of a registry says: `HOST`, `HOST:PORT`, `HOST_PORT_`, `_default`.

    Raises `RecipeError`.
    """
    document = _toml(text, path)
    made = _Gathered(path)
    name = "*" if folder == DEFAULT else re.sub(r"_([0-9]+)_$", r":\1", folder)
    if name != "*" and not HOST.fullmatch(name):
        raise _wrong(path, f"its folder {folder!r} is not the name of a host", f"{folder} -> HOST or HOST:PORT")
    hosts = document.get("host", {})
    if not isinstance(hosts, dict):
        raise _wrong(_line(text, path, "host"), "host must be a table for each address", '[host."https://mirror"]')
    places = [
        place
        for address, table in hosts.items()
        if (place := _host(made, address, table if isinstance(table, dict) else {}, _line(text, path, address)))
    ]
    server = _server(made, name, document, _line(text, path, "server"))
    made.mirrors[name] = tuple(dict.fromkeys([*places, *([server] if server else [])]))
    return made.found()


def _server(made: _Gathered, name: str, document: Mapping[str, Any], where: str) -> str | None:
    """The place that stands for the registry itself, if it is another than the registry."""
    server = document.get("server")
    if server is None and _pulls(document):
        if document.get("skip_verify") is True and name != "*":
            made.insecure.add(name)
        return None
    if not _pulls(document):
        made.blocked.add(name)
        return None
    place = _host(made, server, document, where)
    if place in spellings(name):
        return None
    made.blocked.add(name)
    return place


def _host(made: _Gathered, address: object, table: Mapping[str, Any], where: str) -> str | None:
    """The place that an address means, with what is said of it. None where we cannot ask it as it is meant."""
    if not isinstance(address, str):
        raise _wrong(where, f"{address!r} is not an address", '"https://mirror.example.com"')
    parts = urlsplit(address if address.startswith(("http://", "https://")) else f"https://{address}")
    if not HOST.fullmatch(parts.netloc):
        raise _wrong(where, f"{address!r} is not an address of a registry", '"https://mirror.example.com"')
    place = _joined(parts.netloc, parts.path.strip("/"), override=table.get("override_path") is True)
    capabilities = table.get("capabilities") or ("pull", "resolve")
    if "pull" not in capabilities:
        return None
    if place is None:
        made.passes_over(
            f"{address} has a path that no image can be named by; we follow .../v2/PATH, with override_path"
        )
        return None
    if "resolve" not in capabilities:
        made.passes_over(f"{address} may be asked for digests only, and we ask for tags too")
        return None
    made.insecure |= {parts.netloc} if parts.scheme == "http" or table.get("skip_verify") is True else set()
    for key in ("ca", "client", "header", "proxy"):
        if key in table and not (key == "ca" and _in_its_folder(table[key], made.path, parts.netloc)):
            made.passes_over(f"{key} of {address} is not followed: {_INSTEAD[key].format(parts.netloc)}")
    return place


_INSTEAD: Final = {
    "ca": "put it at certs.d/{0}/ca.crt",
    "client": "put it at certs.d/{0}/client.cert and client.key",
    "header": "only our own are sent",
    "proxy": "say it in network.proxy",
}


def _in_its_folder(value: object, path: str, host: str) -> bool:
    """Whether a certificate is where it is looked for anyway: in the folder of its host, beside that of `path`."""
    folder = os.path.dirname(path)
    files = [
        os.path.normpath(os.path.join(folder, str(one))) for one in (value if isinstance(value, list) else [value])
    ]
    place = os.path.normpath(os.path.join(folder, os.pardir, host))
    return all(os.path.dirname(file) == place and file.endswith(".crt") for file in files)


def _joined(host: str, path: str, *, override: bool) -> str | None:
    """`host/path` for an address, whose path is behind `/v2/` with `override`, and else that of another `/v2/`."""
    if not path or path == "v2":
        return host
    inner = path.removeprefix("v2/")
    return f"{host}/{inner}" if override and inner != path and _PATH.fullmatch(inner) else None


def _pulls(table: Mapping[str, Any]) -> bool:
    capabilities = table.get("capabilities")
    return not capabilities or "pull" in capabilities


def read_daemon(text: str, path: str) -> Found:
    """What Docker's daemon.json says: mirrors of Docker Hub, and hosts that are insecure. Raises `RecipeError`."""
    try:
        document = json.loads(text)
    except ValueError as error:
        line = getattr(error, "lineno", 1), getattr(error, "colno", 1)
        raise _wrong(
            f"{path}:{line[0]}:{line[1]}", f"this is not JSON: {error}", f"python3 -m json.tool {path}"
        ) from error
    made = _Gathered(path)
    mirrors = _texts(document, "registry-mirrors", text, path)
    where = _line(text, path, "registry-mirrors")
    places = [place for address in mirrors if (place := _host(made, address, {}, where))]
    if places:
        made.mirrors[DOCKER_HUB] = tuple(dict.fromkeys(places))
    for host in _texts(document, "insecure-registries", text, path):
        if HOST.fullmatch(host):
            made.insecure.add(host)
        else:
            made.passes_over(f"{host} is insecure: name each such host with --insecure")
    return made.found()


def _texts(document: object, key: str, text: str, path: str) -> Sequence[str]:
    found = document.get(key, []) if isinstance(document, dict) else None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise _wrong(_line(text, path, key), f"{key} must be a list of texts", f'"{key}": ["..."]')
    return found


def _toml(text: str, path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        spot = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        last = text.count("\n") + 1
        where = f"{path}:{spot[1]}:{spot[2]}" if spot else f"{path}:{last}:1"
        raise _wrong(where, f"this is not TOML: {str(error).partition(' (at ')[0]}", None) from error


def _tables(value: object, name: str, where: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise _wrong(where, f"{name} must be a list of tables", f"[[{name}]]")
    return value


def _flag(table: Mapping[str, Any], key: str, where: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise _wrong(where, f"{key} is {value!r}, and must be true or false", f"{key} = true")
    return value


def _place(value: object, where: str, *, wild: bool = False) -> str:
    """`host[:port][/path]`; with `wild` also `*.domain`."""
    text = value.strip("/") if isinstance(value, str) else ""
    host, _, path = text.partition("/")
    known = HOST.fullmatch(host.removeprefix("*.") if wild and not path else host)
    if not known or (path and not _PATH.fullmatch(path)):
        raise _wrong(where, f"{value!r} names no place in a registry", "host[:port][/path], in lower case")
    return text


def _wrong(where: str, message: str, hint: str | None) -> RecipeError:
    return RecipeError([Problem(where=where, message=message, hint=hint)])


def _line(text: str, path: str, word: str) -> str:
    """Where a word stands first, as `file:line:1`, for what TOML and JSON tell no line of."""
    number = next((number for number, line in enumerate(text.splitlines(), 1) if word in line), 1)
    return f"{path}:{number}:1"
