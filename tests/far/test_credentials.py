"""Logins of four kinds, used by every command that reaches out: whatever a run leaves behind is searched for them.

What is searched: all that was said, every file below the home, the folder and the temporary folder, archives and layers
unpacked, all that the registry stores, and the command lines and environments of all processes while they ran.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

import pytest
import zstandard

from tests.far.conftest import ADDRESSES, HARBOR, NGC, PROXY
from tests.far.pages import Person
from tests.services.forward import forward_proxy
from tests.services.namespaces import machine
from tests.services.registry import PASSWORD, USERNAME, Registry, login
from tests.services.wheels import PipIndex, guarded

pytestmark = pytest.mark.registry

ON_THE_WAY = "pr0xy:s3cr3t/1"
INDEX = "1nd3x-s3cr3t"
WRONG = "wr0ng-s3cr3t"

HELPER = f"""#!/bin/sh
[ "$1" = get ] && echo '{{"Username": "{USERNAME}", "Secret": "{PASSWORD}"}}'
"""


def forms(user: str, secret: str) -> list[bytes]:
    """How a secret may be spelled."""
    pair = base64.b64encode(f"{user}:{secret}".encode())
    return [secret.encode(), quote(secret, safe="").encode(), pair, base64.b64encode(secret.encode())]


GIVEN = {
    "registry": forms(USERNAME, PASSWORD),
    "proxy": forms("jane", ON_THE_WAY),
    "index": forms("joe", INDEX),
    "wrong one": forms(USERNAME, WRONG) + forms("jane", WRONG) + forms("joe", WRONG),
}
BY_ENVIRONMENT = ("proxy", "index", "wrong one")
"""Those that the user has put into the environment: every process has them from there."""

COMMANDS = (
    "build recipe.yaml -v --progress plain",
    "build recipe.yaml -o oci:built:1 --json --progress json -v",
    "plan recipe.yaml --scan new --json -v",
    "lock recipe.yaml -v",
    "doctor recipe.yaml -v",
    "doctor recipe.yaml --json --write mended.yaml",
    f"inspect docker://{HARBOR}/team/tritonserver:1 --network recipe.yaml --json -v",
    f"copy docker://{HARBOR}/team/tritonserver:1 oci-archive:copied.tar:1 --network recipe.yaml -v --progress json",
    f"copy oci:built:1 docker://{HARBOR}/team/copied:1 --network recipe.yaml -v --json",
    f"mirror recipe.yaml --to docker://{HARBOR}/mirror --rules rules -v --progress plain",
    f"mirror recipe.yaml --to docker://{HARBOR}/mirror --watch-tags --json --progress json -v",
    "bundle create recipe.yaml -o out/bundle --part-size 1MB -v --progress plain",
    "bundle inspect out/bundle --json",
    f"bundle load out/bundle --to docker://{HARBOR}/loaded --rules loaded --network recipe.yaml -v --json",
    "bundle load out/bundle --into far -v",
    f"bundle inventory docker://{HARBOR}/team/tritonserver -o have.json --network recipe.yaml -v",
)
SOME = (COMMANDS[0], COMMANDS[7], COMMANDS[9])
"""For the other ways to be logged in: those that read, push, and write files."""


@dataclass(slots=True)
class Watch:
    """Looks at all processes that come of those with a mark in their environment, until it is closed."""

    mark: bytes
    lines: dict[tuple[bytes, bytes], None] = field(default_factory=dict)
    _ours: set[str] = field(default_factory=set)
    _ended: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        others = set(os.listdir("/proc"))
        while not self._ended.wait(0.02):
            for process in map(Path("/proc").joinpath, filter(str.isdecimal, set(os.listdir("/proc")) - others)):
                with suppress(OSError, IndexError):
                    environ = (process / "environ").read_bytes()
                    parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                    if self.mark in environ or parent in self._ours:
                        self._ours.add(process.name)
                        self.lines[(process / "cmdline").read_bytes(), environ] = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self.look)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()


@pytest.fixture
def index(tmp_path: Path, stack: ExitStack) -> int:
    """The port of a package index that wants a login."""
    made = PipIndex(folder=tmp_path / "index")
    made.add("probe", "1.0", {"probe/__init__.py": b""})
    return stack.enter_context(guarded(made.folder, username="joe", password=INDEX)).port


@pytest.fixture
def user(
    small_ngc: Registry,
    harbor: Registry,
    index: int,
    tmp_path: Path,
    person: Callable[..., Person],
    stack: ExitStack,
) -> Person:
    """Behind a proxy with a login, with an index and a registry that want one too."""
    there = stack.enter_context(machine(tmp_path / "there", names={name: ADDRESSES[name] for name in (HARBOR, PROXY)}))
    way = stack.enter_context(forward_proxy({NGC: ("127.0.0.1", small_ngc.port)}, login=f"jane:{ON_THE_WAY}"))
    doors = {(ADDRESSES[PROXY], 3128): way.port, (ADDRESSES[HARBOR], 443): harbor.port, ("127.0.0.1", index): index}
    for address, port in doors.items():
        stack.enter_context(there.door(address, ("127.0.0.1", port)))
    made = person(there, "user", small_ngc, harbor, at="another.example.com")
    (tmp_path / "temporary").mkdir()
    environ = {
        "TMPDIR": str(tmp_path / "temporary"),
        "MARK": f"of {tmp_path}",
        "PROXY_LOGIN": f"jane:{quote(ON_THE_WAY, safe='')}",
        "INDEX_LOGIN": f"joe:{INDEX}",
    }
    return replace(made, environ={**made.environ, **environ})


def recipe(index: int, more: str = "") -> str:
    return f"""\
triton: "24.10"
backends: [onnxruntime, python]
models: [{{path: ./model_repository}}]
packages: {{pip: [probe]}}
network:
  ca_bundle: ./corp-ca.pem
  pip_index: http://${{INDEX_LOGIN}}@127.0.0.1:{index}/simple
  proxy: {{https: 'http://${{PROXY_LOGIN}}@{PROXY}:3128', no_proxy: [{HARBOR}, 127.0.0.1]}}
  {more}
outputs: [docker://{HARBOR}/team/tritonserver:1]
"""


def logged_in(user: Person, kept: str) -> tuple[Person, str]:
    """With the registry's login kept in one of the ways that there are, and what the recipe says of it."""
    config = Path(user.environ["HOME"]) / ".docker"
    if kept == "in the file":
        login(config, HARBOR)
    elif kept == "by a helper":
        programs = user.folder.parent / "programs"
        programs.mkdir()
        (programs / "docker-credential-test").write_text(HELPER)
        (programs / "docker-credential-test").chmod(0o755)
        (config / "config.json").write_text(json.dumps({"credsStore": "test"}))
        user = replace(user, environ={**user.environ, "PATH": f"{programs}:{user.environ['PATH']}"})
    else:
        (config / "config.json").unlink()
        user = replace(user, environ={**user.environ, "WHO": USERNAME, "HUSH": PASSWORD})
        return user, f"credentials: {{{HARBOR}: {{username: WHO, password: HUSH}}}}"
    return user, ""


@pytest.mark.parametrize("kept", ["in the file", "by a helper", "by variables"])
def test_a_login_is_nowhere_but_where_it_belongs(
    user: Person, harbor: Registry, index: int, tmp_path: Path, kept: str
) -> None:
    user, more = logged_in(user, kept)
    (user.folder / "recipe.yaml").write_text(recipe(index, more))
    watch = Watch(user.environ["MARK"].encode())
    with watch.watching():
        for number, command in enumerate(COMMANDS if kept == "in the file" else SOME):
            user.does(f"tricompose {command} > said-{number}.txt 2>&1 || (cat said-{number}.txt; exit 1)")
    assert any(b"uv" in line for line, _ in watch.lines), "packages were looked for, so that there is something to see"
    leaks = list(leaked(user, harbor, watch, given=("registry",) if kept == "by variables" else ()))
    assert not leaks, "\n".join(leaks)


FAILING = (
    ("PROXY_LOGIN", f"jane:{WRONG}", "plan recipe.yaml --max-wait 3 -v", 9),
    ("INDEX_LOGIN", f"joe:{WRONG}", "build recipe.yaml -o oci:unbuilt:1 --max-wait 3 -v", 8),
    ("HUSH", WRONG, f"mirror recipe.yaml --to docker://{HARBOR}/mirror --json --max-wait 3 -v", 8),
    ("HUSH", WRONG, "doctor recipe.yaml --json", 16),
)


def test_a_login_that_is_refused_is_not_shown_either(
    user: Person, harbor: Registry, index: int, tmp_path: Path
) -> None:
    user, more = logged_in(user, "by variables")
    (user.folder / "recipe.yaml").write_text(recipe(index, more))
    watch = Watch(user.environ["MARK"].encode())
    with watch.watching():
        for name, value, command, status in FAILING:
            wrong = replace(user, environ={**user.environ, name: value})
            ended, said = wrong.fails(f"tricompose {command}")
            assert ended == status, said
            (user.folder / f"said-{name}-{status}.txt").write_text(said)
    leaks = list(leaked(user, harbor, watch, given=("registry",)))
    assert not leaks, "\n".join(leaks)


def leaked(user: Person, harbor: Registry, watch: Watch, *, given: Sequence[str]) -> Iterator[str]:
    """Where any of the secrets is that should not be; those of `given` are in the environment by right."""
    home = Path(user.environ["HOME"])
    places = [home, user.folder, Path(user.environ["TMPDIR"]), harbor.storage]
    own = {home / ".docker/config.json"}
    files = [path for place in places for path in place.rglob("*") if path.is_file() and path not in own]
    assert len(files) > 10
    for path in files:
        for where, data in unpacked(path.read_bytes(), str(path)):
            yield from (f"the login of the {whose} is in {where}" for whose in secrets_in(data))
    for line, environ in watch.lines:
        yield from (f"the login of the {whose} is in the command line {line!r}" for whose in secrets_in(line))
        for whose in set(secrets_in(environ)) - {*BY_ENVIRONMENT, *given}:
            yield f"the login of the {whose} is in the environment of {line!r}"


def secrets_in(data: bytes) -> list[str]:
    return [whose for whose, spelled in GIVEN.items() if any(form in data for form in spelled)]


def unpacked(data: bytes, where: str) -> Iterator[tuple[str, bytes]]:
    """A file, and all that is in it where it is an archive or compressed."""
    yield where, data
    if data[:2] == b"\x1f\x8b":
        yield from unpacked(gzip.decompress(data), f"{where}, unzipped")
    elif data[:4] == b"\x28\xb5\x2f\xfd":
        yield from unpacked(zstandard.ZstdDecompressor().stream_reader(data).read(), f"{where}, unzipped")
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield from unpacked(archive.read(name), f"{where}:{name}")
    elif data[257:262] == b"ustar":
        with suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                if member.isfile() and (file := tar.extractfile(member)):
                    yield from unpacked(file.read(), f"{where}:{member.name}")


def test_the_search_finds_what_is_there() -> None:
    """In a layer of a bundle, spelled for a header."""
    header = f"Authorization: Basic {base64.b64encode(f'{USERNAME}:{PASSWORD}'.encode()).decode()}".encode()
    inner, outer = io.BytesIO(), io.BytesIO()
    for target, name, content in ((inner, "etc/netrc", header), (outer, "blobs/sha256/1", None)):
        with tarfile.open(fileobj=target, mode="w") as tar:
            data = gzip.compress(inner.getvalue()) if content is None else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    found = [where for where, data in unpacked(outer.getvalue(), "bundle.tar") if secrets_in(data)]
    assert "bundle.tar:blobs/sha256/1, unzipped:etc/netrc" in found
