"""Where models come from: what is fetched, gone on with, refused, kept and shown, for each kind of source.

All servers are real ones, or speak what is documented, on loopback ports.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composer import network
from composer.cache import clear, look
from composer.errors import Corrupt, Denied, NotFound, TricomposeError, Unplannable, Unreachable
from composer.events import Event, Transferred, Warned
from composer.files import local_files
from composer.models import sources
from composer.models.sources import Fetched, Way, buckets, fetch, images, local
from composer.models.sources.remote import Stream
from composer.models.sources.way import shown
from composer.models.sources.web import Wire
from composer.oci.credentials import Credentials
from composer.oci.image import Descriptor, canonical_json, make_manifest
from composer.oci.layout import LayoutStore
from composer.oci.transports import Access
from tests.images import picture, put
from tests.services.proxy import Answer, Proxy
from tests.services.registry import free_port, make_certificate
from tests.services.storage import (
    COMMIT,
    TITLE,
    Objects,
    Service,
    hub,
    lfs,
    modelcar,
    pointer,
    running_google_storage,
    running_s3,
)
from tests.services.web import web

MODEL = random.Random(4).randbytes(5 << 20)
OTHER = random.Random(5).randbytes(5 << 20)
PATH = "/models/densenet.onnx"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Kitchen:
    """A cache, and a way out."""

    def __init__(self, folder: Path) -> None:
        self.base = folder
        self.cache = folder / "cache"
        self.into = self.cache / "models"
        self.events: list[Event] = []

    def way(self, **also: Any) -> Way:
        named = {name: also.pop(name) for name in ("mirrors", "proxies", "ca_bundle") if name in also}
        routes = also.pop("routes", network.Routes(**named))
        access = Access(
            session=lru_cache(lambda: network.session(routes, stall=5)),
            credentials=Credentials(files=()),
            insecure=also.pop("insecure", frozenset()),
            scratch=self.cache / "ingest",
            emit=self.events.append,
        )
        return Way(access=access, base=self.base, routes=routes, **{"environ": {}, "patience": 1.0, **also})

    def fetch(self, source: str, sha256: str | None = None, **also: Any) -> Fetched:
        return fetch(source, sha256=sha256, into=self.into, way=self.way(**also))

    def refused(self, kind: type[TricomposeError], source: str, sha256: str | None = None, **also: Any) -> str:
        with pytest.raises(kind) as caught:
            self.fetch(source, sha256, **also)
        assert caught.value.hint
        return f"{caught.value.message}\n{caught.value.hint}"

    def left(self) -> list[str]:
        """What lies in the cache and is no finished file."""
        files = (path.relative_to(self.into) for path in self.into.rglob("*") if path.is_file())
        return sorted(str(path) for path in files if path.parts[0] not in ("sha256", "trees", "known"))


def contents(found: Fetched) -> dict[str, bytes]:
    for file in found.files:
        assert file.size == file.place.stat().st_size
        assert file.digest == f"sha256:{sha(file.place.read_bytes())}"
    assert found.pinned.size == sum(file.size for file in found.files)
    return {file.path: file.place.read_bytes() for file in found.files}


@pytest.fixture
def kitchen(tmp_path: Path) -> Kitchen:
    return Kitchen(tmp_path)


@pytest.fixture
def store() -> Iterator[Objects]:
    with Objects(objects={PATH: MODEL}) as running:
        yield running


# -- the web ------------------------------------------------------------------------------------------------------


def test_a_file_of_the_web_is_kept_by_its_digest_and_asked_for_once(kitchen: Kitchen, store: Objects) -> None:
    found = kitchen.fetch(store.url + PATH)
    assert contents(found) == {"densenet.onnx": MODEL}
    assert found.digest == f"sha256:{sha(MODEL)}"
    assert found.pinned.uri == store.url + PATH
    told = [event for event in kitchen.events if isinstance(event, Transferred)]
    assert (told[-1].done, told[-1].total) == (len(MODEL), len(MODEL))
    assert kitchen.left() == []
    asked = len(store.asked)
    again = kitchen.fetch(store.url + PATH, sha(MODEL))
    assert contents(again) == {"densenet.onnx": MODEL}
    assert len(store.asked) == asked, "what is here and asked for by digest is asked of nobody"


@pytest.mark.parametrize("dated", [False, True], ids=["seconds", "date"])
def test_a_server_that_asks_for_a_pause_gets_it(kitchen: Kitchen, store: Objects, dated: bool) -> None:
    """By its own clock, which is an hour ahead where it says a date."""
    with Proxy(int(store.url.rpartition(":")[2]), [Answer(path=PATH, status=429, retry_after=2, dated=dated)]) as proxy:
        proxy.rules[0].times = 1
        began = time.monotonic()
        assert contents(kitchen.fetch(f"http://{proxy.host}{PATH}", patience=5.0)) == {"densenet.onnx": MODEL}
        assert 1 <= time.monotonic() - began < 5
        proxy.rules[0].times = float("inf")
        told = kitchen.refused(Unreachable, f"http://{proxy.host}{PATH}", patience=0.5)
        assert "asks to wait 2 s" in told


def test_a_file_that_went_bad_in_the_cache_is_fetched_again(kitchen: Kitchen, store: Objects) -> None:
    place = kitchen.fetch(store.url + PATH).files[0].place
    place.chmod(0o644)
    place.write_bytes(OTHER)
    assert contents(kitchen.fetch(store.url + PATH, sha(MODEL))) == {"densenet.onnx": MODEL}


@pytest.mark.parametrize("how", [{}, {"tags": False, "dated": True}], ids=["etag", "date"])
def test_a_download_that_breaks_goes_on_where_it_broke(kitchen: Kitchen, store: Objects, how: dict[str, bool]) -> None:
    for name, value in how.items():
        setattr(store, name, value)
    store.cuts = 3
    assert contents(kitchen.fetch(store.url + PATH)) == {"densenet.onnx": MODEL}
    assert len(store.asked) == 4
    assert store.sent == len(MODEL), "no byte was sent twice"
    assert all(store.said("If-Range")[1:])


def test_a_download_goes_on_in_a_later_run(kitchen: Kitchen, store: Objects) -> None:
    store.cuts = 1000
    store.cut_at = 3 << 20
    first = kitchen.way(patience=0.0)
    with pytest.raises(Unreachable):
        fetch(store.url + PATH, sha256=None, into=kitchen.into, way=first)
    assert len(kitchen.left()) == 2
    store.cuts, sent = 0, store.sent
    assert contents(kitchen.fetch(store.url + PATH)) == {"densenet.onnx": MODEL}
    assert store.sent == len(MODEL)
    assert sent == 3 << 20
    assert store.said("Range")[-1] == f"bytes={3 << 20}-"
    assert kitchen.left() == []


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(kitchen: Kitchen, store: Objects) -> None:
    store.cuts = 1
    kitchen.refused(Unreachable, store.url + PATH, patience=0.0)
    store.objects[PATH] = OTHER
    assert contents(kitchen.fetch(store.url + PATH)) == {"densenet.onnx": OTHER}


@pytest.mark.parametrize("how", [{"weak": True}, {"tags": False}], ids=["weak", "nothing"])
def test_without_a_sure_sign_nothing_is_pieced_together(kitchen: Kitchen, store: Objects, how: dict[str, bool]) -> None:
    for name, value in how.items():
        setattr(store, name, value)
    store.cuts = 1
    kitchen.refused(Unreachable, store.url + PATH, patience=0.0)
    store.objects[PATH] = OTHER
    assert contents(kitchen.fetch(store.url + PATH)) == {"densenet.onnx": OTHER}
    assert store.said("Range") == [None, None]


def test_with_a_digest_no_sign_is_needed_and_a_wrong_beginning_is_found_out(kitchen: Kitchen, store: Objects) -> None:
    store.tags, store.cuts = False, 1
    assert contents(kitchen.fetch(store.url + PATH, sha(MODEL))) == {"densenet.onnx": MODEL}
    assert store.sent == len(MODEL), "it went on without a tag, as the digest tells"
    store.cuts = 1
    kitchen.refused(Unreachable, store.url + PATH, sha(OTHER), patience=0.0)
    store.objects[PATH] = OTHER
    assert contents(kitchen.fetch(store.url + PATH, sha(OTHER))) == {"densenet.onnx": OTHER}


def test_a_server_without_ranges_sends_it_all_again(kitchen: Kitchen, store: Objects) -> None:
    store.ranges, store.cuts = False, 2
    assert contents(kitchen.fetch(store.url + PATH)) == {"densenet.onnx": MODEL}


def test_a_server_that_is_busy_is_asked_again(kitchen: Kitchen, store: Objects) -> None:
    store.busy = 2
    assert contents(kitchen.fetch(store.url + PATH)) == {"densenet.onnx": MODEL}


def test_a_whole_file_that_was_not_put_away_needs_no_bytes(kitchen: Kitchen, store: Objects) -> None:
    store.cuts, store.cut_at = 1, len(MODEL) - 1
    kitchen.refused(Unreachable, store.url + PATH, patience=0.0)
    [part] = [path for path in (kitchen.into / "partial").iterdir() if path.suffix != ".json"]
    with part.open("ab") as file:
        file.write(MODEL[-1:])
    sent = store.sent
    assert contents(kitchen.fetch(store.url + PATH)) == {"densenet.onnx": MODEL}
    assert store.sent == sent


def test_a_wrong_digest_is_refused_with_both(kitchen: Kitchen, store: Objects) -> None:
    said = kitchen.refused(Corrupt, store.url + PATH, sha(OTHER))
    assert sha(OTHER) in said
    assert said.count(sha(MODEL)) == 2, "in the message, and in the hint to be pasted"
    assert kitchen.left() == []
    assert not list(kitchen.into.rglob("sha256/*"))


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b'{"version": 7}', b"\xff\xfe"])
def test_a_broken_note_of_an_earlier_run_does_no_harm(kitchen: Kitchen, store: Objects, garbage: bytes) -> None:
    store.cuts = 1
    kitchen.refused(Unreachable, store.url + PATH, patience=0.0)
    [note] = (kitchen.into / "partial").glob("*.json")
    note.write_bytes(garbage)
    store.objects[PATH] = OTHER
    assert contents(kitchen.fetch(store.url + PATH)) == {"densenet.onnx": OTHER}


@pytest.mark.parametrize(("kind", "path"), [(NotFound, "/models/other.onnx"), (Denied, PATH)])
def test_what_the_server_does_not_give_is_said(
    kitchen: Kitchen, store: Objects, kind: type[TricomposeError], path: str
) -> None:
    store.login = "Basic none" if kind is Denied else None
    assert path in kitchen.refused(kind, store.url + path)


def test_nobody_there_is_said_soon(kitchen: Kitchen) -> None:
    assert "127.0.0.1" in kitchen.refused(Unreachable, f"http://127.0.0.1:{free_port()}/model.onnx")


def test_a_page_for_people_is_no_model(kitchen: Kitchen, store: Objects) -> None:
    store.kind = "text/html; charset=utf-8"
    assert "a page for people" in kitchen.refused(Corrupt, store.url + PATH)


def test_a_pointer_is_no_model(kitchen: Kitchen, store: Objects) -> None:
    store.objects[PATH] = pointer(MODEL)
    assert "Git LFS pointer" in kitchen.refused(Corrupt, store.url + PATH)


def test_an_archive_is_not_unpacked(kitchen: Kitchen, store: Objects) -> None:
    store.objects["/m.tar.gz"] = b"\x1f\x8b something"
    assert contents(kitchen.fetch(store.url + "/m.tar.gz")) == {"m.tar.gz": b"\x1f\x8b something"}


def test_a_login_is_told_to_the_host_that_was_named_alone_and_shown_to_nobody(kitchen: Kitchen, store: Objects) -> None:
    store.login = "Basic bWU6c3dvcmQvZmlzaA=="
    with Objects(objects={"/elsewhere": MODEL}) as elsewhere:
        store.moved[PATH] = f"{elsewhere.url}/elsewhere?X-Signature=SIGNED"
        store.login = None
        source = f"http://me:sword%2Ffish@127.0.0.1:{store.port}{PATH}?token=SECRET#part"
        found = kitchen.fetch(source)
        assert store.said("Authorization") == ["Basic bWU6c3dvcmQvZmlzaA=="]
        assert elsewhere.said("Authorization") == [None]
        elsewhere.cuts, elsewhere.objects = 99, {"/elsewhere": OTHER}
        said = [
            found.pinned.uri,
            kitchen.refused(Unreachable, source, patience=0.0),
            kitchen.refused(NotFound, source.replace("densenet", "none")),
        ]
        elsewhere.cuts = 0
        said.append(kitchen.refused(Corrupt, source, sha(MODEL[1:])))
    everything = "\n".join([*said, *map(str, kitchen.events)])
    assert contents(found) == {"densenet.onnx": MODEL}
    for secret in ("SECRET", "sword", "SIGNED", "me:"):
        assert secret not in everything


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("https://a:b@h/p@q?x=1#y", "https://h/p@q"),
        ("https://a:b/c@h/p", "https://a:b/c@h/p"),
        ("hf://o/r@main/m.onnx", "hf://o/r@main/m.onnx"),
        ("./models/m.onnx", "./models/m.onnx"),
        ("https://tok@h", "https://h"),
    ],
)
def test_addresses_are_shown_without_what_is_secret(address: str, public: str) -> None:
    assert shown(address) == public


def test_mirrors_are_asked_in_place_of_a_host_one_after_another(kitchen: Kitchen, store: Objects) -> None:
    with Objects(objects={f"/proxy{PATH}": MODEL}) as second, Objects() as first:
        mirrors = {"models.invalid": (f"127.0.0.1:{first.port}", f"127.0.0.1:{second.port}/proxy")}
        found = kitchen.fetch(f"http://models.invalid{PATH}", mirrors=mirrors)
        assert contents(found) == {"densenet.onnx": MODEL}
        assert (len(first.asked), len(second.asked)) == (1, 1)


def test_the_proxy_of_the_recipe_is_gone_through(kitchen: Kitchen) -> None:
    with Objects(objects={PATH: MODEL}) as proxy:
        # A proxy is asked for the whole address; this one knows it by its path.
        proxies = {"http_proxy": proxy.url}
        assert contents(kitchen.fetch(f"http://models.invalid{PATH}", sha(MODEL), proxies=proxies))
        assert proxy.asked[0].path == f"http://models.invalid{PATH}"
        kitchen.refused(
            Unreachable, f"http://other.invalid{PATH}", proxies=proxies | {"no_proxy": "other.invalid"}, patience=0.0
        )
        assert len(proxy.asked) == 1


def test_certificates_of_the_recipe_are_trusted_and_no_others(kitchen: Kitchen, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "127.0.0.1")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "net.onnx").write_bytes(MODEL)
    with web(tmp_path / "web", certificate=certificate) as server:
        source = f"{server.url}/net.onnx"
        assert "not trusted" in kitchen.refused(Unreachable, source)
        assert contents(kitchen.fetch(source, ca_bundle=certificate)) == {"net.onnx": MODEL}
        assert kitchen.fetch(source, insecure=frozenset([f"127.0.0.1:{server.port}"])).digest == f"sha256:{sha(MODEL)}"


def test_an_s3_service_with_the_recipe_s_certificate_is_spoken_to(kitchen: Kitchen, tmp_path: Path) -> None:
    """What it answers here is no S3: that it was asked at all says that it was trusted."""
    certificate = make_certificate(tmp_path, "127.0.0.1")
    with web(tmp_path, certificate=certificate) as server:
        environ = {"AWS_ENDPOINT_URL": server.url}
        kitchen.refused(Unreachable, "s3://models/net", environ=environ, patience=0.0)
        assert not server.asked
        kitchen.refused(NotFound, "s3://models/net", environ=environ, ca_bundle=certificate, patience=0.0)
        assert server.asked


def test_a_host_without_tls_is_warned_of_unless_a_digest_is_given(kitchen: Kitchen) -> None:
    with Objects(objects={PATH: MODEL}) as proxy:
        kitchen.fetch(f"http://models.invalid{PATH}", sha(MODEL), proxies={"http_proxy": proxy.url})
        assert not [event for event in kitchen.events if isinstance(event, Warned)]
        kitchen.fetch(f"http://models.invalid{PATH}", proxies={"http_proxy": proxy.url})
        [warned] = [event for event in kitchen.events if isinstance(event, Warned)]
        assert "no TLS" in warned.message


@pytest.mark.parametrize("source", ["s4://a/b", "htp://h/m.onnx", "ftp://h/m.onnx", "azure:x"])
def test_what_is_no_source_is_refused_with_the_nearest(kitchen: Kitchen, source: str) -> None:
    assert source.partition(":")[0] in kitchen.refused(NotFound, source)


@pytest.mark.parametrize(
    "source", ["https://", "https://host", "https://host/", "http:///m.onnx", "http://[::1/m", "https://h:port/m"]
)
def test_an_address_that_names_no_file_is_refused(kitchen: Kitchen, source: str) -> None:
    kitchen.refused(NotFound, source)


# -- this machine -------------------------------------------------------------------------------------------------


def test_what_is_here_is_used_where_it_lies(kitchen: Kitchen) -> None:
    file = kitchen.base / "net.onnx"
    file.write_bytes(MODEL)
    found = kitchen.fetch("./net.onnx", sha(MODEL))
    assert [one.place for one in found.files] == [file]
    assert kitchen.fetch(f"file://{file}").digest == found.digest
    assert sha(MODEL) in kitchen.refused(Corrupt, "net.onnx", sha(OTHER))
    assert not kitchen.into.exists()


def maze(folder: Path) -> Path:
    """Twenty-four folders, each with two links to the next: they have millions of paths."""
    for number in range(24):
        (folder / f"d{number}").mkdir(parents=True)
        for name in ("a", "b") if number < 23 else ():
            (folder / f"d{number}/{name}").symlink_to(f"../d{number + 1}")
    return folder


def deep(folder: Path) -> Path:
    """Folders in folders, 1,200 of them, and a file at the bottom. Python's own ways to make and remove them fail."""
    subprocess.run(["mkdir", "-p", str(folder / "/".join(["a"] * 1200))], check=True)
    (folder / "/".join(["a"] * 1200) / "file").write_bytes(b"x")
    return folder


def test_a_maze_of_links_is_refused(kitchen: Kitchen) -> None:
    maze(kitchen.base / "net")
    # The kernel may be the first to say so, by its own count.
    many = re.compile("too many (links|levels of symbolic links)", re.IGNORECASE)
    assert many.search(kitchen.refused(NotFound, "./net"))
    with pytest.raises(OSError, match=many):
        list(local_files(kitchen.base / "net", "opt/net"))
    with pytest.raises(Corrupt):
        list(images._below(kitchen.base / "net", kitchen.base / "net"))


def test_folders_may_be_deep(kitchen: Kitchen) -> None:
    deep(kitchen.base / "net")
    assert len([*local_files(kitchen.base / "net", "opt/net")]) == 1202
    assert [path for path, _ in images._below(kitchen.base / "net", kitchen.base)] == ["a/" * 1200 + "file"]
    assert [one.path for one in local.look("./net", kitchen.way()).files] == ["a/" * 1200 + "file"]
    subprocess.run(["rm", "-rf", str(kitchen.base / "net")], check=True)


def test_a_folder_has_the_digest_of_what_sha256sum_says(kitchen: Kitchen) -> None:
    tree = {"config.pbtxt": b"x", "1/model.onnx": MODEL, "1/Zulu": b"", "labels é.txt": b"cat\n"}
    for path, data in tree.items():
        place = kitchen.base / "net" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    (kitchen.base / "net" / ".git").mkdir()
    (kitchen.base / "net" / ".git" / "HEAD").write_text("ref")
    (kitchen.base / "net" / "link").symlink_to("1/model.onnx")
    found = kitchen.fetch("./net")
    assert contents(found) == tree | {"link": MODEL}
    command = (
        "find -L . -type f -not -path './.git/*' | sed 's|^./||' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
    )
    said = subprocess.run(["sh", "-c", command], cwd=kitchen.base / "net", capture_output=True, text=True, check=True)
    assert found.digest == f"sha256:{said.stdout.split()[0]}"
    assert found.folder


def test_what_is_no_model_here_is_refused(kitchen: Kitchen, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret"
    outside.write_text("x")
    assert "none.onnx" in kitchen.refused(NotFound, "./none.onnx")
    os.mkfifo(kitchen.base / "fifo")
    assert "neither" in kitchen.refused(NotFound, "./fifo")
    (kitchen.base / "empty").mkdir()
    assert "no files" in kitchen.refused(NotFound, "./empty")
    (kitchen.base / "astray").mkdir()
    (kitchen.base / "astray" / "link").symlink_to(outside)
    assert "leads out" in kitchen.refused(NotFound, "./astray")
    (kitchen.base / "loop").mkdir()
    (kitchen.base / "loop" / "self").symlink_to("../loop")
    assert "leads" in kitchen.refused(NotFound, "./loop")


# -- Git LFS ------------------------------------------------------------------------------------------------------


def clone(folder: Path, remote: str | None) -> Path:
    """A clone that has a pointer where the model should be."""
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    if remote:
        subprocess.run(["git", "-C", str(folder), "remote", "add", "origin", remote], check=True)
    (folder / "1").mkdir()
    (folder / "1" / "model.onnx").write_bytes(pointer(MODEL))
    return folder


def test_a_pointer_is_followed_into_the_clone(kitchen: Kitchen) -> None:
    folder = clone(kitchen.base / "repo", None)
    assert "git -C" in kitchen.refused(NotFound, "repo/1/model.onnx")
    kept = folder / ".git/lfs/objects" / sha(MODEL)[:2] / sha(MODEL)[2:4] / sha(MODEL)
    kept.parent.mkdir(parents=True)
    kept.write_bytes(MODEL)
    assert contents(kitchen.fetch("repo/1/model.onnx")) == {"model.onnx": MODEL}
    assert contents(kitchen.fetch("repo")) == {"1/model.onnx": MODEL}


@pytest.mark.parametrize("how", ["origin", "lfsconfig", "worktree"])
def test_a_pointer_is_followed_to_its_remote(kitchen: Kitchen, store: Objects, how: str) -> None:
    lfs(store, "owner/repo.git", MODEL)
    url = f"{store.url}/owner/repo"
    folder = clone(kitchen.base / "repo", url if how != "lfsconfig" else "ssh://git@host.invalid/owner/repo")
    if how == "lfsconfig":
        (folder / ".lfsconfig").write_text(f"[lfs]\n\turl = {url}.git/info/lfs\n")
    if how == "worktree":
        run = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run([*run, "add", "."], check=True)
        subprocess.run([*run, "commit", "-qm", "x"], check=True)
        subprocess.run([*run, "worktree", "add", "-q", str(kitchen.base / "tree")], check=True)
        folder = kitchen.base / "tree"
    store.cuts = 2
    found = kitchen.fetch(str(folder / "1" / "model.onnx"), sha(MODEL))
    assert contents(found) == {"model.onnx": MODEL}
    assert store.sent < len(MODEL) + 4096, "an address is asked for anew, the bytes are not"
    assert "TICKET" in [one.headers.get("X-Ticket") for one in store.asked]
    assert "SIGNED" not in "".join(map(str, [found, *kitchen.events]))


def test_a_pointer_to_what_nobody_has_is_refused(kitchen: Kitchen, store: Objects) -> None:
    lfs(store, "owner/repo.git")
    clone(kitchen.base / "repo", f"{store.url}/owner/repo.git")
    assert "git -C" in kitchen.refused(NotFound, "repo/1/model.onnx")
    (kitchen.base / "alone.onnx").write_bytes(pointer(MODEL))
    assert "in no clone" in kitchen.refused(NotFound, "alone.onnx")


# -- the Hub ------------------------------------------------------------------------------------------------------

REPOSITORY = {
    "onnx/model.onnx": MODEL,
    "onnx/model.onnx.data": OTHER,
    "onnx/deep er/labels.txt": b"cat",
    "README.md": b"# a model",
    ".gitattributes": b"*.onnx filter=lfs",
}


@pytest.fixture
def hugging(store: Objects) -> Objects:
    hub(store, "owner/repo", REPOSITORY)
    return store


def test_a_file_of_the_hub_is_pinned_by_its_commit(kitchen: Kitchen, hugging: Objects) -> None:
    environ = {"HF_ENDPOINT": hugging.url, "HF_TOKEN": "hf_SECRET"}
    hugging.login, hugging.cuts = "Bearer hf_SECRET", 2
    found = kitchen.fetch("hf://owner/repo/onnx/model.onnx", environ=environ)
    assert contents(found) == {"model.onnx": MODEL}
    assert found.pinned.uri == f"hf://owner/repo@{COMMIT}/onnx/model.onnx"
    assert hugging.sent < len(MODEL) + 4096
    assert "SECRET" not in "".join(map(str, [found, *kitchen.events]))
    asked = len(hugging.asked)
    assert kitchen.fetch("hf://owner/repo/onnx/model.onnx", sha(MODEL), environ=environ).digest == found.digest
    assert len(hugging.asked) == asked
    again = kitchen.fetch("hf://owner/repo@v1/onnx/model.onnx", environ=environ)
    assert again.pinned.uri == found.pinned.uri
    assert not [one for one in hugging.asked[asked:] if "resolve" in one.path], (
        "the Hub's own digest says that it is here"
    )


def test_a_folder_of_the_hub_comes_whole(kitchen: Kitchen, hugging: Objects) -> None:
    environ = {"HF_ENDPOINT": hugging.url}
    found = kitchen.fetch("hf://owner/repo/onnx", environ=environ)
    below = {path.removeprefix("onnx/"): data for path, data in REPOSITORY.items() if path.startswith("onnx/")}
    assert contents(found) == below
    assert found.folder
    everything = kitchen.fetch("hf://owner/repo@refs%2Fpr%2F1", environ=environ)
    assert contents(everything) == {path: data for path, data in REPOSITORY.items() if path != ".gitattributes"}
    asked = len(hugging.asked)
    assert contents(kitchen.fetch("hf://owner/repo/onnx", found.digest.removeprefix("sha256:"))) == below
    assert len(hugging.asked) == asked, "a folder by digest is asked of nobody"


def test_a_wrong_digest_of_the_hub_is_refused_before_a_byte(kitchen: Kitchen, hugging: Objects) -> None:
    said = kitchen.refused(Corrupt, "hf://owner/repo/onnx/model.onnx", sha(OTHER), environ={"HF_ENDPOINT": hugging.url})
    assert sha(MODEL) in said
    assert sha(OTHER) in said
    assert not [one for one in hugging.asked if "resolve" in one.path]


def test_the_hub_is_asked_with_the_token_of_its_own_tools(kitchen: Kitchen, hugging: Objects) -> None:
    hugging.login = "Bearer hf_KEPT"
    said = kitchen.refused(Denied, "hf://owner/repo/onnx/model.onnx", environ={"HF_ENDPOINT": hugging.url})
    assert "no token was given" in said
    assert "HF_TOKEN" in said
    (kitchen.base / ".cache/huggingface").mkdir(parents=True)
    (kitchen.base / ".cache/huggingface/token").write_text("hf_KEPT\n")
    environ = {"HF_ENDPOINT": hugging.url, "HOME": str(kitchen.base)}
    assert contents(kitchen.fetch("hf://owner/repo/README.md", environ=environ)) == {"README.md": b"# a model"}


@pytest.mark.parametrize(
    "name", ["repo", "owner/repo@v9/m.onnx", "owner/none/m.onnx", "owner/repo/none.onnx", "", "a//b"]
)
def test_what_the_hub_does_not_have_is_said(kitchen: Kitchen, hugging: Objects, name: str) -> None:
    kitchen.refused(NotFound, f"hf://{name}", environ={"HF_ENDPOINT": hugging.url})


NAMES = st.sampled_from(
    ["sha", "path", "type", "size", "lfs", "oid", "objects", "actions", "download", "href", "header"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["file", "onnx", "onnx/m.onnx"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {"type": st.just("file"), "path": st.just("onnx/m.onnx")}, optional={"size": JSON, "lfs": JSON}
)
"""What is nearly an entry in the Hub's list of files."""


class Answering:
    """Stands for a service: what it was asked for last is answered by the next of `answers`."""

    links: dict[str, dict[str, str]] = {}  # noqa: RUF012

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers

    def asked(self, *asked: object) -> tuple[Any, Any]:
        return (self.answers.pop(0) if self.answers else []), self


@settings(max_examples=60)
@given(answers=st.lists(JSON | st.lists(ENTRY, max_size=2), min_size=1, max_size=3), good=st.integers(0, 2))
def test_whatever_a_service_answers_is_an_error_for_the_user(answers: list[Any], good: int) -> None:
    """What a Hub or a Git LFS server may say: sound answers first, then nonsense."""
    file = {"type": "file", "path": "onnx/model.onnx", "size": 1, "oid": "a"}
    sound = [{"sha": COMMIT}, [{"type": "directory", "path": "onnx"}], [file]][:good]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        kitchen = Kitchen(Path(folder))
        (kitchen.base / ".git").mkdir()
        (kitchen.base / ".git" / "config").write_text('[remote "origin"]\n\turl = http://127.0.0.1:9/owner/repo\n')
        (kitchen.base / "net.onnx").write_bytes(pointer(MODEL))
        for source in ("hf://owner/repo/onnx", "hf://owner/repo", "net.onnx"):
            service = Answering([*sound, *answers] if source.startswith("hf") else [*answers])
            patch.setattr(Wire, "_asked", service.asked)
            patch.setattr(
                Wire, "download", lambda self, *asked, **how: Stream(start=0, total=0, version=None, pieces=iter(()))
            )
            with suppress(TricomposeError):
                kitchen.fetch(source, patience=0.0)


# -- buckets ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[Service]:
    with running_s3() as service:
        yield service


@pytest.fixture(scope="module")
def google() -> Iterator[Service]:
    with running_google_storage() as service:
        yield service


@pytest.fixture(params=["s3", "gs"])
def bucket(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[str, dict[str, str]]]:
    """Puts objects into a bucket, and says its address and what the environment must say."""
    kind = request.param
    service: Service = request.getfixturevalue("s3" if kind == "s3" else "google")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETKEY")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def put_all(port: int | None = None, **objects: bytes) -> tuple[str, dict[str, str]]:
        where = "models" if kind == "gs" else f"models-{free_port()}"
        if kind == "s3":
            send(f"{service.url}/{where}", b"", "PUT")
        prefix = request.node.name.split("[")[0]
        for name, data in objects.items():
            path = f"{prefix}/{name.replace('__', '/')}"
            url = f"{service.url}/{where}/{path}"
            if kind == "gs":
                url = f"{service.url}/upload/storage/v1/b/{where}/o?uploadType=media&name={path.replace('/', '%2F')}"
            send(url, data, "PUT" if kind == "s3" else "POST")
        endpoint = f"http://127.0.0.1:{port or service.port}"
        name = "AWS_ENDPOINT_URL" if kind == "s3" else "STORAGE_EMULATOR_HOST"
        monkeypatch.setenv(name, endpoint)
        return f"{kind}://{where}/{prefix}", {name: endpoint}

    return put_all


def send(url: str, data: bytes, method: str) -> None:
    request = urllib.request.Request(
        url, data=data, method=method, headers={"Content-Type": "application/octet-stream", "x-amz-acl": "public-read"}
    )
    urllib.request.urlopen(request, timeout=10).close()


def test_an_object_of_a_bucket(kitchen: Kitchen, bucket: Callable[..., tuple[str, dict[str, str]]]) -> None:
    address, environ = bucket(net=MODEL * 4)
    found = kitchen.fetch(f"{address}/net", environ=environ)
    assert contents(found) == {"net": MODEL * 4}
    assert found.pinned.uri == f"{address}/net"
    told = [event for event in kitchen.events if isinstance(event, Transferred)]
    assert (told[-1].done, told[-1].total) == (4 * len(MODEL), 4 * len(MODEL))
    assert len(told) > 3
    assert kitchen.fetch(f"{address}/net", sha(MODEL * 4), environ={}).digest == found.digest
    assert sha(OTHER) in kitchen.refused(Corrupt, f"{address}/net", sha(OTHER), environ=environ)
    assert "SECRETKEY" not in "".join(map(str, [found, *kitchen.events]))


def test_a_prefix_of_a_bucket_is_a_folder(kitchen: Kitchen, bucket: Callable[..., tuple[str, dict[str, str]]]) -> None:
    address, environ = bucket(net__1__model=MODEL, net__labels=b"cat", netto=b"not this one")
    found = kitchen.fetch(f"{address}/net", environ=environ)
    assert contents(found) == {"1/model": MODEL, "labels": b"cat"}
    assert found.folder


def test_a_bucket_at_an_address_that_only_the_recipe_knows(
    kitchen: Kitchen, bucket: Callable[..., tuple[str, dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The libraries of buckets know no names of ours: they go by a proxy of ours that does."""
    address, environ = bucket(net=MODEL)
    [(name, endpoint)] = environ.items()
    for host in ("store", "bucket.invalid"):
        environ[name] = endpoint.replace("127.0.0.1", host)
        monkeypatch.setenv(name, environ[name])
        if host == "store":  # moto takes the first part of a longer name for a bucket
            routes = network.Routes(hosts={host: ("127.0.0.1",)})
            assert contents(kitchen.fetch(f"{address}/net", environ=environ, routes=routes)) == {"net": MODEL}
            continue
        routes, began = network.Routes(dns=("127.0.0.1:9",)), time.monotonic()
        told = kitchen.refused(Unreachable, f"{address}/net", environ=environ, routes=routes, patience=0.0)
        assert time.monotonic() - began < 10, "the library has a patience of its own"
        assert "could not be resolved (DNS: 127.0.0.1:9: refused; this machine: " in told
        assert f"{host}: ADDRESS" in told


def test_what_a_bucket_does_not_have_is_said(
    kitchen: Kitchen, bucket: Callable[..., tuple[str, dict[str, str]]]
) -> None:
    address, environ = bucket(net=b"x")
    assert f"{address}/none" in kitchen.refused(NotFound, f"{address}/none", environ=environ)
    kitchen.refused(NotFound, address.rpartition("/")[0], environ=environ)


def test_an_object_goes_on_where_it_broke_in_a_later_run(
    kitchen: Kitchen, bucket: Callable[..., tuple[str, dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, environ = bucket(net=MODEL * 4)
    monkeypatch.setattr(buckets, "_BLOCK", 1 << 20)
    asked: list[int] = []
    real = buckets._Bucket._try

    def breaking(self: Any, method: str, key: str, **options: Any) -> Any:
        if method == "cat_file":
            asked.append(options["start"])
            if len(asked) == 4:
                raise self._meaning(ConnectionResetError("cut"), key)
        return real(self, method, key, **options)

    monkeypatch.setattr(buckets._Bucket, "_try", breaking)
    kitchen.refused(Unreachable, f"{address}/net", environ=environ, patience=0.0)
    assert contents(kitchen.fetch(f"{address}/net", environ=environ)) == {"net": MODEL * 4}
    assert asked[3] == asked[4] == 3 << 20, "what was here was not asked for again"


def test_an_object_that_changed_is_fetched_from_its_beginning(
    kitchen: Kitchen, bucket: Callable[..., tuple[str, dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, environ = bucket(net=MODEL)
    found = kitchen.fetch(f"{address}/net", environ=environ)
    with sources.Shelf(kitchen.into).partial(f"{address}/net") as partial:
        partial.begin(0, "another version")
        partial.append(OTHER[:1000])
    found.files[0].place.unlink()
    assert contents(kitchen.fetch(f"{address}/net", environ=environ)) == {"net": MODEL}


def test_a_bucket_that_is_nowhere_is_said(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of S3 alone: gcsfs tries for half a minute before it says so.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETKEY")
    environ = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
    said = kitchen.refused(Unreachable, "s3://models/net", environ=environ, patience=0.0)
    assert "SECRETKEY" not in said


def test_a_public_object_needs_no_login(
    kitchen: Kitchen, s3: Service, bucket: Callable[..., tuple[str, dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, environ = bucket(net=MODEL)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    assert contents(kitchen.fetch(f"{address}/net", environ=environ)) == {"net": MODEL}


@pytest.mark.parametrize(("source", "module", "extra"), [("s3://a/b", "s3fs", "s3"), ("gs://a/b", "gcsfs.core", "gcs")])
def test_a_missing_package_is_named_with_what_installs_it(
    kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch, source: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    said = kitchen.refused(Unplannable, source)
    assert module.partition(".")[0] in said
    assert f"pip install 'tricompose[{extra}]'" in said


# -- images -------------------------------------------------------------------------------------------------------


def layout(kitchen: Kitchen, name: str, layers: list[tuple[bytes, dict[str, str]]]) -> str:
    """An artifact of these layers, in a layout."""
    store = LayoutStore.ensure(kitchen.base / "layout")
    config = canonical_json({})
    described = []
    for data, notes in layers:
        blob = Descriptor.of(data, "application/octet-stream")
        store.write(blob, lambda data=data: iter((data,)))  # type: ignore[misc]
        described.append(Descriptor(media_type=blob.media_type, digest=blob.digest, size=blob.size, annotations=notes))
    empty = Descriptor.of(config, "application/vnd.oci.empty.v1+json")
    store.write(empty, lambda: iter((config,)))
    manifest = make_manifest("application/vnd.oci.image.manifest.v1+json", empty, described)
    store.publish(manifest.raw, manifest.media_type, name)
    return f"oci:layout:{name}"


UNPACK = "io.deis.oras.content.unpack"


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def test_the_files_of_an_artifact_have_the_titles_of_its_layers(kitchen: Kitchen) -> None:
    source = layout(
        kitchen,
        "oras",
        [
            (b"config", {TITLE: "config.pbtxt"}),
            (MODEL, {TITLE: "1/model.onnx"}),
            (MODEL, {TITLE: "2/model.onnx"}),
            (packed({"assets/labels.txt": b"cat", "assets/deep/more": b"x"}), {TITLE: "assets", UNPACK: "true"}),
        ],
    )
    found = kitchen.fetch(source)
    assert contents(found) == {
        "config.pbtxt": b"config",
        "1/model.onnx": MODEL,
        "2/model.onnx": MODEL,
        "assets/labels.txt": b"cat",
        "assets/deep/more": b"x",
    }
    assert "@sha256:" in found.pinned.uri
    again = kitchen.fetch("oci:nowhere:gone", found.digest.removeprefix("sha256:"))
    assert contents(again) == contents(found)
    assert kitchen.left() == []


@pytest.mark.parametrize("title", ["../escape", "/etc/passwd", "a//b", "a/./b", "x\ny"])
def test_a_title_that_leads_out_is_refused(kitchen: Kitchen, title: str) -> None:
    assert "no path" in kitchen.refused(Corrupt, layout(kitchen, "bad", [(b"x", {TITLE: title})])) or "control"


def test_a_folder_of_an_artifact_that_leads_out_is_refused(kitchen: Kitchen) -> None:
    source = layout(kitchen, "bad", [(packed({"../escape": b"x"}), {TITLE: "a", UNPACK: "true"})])
    kitchen.refused(Corrupt, source)
    assert not list(kitchen.base.rglob("escape"))
    kitchen.refused(Corrupt, layout(kitchen, "worse", [(b"no tar", {TITLE: "a", UNPACK: "true"})]))


def test_a_modelcar_gives_what_is_in_its_models(kitchen: Kitchen) -> None:
    car = modelcar(
        {"bin/sh": b"shell", "models/1/model.onnx": OTHER, "models/gone": b"x"},
        {"models/1/model.onnx": MODEL, "models/.wh.gone": b""},
    )
    put(LayoutStore.ensure(kitchen.base / "layout"), car, "car")
    found = kitchen.fetch("oci:layout:car")
    assert contents(found) == {"1/model.onnx": MODEL}
    assert found.pinned.uri.endswith(f"@{car.root.digest}")
    kept = {path.name for path in (kitchen.into / "sha256").iterdir()}
    assert kept == {sha(MODEL)}, "layers are not kept beside what came out of them"
    assert contents(kitchen.fetch("oci:layout:car")) == {"1/model.onnx": MODEL}
    assert kitchen.left() == []


def test_an_image_without_models_is_refused(kitchen: Kitchen) -> None:
    put(LayoutStore.ensure(kitchen.base / "layout"), picture(), "plain")
    assert "/models" in kitchen.refused(NotFound, "oci:layout:plain")
    assert "COPY" in kitchen.refused(NotFound, "oci:layout:plain")


# -- the cache ----------------------------------------------------------------------------------------------------


def test_models_count_to_the_cache_and_go_with_it(kitchen: Kitchen, store: Objects) -> None:
    LayoutStore.ensure(kitchen.cache)
    kitchen.fetch(store.url + PATH)
    assert look(kitchen.cache).size == len(MODEL)
    clear(kitchen.cache)
    assert not kitchen.into.exists()


def test_two_at_once_fetch_a_file_once(kitchen: Kitchen, store: Objects) -> None:
    script = f"""
import sys
from pathlib import Path
from tests.unit.test_sources import Kitchen
kitchen = Kitchen(Path({str(kitchen.base)!r}))
print(kitchen.fetch({store.url + PATH!r}, {sha(MODEL)!r}, patience=20.0).digest)
"""
    runs = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert {run.communicate(timeout=60)[0].strip() for run in runs} == {f"sha256:{sha(MODEL)}"}
    assert len(store.asked) == 1


def test_nothing_heavy_is_loaded_before_it_is_needed() -> None:
    heavy = ("fsspec", "s3fs", "gcsfs", "aiohttp", "botocore", "google.protobuf")
    script = f"import sys, composer.models.sources; print([n for n in {heavy} if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
