"""The pair of tests.upstream once more, with apt, dpkg, pip and the user `_apt` in its min, as NVIDIA's has them.

`python -m tests.aptbase DIR` makes `oci:DIR:24.10-py3-min-apt` and `oci:DIR:24.10-py3-apt`. It is a module of its own,
since a change in `tests/upstream` makes everybody's layers anew. apt's sources are Debian's, as Docker's images of
Debian have them.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tests.upstream import wheels
from tests.upstream.config import FULL_LABELS
from tests.upstream.contents import (
    BASE_PACKAGES,
    EXTRA_PACKAGES,
    RELEASE,
    LayerPlan,
    Materials,
    _bytes,
    _found,
    full_layers,
    min_layers,
)
from tests.upstream.debian import Debs, database, fetch_debs, unpacked
from tests.upstream.image import Upstream, _cached, _image, _index, _layers, _made
from tests.upstream.inputs import workspace
from tests.upstream.layers import Entry, Layer, directory, owned, symlink, text
from tests.upstream.wheels import fetch_wheel

APT_PACKAGES = (
    *("apt", "ca-certificates", "curl", "debconf", "debian-archive-keyring", "diffutils", "gpgv", "login", "passwd"),
    *("perl-base", "python3-minimal", "python3-pip"),
)
_CACHE = Path.home() / ".cache" / "tricompose-upstream"
_FOLDERS = (
    *("etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/sources.list.d", "etc/apt/trusted.gpg.d"),
    *("var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "var/log/apt", "var/lib/dpkg/updates"),
    *("var/lib/dpkg/triggers", "var/lib/dpkg/alternatives", "var/cache/debconf", "root"),
)
_SOURCES = """\
Types: deb
# http://snapshot.debian.org/archive/debian/20241016T000000Z
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
_TRITON_USER = {
    "passwd": "triton-server:x:1000:1000::/home/triton-server:/bin/sh\n",
    "group": "triton-server:x:1000:\n",
    "shadow": "triton-server:!:20000:0:99999:7:::\n",
    "gshadow": "triton-server:!::\n",
}


def make_apt(output: Path, *, profile: str = "quickstart") -> Upstream:
    """Both images, in the image layout `output`. What was made before comes from tests.upstream's cache."""
    lower, upper = min_layers(), full_layers(profile)
    known = _layers([plan for plan in (*lower, *upper) if plan.name not in ("user", "packages")], _CACHE, print)
    own = {plan.name: _layer(plan) for plan in _OWN.values()}
    bottom = (*lower, _OWN["apt"])
    tags = {
        f"{RELEASE}-py3-min-apt": (bottom, {}),
        f"{RELEASE}-py3-apt": ((*bottom, *(_OWN.get(plan.name, plan) for plan in upper)), FULL_LABELS),
    }
    with workspace(_CACHE) as work:
        made = [_image(output, _CACHE, work, tag, plans, {**known, **own}, labels)
                for tag, (plans, labels) in tags.items()]  # fmt: skip
        _index(output, work, made)
    return Upstream(full=f"oci:{output}:{RELEASE}-py3-apt", min=f"oci:{output}:{RELEASE}-py3-min-apt")


def make_small(output: Path) -> Upstream:
    """The same min, and a full image that has nothing more than the files of a server: for builds, not for serving."""
    lower = (*min_layers(), _OWN["apt"])
    layers = {**_layers(min_layers(), _CACHE, print), **{name: _layer(plan) for name, plan in _named("apt", "server")}}
    tags = {f"{RELEASE}-py3-min-small": (lower, {}), f"{RELEASE}-py3-small": ((*lower, _OWN["server"]), FULL_LABELS)}
    with workspace(_CACHE) as work:
        made = [_image(output, _CACHE, work, tag, plans, layers, labels) for tag, (plans, labels) in tags.items()]
        _index(output, work, made)
    return Upstream(full=f"oci:{output}:{RELEASE}-py3-small", min=f"oci:{output}:{RELEASE}-py3-min-small")


def _named(*names: str) -> list[tuple[str, LayerPlan]]:
    return [(_OWN[name].name, _OWN[name]) for name in names]


def _layer(plan: LayerPlan) -> Layer:
    return _cached(plan, _CACHE) or _made(plan, Materials(Debs((), ()), {}), _CACHE, print)


def _debs(*names: str) -> tuple[Sequence[Path], Sequence[Path]]:
    """The packages of the layers below, and what `names` add to them."""
    debs = fetch_debs(BASE_PACKAGES, names, _CACHE)
    return debs.base, debs.extra


def _apt(_: Materials) -> Iterator[Entry]:
    base, extra = _debs(*APT_PACKAGES)
    # pip installs beside apt, as it does in Ubuntu 22.04.
    yield from (entry for entry in unpacked(extra) if not entry.path.endswith("/EXTERNALLY-MANAGED"))
    yield from database(extra, known=base)
    yield from (directory(name) for name in _FOLDERS)
    yield directory("tmp", 0o1777)
    yield directory("usr/local/cuda-12.6/compat/lib.real")
    yield text("etc/apt/sources.list.d/debian.sources", _SOURCES)
    yield from _users(base, {})
    yield from _python()
    yield from _certificates(extra)


def _users(base: Sequence[Path], added: Mapping[str, str]) -> Iterator[Entry]:
    """The four files of users, as `shadowconfig on` leaves those that base-passwd brings."""
    entries = {entry.path: entry for entry in unpacked(base)}
    for name, shadow, rest in (("passwd", "shadow", "20000:0:99999:7:::"), ("group", "gshadow", ":")):
        lines = _bytes(_found(entries, f"usr/share/base-passwd/{name}.master")).decode().splitlines()
        fields = [line.split(":") for line in lines]
        open_ = "".join(":".join([one[0], "x", *one[2:]]) + "\n" for one in fields)
        yield text(f"etc/{name}", open_ + added.get(name, ""))
        yield text(f"etc/{shadow}", "".join(f"{one[0]}:*:{rest}\n" for one in fields) + added.get(shadow, ""), 0o640)


def _python() -> Iterator[Entry]:
    """What update-alternatives and py3compile would have done, as far as pip needs it."""
    yield symlink("usr/bin/python", "python3")


def _certificates(debs: Sequence[Path]) -> Iterator[Entry]:
    """What the package's postinst and update-ca-certificates would have made of its files."""
    below = "usr/share/ca-certificates/"
    roots = {entry.path.removeprefix(below): _bytes(entry) for entry in unpacked(debs) if entry.path.endswith(".crt")}
    yield text("etc/ca-certificates.conf", "".join(f"{name}\n" for name in sorted(roots)))
    yield text("etc/ssl/certs/ca-certificates.crt", b"".join(roots[name] for name in sorted(roots)))


def _user(_: Materials) -> Iterator[Entry]:
    base, _extra = _debs(*APT_PACKAGES)
    yield from _users(base, _TRITON_USER)


def _packages(_: Materials) -> Iterator[Entry]:
    base, lower = _debs(*APT_PACKAGES)
    _base, every = _debs(*APT_PACKAGES, *EXTRA_PACKAGES)
    new = sorted(set(every) - set(lower))
    yield from unpacked(new)
    yield from database(new, known=[*base, *lower])
    for wheel in (wheels.NUMPY, wheels.ORT):
        for entry in wheels.files(fetch_wheel(wheel, _CACHE)):
            yield replace(entry, path=f"usr/local/lib/python3.11/dist-packages/{entry.path}")


def _server(_: Materials) -> list[Entry]:
    """What every Dockerfile of a release copies, each a small text."""
    names = (
        *("LICENSE", "TRITON_VERSION", "NVIDIA_Deep_Learning_Container_License.pdf", "bin/tritonserver"),
        *("lib/libtritonserver.so", "include/triton/core/tritonserver.h", "backends/python/libtriton_python.so"),
        *("backends/identity/libtriton_identity.so", "repoagents/checksum/a.so", "caches/local/a.so"),
    )
    server = owned([text(f"opt/tritonserver/{name}", name, 0o755) for name in names], "opt/tritonserver", 1000)
    return [*server, text("usr/bin/serve", "serve", 0o755), text("opt/nvidia/entrypoint.d/99-check.sh", "")]


def _plan(name: str, made: object, created_by: str) -> LayerPlan:
    """A layer of ours. Any change of this file makes another name, so that the cache has no old one."""
    mark = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    return LayerPlan(f"aptbase-{name}-{mark}", created_by, made, debian=True)  # type: ignore[arg-type]


_OWN = {
    "server": _plan("server", _server, "COPY --chown=1000:1000 build/install /opt/tritonserver # buildkit"),
    "apt": _plan("apt", _apt, f"RUN /bin/sh -c apt-get install -y {' '.join(APT_PACKAGES)} # buildkit"),
    "user": _plan("user", _user, "RUN /bin/sh -c useradd triton-server # buildkit"),
    "packages": _plan(
        "packages", _packages, f"RUN /bin/sh -c apt-get install -y {' '.join(EXTRA_PACKAGES)} # buildkit"
    ),
}
"""The layers that differ from those of tests.upstream, by the name that they have there."""


if __name__ == "__main__":
    pair = make_apt(Path(sys.argv[1]))
    print(pair.full, pair.min, sep="\n")
