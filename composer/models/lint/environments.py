"""Where Python models run: environments that are packed for them, settings of their processes, shared memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from composer.models.lint.programs import ENV_PATH, env_path
from composer.models.lint.rule import (
    ERROR,
    WARNING,
    Case,
    Found,
    Repositories,
    Severity,
    at,
    on,
    rule,
    rule_of_all,
)
from composer.models.needs import (
    MIB,
    default_region,
    runs_python,
    shared_memory,
)
from composer.models.python_env import PythonEnv, read_env
from composer.models.repository import Entry, Model

_ENV: Final = "python_backend: pb_env.cc, stub_launcher.cc"


# -- packed environments --------------------------------------------------------------------------

_FOLDER: Final = "$$TRITON_MODEL_DIRECTORY"


def _env_entry(model: Model) -> Entry | None:
    """The environment that lies in the model's own folder."""
    path = env_path(model)
    inner = path.removeprefix(_FOLDER).strip("/") if path.startswith(_FOLDER) else ""
    return model.by_path.get(inner) if inner else None


def _env(model: Model) -> tuple[Entry, PythonEnv | None] | None:
    entry = _env_entry(model)
    return (entry, read_env(entry.source)) if entry and entry.kind in ("file", "folder") else None


@rule(
    "PY012",
    ERROR,
    says="Failed to get the canonical path for {path}.",
    source=f"{_ENV}, ExtractIfNotExtracted",
    fix="put the environment there",
)
def environment_that_is_not_there(model: Model, case: Case) -> Iterator[Found]:
    """The packed environment is not where EXECUTION_ENV_PATH says."""
    path = env_path(model)
    if path.startswith(f"{_FOLDER}/") and _env_entry(model) is None:
        message = f"there is no {path.removeprefix(_FOLDER).strip('/')} in the model's folder"
        yield at(model, "parameters", ENV_PATH, message=message, path=path.replace(_FOLDER, str(model.folder)))
    elif path and not path.startswith(("/", "$")):
        message = f"{path} is looked for in the folder that the server is started in"
        yield at(model, "parameters", ENV_PATH, message=message, path=path, fix=f"{_FOLDER}/{path}")


@rule(
    "PY013",
    ERROR,
    says="archive_read_next_header() failed with error code",
    source=f"{_ENV}, ExtractTarFile",
    fix="pack it with conda-pack: conda pack -o env.tar.gz",
)
def environment_that_is_no_archive(model: Model, case: Case) -> Iterator[Found]:
    """The packed environment is no tar archive, plain or packed with gzip."""
    found = _env(model)
    if found and found[1] is None:
        yield on(model.folder / found[0].path, "the server takes a tar archive, plain or packed with gzip")


@rule(
    "PY014",
    ERROR,
    says="Path {path}/bin/activate does not exist. The Python environment should contain an 'activate' script.",
    source=f"{_ENV}, GetPythonEnvironment",
    fix="pack it with conda-pack: conda pack -o env.tar.gz",
)
def environment_without_activate(model: Model, case: Case) -> Iterator[Found]:
    """The environment has no bin/activate."""
    found = _env(model)
    if found and found[1] and found[1].complete and not found[1].activates:
        path = model.folder / found[0].path
        yield on(path, "there is no bin/activate in it, at the top", path=path)


@rule(
    "PY015",
    ERROR,
    says="Failed to get the canonical path for {path}.",
    source=f"{_ENV}: the server fills in what has two of them",
    fix='string_value: "$$TRITON_MODEL_DIRECTORY/env.tar.gz"',
)
def one_dollar(model: Model, case: Case) -> Iterator[Found]:
    """EXECUTION_ENV_PATH has one dollar sign where there must be two."""
    path = env_path(model)
    if path.startswith("$") and not path.startswith("$$"):
        message = "one $ is taken as it is: two are needed for the server to fill the folder in"
        yield at(model, "parameters", ENV_PATH, message=message, path=path, fix=f'string_value: "${path}"')


@rule(
    "PY016",
    ERROR,
    says="error while loading shared libraries: libpython{version}.so.1.0",
    source="python_backend: README.md, Using Custom Python Execution Environments; seen on a real server",
    fix="make the environment with the Python of the image, or build triton_python_backend_stub for it",
)
def environment_of_another_python(model: Model, case: Case) -> Iterator[Found]:
    """The environment has another Python than the backend is made for."""
    found, python = _env(model), case.release.python if case.release else None
    if not found or not found[1] or not python or "triton_python_backend_stub" in model.by_path:
        return
    if found[1].pythons and python not in found[1].pythons:
        has = found[1].pythons[0]
        message = f"it has Python {has}, and the Python backend of {case.release and case.release.name} is for {python}"
        yield on(model.folder / found[0].path, message, version=has, severity=WARNING)


@rule(
    "PY017",
    ERROR,
    says="archive_write_header() failed with error code",
    source=f"{_ENV}, ExtractTarFile: since 26.06 such paths are refused, before they were followed",
    fix="pack it again, with paths below its own folder",
)
def environment_that_leaves_its_folder(model: Model, case: Case) -> Iterator[Found]:
    """The archive has paths that lead out of the folder it is unpacked to."""
    found = _env(model)
    if found and found[1] and found[1].leaves:
        severity: Severity | None = None if case.from_("26.06") else WARNING
        yield on(model.folder / found[0].path, f"it has the path {found[1].leaves}", severity=severity)


@rule(
    "PY018",
    ERROR,
    source="python_backend: #384; seen on a real server: inputs are read as zeros, outputs are empty",
    fix='numpy<2 in the environment, or triton: "24.11"',
    until="24.10",
)
def numpy_that_is_too_new(model: Model, case: Case) -> Iterator[Found]:
    """The environment has NumPy 2, with which the backend of this release reads and writes wrong numbers."""
    found = _env(model)
    if case.release and found and found[1] and (found[1].numpy or 0) >= 2 and not _own_stub(model):
        yield on(model.folder / found[0].path, "it has NumPy 2: tensors would hold wrong numbers, and nothing says so")


def _own_stub(model: Model) -> bool:
    return "triton_python_backend_stub" in model.by_path


@rule(
    "PY020",
    ERROR,
    says="Incorrect value for FORCE_CPU_ONLY_INPUT_TENSORS: {value}'",
    source="python_backend: python_be.cc, ModelState",
    fix='string_value: "yes"',
)
def neither_yes_nor_no(model: Model, case: Case) -> Iterator[Found]:
    """FORCE_CPU_ONLY_INPUT_TENSORS is neither yes nor no."""
    key = "FORCE_CPU_ONLY_INPUT_TENSORS"
    if model.backend == "python" and key in model.config.parameters:
        value = model.config.parameters[key].string_value
        if value not in ("yes", "no"):
            yield at(model, "parameters", key, message=f'it is "yes" or "no", and not "{value}"', value=value)


# -- shared memory --------------------------------------------------------------------------------


def _python_models(every: Repositories) -> list[Model]:
    return [model for model in every.models.values() if model.configuration.readable and runs_python(model)]


@rule_of_all(
    "PY021",
    ERROR,
    says="shm-default-byte-size can't be smaller than 4 MiBs",
    source="python_backend: python_be.cc, TRITONBACKEND_Initialize",
    fix="backend-config: {python: {shm-default-byte-size: 1048576}}",
)
def region_that_is_too_small(every: Repositories, case: Case) -> Iterator[Found]:
    """The Python backend is given less shared memory for an instance than it takes."""
    models = _python_models(every)
    least = (4 if case.before("23.09") else 1) * MIB
    if models and default_region(case.server, case.release) < least:
        message = f"the server's flag shm-default-byte-size must be {least} at least"
        yield on(
            models[0].folder.parent, message, fix=f"backend-config: {{python: {{shm-default-byte-size: {least}}}}}"
        )


@rule_of_all(
    "PY022",
    ERROR,
    says="Unable to initialize shared memory key 'triton_python_backend_shm_region_...' to requested size "
    "({region} bytes). If you are running Triton inside docker, use '--shm-size' flag to control the shared memory "
    "region size.",
    source="python_backend: shm_manager.cc",
    fix="run: {shm_size: 1g}",
)
def too_little_shared_memory(every: Repositories, case: Case) -> Iterator[Found]:
    """The Python models take more shared memory than the container is given."""
    models = _python_models(every)
    if case.shm_size is None or not models:
        return
    needed = shared_memory(models, server=case.server, release=case.release, gpus=case.gpus)
    region = default_region(case.server, case.release)
    fix = f"run: {{shm_size: {needed.advised // MIB}m}}"
    given = f"the container is given {_size(case.shm_size)}"
    if needed.at_start > case.shm_size:
        message = f"{needed.instances} instances take {needed.at_start // MIB} MiB of shared memory, and {given}"
        yield on(models[0].folder.parent, message, fix=fix, region=region)
    elif needed.at_start + needed.at_work > case.shm_size:
        full = (needed.at_start + needed.at_work) // MIB
        message = f"{needed.instances} busy instances take {full} MiB of shared memory, and {given}"
        yield on(models[0].folder.parent, message, fix=fix, severity=WARNING, region=region)


def _size(count: int) -> str:
    return f"{count // MIB} MiB" if count >= MIB else f"{count / 1024:g} KiB"
