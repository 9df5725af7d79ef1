"""Makes TensorRT plans: runs trtexec in a container, on a GPU. Decides nothing: see models/tensorrt.py.

Files go in and out through the engine, not by mounts: so it works with an engine on another machine, which may be the
one that has the GPU, and nothing is left behind that belongs to root. The container has no network, and is gone in the
end, however that comes.
Source of the calls: the Docker Engine API 1.41. Containers of this kind were run in the tests with a stand-in for
trtexec, since NVIDIA's container was not to be had: what it says when it fails is known from its source and from
issues of github.com/NVIDIA/TensorRT.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tarfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

import docker
import requests
from docker.errors import APIError
from docker.models.containers import Container
from docker.types import DeviceRequest, LogConfig

from composer.containers import temporary_container
from composer.disk import room, temporary_folder, write_all
from composer.engines.trtexec_words import explain
from composer.errors import BuildFailed, Corrupt, NotFound, TricomposeError, Unplannable, Unreachable
from composer.events import Emit, Logged, StageFinished, StageStarted, Transferred
from composer.models.opening import Unreadable
from composer.models.tensorrt import PLAN, RECORD, TIMING, Gpu, Job, Record, decide, read_record, same_version, suits
from composer.models.tensorrt_plan import read_plan
from composer.models.tensorrt_source import WORKPLACE, Brought, Extras, Original
from composer.oci.steps import Lines
from composer.oci.store import CHUNK
from composer.recipe import Recipe

LABEL: Final = "tricompose.convert"
"""The label of containers that we started; its value is the model's name."""

PLANS: Final = "plans"
"""The folder of the cache that holds plans: a folder for each, by `Job.key`."""

_FILE: Final = "model.plan"
_RECORD_FILE: Final = f"{_FILE}{RECORD}"
_SILENCE: Final = 1800
_SHOWN: Final = 15
_KEPT: Final = 400
_ASK: Final = "nvidia-smi --query-gpu=name,{}driver_version --format=csv,noheader"
_TOLD: Final = re.compile(r"(?P<name>[^,]+), (?:(?P<capability>[0-9]+\.[0-9]+), )?(?P<driver>[0-9][0-9.]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A plan, where it lies, and of what it was made. `before` says that it was there already."""

    job: Job
    record: Record
    plan: Path
    before: bool


def make(job: Job, image: str, cache: Path, *, named: str, emit: Emit) -> Made:
    """Convert a model in a container of `image`, which the engine has by that name, or find that it was done before.

    `named` is the image's public name. Raises `Unplannable` where there is no GPU, with what to run where there is one;
    `BuildFailed` with trtexec's last lines; `NoRoom`; `Unreachable`.
    """
    with _client() as client:
        gpu = _gpu(client, image, job)
        emit(Logged(text=f"{job.name} is converted on {gpu}, driver {gpu.driver}", source="docker"))
        if found := kept(job, cache / PLANS / job.key(gpu)):
            emit(Logged(text=f"{job.name} was converted before: {found.plan}", source="cache"))
            return found
        emit(StageStarted(stage="convert", detail=f"{job.name} to TensorRT {job.version} on {gpu.name}"))
        made = _convert(client, job, image, cache, gpu, named, emit)
    emit(StageFinished(stage="convert", detail=f"{job.name}: {made.record.size} bytes, sha256:{made.record.digest}"))
    return made


# -- plans that are there -----------------------------------------------------------------------------------------


def kept(job: Job, folder: Path) -> Made | None:
    """A plan that was made before, if it is whole and as it was. What is not is as good as none."""
    plan = folder / _FILE
    try:
        record = read_record((folder / _RECORD_FILE).read_text(), where=str(folder / _RECORD_FILE))
        whole = record.fingerprint == job.fingerprint and digest_of(plan) == record.digest
    except (OSError, UnicodeDecodeError, Corrupt):
        return None
    return Made(job=job, record=record, plan=plan, before=True) if whole else None


def kept_for_some_gpu(job: Job, cache: Path) -> Made | None:
    """A plan that this job has made before, on whichever GPU."""
    folders = sorted(path.parent for path in (cache / PLANS).glob(f"*/{_RECORD_FILE}"))
    return next((made for folder in folders if (made := kept(job, folder))), None)


def carried(recipe: Recipe, index: int, original: Original, extras: Extras, expected: str | None) -> Made | None:
    """The plan that the recipe's `plan:` names, which was made elsewhere; None where nothing lies there.

    `expected` is the TensorRT that the server has, where that is known. Raises `NotFound` and `Corrupt` for a plan that
    is not the one that would be made here, `Unplannable` for one of another TensorRT.
    """
    conversion = recipe.models[index].convert
    if not conversion or not conversion.plan or not (recipe.base / conversion.plan).exists():
        return None
    plan = recipe.base / conversion.plan
    beside_it = Path(f"{plan}{RECORD}")
    try:
        record = read_record(beside_it.read_text(), where=str(beside_it))
        digest = digest_of(plan)
    except FileNotFoundError as error:
        hint = f"bring {beside_it.name} as well; a plan of other origin is named as source: in place of convert:"
        raise NotFound(f"{plan} is there, and its record {beside_it.name} is not", hint=hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise Corrupt(f"{plan} and its record cannot be read: {error}", hint=f"ls -l {plan}*") from error
    if expected and not same_version(record.tensorrt, expected):
        raise Unplannable(
            f"{plan} was made with TensorRT {record.tensorrt}, and the server has {expected}",
            hint=f"where the GPU is: tricompose models convert RECIPE --only {record.name}",
        )
    job = decide(recipe, index, original, extras, record.tensorrt)
    suits(record, job, digest, where=str(plan))
    _judge(plan, job)
    return Made(job=job, record=record, plan=plan, before=True)


def digest_of(path: Path) -> str:
    """The SHA-256 of a file. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def carry_out(made: Made, target: Path) -> None:
    """Put a plan and its record where the recipe wants them, all of it or nothing. Raises `NoRoom`."""
    with room(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        if not _same(made.plan, target):
            _replaced(target, lambda place: shutil.copyfile(made.plan, place))
        _replaced(Path(f"{target}{RECORD}"), lambda place: place.write_text(made.record.text()))


def lay_out(made: Made, config: str, repository: Path) -> Path:
    """Put a plan and its config.pbtxt into a model repository, as version 1. Returns the model's folder."""
    folder = repository / made.job.name
    with room(folder):
        (folder / "1").mkdir(parents=True, exist_ok=True)
        target = folder / "1" / _FILE
        target.unlink(missing_ok=True)
        try:
            os.link(made.plan, target)
        except OSError:
            shutil.copyfile(made.plan, target)
        (folder / "config.pbtxt").write_text(config)
    return folder


def _same(one: Path, other: Path) -> bool:
    return other.exists() and os.path.samefile(one, other)


def _replaced(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place, and then into it."""
    beside_it = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        write(beside_it)
        os.replace(beside_it, target)
    finally:
        beside_it.unlink(missing_ok=True)


# -- containers ---------------------------------------------------------------------------------------------------


@contextmanager
def _client() -> Iterator[docker.DockerClient]:
    with _explained(None):
        client = docker.from_env(timeout=_SILENCE)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _container(client: docker.DockerClient, job: Job, image: str, command: Sequence[str]) -> Iterator[Container]:
    """A container that was not started yet, with the GPU. It is gone in the end."""
    settings = {
        "image": image,
        "command": [*command],
        "network_mode": "none",
        "device_requests": [_wanted(job)],
        # What is needed of the driver besides CUDA is nvidia-smi. Source: NVIDIA Container Toolkit.
        "environment": {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility"},
        "labels": {LABEL: job.name},
        # Whatever the engine does with logs otherwise: we read them.
        "log_config": LogConfig(type=LogConfig.types.JSON, config={}),
    }
    with ExitStack() as stack:
        with _explained(job):
            container = stack.enter_context(temporary_container(client, settings))
        yield container


def _wanted(job: Job) -> DeviceRequest:
    """What `docker run --gpus` would ask for: one GPU, as a plan is made on one."""
    if job.device:
        return DeviceRequest(capabilities=[["gpu"]], device_ids=[job.device])
    return DeviceRequest(capabilities=[["gpu"]], count=1)


def _gpu(client: docker.DockerClient, image: str, job: Job) -> Gpu:
    """Which GPU a container gets. Old drivers' nvidia-smi does not tell compute capabilities."""
    script = f"{_ASK.format('compute_cap,')} || {_ASK.format('')}"
    with _container(client, job, image, ("/bin/sh", "-c", script)) as container, _explained(job):
        container.start()
        code = int(container.wait(timeout=_SILENCE)["StatusCode"])
        said = container.logs().decode(errors="replace").splitlines()
    found = next((match for line in said if (match := _TOLD.fullmatch(line.strip()))), None)
    if code or not found:
        raise Unplannable(
            f"the container does not see a GPU: nvidia-smi ended with {code}: {' '.join(said[-1:])}",
            hint=elsewhere(job.name, job.plan),
        )
    return Gpu(name=found["name"], capability=found["capability"] or "", driver=found["driver"])


def elsewhere(name: str, plan: Path | None) -> str:
    """What to run where there is a GPU, to have the plan of a model here."""
    run = f"on a machine with the GPU that it is served on: tricompose models convert RECIPE --only {name}"
    if plan:
        return f"{run}; then bring {plan} and {plan}{RECORD} here"
    return f"add plan: ./{name}.plan to convert; {run}; then bring {name}.plan and {name}.plan{RECORD} here"


# -- one conversion -----------------------------------------------------------------------------------------------


def _convert(client: docker.DockerClient, job: Job, image: str, cache: Path, gpu: Gpu, named: str, emit: Emit) -> Made:
    folder = cache / PLANS / job.key(gpu)
    with (
        temporary_folder(cache / "ingest", "plan-") as scratch,
        _container(client, job, image, job.command) as container,
    ):
        _send(container, job, emit)
        _run(container, job, named, emit)
        plan = scratch / _FILE
        digest = _fetch(container, PLAN, plan, job)
        _judge(plan, job)
        record = Record(
            name=job.name,
            model=job.model,
            tensorrt=job.version,
            argv=job.argv,
            fingerprint=job.fingerprint,
            gpu=gpu,
            image=named,
            digest=digest,
            size=plan.stat().st_size,
        )
        (scratch / _RECORD_FILE).write_text(record.text())
        _keep_timing(container, job, scratch)
        _settle(scratch, folder)
    return Made(job=job, record=record, plan=folder / _FILE, before=False)


def _settle(scratch: Path, folder: Path) -> None:
    """Put what was made where it is kept. One that was there already, and was not whole, goes."""
    with room(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        # Whoever made the same meanwhile made it as well.
        with suppress(FileExistsError):
            os.rename(scratch, folder)


def _run(container: Container, job: Job, named: str, emit: Emit) -> None:
    """Run trtexec to its end, and pass on what it says."""
    said: deque[str] = deque(maxlen=_KEPT)

    def hear(line: str) -> None:
        said.append(line)
        emit(Logged(text=line, source="trtexec"))

    lines = Lines(hear)
    with _explained(job):
        container.start()
        for piece in container.logs(stream=True, follow=True):
            lines.feed(piece.decode(errors="replace"))
        lines.end()
        code = int(container.wait(timeout=_SILENCE)["StatusCode"])
    if code:
        raise _failure(job, named, code, [*said])


def _judge(plan: Path, job: Job) -> None:
    """See that a plan is one, and of the version that it must be of, as far as it says."""
    found = read_plan(plan)
    if isinstance(found, Unreadable):
        raise BuildFailed(f"what trtexec wrote for {job.name} {found.words}", hint="read its lines with --verbose")
    version = ".".join(map(str, found.version)) if found.version else None
    if version and not same_version(version, job.version):
        raise BuildFailed(
            f"trtexec wrote a plan of TensorRT {version}, and the server has {job.version}",
            hint="the image with trtexec is of another release: see convert.image",
        )


# -- files in and out ---------------------------------------------------------------------------------------------


def _send(container: Container, job: Job, emit: Emit) -> None:
    files = [*job.files]
    if job.timing_cache and job.timing_cache.is_file():
        size = job.timing_cache.stat().st_size
        files.append(Brought(target=TIMING, source=job.timing_cache, size=size, digest=""))
    title, total = f"{job.name} into the container", sum(file.size for file in files)
    sent = 0

    def told(pieces: Iterator[bytes]) -> Iterator[bytes]:
        nonlocal sent
        for piece in pieces:
            yield piece
            sent = min(total, sent + len(piece))
            emit(Transferred(digest=f"sha256:{job.model}", title=title, action="copied", done=sent, total=total))

    with _explained(job):
        container.put_archive("/", told(_packed(files)))


def _packed(files: Sequence[Brought]) -> Iterator[bytes]:
    """The files as a tar, with the folders that they are in, in pieces."""
    parents = {str(parent) for file in files for parent in PurePosixPath(file.target).parents}
    for name in sorted({*parents, f"{WORKPLACE}/made"} - {"/"}):
        yield _header(name, 0, tarfile.DIRTYPE)
    for file in files:
        yield _header(file.target, file.size, tarfile.REGTYPE)
        yield from _content(file)
        yield bytes(-file.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _header(name: str, size: int, kind: bytes) -> bytes:
    entry = tarfile.TarInfo(name.lstrip("/"))
    entry.size, entry.type, entry.mode = size, kind, 0o755
    return entry.tobuf(tarfile.GNU_FORMAT)


def _content(file: Brought) -> Iterator[bytes]:
    """The bytes of a file, which must be those that were looked at before."""
    left, digest = file.size, hashlib.sha256()
    try:
        with file.source.open("rb") as source:
            while left and (piece := source.read(min(CHUNK, left))):
                left -= len(piece)
                digest.update(piece)
                yield piece
            changed = left or source.read(1)
    except OSError as error:
        raise NotFound(f"{file.source} cannot be read: {error.strerror}", hint=f"ls -l {file.source}") from error
    if changed or (file.digest and digest.hexdigest() != file.digest):
        raise Corrupt(f"{file.source} has changed while it was read", hint="run it again")


def _fetch(container: Container, place: str, target: Path, job: Job) -> str:
    """Copy a file out of a container. Returns its SHA-256. Raises `BuildFailed` where there is none."""
    try:
        with _explained(job, missing=True):
            pieces, _ = container.get_archive(place, chunk_size=CHUNK)
            with tarfile.open(fileobj=_Stream(pieces), mode="r|") as tar:
                for entry in tar:
                    if entry.isreg() and (source := tar.extractfile(entry)):
                        return _written(source, target)
    except tarfile.TarError as error:
        raise Unreachable(f"the Docker Engine broke off while it sent {place}", hint="run it again") from error
    except docker.errors.NotFound as error:
        raise BuildFailed(
            f"trtexec ended well, and there is no {place}", hint="read its lines with --verbose"
        ) from error
    raise BuildFailed(f"trtexec ended well, and {place} is no file", hint="read its lines with --verbose")


def _written(source: IO[bytes], target: Path) -> str:
    digest = hashlib.sha256()
    with room(target):
        file = target.open("wb", buffering=0)
    with file:
        # What fails to come is not what fails to be written: requests' errors are OSErrors too.
        while piece := source.read(CHUNK):
            digest.update(piece)
            with room(target):
                write_all(file, piece)
    return digest.hexdigest()


class _Stream(io.RawIOBase):
    """Pieces that come, as a file to read from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; none at the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def _keep_timing(container: Container, job: Job, scratch: Path) -> None:
    """Write the timing cache back to where the recipe has it. That trtexec wrote none is no reason to fail."""
    if job.timing_cache is None:
        return
    fresh = scratch / "timing"
    try:
        _fetch(container, TIMING, fresh, job)
    except BuildFailed:
        return
    target = job.timing_cache
    with room(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        _replaced(target, lambda place: shutil.copyfile(fresh, place))
    fresh.unlink()


# -- failures -------------------------------------------------------------------------------------------

_TOOLKIT: Final = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"


@contextmanager
def _explained(job: Job | None, *, missing: bool = False) -> Iterator[None]:
    """Say what the engine's errors mean. With `missing` a `NotFound` is for the caller."""
    try:
        yield
    except docker.errors.NotFound as error:
        if missing:
            raise
        raise _meaning(error, job) from error
    except APIError as error:
        raise _meaning(error, job) from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise Unreachable(f"the Docker Engine does not answer: {error}", hint="docker info") from error


def _meaning(error: APIError, job: Job | None) -> TricomposeError:
    words = " ".join(str(error.explanation or error).split())
    if "could not select device driver" in words:
        message = "there is no GPU that Docker could give to a container, and TensorRT needs one to convert"
        hint = f"{elsewhere(job.name, job.plan)}. If there is one here: {_TOOLKIT}" if job else _TOOLKIT
        return Unplannable(f"{message} (Docker says: {words})", hint=hint)
    if "nvidia-container-cli" in words or "nvidia-container-runtime" in words:
        return Unplannable(f"the NVIDIA driver cannot be brought into the container: {words}", hint="nvidia-smi")
    return BuildFailed(f"Docker cannot run the conversion: {words}", hint="docker info")


def _failure(job: Job, named: str, code: int, said: Sequence[str]) -> BuildFailed:
    message, hint = explain(said, code, image=named.removeprefix("docker://"))
    return BuildFailed(
        f"{job.name} could not be converted: {message} (exit status {code})", hint=hint, detail=tuple(said[-_SHOWN:])
    )
