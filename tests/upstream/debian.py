"""Debian packages become files of a layer: resolved and fetched by apt with a state of its own, never installed."""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from .inputs import UpstreamError, run, settle, workspace
from .layers import Entry, text

SUITE = "bookworm"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR_VARIABLE = "TRICOMPOSE_DEBIAN_MIRROR"
"""Names a Debian mirror, for machines whose own apt sources do not have the suite."""

MERGED = ("bin", "sbin", "lib", "lib64")
"""Top directories that are symbolic links into `usr` and that nothing is written through."""

UNWANTED = re.compile(r"usr/share/((man|info|locale|lintian|linda)/|doc/[^/]+/(?!copyright$))")
"""What Debian's own slim container images leave out too."""


@dataclass(frozen=True)
class Debs:
    """Package files: those of the base image and those that the full image adds."""

    base: tuple[Path, ...]
    extra: tuple[Path, ...]


def fetch_debs(base: Sequence[str], extra: Sequence[str], cache: Path) -> Debs:
    """The named packages and all that they depend on. Raises `UpstreamError`.

    The versions are those of the suite's current point release: a mirror has no others. apt checks signatures.
    """
    place = cache / "debs"
    with workspace(cache) as work:
        apt = _apt(work)
        run([*apt, "update"])
        lower, every = _resolve(apt, base), _resolve(apt, [*base, *extra])
        for name in filter(lambda name: (place / name).exists(), every):
            shutil.copy2(place / name, work / "archives" / name)
        run([*apt, "install", "--yes", "--download-only", *base, *extra])
        for name in every:
            settle(work / "archives" / name, place / name)
    upper = sorted(set(every) - set(lower))
    return Debs(tuple(place / name for name in sorted(lower)), tuple(place / name for name in upper))


def _apt(work: Path) -> list[str]:
    """apt-get with everything that it writes below `work`, for an empty amd64 system."""
    for name in ("lists/partial", "archives/partial", "none"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()
    (work / "sources.list").write_text(_source())
    options = {
        "APT::Architecture": "amd64", "APT::Architectures": "amd64", "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "", "APT::Update::Error-Mode": "any", "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
        "Dir::State": str(work), "Dir::State::lists": str(work / "lists"),
        "Dir::State::status": str(work / "status"),
        "Dir::Cache": str(work), "Dir::Cache::archives": str(work / "archives"),
        "Dir::Log": str(work / "none"),
        "Dir::Etc::sourcelist": str(work / "sources.list"),
        "Dir::Etc::sourceparts": str(work / "none"),
        "Dir::Etc::preferencesparts": str(work / "none"),
    }  # fmt: skip
    return ["apt-get", "--quiet", *(f"-o{key}={value}" for key, value in options.items())]


def _source() -> str:
    """The one line of apt's sources: the mirror that this machine itself uses, or the one of the environment."""
    if not shutil.which("apt-get"):
        raise UpstreamError("apt-get is needed to download Debian packages: use a Debian or Ubuntu machine")
    if not KEYRING.exists():
        raise UpstreamError(f"{KEYRING} is needed to trust Debian's packages: install debian-archive-keyring")
    mirror = os.environ.get(MIRROR_VARIABLE) or _own_mirror()
    return f"deb [signed-by={KEYRING}] {mirror} {SUITE} main\n"


def _own_mirror() -> str:
    listing = run(["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)"]).decode()
    for line in listing.splitlines():
        release, component, address = line.split(maxsplit=2)
        if (release, component) == (SUITE, "main"):
            return address
    raise UpstreamError(f"no apt source has Debian {SUITE}: set {MIRROR_VARIABLE} to a Debian mirror's address")


def _resolve(apt: Sequence[str], names: Sequence[str]) -> list[str]:
    """The names of the files that installing these packages would need."""
    plan = run([*apt, "install", "--simulate", *names]).decode()
    found = re.findall(r"^Inst (\S+) \((\S+) .*\[(\w+)\]\)", plan, re.MULTILINE)
    return [f"{name}_{version.replace(':', '%3a')}_{arch}.deb" for name, version, arch in found]


def unpacked(debs: Iterable[Path]) -> Iterator[Entry]:
    """The files of the packages where a merged `/usr` has them, without manual pages and translations.

    No maintainer script has run.
    """
    for deb in debs:
        with _tar(deb, "--fsys-tarfile") as archive:
            for member in archive:
                path = _merged(member.name)
                if path not in ("", *MERGED) and not UNWANTED.match(path):
                    yield _entry(archive, member, path)


def _tar(deb: Path, part: str) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(run(["dpkg-deb", part, str(deb)])))


def _plain(name: str) -> str:
    return name.removeprefix(".").strip("/") if name in (".", "./") else name.removeprefix("./").strip("/")


def _merged(name: str) -> str:
    path = _plain(name)
    return f"usr/{path}" if path.partition("/")[0] in MERGED and "/" in path else path


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> Entry:
    entry = Entry(path, "directory", member.mode, uid=member.uid, gid=member.gid, mtime=int(member.mtime))
    if member.issym():
        return replace(entry, kind="symlink", link=member.linkname)
    if member.islnk():
        return replace(entry, kind="hardlink", link=_merged(member.linkname))
    if member.isdir():
        return entry
    content = archive.extractfile(member)
    if content is None:
        raise UpstreamError(f"/{path} is no file, directory or link")
    raw = content.read()
    return replace(entry, kind="file", size=len(raw), content=partial(io.BytesIO, raw))


def database(debs: Sequence[Path], known: Sequence[Path] = ()) -> Iterator[Entry]:
    """What dpkg would have written down: the status of all packages, the lists and control files of `debs`."""
    status = "\n".join(_paragraph(deb) for deb in sorted([*known, *debs]))
    yield text("var/lib/dpkg/status", status)
    yield text("var/lib/dpkg/info/format", "1\n")
    for deb in debs:
        yield from _information(deb)


def _paragraph(deb: Path) -> str:
    first, _, rest = run(["dpkg-deb", "--field", str(deb)]).decode().partition("\n")
    return f"{first}\nStatus: install ok installed\n{rest}"


def _information(deb: Path) -> Iterator[Entry]:
    fields = ["dpkg-deb", "--show", "--showformat", "${Package} ${Architecture} ${Multi-Arch}", str(deb)]
    name, architecture, *multi = run(fields).decode().split()
    stem = "var/lib/dpkg/info/" + (f"{name}:{architecture}" if multi == ["same"] else name)
    with _tar(deb, "--fsys-tarfile") as archive:
        paths = [f"/{_plain(member.name) or '.'}" for member in archive]
    yield text(f"{stem}.list", "\n".join(paths) + "\n")
    with _tar(deb, "--ctrl-tarfile") as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None and member.name != "./control":
                yield text(f"{stem}.{member.name.removeprefix('./')}", content.read(), member.mode & 0o755)
