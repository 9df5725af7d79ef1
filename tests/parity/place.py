"""A folder with an upstream and a cache in it: recipes go through the whole pipeline, results are judged by umoci."""

from __future__ import annotations

import dataclasses
import gzip
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from composer import pipeline
from composer.events import Event, Transferred, ignore
from composer.network import session
from composer.oci.credentials import Credentials
from composer.oci.names import Reference, parse_reference
from composer.oci.transports import Access
from composer.recipe import Recipe, parse_recipe
from tests.parity.image import Raw, Seen, digest, snapshot, tar, unpack, write_layout

HOME = "opt/tritonserver"
Members = Sequence[tuple[tarfile.TarInfo, bytes]]


def folder(path: str, mode: int = 0o755, mtime: int = 1_600_000_000) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.mtime, info.uid, info.gid = tarfile.DIRTYPE, mode, mtime, 1000, 1000
    return info, b""


def file(path: str, content: bytes = b"x", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(path)
    info.size, info.mode, info.mtime, info.uid, info.gid = len(content), mode, 1_600_000_123, 1000, 1000
    return info, content


def link(path: str, target: str, kind: bytes = tarfile.LNKTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(path)
    info.type, info.linkname, info.mtime, info.uid, info.gid = kind, target, 1_600_000_123, 1000, 1000
    return info, b""


def server(*names: str, extra: Members = ()) -> list[tuple[tarfile.TarInfo, bytes]]:
    """A layer as `COPY /opt/tritonserver` makes it, with these backends."""
    members = [folder("opt"), folder(HOME), folder(f"{HOME}/bin"), file(f"{HOME}/bin/tritonserver", b"#!", 0o755)]
    members.append(folder(f"{HOME}/backends", 0o750))
    for name in names:
        members += [
            folder(f"{HOME}/backends/{name}"),
            file(f"{HOME}/backends/{name}/libtriton_{name}.so", name.encode() * 5000),
        ]
    return [*members, *extra]


def packed(members: Members, compress: Callable[[bytes], bytes] = lambda data: gzip.compress(data, 6)) -> Raw:
    data = tar(members)
    return Raw(compress(data), digest(data), judged=gzip.compress(data, 1))


class Place:
    """A folder with an upstream image in it, and a cache."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Event] = []
        self.origin = "upstream: {full: 'oci:upstream:full', min: 'oci:upstream:min'}"

    def upstream(self, *layers: Raw, base: int = 0, settings: Mapping[str, object] | None = None) -> None:
        write_layout(self.path / "upstream", layers, "full", settings)
        write_layout(self.path / "upstream", layers[:base], "min")
        write_layout(self.path / "judge", [layer.for_judge() for layer in layers], "full")

    def workplace(
        self,
        *,
        jobs: int = 4,
        epoch: int | None = None,
        cache: str = "cache",
        knowledge: str | None = None,
        cut_all: bool = False,
    ) -> pipeline.Workplace:
        access = Access(
            session=session,
            credentials=Credentials(files=()),
            insecure=frozenset(),
            scratch=self.path,
            emit=ignore,
        )
        return pipeline.Workplace(
            cache=self.path / cache,
            access=access,
            jobs=jobs,
            epoch=epoch,
            knowledge=parse_reference(knowledge) if knowledge else None,
            emit=self.events.append,
            cut_all=cut_all,
        )

    def recipe(self, text: str) -> Recipe:
        return parse_recipe(f"{self.origin}\n{text}", path=self.path / "recipe.yaml", environ={})

    def output(self) -> Reference:
        return parse_reference(f"oci:{self.path}/result:slim")

    def build(self, text: str, output: str | None = None, **how: object) -> pipeline.Outcome:
        outputs = [parse_reference(output) if output else self.output()]
        place = self.workplace(**how)  # type: ignore[arg-type]
        return pipeline.build(self.recipe(text), place, outputs=outputs, how=None)

    def read(self) -> list[str]:
        """The digests of the layers that were read to be rewritten, since the last time this was asked."""
        events, self.events[:] = list(self.events), []
        reads = [event for event in events if isinstance(event, Transferred) and event.action == "read"]
        return sorted({event.digest for event in reads})

    def full(self) -> dict[str, Seen]:
        return snapshot(unpack(self.path / "judge", "full", self.path / "full"))

    def result(self) -> dict[str, Seen]:
        return snapshot(unpack(self.path / "result", "slim", self.path / "slim"))

    def law(self, *dropped: str, added: Sequence[str] = ()) -> None:
        """Assert unpack(result) == unpack(full) - dropped + added, everything that can be seen of each path."""
        full, result = self.full(), self.result()
        gone = {path for path in full if any(f"{path}/".startswith(f"{HOME}/{name}/") for name in dropped)}
        assert gone, "nothing was dropped, so this would prove nothing"
        assert set(result) == (set(full) - gone) | set(added)
        for path in set(full) - gone:
            want = dataclasses.replace(full[path], twins=full[path].twins - gone)
            assert result[path] == want, path

    def manifest(self) -> dict[str, object]:
        index = json.loads((self.path / "result" / "index.json").read_text())
        name = index["manifests"][0]["digest"].replace(":", "/")
        loaded: dict[str, object] = json.loads((self.path / "result" / "blobs" / name).read_text())
        return loaded


BASE = packed([folder("etc"), file("etc/os-release", b"ID=debian"), link("lib", "usr/lib", tarfile.SYMTYPE)])
