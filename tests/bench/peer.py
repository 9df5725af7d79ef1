"""Docker's side, as compose.py goes about it: pull the full and the min image, copy parts of one onto the other, push.

compose.py gets Debian packages, pip's wheels and the server's user from the network with RUN. Docker is given them
here: the full image's small layers lie beside the Dockerfile as tars, which takes seconds where apt takes minutes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from composer.oci.image import Descriptor, Manifest
from composer.oci.layout import LayoutStore
from tests.bench.process import Command
from tests.services.dockerd import DOCKER

CORE = ("bin", "include", "lib", "third-party-src")
FILES = ("LICENSE", "NVIDIA_Deep_Learning_Container_License.pdf", "TRITON_VERSION")
HOME = "/opt/tritonserver"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A Docker Engine at `host` that knows the two images by the names `full` and `least`; contexts are in `folder`."""

    host: str
    folder: Path
    full: str
    least: str

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def pull(self) -> list[Command]:
        """Fetch both images."""
        return [self._docker("pull full", "pull", self.full), self._docker("pull min", "pull", self.least)]

    def build(self, backends: Sequence[str], name: str, small: Sequence[Path]) -> Command:
        """Build an image; `small` are the layers of the full image that bring its packages and its user."""
        context = self.folder / "-".join(backends)
        context.mkdir(parents=True)
        for number, layer in enumerate(small):
            os.link(layer, context / f"{number}.tar.gz")
        (context / "Dockerfile").write_text(self._dockerfile(backends, len(small)))
        return self._docker("build", "build", "--tag", name, str(context))

    def push(self, name: str) -> Command:
        """Push an image under its own name."""
        return self._docker("push", "push", name)

    def tag(self, name: str, other: str) -> Command:
        """Give an image another name."""
        return self._docker("tag", "tag", name, other)

    def _dockerfile(self, backends: Sequence[str], small: int) -> str:
        copy = "COPY --chown=1000:1000 --from=full"
        lines = [f"FROM {self.full} AS full", f"FROM {self.least}"]
        lines += [f"ADD {number}.tar.gz /" for number in range(small)]
        lines += [f"{copy} {' '.join(f'{HOME}/{name}' for name in FILES)} {HOME}/"]
        lines += [f"{copy} {HOME}/{name} {HOME}/{name}" for name in (*CORE, *(f"backends/{name}" for name in backends))]
        return "\n".join(lines) + "\n"

    def _docker(self, name: str, *arguments: str) -> Command:
        return Command(name=name, argv=("env", "DOCKER_BUILDKIT=1", DOCKER, "--host", self.host, *arguments))


def small_layers(full: Manifest, least: Manifest, store: LayoutStore) -> list[Path]:
    """The blobs that the full image adds to the min image, but for the server's own, which is the largest."""
    added: list[Descriptor] = [layer for layer in full.layers if layer not in least.layers]
    server = max(added, key=lambda layer: layer.size)
    return [store.path / "blobs/sha256" / layer.digest[7:] for layer in added if layer != server]
