"""Wheels into the cache, each by its digest: what is there already and is what it should be is not fetched again."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import requests
import urllib3

from composer.disk import room
from composer.errors import Corrupt, Denied, NotFound, Unreachable
from composer.events import Emit, Logged, Transferred, Warned
from composer.oci.patience import Interrupted, Patience
from composer.oci.store import CHUNK
from composer.oci.trouble import diagnose
from composer.wheels.failing import LOGIN
from composer.wheels.resolver import Pick
from composer.wheels.sources import Sources, without_login

_PATIENCE: Final = 60.0
"""Seconds without a gain after which a download is given up."""

_PASSING: Final = (408, 425, 429, 500, 502, 503, 504)


def fetch(pick: Pick, sources: Sources, session: requests.Session, shelf: Path, emit: Emit) -> Path:
    """The wheel's file on the shelf. Raises `Corrupt` where the bytes are not what the index promised, and `NotFound`,
    `Denied`, `Unreachable`.
    """
    place = shelf / "sha256" / pick.sha256 / pick.filename
    if place.is_file() and _digest(place) == pick.sha256:
        return place
    with room(shelf), tempfile.TemporaryDirectory(dir=shelf) as scratch:
        fresh = Path(scratch, pick.filename)
        _bring(pick, fresh, sources, session, emit)
        if (found := _digest(fresh)) != pick.sha256:
            raise Corrupt(
                f"{pick.filename} from {without_login(pick.location)} is not what its index says: sha256 {found}",
                hint="the index is broken, or the file was changed on its way: ask another one (network.pip_index)",
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh.replace(place)
    return place


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bring(pick: Pick, fresh: Path, sources: Sources, session: requests.Session, emit: Emit) -> None:
    parts = urlsplit(pick.location)
    if parts.scheme not in ("http", "https"):
        _copy(Path(unquote(parts.path) if parts.scheme else pick.location), fresh)
        return
    places = sources.routes.addresses(pick.location)
    if not places:
        hint = f"network: {{mirrors: {{{parts.hostname}: [mirror.example.com]}}}}"
        raise Unreachable(f"{parts.hostname} may not be asked for {pick.filename}, and has no mirror", hint=hint)
    *mirrors, last = places
    for place in mirrors:
        try:
            _persist(replace(pick, location=place), fresh, sources, session, emit)
        except (NotFound, Denied, Unreachable) as error:
            emit(Warned(message=f"{error.message}: the next mirror is asked"))
        else:
            return
    _persist(replace(pick, location=last), fresh, sources, session, emit)


def _persist(pick: Pick, fresh: Path, sources: Sources, session: requests.Session, emit: Emit) -> None:
    """From one place, until it is here."""
    patience = Patience(_PATIENCE, time.sleep, lambda text: emit(Logged(text=text)))
    while True:
        try:
            _download(pick, fresh, sources, session, emit)
            return
        except Interrupted as cut:
            patience.wait(cut)


def _copy(local: Path, fresh: Path) -> None:
    try:
        shutil.copyfile(local, fresh)
    except (FileNotFoundError, PermissionError) as error:
        raise NotFound(f"the wheel {local} cannot be read: {error.strerror}", hint=f"ls -l {local}") from error


def _download(pick: Pick, fresh: Path, sources: Sources, session: requests.Session, emit: Emit) -> None:
    """One try. Raises `Interrupted` for what may end well another time."""
    host = urlsplit(pick.location).netloc.rpartition("@")[2]
    try:
        with _opened(pick.location, sources, session) as response:
            _refuse(response, pick, host)
            total, done = int(response.headers.get("Content-Length") or 0), 0
            with fresh.open("wb") as file:
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    emit(_progress(pick, done, total))
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        trouble = diagnose(error, host)
        hint = trouble.way_out or "network: {proxy: {https: ...}, ca_bundle: ...}, or another pip_index"
        raise Interrupted(Unreachable(f"{pick.filename}: {trouble.error.message}", hint=hint), unmet=True) from error
    if total and done != total:
        raise Interrupted(Unreachable(f"{pick.filename}: {host} sent {done} of {total} bytes"))


def _opened(url: str, sources: Sources, session: requests.Session) -> requests.Response:
    return session.get(
        without_login(url),
        stream=True,
        auth=sources.login(url),
        verify=not sources.trusts(url),
    )


def _refuse(response: requests.Response, pick: Pick, host: str) -> None:
    status = response.status_code
    if status in (401, 403):
        raise Denied(f"{host} does not give us {pick.filename}: {status}", hint=LOGIN)
    if status in _PASSING:
        raise Interrupted(Unreachable(f"{host} answered {status} for {pick.filename}", hint="try again later"))
    if status != 200:
        hint = "the index names a file that is not there: ask another one (network.pip_index)"
        raise NotFound(f"{host} answered {status} for {pick.filename}", hint=hint)


def _progress(pick: Pick, done: int, total: int) -> Transferred:
    return Transferred(digest=f"sha256:{pick.sha256}", title=pick.filename, action="read", done=done, total=total)
