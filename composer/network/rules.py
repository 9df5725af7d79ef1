"""Rules of mirrors as other programs have them: registries.conf, containerd's hosts.toml, Docker's daemon.json.

    found = read(Path("/etc/containers/registries.conf"))    # routes with mirrors, insecure, blocked
    made = written(routes)                                    # texts of files by their names

Sources: containers-registries.conf(5), containerd's docs/hosts.md, dockerd(8). What one of them cannot say, or what we
cannot, is told: nothing is passed over in silence.
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

from composer.errors import NotFound, Problem, RecipeError, Unplannable
from composer.network.routes import Routes
from composer.oci.layout import begin_file, room, sweep
from composer.oci.names import DOCKER_HUB, asked_at, spellings

MARK: Final = "# Written by tricompose mirror"
"""How every file of ours begins that may have comments."""

NETWORK: Final = "network.yaml"
REGISTRIES: Final = "registries.conf"
HOSTS: Final = "hosts.toml"
CERTS: Final = "certs.d"
DAEMON: Final = "daemon.json"

_DEFAULT: Final = "_default"
_HOST: Final = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_PATH: Final = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*")
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*[./][A-Za-z0-9._/-]*[A-Za-z0-9]")
"""What YAML takes for a text without quotes, whatever else it has names for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a file or folder says: routes with `mirrors`, `insecure`, `blocked` and `certs`.

    `passed_over` are the rules in it that we cannot follow, as `file: what, and why`.
    """

    routes: Routes
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Rules as files: their texts by name, in one folder. `lacking` is what they cannot say, and what to do instead."""

    files: Mapping[str, str]
    lacking: tuple[str, ...] = ()


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
        raise NotFound(f"{path} holds no HOST/{HOSTS}", hint=f"a folder as containerd has it: {path}/nvcr.io/{HOSTS}")
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
        if prefix not in made.blocked and made.found().routes.is_blocked(*_split(prefix)):
            made.mirrors[prefix] = (*places, prefix)
    return made.found()


def _split(key: str) -> tuple[str, str]:
    host, _, path = key.partition("/")
    return host, path


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
    name = "*" if folder == _DEFAULT else re.sub(r"_([0-9]+)_$", r":\1", folder)
    if name != "*" and not _HOST.fullmatch(name):
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
    if not _HOST.fullmatch(parts.netloc):
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
        if _HOST.fullmatch(host):
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
    known = _HOST.fullmatch(host.removeprefix("*.") if wild and not path else host)
    if not known or (path and not _PATH.fullmatch(path)):
        raise _wrong(where, f"{value!r} names no place in a registry", "host[:port][/path], in lower case")
    return text


def _wrong(where: str, message: str, hint: str | None) -> RecipeError:
    return RecipeError([Problem(where=where, message=message, hint=hint)])


def _line(text: str, path: str, word: str) -> str:
    """Where a word stands first, as `file:line:1`, for what TOML and JSON tell no line of."""
    number = next((number for number, line in enumerate(text.splitlines(), 1) if word in line), 1)
    return f"{path}:{number}:1"


# -- writing ------------------------------------------------------------------------------------------------------


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
    blocked = routes.is_blocked(*_split(key))
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
    fit = [key for key in keys if key == "*" or _HOST.fullmatch(key)]
    lacking = [f"{HOSTS} cannot say {key}: containerd has rules for whole hosts only" for key in keys if key not in fit]
    files = {}
    for key in fit:
        if routes.is_blocked(key) and not routes.mirrors.get(key):
            lacking.append(f"{HOSTS} cannot say that {key} is not asked: containerd asks where there is no other")
            continue
        files[f"{CERTS}/{_DEFAULT if key == '*' else key}/{HOSTS}"] = (
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
    with room(folder):
        for name, text in rules.files.items():
            _replace(folder / name, text.encode("utf-8", "surrogateescape"))
    return tuple(folder / name for name in rules.files)


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent.glob(f".{path.name}-*"))
    handle, fresh = begin_file(path.parent, f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.replace(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
