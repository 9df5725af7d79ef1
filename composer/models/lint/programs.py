"""What several rules ask of models that are Python programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from composer.models.lint.rule import Case
from composer.models.needs import code_of, in_stdlib, programs
from composer.models.python_code import Method, PythonCode, Unreadable
from composer.models.repository import Entry, Model

ENV_PATH: Final = "EXECUTION_ENV_PATH"
"""The parameter that names a packed environment."""


def codes(model: Model, case: Case) -> Iterator[tuple[Entry, PythonCode]]:
    """The programs of a model that can be parsed."""
    for program in programs(model):
        code = code_of(program, case.release)
        if isinstance(code, PythonCode):
            yield program, code


def code_with_class(model: Model, program: Entry, case: Case) -> PythonCode | Unreadable:
    """The code of a program, or of the file beside it that it has its class from."""
    code = code_of(program, case.release)
    origin = code.origin if isinstance(code, PythonCode) else None
    if origin is None or origin.level > 1 or (not origin.level and in_stdlib(origin.top, case.release)):
        return code
    beside = model.by_path.get(f"{program.folder}/{origin.module}.py")
    return code_of(beside, case.release) if beside and beside.kind == "file" else code


def methods_named(name: str, model: Model, case: Case) -> Iterator[tuple[Entry, PythonCode, Method]]:
    """The method of this name in each program, where it can be looked at."""
    for program, code in codes(model, case):
        method = code.model.methods.get(name) if code.model else None
        if method and not method.opaque:
            yield program, code, method


def file_of(model: Model, program: Entry) -> Path:
    """Where a program lies, as the user knows it."""
    return model.folder / program.path


def env_path(model: Model) -> str:
    """Where a model's packed environment is, as its config says; empty where it has none."""
    known = model.backend == "python" and ENV_PATH in model.config.parameters
    return str(model.config.parameters[ENV_PATH].string_value) if known else ""
