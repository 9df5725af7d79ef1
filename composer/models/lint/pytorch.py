"""Models of PyTorch: whether the file is one that the server runs, and whether the config fits its `forward`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from composer.models.lint.files import reading
from composer.models.lint.parameters import WANTED, unread
from composer.models.lint.rule import ERROR, INFO, WARNING, Case, Found, at, on, rule
from composer.models.opening import Unreadable
from composer.models.repository import Entry, Model
from composer.models.schema import enum_name
from composer.models.torchscript import Argument, Forward, TorchFile, read_torch

_INPUTS: Final = "pytorch_backend: libtorch.cc, ValidateInputs"
_NAMES: Final = "pytorch_backend: libtorch.cc, GetNamingConvention"
_LOAD: Final = "pytorch_backend: libtorch.cc, LoadModel"

AOTI: Final = "torch_aoti"
"""The platform of packages that AOTInductor made."""

AOTI_SINCE: Final = "26.03"
_SAVE: Final = 'torch.jit.save(torch.jit.trace(model.eval(), example), "model.pt")'
_MODEL: Final = 3
"""KIND_MODEL, by its number."""

_INDEXED: Final = re.compile(r".*?__([0-9]*)", re.DOTALL)

_SWITCHES: Final = {
    "DISABLE_OPTIMIZED_EXECUTION": "21.06",
    "INFERENCE_MODE": "21.08",
    "ENABLE_JIT_EXECUTOR": "21.11",
    "ENABLE_JIT_PROFILING": "21.11",
    "ENABLE_TENSOR_FUSER": "21.11",
    "ENABLE_WEIGHT_SHARING": "22.04",
    "ENABLE_CACHE_CLEANING": "22.07",
    "DISABLE_CUDNN": "24.06",
}
"""Parameters that are on or off, with the first release of each. Source: the branches of pytorch_backend."""

_COUNTS: Final = {"INTRA_OP_THREAD_COUNT": "24.05", "INTER_OP_THREAD_COUNT": "24.05"}
"""Parameters that are numbers."""

Tensor = Any
"""A ModelInput or ModelOutput: its type is made at run time."""


def _is_torch(model: Model) -> bool:
    """Whether LibTorch runs it, and no Python program in its place."""
    return model.backend == "pytorch" and not model.config.runtime


def _readings(model: Model) -> Iterator[tuple[Entry, TorchFile | Unreadable]]:
    for entry in model.model_files if _is_torch(model) else ():
        if entry.kind == "file":
            yield entry, reading(entry, read_torch)


def _compiled(model: Model, case: Case) -> bool:
    """Whether it is to be run as a package of AOTInductor's."""
    return bool(model.config.platform == AOTI and case.from_(AOTI_SINCE))


def _forward(model: Model, case: Case) -> Forward | None:
    """The signature that its versions have, where that is known, and the same for all."""
    if _compiled(model, case):
        return None
    found = [read.forward for _, read in _readings(model) if isinstance(read, TorchFile)]
    return found[0] if found and all(one == found[0] for one in found) else None


# -- the file -------------------------------------------------------------------------------------

_WHAT: Final = {
    "weights": "what torch.save writes: weights, and no code",
    "exported": "a program of torch.export's that is not compiled",
    "archive": "a zip archive, and not of PyTorch's",
}


@rule(
    "PT001",
    ERROR,
    says="failed to load model '{model}': PytorchStreamReader failed locating file constants.pkl: file not found",
    source=f"{_LOAD}; server issues 3056, 4927, 6213",
    fix=f"save it as TorchScript: {_SAVE}",
)
def no_torchscript(model: Model, case: Case) -> Iterator[Found]:
    """The file holds weights, or something else that is no TorchScript."""
    for entry, read in _readings(model):
        if isinstance(read, TorchFile) and read.kind in _WHAT and not _compiled(model, case):
            yield on(model.folder / entry.path, f"{entry.name} is {_WHAT[read.kind]}")


@rule(
    "PT002",
    ERROR,
    says="failed to load model '{model}': PytorchStreamReader failed reading zip archive",
    source=_LOAD,
    fix=f"save it as TorchScript: {_SAVE}",
)
def no_archive(model: Model, case: Case) -> Iterator[Found]:
    """The file is no zip archive, or only a part of one."""
    for entry, read in _readings(model):
        path = model.folder / entry.path
        if isinstance(read, TorchFile):
            if read.kind == "legacy":
                yield on(path, f"{entry.name} is what torch.save wrote before torch 1.6")
        elif read.kind in ("garbage", "truncated"):
            yield on(path, f"{entry.name} {read.words}")


@rule(
    "PT009",
    ERROR,
    source="pytorch_backend: libtorch.cc, GetModelInfo, branch r26.03",
    fix=f'platform: "{AOTI}" for packages, none for TorchScript',
)
def package_or_not(model: Model, case: Case) -> Iterator[Found]:
    """A package of AOTInductor's that is not run as one, or TorchScript that is."""
    for entry, read in _readings(model):
        if not isinstance(read, TorchFile):
            continue
        path, compiled = model.folder / entry.path, _compiled(model, case)
        if read.kind == "aoti" and not compiled:
            late = f": that takes {AOTI_SINCE} or later" if case.before(AOTI_SINCE) else ""
            fix = f'platform: "{AOTI}"' if not late else f'triton: "{AOTI_SINCE}" or later, or {_SAVE}'
            yield on(path, f"{entry.name} is a package of AOTInductor's, and is run as TorchScript{late}", fix=fix)
        elif read.kind not in ("aoti", "archive") and compiled:
            fix = f'torch._inductor.aoti_compile_and_package(program, package_path="{entry.name}")'
            yield on(path, f'{entry.name} is no package of AOTInductor\'s, as platform "{AOTI}" wants', fix=fix)


# -- names ----------------------------------------------------------------------------------------


def _index(name: str) -> int | None:
    """The number in a name such as INPUT__0, as the backend reads it; None where it has another form."""
    found = _INDEXED.fullmatch(name)
    return int(found[1] or 0) if found and len(found[1]) < 10 else None


def _takes_names(forward: Forward) -> bool:
    """Whether inputs are arguments, and no entries of a dictionary."""
    kinds = [argument.type for argument in forward.arguments]
    return bool(kinds) and not (len(kinds) == 1 and kinds[0].startswith("Dict["))


@rule(
    "PT003",
    WARNING,
    says="input '{name}' or previous input(s) are neither an input argument to the model '{model}' nor do they follow "
    "the <name>__<index> naming convention. Falling back to enforcing strict ordering from model configuration.",
    source=_NAMES,
    fix="name them after the arguments of forward(): {arguments}",
    since="22.06",
)
def names_of_nothing(model: Model, case: Case) -> Iterator[Found]:
    """Inputs are not named after arguments, nor numbered: the order in config.pbtxt decides."""
    forward, inputs = _forward(model, case), model.config.input
    if forward is None or not _takes_names(forward) or len(inputs) < 2:
        return
    names = [argument.name for argument in forward.arguments]
    if all(tensor.name in names for tensor in inputs) or _mixed([tensor.name for tensor in inputs]) is not None:
        return
    for number, tensor in enumerate(inputs):
        if tensor.name not in names and _index(tensor.name) is None:
            message = f"{tensor.name} is no argument of forward(): inputs are given in the order of config.pbtxt"
            fix = f"name them after the arguments of forward(): {', '.join(names)}"
            yield at(model, "input", number, "name", message=message, fix=fix, name=tensor.name)
            return


def _mixed(names: list[str]) -> int | None:
    """The first of some names that is not numbered, where others are."""
    plain = [number for number, name in enumerate(names) if _index(name) is None]
    return plain[0] if plain and len(plain) < len(names) else None


@rule("PT004", WARNING, says="{words}", source=_NAMES, fix="number all of them from 0, or none", since="22.06")
def odd_numbers(model: Model, case: Case) -> Iterator[Found]:
    """Inputs or outputs are numbered with gaps, twice the same, or not all of them."""
    if not _is_torch(model) or _compiled(model, case):
        return
    forward = _forward(model, case)
    arguments = {argument.name for argument in forward.arguments} if forward else set()
    for side in ("input", "output"):
        tensors = getattr(model.config, side)
        named = side == "input" and all(tensor.name in arguments for tensor in tensors)
        in_dictionary = side == "input" and forward is not None and not _takes_names(forward)
        if not named and not in_dictionary:
            yield from _odd_numbers(model, side, [tensor.name for tensor in tensors])


def _odd_numbers(model: Model, side: str, names: list[str]) -> Iterator[Found]:
    mixed, words = _mixed(names), "Falling back to enforcing strict ordering from model configuration."
    if mixed is not None:
        message = f"{names[mixed]} has no number, and other {side}s have: the order in config.pbtxt decides"
        yield at(model, side, mixed, "name", message=message, words=words)
        return
    seen: set[int] = set()
    for number, name in enumerate(names):
        index = _index(name)
        if index is None:
            return
        # Inputs are put into a list that is as long as they are many: what lies beyond it is written all the same.
        if index in seen or (side == "input" and index >= len(names) + _further(model)):
            again = "is there twice" if index in seen else f"is beyond the last of {len(names)} {side}s"
            severity = ERROR if side == "input" else None
            yield at(model, side, number, "name", message=f"{name}: {index} {again}", severity=severity, words="")
        seen.add(index)


def _further(model: Model) -> int:
    """The inputs that the server adds to those of config.pbtxt."""
    batching = model.config.sequence_batching
    kinds = {control.kind for tensor in batching.control_input for control in tensor.control}
    targets = sum(len(one.target_name) for one in model.config.batch_input)
    return len(kinds) + len(batching.state) + targets


@rule(
    "PT014",
    ERROR,
    says="{side} '{name}' {words}.",
    source="pytorch_backend: libtorch.cc, ValidateInputs and ValidateOutputs, its branches to r22.05",
    fix="call them INPUT__0 and OUTPUT__0, and so on",
    until="22.05",
)
def names_without_numbers(model: Model, case: Case) -> Iterator[Found]:
    """An output has no number in its name, or an input that is no argument: releases before 22.06 want it."""
    forward = _forward(model, case)
    names = {argument.name for argument in forward.arguments} if forward and _takes_names(forward) else None
    for side, number, tensor in _tensors(model, case):
        known = names if side == "input" else set()
        if known is not None and tensor.name not in known and "__" not in tensor.name:
            words = "does not follow naming convention i.e. <name>__<index>"
            if side == "input":
                words = "is neither an input argument to the model nor does it follow the naming convention"
            message = f"{tensor.name} is not numbered, as this release wants it: NAME__0"
            fix = f'name: "{side.upper()}__{number}"'
            yield at(model, side, number, "name", message=message, fix=fix, side=side, name=tensor.name, words=words)


@rule(
    "PT005",
    ERROR,
    says="The output {name} in the model configuration refers to an output index which doesn't exist. This model has "
    "{count} outputs",
    source="pytorch_backend: libtorch.cc, ProcessRequests",
    fix="remove it, or number outputs from 0",
)
def output_that_is_not_there(model: Model, case: Case) -> Iterator[Found]:
    """An output is beyond the last that `forward` gives: every request fails."""
    forward = _forward(model, case)
    if forward is None or forward.outputs is None:
        return
    names = [tensor.name for tensor in model.config.output]
    numbered = all(_index(name) is not None for name in names)
    if not numbered and case.before("22.06"):
        return
    count = len(forward.outputs)
    for number, name in enumerate(names):
        index = _index(name) if numbered else number
        if index is not None and index >= count:
            message = f"{name} is output {index}, and forward() gives {count}, counted from 0"
            yield at(model, "output", number, "name", message=message, name=name, count=count)


# -- the signature --------------------------------------------------------------------------------


@rule(
    "PT006",
    ERROR,
    says="unable to load model '{model}', configuration expects {expected} inputs, model provides {count}",
    source=_INPUTS,
    fix="write one input for each argument of forward()",
    since="22.02",
)
def other_count_of_arguments(model: Model, case: Case) -> Iterator[Found]:
    """The config has more or fewer inputs than `forward` has arguments."""
    forward = _forward(model, case)
    if forward is None or not _takes_names(forward) or any(_is_refused(one) for one in forward.arguments):
        return
    batching = model.config.sequence_batching
    kinds = {control.kind for tensor in batching.control_input for control in tensor.control}
    expected = len(model.config.input) + len(model.config.batch_input) + len(kinds) + len(batching.state)
    count = len(forward.arguments)
    if expected != count and model.config.input:
        names = ", ".join(argument.name for argument in forward.arguments)
        message = f"forward() takes {count} arguments ({names}), and the config comes to {expected}"
        yield at(model, "input", message=message, expected=expected, count=count)


@rule(
    "PT013",
    ERROR,
    says="An input of type '{type}' was detected in the model. Only a single input of type Dict(str, Tensor) or "
    "input(s) of type Tensor are supported.",
    source=_INPUTS,
    fix="wrap the model in one whose forward() takes tensors alone",
    since="22.02",
)
def argument_of_another_kind(model: Model, case: Case) -> Iterator[Found]:
    """`forward` takes an argument that is no tensor."""
    for entry, read in _readings(model):
        forward = read.forward if isinstance(read, TorchFile) and not _compiled(model, case) else None
        for one in forward.arguments if forward and _takes_names(forward) else ():
            if _is_refused(one):
                message = f"forward() takes {one.name}, which is of the type {one.type} and no tensor"
                yield on(model.folder / entry.path, message, type=one.type)


_REFUSED: Final = re.compile(r"int|float|bool|str|number|complex|Device|(Optional|Tuple|Dict)\[.*", re.DOTALL)


def _is_refused(argument: Argument) -> bool:
    """Whether the server takes no argument of this type. Of types that are not known here nothing is said."""
    return _REFUSED.fullmatch(argument.type) is not None


# -- shapes -----------------------------------------------------------------------------------------


def _tensors(model: Model, case: Case) -> Iterator[tuple[str, int, Tensor]]:
    for side in ("input", "output") if _is_torch(model) and not _compiled(model, case) else ():
        for number, tensor in enumerate(getattr(model.config, side)):
            yield side, number, tensor


@rule(
    "PT007",
    ERROR,
    says="Triton only supports 1 dimensional List of String as {side} for '{name}' for model '{model}'",
    source=_INPUTS,
    fix="max_batch_size: 0, and dims: [ -1 ]",
    since="22.05",
)
def strings_of_more_dims(model: Model, case: Case) -> Iterator[Found]:
    """Strings with more than one dim, the batch among them."""
    for side, number, tensor in _tensors(model, case):
        reshaped = tensor.HasField("reshape")
        dims = tensor.reshape.shape if reshaped else tensor.dims
        count = len(dims) + (model.max_batch_size > 0)
        if enum_name(tensor, "data_type") == "TYPE_STRING" and count > 1:
            batch = ", the batch among them" if model.max_batch_size > 0 else ""
            message = f"{tensor.name} has strings in {count} dims{batch}, and PyTorch takes a list"
            key = ("reshape", "shape") if reshaped else ("dims",)
            yield at(model, side, number, *key, message=message, side=side, name=tensor.name)


# -- parameters and instances ---------------------------------------------------------------------


@rule("PT008", ERROR, says="{words}", source="pytorch_backend: libtorch.cc, ParseParameters", fix="remove it")
def odd_parameter(model: Model, case: Case) -> Iterator[Found]:
    """A parameter of PyTorch's that cannot be read."""
    if not _is_torch(model):
        return
    for takes, known in (("switch", _SWITCHES), ("number", _COUNTS)):
        for name, since in known.items():
            if name not in model.config.parameters or not case.from_(since):
                continue
            text = model.config.parameters[name].string_value
            if words := unread(text, takes):
                message = f"{name} is {WANTED[takes]}, and not {text!r}"
                yield at(model, "parameters", name, "string_value", message=message, words=words)


@rule(
    "PT012",
    INFO,
    source="pytorch_backend: README.md, KIND_MODEL",
    fix="instance_group [ { kind: KIND_GPU } ], unless the model itself puts its parts on devices",
    since="23.06",
)
def device_left_to_the_model(model: Model, case: Case) -> Iterator[Found]:
    """KIND_MODEL leaves the device to the model: what it was saved on must be there."""
    for number, group in enumerate(model.config.instance_group if _is_torch(model) else ()):
        if group.kind == _MODEL:
            message = "the model goes to the device that it was saved on, and inputs are given to it on the CPU"
            yield at(model, "instance_group", number, "kind", message=message)
