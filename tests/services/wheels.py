"""A package index of the test's own: wheels made by hand, in a folder as the simple API has it, to be served.

    index = PipIndex(folder)
    index.add("greet", "1.0", {"greet/__init__.py": b""}, requires=["tomli; python_version < '3.11'"])
    with web(index.folder) as site: ...  # the index is at f"{site.url}/simple"

Source: PEP 503, "Simple Repository API"; PEP 658, metadata beside the files; PEP 427, the wheel format.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
import stat
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Contents = Mapping[str, bytes]


def wheel_name(name: str, version: str, tag: str = "py3-none-any") -> str:
    return f"{name.replace('-', '_')}-{version}-{tag}.whl"


def wheel_bytes(
    name: str,
    version: str,
    files: Contents | None = None,
    *,
    tag: str = "py3-none-any",
    requires: Iterable[str] = (),
    extras: Iterable[str] = (),
    scripts: Mapping[str, str] | None = None,
    python: str = "",
    runnable: Iterable[str] = (),
    links: Mapping[str, str] | None = None,
) -> bytes:
    """The bytes of a wheel. Paths may name `*.data`, as `{data}/...`; `links` make it a bad one."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Python: {python}"] if python else []
    lines += [f"Provides-Extra: {extra}" for extra in extras] + [f"Requires-Dist: {one}" for one in requires]
    pure = "true" if tag.endswith("-any") else "false"
    contents = {path.replace("{data}", f"{stem}.data"): data for path, data in (files or {}).items()}
    contents[f"{info}/METADATA"] = "\n".join([*lines, ""]).encode()
    contents[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\nTag: {tag}\n".encode()
    if scripts:
        body = "".join(f"{script} = {place}\n" for script, place in scripts.items())
        contents[f"{info}/entry_points.txt"] = f"[console_scripts]\n{body}".encode()
    record = "".join(f"{path},{_record_digest(data)},{len(data)}\n" for path, data in contents.items())
    contents[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    return _zipped(contents, set(runnable), links or {})


def _zipped(contents: Contents, runnable: set[str], links: Mapping[str, str]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in contents.items():
            item = zipfile.ZipInfo(path)
            item.external_attr = (stat.S_IFREG | (0o755 if path in runnable else 0o644)) << 16
            archive.writestr(item, data)
        for path, leads_to in links.items():
            item = zipfile.ZipInfo(path)
            item.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(item, leads_to)
    return target.getvalue()


def _record_digest(data: bytes) -> str:
    return f"sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()}"


@dataclass(slots=True, kw_only=True)
class PipIndex:
    """The folder: `simple/` with a folder for each project, a page and its files in it."""

    folder: Path
    _links: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(
        self, name: str, version: str, files: Contents | None = None, *, tag: str = "py3-none-any", **more: object
    ) -> str:
        """Make a wheel and list it. Returns its SHA-256."""
        return self.put(wheel_name(name, version, tag), wheel_bytes(name, version, files, tag=tag, **more))  # type: ignore[arg-type]

    def put(self, filename: str, data: bytes, *, promised: str | None = None) -> str:
        """List a file, under another digest than its own if one is `promised`, without any if that is empty."""
        digest = hashlib.sha256(data).hexdigest()
        said = digest if promised is None else promised
        project = re.sub(r"[-_.]+", "-", filename.partition("-")[0]).lower()
        page = self.folder / "simple" / project / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.with_name(filename).write_bytes(data)
        links = self._links.setdefault(project, {})
        fragment = f"#sha256={said}" if said else ""
        links[filename] = f'"{html.escape(filename)}{fragment}"{_metadata(page.with_name(filename))}'
        anchors = "".join(f"<a href={link}>{html.escape(shown)}</a><br>\n" for shown, link in links.items())
        page.write_text(f"<!DOCTYPE html><html><body>\n{anchors}</body></html>\n")
        return digest


def _metadata(file: Path) -> str:
    """Put a wheel's metadata beside it, as PEP 658 has it, and say so: then nobody needs the wheel to resolve."""
    try:
        with zipfile.ZipFile(file) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            data = archive.read(name)
    except (zipfile.BadZipFile, ValueError):
        return ""
    file.with_name(f"{file.name}.metadata").write_bytes(data)
    return f' data-core-metadata="sha256={hashlib.sha256(data).hexdigest()}"'


@dataclass(slots=True, kw_only=True)
class Guarded:
    """An index that runs and wants a login. `refused` are the paths of requests without it."""

    port: int
    asked: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def guarded(folder: Path, *, username: str, password: str) -> Iterator[Guarded]:
    """Serve a folder to those who know the login."""
    expected = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
    found = Guarded(port=0)

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") == expected:
                found.asked.append(self.path)
                super().do_GET()
                return
            found.refused.append(self.path)
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *values: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    found.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
