"""What the server, or a backend, may fill in before a config is checked, and what it then disagrees with.

Source: AutoCompleteConfig of onnxruntime_backend (onnxruntime.cc), tensorrt_backend (model_state.cc), openvino_backend
(openvino.cc) and pytorch_backend (libtorch.cc); the Python backend calls the model's own auto_complete_config.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from composer.models.agreement import Difference, differences
from composer.models.lint.files import onnx_files
from composer.models.lint.programs import code_with_class
from composer.models.lint.rule import Case
from composer.models.lint.server import strict
from composer.models.needs import programs
from composer.models.python_code import Unreadable
from composer.models.repository import Model

Side = Literal["input", "output"]

_NEVER: Final = frozenset([None, "pytorch"])
"""Backends that fill in nothing; None is that of an ensemble, or of a model that nothing serves."""

_WHOLE: Final = frozenset(["onnxruntime", "openvino"])
"""Backends that fill in all inputs, or all outputs, and none where there is one already."""


def may_complete(model: Model, case: Case) -> bool:
    """Whether the type and dims of a tensor that the config names may come from elsewhere."""
    if strict(case):
        return False
    if model.backend == "python":
        return completes_itself(model, case)
    return _by_python(model) or model.backend not in _NEVER | _WHOLE


def may_add(model: Model, case: Case, side: Side) -> bool:
    """Whether inputs, or outputs, that the config does not name may be added."""
    if model.backend in _WHOLE and not strict(case) and not _by_python(model):
        named = len(getattr(model.config, side))
        return not named and not (side == "input" and model.config.batch_input)
    if model.backend == "python" and not strict(case):
        return _adds_itself(model, case, side)
    return may_complete(model, case)


def may_batch(model: Model, case: Case) -> bool:
    """Whether max_batch_size may become another one than the config has."""
    if model.backend == "onnxruntime" and not strict(case) and not _by_python(model):
        return may_add(model, case, "input") or may_add(model, case, "output")
    return may_complete(model, case) or (model.backend == "openvino" and not strict(case))


def completes_itself(model: Model, case: Case) -> bool:
    """Whether a model.py has an `auto_complete_config`, or may have one."""
    for program in programs(model):
        code = code_with_class(model, program, case)
        if isinstance(code, Unreadable) or code.model is None or code.model.opaque:
            return True
        if "auto_complete_config" in code.model.methods:
            return True
    return not programs(model)


def _adds_itself(model: Model, case: Case, side: Side) -> bool:
    """Whether a model.py has an `auto_complete_config` that adds inputs, or outputs, or may have one."""
    for program in programs(model):
        code = code_with_class(model, program, case)
        if isinstance(code, Unreadable) or code.model is None or code.model.opaque:
            return True
        method = code.model.methods.get("auto_complete_config")
        if method and (method.opaque or code.auto.adds is None or side in code.auto.adds):
            return True
    return not programs(model)


def _by_python(model: Model) -> bool:
    """Whether a Python program stands in for the backend's library: what it fills in nobody knows."""
    return bool(model.config.runtime == "model.py")


def disagreements(model: Model, case: Case, *kinds: str) -> Iterator[Difference]:
    """Where the config disagrees with the ONNX files that it is for, in these ways; each once, whatever the version."""
    seen: set[tuple[str | int, ...]] = set()
    for file in onnx_files(model):
        for one in differences(model.config, file, release=case.release.name if case.release else None):
            if one.kind in kinds and one.key not in seen:
                seen.add(one.key)
                yield one
