"""What people get wrong, and what is wrong with what they are given, at the real command line.

Whatever it is: the documented exit status, an error and what to do about it in a line each, the same as JSON, no
traceback, no secret, and nothing at the target.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zstandard

from composer import errors
from tests.command import COMMAND, Said, environment, tricompose
from tests.conftest import require
from tests.parity.image import Raw, digest, tar, write_layout
from tests.parity.place import BASE, HOME, file, link, packed, server
from tests.services.proxy import Answer, Proxy
from tests.services.registry import USERNAME, Registry, login, running_registry

pytestmark = pytest.mark.registry

USAGE = 2
SECRET = "hush-hush"
ORIGIN = "upstream: {full: 'oci:upstream:full', min: 'oci:upstream:min'}\n"
GOOD = f"{ORIGIN}backends: [python]\noutputs: ['oci:result:slim']\n"
FAR = GOOD.replace("oci:upstream:", "docker://REGISTRY/up:24.10-py3-")
BUILD = ("build", "recipe.yaml", "--no-validate")
AGAIN = "copy|push|where this image comes from"
"""What can be done about bytes that are broken: have them from somewhere else."""

MEMBERS = server("onnxruntime", "python", "tensorrt")
UPPER = packed(MEMBERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Something wrong. `says` are the patterns of the errors, in order, each with that of its hint.

    REGISTRY, GUARDED, FORBIDDEN, CERTIFICATE in texts stand for the services of the tests.
    """

    status: int
    says: dict[str, str]
    recipe: str | bytes | None = GOOD
    arguments: tuple[str, ...] = BUILD
    upper: Raw = UPPER
    spoil: Callable[[Path], object] = field(default=lambda path: None)


def output(name: str, *more: str) -> tuple[str, ...]:
    return (*BUILD, "-o", name, *more)


def blob(path: Path, raw: Raw = UPPER) -> Path:
    return path / "upstream/blobs/sha256" / digest(raw.blob)[7:]


def flip(path: Path) -> None:
    """One bit of a blob, where gzip keeps its check sum."""
    data = bytearray(blob(path).read_bytes())
    data[-6] ^= 1
    blob(path).write_bytes(data)


def replaced(path: Path) -> None:
    """Another layer, whole in itself and of the same size, where the first one was."""
    data = bytearray(blob(path).read_bytes())
    data[4] ^= 1  # the time in the header of gzip, which nothing else depends on
    blob(path).write_bytes(data)


def cut(path: Path) -> None:
    blob(path).write_bytes(blob(path).read_bytes()[:-100])


def with_member(*members: tuple[tarfile.TarInfo, bytes]) -> Raw:
    return packed([*MEMBERS, *members])


def bomb(compress: Callable[[bytes], bytes]) -> Raw:
    """More than 1 GiB of zeros in 65 pieces that are compressed once: of members and of frames there may be many."""
    head = tarfile.TarInfo("zeros")
    head.size = 65 << 24
    return Raw(compress(head.tobuf()) + compress(bytes(1 << 24)) * 65, digest(b"never looked at"))


RECIPES = {
    "no YAML": Case(status=3, recipe="backends: [python\n", says={r"recipe.yaml:2:1: this is not YAML: .*": "bracket"}),
    "unknown keys": Case(
        status=3,
        recipe=GOOD + "bakends: [x]\nlable: {}\n",
        says={
            r'recipe.yaml:4:1: "bakends" is not a key of a recipe': r'did you mean "backends"\?',
            r'recipe.yaml:5:1: "lable" is not a key of a recipe': r'did you mean "labels"\?',
        },
    ),
    "an empty recipe": Case(status=3, recipe="", says={r"recipe.yaml:1:1: the file is empty": r"begin with"}),
    "no recipe": Case(status=5, recipe=None, says={"there is no recipe recipe.yaml": "tricompose init"}),
    "a folder for a recipe": Case(
        status=USAGE,
        recipe=None,
        spoil=lambda path: (path / "recipe.yaml").mkdir(),
        says={".*recipe.yaml' is a directory.*": "tricompose build --help"},
    ),
    "a binary recipe": Case(status=3, recipe=b"\xff\xfe\0\0", says={r"recipe.yaml:1:.*": ".+"}),
    "a variable that is not set": Case(
        status=3,
        recipe=GOOD.replace("result", "${NOWHERE_AT_ALL}"),
        says={r"recipe.yaml:3:11: the variable NOWHERE_AT_ALL is not set": "export NOWHERE_AT_ALL=.*"},
    ),
    "an unknown backend": Case(
        status=5,
        recipe=GOOD.replace("python", "pyton"),
        says={r"recipe.yaml:2:12: the upstream has no backend 'pyton'": r'did you mean "python"\?.*'},
    ),
    "a platform that Triton has not": Case(
        status=3,
        recipe=f"{GOOD}platforms: [linux/s390x]\n",
        says={r"recipe.yaml:4:13: Triton does not run on linux/s390x": "linux/amd64 or linux/arm64"},
    ),
    "a platform that the upstream has not": Case(
        status=5,
        recipe=f"{GOOD}platforms: [linux/arm64]\n",
        says={"oci:upstream is for linux/amd64, not linux/arm64": re.escape("platforms: [linux/amd64]")},
    ),
    "no such models": Case(
        status=3, recipe=f"{GOOD}models: [{{path: ./modles}}]\n", says={".*modles: there is no such model .*": ".+"}
    ),
    "an output misspelled in the recipe": Case(
        status=3,
        recipe=GOOD.replace("oci:result:slim", "docker:/h.io/x:1"),
        says={"recipe.yaml:3:11: 'docker:/h.io/x:1' lacks the two slashes": "docker://h.io/x:1"},
    ),
}

OUTPUTS = {
    "one slash": Case(
        status=5, arguments=output("docker:/h.io/x:1"), says={".*lacks the two slashes": "docker://h.io/x:1"}
    ),
    "no slash": Case(
        status=5, arguments=output("docker:h.io/x:1"), says={".*lacks the two slashes": "docker://h.io/x:1"}
    ),
    "no transport, a registry": Case(
        status=5,
        arguments=output("localhost:5000/x:1"),
        says={".*does not name an image": "docker://localhost:5000/x:1"},
    ),
    "no transport, a file": Case(
        status=5, arguments=output("result.tar"), says={".*does not name an image": "oci-archive:result.tar"}
    ),
    "no transport": Case(status=5, arguments=output("result"), says={".*does not name an image": "one of docker://.*"}),
    "a transport misspelled": Case(
        status=5,
        arguments=output("docker-deamon:x:1"),
        says={".*does not name an image": r"did you mean docker-daemon:x:1\?"},
    ),
    "capitals": Case(status=5, arguments=output("docker://h.io/UP:1"), says={".*": ".*lower-case.*"}),
    "a file for a folder": Case(
        status=13, arguments=output("oci:recipe.yaml:1"), says={".*recipe.yaml is in the way.*": "name another place"}
    ),
    "a folder for a file": Case(status=13, arguments=output("oci-archive:upstream:1"), says={".*upstream.*": ".+"}),
    "no Docker Engine": Case(
        status=9,
        arguments=output("docker-daemon:result:1"),
        says={"the Docker Engine at unix:///nowhere/docker.sock cannot be reached.*": "sudo systemctl start docker"},
    ),
}

REGISTRIES = {
    "an unknown host": Case(
        status=9,
        recipe=GOOD.replace("oci:upstream:full", "docker://registry.invalid/up:1"),
        says={"the name of registry.invalid could not be resolved.*": ".*getent hosts registry.invalid"},
    ),
    "nobody there": Case(
        status=9,
        arguments=output("docker://127.0.0.1:9/result:1"),
        says={"127.0.0.1:9 refused the connection.*": ".*curl -v https://127.0.0.1:9/v2/"},
    ),
    "a missing tag": Case(
        status=5,
        recipe=FAR.replace("py3-full", "py3-ful"),
        says={"REGISTRY has no image up:24.10-py3-ful": "(did you mean )?docker://REGISTRY/up:24.10-py3-full.*"},
    ),
    "a missing tag in a layout": Case(
        status=5,
        recipe=GOOD.replace("upstream:full", "upstream:ful"),
        says={"oci:upstream has no image 'ful'": r"did you mean 'full'\?"},
    ),
    "a missing repository": Case(
        status=5, recipe=FAR.replace("/up:", "/upp:"), says={"REGISTRY has no image upp:24.10-py3-full": ".+"}
    ),
    "no layout": Case(
        status=5,
        recipe=GOOD.replace("oci:upstream", "oci:upstraem"),
        says={"there is no image layout at oci:upstraem": "tricompose copy .*"},
    ),
    "401 for an anonymous user": Case(
        status=8,
        arguments=output("docker://GUARDED/result:1", "--ca-bundle", "CERTIFICATE"),
        says={r"GUARDED refused .* to anonymous users \(401\)": "docker login GUARDED"},
    ),
    "401 for a wrong password": Case(
        status=8,
        arguments=output("docker://GUARDED/result:1", "--ca-bundle", "CERTIFICATE"),
        spoil=lambda path: path.joinpath("log in").touch(),
        says={r"GUARDED refused .* credentials .*config.json \(401.*": "docker login GUARDED"},
    ),
    "403": Case(
        status=8,
        arguments=output("docker://FORBIDDEN/result:1"),
        says={r"FORBIDDEN refused an upload of sha256:\w+ to result to anonymous users \(403\)": "docker login.*"},
    ),
    "403 for the upstream": Case(
        status=8,
        recipe=FAR.replace("REGISTRY", "FORBIDDEN").replace("/up:", "/secret:"),
        says={"FORBIDDEN refused .*403.*": "docker login FORBIDDEN"},
    ),
    "a certificate of its own": Case(
        status=9,
        arguments=output("docker://GUARDED/result:1"),
        says={"the TLS certificate of GUARDED is not trusted .*": "ca_bundle: .*--insecure GUARDED.*"},
    ),
    "a file of no certificates": Case(
        status=5,
        arguments=output("docker://GUARDED/result:1", "--ca-bundle", "recipe.yaml"),
        says={"no certificates could be read from recipe.yaml.*": ".*a file of PEM certificates.*"},
    ),
}

BYTES = {
    "a corrupt gzip layer": Case(
        status=10,
        upper=Raw(UPPER.blob[:300] + b"\0\0\0\0" + UPPER.blob[304:], UPPER.diff_id),
        says={"layer sha256:.* is not whole gzip: .*": AGAIN},
    ),
    "a gzip layer that was cut": Case(
        status=10, upper=Raw(UPPER.blob[:-20], UPPER.diff_id), says={".* ends in the middle of its gzip.*": AGAIN}
    ),
    "a tar that was cut": Case(
        status=10,
        upper=Raw(gzip.compress(tar(MEMBERS)[:-20000]), UPPER.diff_id),
        says={".* ends in the middle of a file": AGAIN},
    ),
    "no tar": Case(
        status=10, upper=Raw(gzip.compress(b"hello" * 999), UPPER.diff_id), says={".* is not a tar: .*": AGAIN}
    ),
    "a flipped bit": Case(status=10, spoil=flip, says={".*sha256:.*": AGAIN}),
    "another blob": Case(
        status=10, spoil=replaced, says={r"oci:upstream sent sha256:\w+ where sha256:\w+ was asked for": AGAIN}
    ),
    "a truncated blob": Case(
        status=10, spoil=cut, says={rf"oci:upstream sent \d+ of the {len(UPPER.blob)} bytes of sha256:\w+": AGAIN}
    ),
    "no blob": Case(
        status=5, spoil=lambda path: blob(path).unlink(), says={"oci:upstream has no blob sha256:.*": AGAIN}
    ),
    "a file outside": Case(
        status=10, upper=with_member(file("../../evil")), says={".*'../../evil' leads out of the image": AGAIN}
    ),
    "a file outside, from within": Case(
        status=10,
        upper=with_member(file(f"{HOME}/backends/python/../../../../evil")),
        says={".*evil' leads out of the image": AGAIN},
    ),
    "a hard link to the outside": Case(
        status=10,
        upper=with_member(link(f"{HOME}/backends/python/stolen", "../../../../etc/shadow")),
        says={".*shadow' leads out of the image": AGAIN},
    ),
    "a bomb": Case(
        status=10,
        upper=bomb(lambda data: gzip.compress(data, 9)),
        says={"layer sha256:.* looks like a decompression bomb": AGAIN},
    ),
    "a bomb of zstd": Case(
        status=10,
        upper=bomb(zstandard.ZstdCompressor(level=9).compress),
        says={"layer sha256:.* looks like a decompression bomb": AGAIN},
    ),
    "no archive": Case(
        status=10, arguments=("copy", "oci-archive:recipe.yaml", "oci:result:1"), says={".*is not a whole tar.*": AGAIN}
    ),
}

CASES = RECIPES | OUTPUTS | REGISTRIES | BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The services, and what they are called in the texts of the cases."""

    registry: Registry
    guarded: Registry
    names: dict[str, str]

    def fill(self, text: str) -> str:
        for name, value in self.names.items():
            text = text.replace(name, value)
        return text

    def traces(self) -> list[Path]:
        """What an image called `result` has left in a registry: tags and uploads. Blobs that nothing names may stay."""
        found = [one.storage.glob("docker/registry/v2/repositories/result/*") for one in (self.registry, self.guarded)]
        return [path for paths in found for path in paths if any(path.rglob("link")) and path.name != "_layers"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    require("docker-registry", "openssl", "skopeo")
    with ExitStack() as stack:
        plain = stack.enter_context(running_registry(tmp_path_factory.mktemp("registry")))
        guarded = stack.enter_context(running_registry(tmp_path_factory.mktemp("guarded"), basic=True, tls=True))
        rules = [
            Answer(method="POST|PUT|PATCH", path="/result/", status=403),
            Answer(method="GET|HEAD", path="/secret/", status=403),
        ]
        forbidden = stack.enter_context(Proxy(plain.port, rules))
        layout = tmp_path_factory.mktemp("seed")
        write_layout(layout, [BASE, UPPER])
        for tag in ("full", "min"):
            target = f"docker://{plain.host}/up:24.10-py3-{tag}"
            command = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:image", target]
            subprocess.run(command, check=True)
        names = {"REGISTRY": plain.host, "GUARDED": guarded.host, "FORBIDDEN": forbidden.host}
        yield World(registry=plain, guarded=guarded, names={**names, "CERTIFICATE": str(guarded.certificate)})


def lay_out(case: Case, path: Path, world: World) -> None:
    write_layout(path / "upstream", [BASE, case.upper], "full")
    write_layout(path / "upstream", [BASE], "min")
    if isinstance(case.recipe, bytes):
        (path / "recipe.yaml").write_bytes(case.recipe)
    elif case.recipe is not None:
        (path / "recipe.yaml").write_text(world.fill(case.recipe))
    case.spoil(path)
    if (path / "log in").exists():
        login(path / ".docker", world.guarded.host, username=USERNAME, password=SECRET)


def run(path: Path, *arguments: str) -> Said:
    how = ["--json", "--cache", str(path / "cache")]
    return tricompose(*arguments, *how, cwd=path, env=environment(path, DOCKER_HOST="unix:///nowhere/docker.sock"))


def listing(path: Path) -> set[str]:
    """Everything but the cache, and of that what is not whole."""
    found = {str(one.relative_to(path)) for one in path.rglob("*") if not one.is_relative_to(path / "cache")}
    return found | {str(one) for one in (path / "cache").glob("ingest/*")}


@pytest.mark.parametrize("name", CASES)
def test_whatever_is_wrong(name: str, world: World, tmp_path: Path) -> None:
    case = CASES[name]
    lay_out(case, tmp_path, world)
    before = listing(tmp_path)
    said = run(tmp_path, *map(world.fill, case.arguments))
    assert said.returncode == case.status, said.stderr
    assert_said(said, {world.fill(error): world.fill(hint) for error, hint in case.says.items()})
    assert listing(tmp_path) == before
    assert world.traces() == []


def assert_said(said: Said, says: dict[str, str]) -> None:
    """An error and a hint for each of the patterns, and no others; the same as JSON."""
    lines = [line for line in said.stderr.splitlines() if line.startswith(("error: ", "hint: "))]
    assert [line.partition(": ")[0] for line in lines] == ["error", "hint"] * len(says), said.stderr
    for (error, hint), found, advice in zip(says.items(), lines[::2], lines[1::2], strict=True):
        assert re.fullmatch(f"error: {error}", found), found
        assert re.search(f"^hint: .*({hint})", advice), advice
    told: dict[str, Any] = json.loads(said.stdout)
    assert told["schema"] == 1
    assert set(told) == {"schema", "error"}
    pairs = [(f"{one['where']}: {one['message']}", one["hint"]) for one in told["error"].get("problems", ())]
    pairs = pairs or [(told["error"]["message"], told["error"]["hint"])]
    assert [f"{kind}: {text}" for pair in pairs for kind, text in zip(("error", "hint"), pair, strict=True)] == lines
    assert told["error"]["code"] == CODES[said.returncode]
    assert "Traceback" not in said.stderr
    assert SECRET not in said.stderr + said.stdout


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.TricomposeError)]
CODES = {kind.status: kind.code for kind in KINDS if kind is not errors.TricomposeError} | {USAGE: "usage"}


def test_a_target_without_permission(world: World, tmp_path: Path) -> None:
    """As a root that may not do more than the owner of a file may."""
    lay_out(RECIPES["no recipe"], tmp_path, world)
    (tmp_path / "recipe.yaml").write_text(GOOD)
    (tmp_path / "locked").mkdir(mode=0o555)
    before = listing(tmp_path)
    for target in ("oci:locked/result:1", "oci-archive:locked/result.tar:1", "docker-archive:locked/result.tar:a:1"):
        argv = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", COMMAND, *output(target, "--json", "--cache", "c")]
        said = subprocess.run(
            argv, capture_output=True, text=True, cwd=tmp_path, env=environment(tmp_path), check=False
        )
        assert said.returncode == errors.NoRoom.status, said.stderr
        assert_said(said, {".*locked.*": ".*locked.*|name another place.*"})
    assert {path for path in listing(tmp_path) if not path.startswith("c")} == before


def test_two_outputs_of_which_the_second_is_refused(world: World, tmp_path: Path) -> None:
    """What can be known before is asked before: neither gets anything."""
    lay_out(REGISTRIES["403"], tmp_path, world)
    before = listing(tmp_path)
    said = run(tmp_path, *output("oci:first:1", "-o", f"docker://{world.names['FORBIDDEN']}/result:1"))
    assert said.returncode == errors.Denied.status
    assert_said(said, {".*refused an upload .*403.*": "docker login .*"})
    assert listing(tmp_path) == before
    assert world.traces() == []


def test_two_outputs_of_which_the_second_is_refused_at_the_last_moment(world: World, tmp_path: Path) -> None:
    """What was delivered before stays, is whole, and is said; at the other there is nothing."""
    lay_out(REGISTRIES["403"], tmp_path, world)
    rule = Answer(method="PUT", path="/late/manifests/", status=403)
    with Proxy(world.registry.port, [rule]) as proxy:
        said = run(tmp_path, *output("oci:first:1", "-o", f"docker://{proxy.host}/late:1"))
    assert said.returncode == errors.Denied.status
    assert_said(said, {".*refused .*403.*": "docker login .*"})
    (line,) = [line for line in said.stderr.splitlines() if line.startswith("deliver: done: oci:first:1 is sha256:")]
    inspected = subprocess.run(
        ["skopeo", "inspect", "--format", "{{.Digest}}", f"oci:{tmp_path}/first:1"], capture_output=True, text=True
    )
    assert inspected.stdout.strip() == line.partition(" is ")[2].partition(" ")[0]
    subprocess.run(["umoci", "raw", "unpack", "--image", f"{tmp_path}/first:1", str(tmp_path / "root")], check=True)
    assert list(world.registry.storage.glob("docker/registry/v2/repositories/late/_manifests/tags/*")) == []


def test_a_bomb_is_refused_with_little_memory_and_disk(world: World, tmp_path: Path) -> None:
    """It would be 1.1 GB; half a gigabyte of memory and what an empty cache takes must do."""
    lay_out(BYTES["a bomb"], tmp_path, world)
    limited = ["prlimit", "--data=500000000", f"--fsize={1 << 24}", COMMAND, *BUILD, "--cache", "cache"]
    said = subprocess.run(limited, capture_output=True, text=True, cwd=tmp_path, env=environment(tmp_path), check=False)
    assert said.returncode == errors.Corrupt.status, said.stderr
    assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()) < 1 << 20
