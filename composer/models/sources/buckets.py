"""`s3://` and `gs://`: objects in buckets, by fsspec and its family, which know how to log in to each.

S3: the variables and files of AWS hold, AWS_ENDPOINT_URL too, so that MinIO, Ceph and others are asked. Google: the
default credentials of the machine, or STORAGE_EMULATOR_HOST. What asks for no login needs none.
"""

from __future__ import annotations

import importlib
import logging
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from composer.disk import room
from composer.errors import Denied, NotFound, TricomposeError, Unplannable, Unreachable
from composer.events import Logged
from composer.models.sources.remote import Listing, Remote, Stream
from composer.models.sources.way import Way
from composer.network import CONNECT, STALL
from composer.network.door import Door, needed
from composer.network.trust import Trust
from composer.oci.patience import Interrupted, Patience

_BLOCK: Final = 8 << 20
"""Bytes that are asked for at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One kind of bucket: the module that knows it, what installs that, and how to open it, by a proxy or none, with a
    login or as anybody. `versions` are the fields by which an object is another one.
    """

    module: str
    extra: str
    open: Callable[[Any, Way, str | None, bool], Any]
    versions: tuple[str, ...]
    login: str


def look(source: str, way: Way) -> Listing:
    """An object, or all objects below a prefix. Raises `NotFound`, `Denied`, `Unreachable`, `Unplannable`."""
    scheme, _, key = source.partition("://")
    key = key.strip("/")
    if "/" not in key:
        raise NotFound(
            f"{source!r} names a bucket, and nothing in it", hint=f"{scheme}://{key or 'bucket'}/models/densenet"
        )
    bucket = _Bucket(FAMILIES[scheme], scheme, way)
    info = bucket.asked("info", key)
    if info["type"] == "file" and not source.endswith("/"):
        return Listing(uri=source, files=(bucket.remote(key, key.rpartition("/")[2], info),), folder=False)
    found = bucket.asked("find", key, detail=True)
    files = sorted((name, one) for name, one in found.items() if one["type"] == "file" and not name.endswith("/"))
    if not files:
        raise NotFound(f"there is nothing at {source}", hint="is the name spelled right? Keys are case-sensitive")
    return Listing(
        uri=source,
        files=tuple(bucket.remote(name, name.removeprefix(f"{key}/"), one) for name, one in files),
        folder=True,
    )


class _Bucket:
    """A family's file system, opened. Without credentials of ours it is asked as anybody may."""

    def __init__(self, family: Family, scheme: str, way: Way) -> None:
        self._family = family
        self._scheme = scheme
        self._way = way
        self._module = _module(family)
        self._door = Door(way.routes) if needed(way.routes) else None
        self._files = self._opened(anonymous=False)

    def _opened(self, *, anonymous: bool) -> Any:  # noqa: ANN401
        return self._family.open(self._module, self._way, self._door.url if self._door else None, anonymous)

    def asked(self, method: str, key: str, **options: object) -> Any:  # noqa: ANN401
        """What the file system says. Raises errors for the user."""
        patience = Patience(self._way.patience, time.sleep, lambda text: self._way.emit(Logged(text=text)))
        while True:
            try:
                return self._try(method, key, **options)
            except Interrupted as cut:
                patience.wait(cut)

    def remote(self, key: str, path: str, info: Mapping[str, Any]) -> Remote:
        """An object, to be fetched."""
        return Remote(
            path=path,
            address=f"{self._scheme}://{key}",
            size=int(info["size"]),
            open=lambda place, version: self._open(key, place, version),
        )

    def _open(self, key: str, place: int, version: str | None) -> Stream:
        info = self._try("info", key)
        found = self._version(info)
        start = place if place and found == version and place <= info["size"] else 0
        return Stream(start=start, total=int(info["size"]), version=found, pieces=self._pieces(key, start, info))

    def _pieces(self, key: str, start: int, info: Mapping[str, Any]) -> Iterator[bytes]:
        place, size = start, int(info["size"])
        while place < size:
            piece: bytes = self._try("cat_file", key, start=place, end=min(place + _BLOCK, size))
            if not piece:
                raise Interrupted(Unreachable(f"{self._place} sent {place} of {size} bytes"))
            place += len(piece)
            yield piece
        if self._version(self._try("info", key)) != self._version(info):
            raise Interrupted(Unreachable(f"{self._scheme}://{key} was changed while it was read", hint="try again"))

    def _try(self, method: str, key: str, **options: object) -> Any:  # noqa: ANN401
        try:
            return getattr(self._files, method)(key, **options)
        except Exception as error:
            if type(error).__name__ not in _NO_LOGIN:
                raise self._meaning(error, key) from error
        # Nobody says who we are: what is public needs no name.
        self._files = self._opened(anonymous=True)
        try:
            return getattr(self._files, method)(key, **options)
        except Exception as error:
            raise self._meaning(error, key) from error

    def _version(self, info: Mapping[str, Any]) -> str | None:
        return next((str(info[name]) for name in self._family.versions if info.get(name)), None)

    @property
    def _place(self) -> str:
        return {"s3": "the S3 service", "gs": "Google Storage"}[self._scheme]

    def _meaning(self, error: Exception, key: str) -> Exception:
        """An exception of a library in the user's words. Its own are left out: they may hold signed addresses."""
        name = f"{self._scheme}://{key}"
        if isinstance(error, TricomposeError | Interrupted):
            return error
        if isinstance(error, FileNotFoundError):
            return NotFound(f"there is no {name}", hint="is the name spelled right? Keys are case-sensitive")
        if isinstance(error, PermissionError) or _status(error) in (401, 403) or str(error).startswith("Forbidden"):
            return Denied(f"{self._place} does not give us {name}", hint=self._family.login)
        if self._door and self._door.failures:
            return Interrupted(next(iter(self._door.failures.values())))
        kind = type(error).__name__
        return Interrupted(
            Unreachable(f"{self._place} could not be asked for {name} ({kind})", hint=self._family.login)
        )


_NO_LOGIN: Final = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")


def _status(error: Exception) -> int | None:
    """The HTTP status that an exception of these libraries is about."""
    code = getattr(error, "code", None) or getattr(error, "status", None)
    return int(code) if isinstance(code, int | str) and str(code).isdigit() else None


def _module(family: Family) -> Any:  # noqa: ANN401
    try:
        # These libraries log what they try again, with addresses: nobody has asked them to, and nothing is to be shown.
        logging.getLogger(family.module.partition(".")[0]).addHandler(logging.NullHandler())
        return importlib.import_module(family.module)
    except ImportError as error:
        raise Unplannable(
            f"this source needs the Python package {family.module.partition('.')[0]}, which is not installed",
            hint=f"pip install 'tricompose[{family.extra}]'",
        ) from error


def _s3(module: Any, way: Way, proxy: str | None, anonymous: bool) -> Any:  # noqa: ANN401
    endpoint = way.setting("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    trust: bool | str = False if endpoint and way.trusts(endpoint) else _authorities(way, endpoint)
    return module.S3FileSystem(
        anon=anonymous,
        client_kwargs={"verify": trust} | ({"endpoint_url": endpoint} if endpoint else {}),
        config_kwargs={"connect_timeout": CONNECT, "read_timeout": STALL, "retries": {"max_attempts": 1}}
        | ({"proxies": {"http": proxy, "https": proxy}} if proxy else {}),
        skip_instance_cache=True,
        use_listings_cache=False,
    )


def _gs(module: Any, way: Way, proxy: str | None, anonymous: bool) -> Any:  # noqa: ANN401
    # `gcsfs.core`, not `gcsfs`: what that exports asks each bucket for its layout over gRPC first, past our proxies.
    endpoint = way.setting("STORAGE_EMULATOR_HOST")
    return _impatient(module.GCSFileSystem)(
        token="anon" if anonymous or endpoint else None,
        session_kwargs={"proxy": proxy, **_connector(way, endpoint)},
        requests_timeout=STALL,
        skip_instance_cache=True,
        use_listings_cache=False,
    )


def _impatient(kind: Any) -> Any:  # noqa: ANN401
    """A file system that tries once: gcsfs tries six times for half a minute, whatever patience we have ourselves."""
    return type(kind.__name__, (kind,), {"_request": getattr(kind._request, "__wrapped__", kind._request)})


def _connector(way: Way, endpoint: str | None) -> Mapping[str, Any]:
    """What trusts the certificates of the recipe, where it has any: made on the loop that will use it."""
    blind = bool(endpoint and way.trusts(endpoint))
    authorities = _authorities(way, endpoint)
    if authorities is True and not blind:
        return {}
    aiohttp, asyn = importlib.import_module("aiohttp"), importlib.import_module("fsspec.asyn")
    trust = False if blind else ssl.create_default_context(cafile=str(authorities))

    async def make() -> Any:  # noqa: ANN401
        return aiohttp.TCPConnector(ssl=trust)

    return {"connector": asyn.sync(asyn.get_loop(), make)}


def _authorities(way: Way, endpoint: str | None) -> bool | str:
    """All certificates that are trusted, as a file where ours add some: one file is all that botocore takes."""
    trust = Trust(way.routes.ca_bundle, way.routes.certs)
    if not trust.adds(endpoint or ""):
        return True
    place = way.access.scratch / "authorities.pem"
    with room(way.access.scratch):
        way.access.scratch.mkdir(parents=True, exist_ok=True)
        place.write_text(trust.pem([endpoint or ""]), "utf-8")
    return str(place)


FAMILIES: Final[Mapping[str, Family]] = {
    "s3": Family(
        module="s3fs",
        extra="s3",
        open=_s3,
        versions=("VersionId", "ETag"),
        login="AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, AWS_ENDPOINT_URL say who asks, and where",
    ),
    "gs": Family(
        module="gcsfs.core",
        extra="gcs",
        open=_gs,
        versions=("generation", "etag", "mtime"),
        login="gcloud auth application-default login; or GOOGLE_APPLICATION_CREDENTIALS",
    ),
}
