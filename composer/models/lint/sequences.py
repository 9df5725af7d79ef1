"""Sequence batching: controls, strategies, states and what they begin with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from composer.models.lint.completion import may_add
from composer.models.lint.files import cannot_open, named, onnx_files
from composer.models.lint.rule import ERROR, Case, Found, at, rule
from composer.models.lint.tensors import byte_size, datatype, shape
from composer.models.onnx import OnnxModel
from composer.models.repository import Model
from composer.models.schema import enum_name

_CONTROLS: Final = "core: model_config_utils.cc, GetBooleanSequenceControlProperties"
_TYPED: Final = "core: model_config_utils.cc, GetTypedSequenceControlProperties"
_CORE: Final = "core: model_config_utils.cc, ValidateModelConfig"
_STATES: Final = "core: sequence_batch_scheduler.cc, GenerateInitialStateData"

FOLDER: Final = "initial_state"
"""The folder of a model that holds what its states begin with."""

CORRID: Final = "CONTROL_SEQUENCE_CORRID"
_VALUES: Final = ("int32_false_true", "fp32_false_true", "bool_false_true")
_CORRID_TYPES: Final = ("TYPE_UINT64", "TYPE_INT64", "TYPE_UINT32", "TYPE_INT32", "TYPE_STRING")

Key = tuple[str | int, ...]
Message = Any
"""A part of a config: the types of messages are made at run time."""


def _inputs(model: Model) -> Iterator[tuple[Key, Message]]:
    """The control inputs of a model that batches sequences, with where they stand."""
    for number, control_input in enumerate(model.config.sequence_batching.control_input):
        yield ("sequence_batching", "control_input", number), control_input


def _controls(model: Model) -> Iterator[tuple[Key, Message, str]]:
    """Their controls, with their kinds."""
    for key, control_input in _inputs(model):
        for number, control in enumerate(control_input.control):
            yield (*key, "control", number), control, enum_name(control, "kind")


def _given(control: Message) -> list[str]:
    """Which of the fields for false and true a control has."""
    return [name for name in _VALUES if len(getattr(control, name))]


# -- controls -------------------------------------------------------------------------------------


@rule(
    "SEQ001",
    ERROR,
    says="sequence batching control tensor must have a name for {model}",
    source=_CONTROLS,
    fix='name: "START"',
)
def control_without_name(model: Model, case: Case) -> Iterator[Found]:
    """A control input has no name."""
    for key, control_input in _inputs(model):
        if not control_input.name:
            yield at(model, *key, message="a control input has no name")


@rule(
    "SEQ002",
    ERROR,
    says="sequence batching control tensor '{name}' is specified for multiple control kinds for {model}",
    source=_CONTROLS,
    fix="give one of them another name",
)
def tensor_for_two_controls(model: Model, case: Case) -> Iterator[Found]:
    """Two control inputs have the same name."""
    seen: set[str] = set()
    for key, control_input in _inputs(model):
        if control_input.name and control_input.name in seen:
            message = f"{control_input.name} is a control input already"
            yield at(model, *key, "name", message=message, name=control_input.name)
        seen.add(control_input.name)


@rule(
    "SEQ003",
    ERROR,
    says="sequence batching specifies multiple {kind} tensors for {model}",
    source=_CONTROLS,
    fix="remove one of them",
)
def control_twice(model: Model, case: Case) -> Iterator[Found]:
    """Two controls are of the same kind."""
    seen: set[str] = set()
    for key, _control, kind in _controls(model):
        if kind in seen:
            yield at(model, *key, "kind", message=f"{kind} is there twice", kind=kind)
        seen.add(kind)


@rule(
    "SEQ004",
    ERROR,
    says="sequence batching must specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' for {kind} "
    "for {model}",
    source=_CONTROLS,
    fix="fp32_false_true: [ 0, 1 ]",
)
def control_without_values(model: Model, case: Case) -> Iterator[Found]:
    """A control does not say what stands for false and true."""
    for key, control, kind in _controls(model):
        if kind != CORRID and not _given(control):
            yield at(model, *key, message=f"{kind} does not say which values mean false and true", kind=kind)


@rule(
    "SEQ005",
    ERROR,
    says="sequence batching specifies more than one from 'int32_false_true', 'fp32_false_true' and 'bool_false_true' "
    "for {kind} for {model}",
    source=_CONTROLS,
    fix="keep one of them",
)
def control_of_two_types(model: Model, case: Case) -> Iterator[Found]:
    """A control says in several types what stands for false and true."""
    for key, control, kind in _controls(model):
        given = _given(control)
        if kind != CORRID and len(given) > 1:
            message = f"{kind} has {' and '.join(given)}: only one may be there"
            yield at(model, *key, given[1], message=message, kind=kind)


@rule(
    "SEQ006",
    ERROR,
    says="sequence batching control '{field}' must have exactly 2 entries for {kind} for {model}",
    source=_CONTROLS,
    fix="fp32_false_true: [ 0, 1 ]",
)
def not_two_values(model: Model, case: Case) -> Iterator[Found]:
    """A control has not exactly two values: for false and for true."""
    for key, control, kind in _controls(model):
        given = _given(control)
        count = len(getattr(control, given[0])) if given else 2
        if kind != CORRID and len(given) == 1 and count != 2:
            message = f"{given[0]} has a value for false and one for true, not {count}"
            ready = "[ false, true ]" if given[0].startswith("bool") else "[ 0, 1 ]"
            fix = f"{given[0]}: {ready}"
            yield at(model, *key, given[0], message=message, fix=fix, field=given[0], kind=kind)


@rule(
    "SEQ007",
    ERROR,
    says=f"unexpected data type for control {CORRID} for {{model}}. Allowed data types are TYPE_UINT64, TYPE_INT64, "
    "TYPE_UINT32, TYPE_INT32 and TYPE_STRING",
    source=_CORE,
    fix="data_type: TYPE_UINT64",
)
def correlation_id_of_another_type(model: Model, case: Case) -> Iterator[Found]:
    """The ID of a sequence is of a type that it cannot have."""
    for key, control, kind in _controls(model):
        if kind == CORRID and datatype(control) not in _CORRID_TYPES:
            said = datatype(control) if control.data_type else "not given"
            message = f"the data_type of {CORRID} is {said}: it must be an integer or a string"
            yield at(model, *key, "data_type", message=message)


@rule(
    "SEQ008",
    ERROR,
    says="sequence batching must not specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' "
    f"for {CORRID} for {{model}}",
    source=_TYPED,
    fix="remove it, and write data_type: TYPE_UINT64",
)
def correlation_id_with_values(model: Model, case: Case) -> Iterator[Found]:
    """The ID of a sequence is neither false nor true."""
    for key, control, kind in _controls(model):
        given = _given(control)
        if kind == CORRID and given:
            yield at(model, *key, given[0], message=f"{CORRID} is a number: it has no {given[0]}")


# -- strategies -----------------------------------------------------------------------------------


@rule(
    "SEQ009",
    ERROR,
    says="sequence batching preferred batch size must be {bound} for {model}",
    source=_CORE,
    fix="lower it, or raise max_batch_size",
)
def preferred_sequence_batch(model: Model, case: Case) -> Iterator[Found]:
    """A preferred batch size is not between 1 and max_batch_size."""
    for number, size in enumerate(model.config.sequence_batching.oldest.preferred_batch_size):
        key = ("sequence_batching", "oldest", "preferred_batch_size", number)
        if size <= 0:
            message = f"a batch cannot have the size {size}"
            yield at(model, *key, message=message, fix="write sizes of 1 and more", bound="positive")
        elif size > max(0, model.max_batch_size):
            message = f"batches of {size} are preferred, and {model.max_batch_size} is the most"
            yield at(model, *key, message=message, bound="<= max batch size")


@rule(
    "SEQ010",
    ERROR,
    says="sequence batching minimum slot utilization must be in range (0.0, 1.0] for {model}",
    source=_CORE,
    fix="minimum_slot_utilization: 0.5",
)
def slot_utilization(model: Model, case: Case) -> Iterator[Found]:
    """minimum_slot_utilization is not a part of 1."""
    part = model.config.sequence_batching.direct.minimum_slot_utilization
    if part < 0 or part > 1:
        key = ("sequence_batching", "direct", "minimum_slot_utilization")
        yield at(model, *key, message=f"minimum_slot_utilization is {part:g}: it must be between 0 and 1")


@rule(
    "SEQ026",
    ERROR,
    says="terminate called after throwing an instance of 'std::length_error'",
    source="core: sequence_batch_scheduler.cc, Create; seen on a real server: nothing is answered, or it ends",
    fix="max_candidate_sequences: 16",
    until="23.08",
)
def no_candidates(model: Model, case: Case) -> Iterator[Found]:
    """The oldest strategy has room for no sequence: older releases take what is not said for 0."""
    batching = model.config.sequence_batching
    if case.release and batching.HasField("oldest") and batching.oldest.max_candidate_sequences < 1:
        key = ("sequence_batching", "oldest", "max_candidate_sequences")
        yield at(model, *key, message="with max_candidate_sequences of less than 1 no sequence is ever answered")


# -- states ---------------------------------------------------------------------------------------


def _states(model: Model) -> Iterator[tuple[Key, Message]]:
    for number, state in enumerate(model.config.sequence_batching.state):
        yield ("sequence_batching", "state", number), state


def _begun(model: Model) -> Iterator[tuple[Key, Message, Message]]:
    """The states that say what they begin with, and that."""
    for key, state in _states(model):
        if len(state.initial_state) == 1:
            yield (*key, "initial_state", 0), state, state.initial_state[0]


@rule(
    "SEQ011",
    ERROR,
    says="The data type used for 'initial_state' field of state '{state}' does not match the state data type.",
    source=_STATES,
    fix="write the same data_type twice",
)
def state_begins_with_another_type(model: Model, case: Case) -> Iterator[Found]:
    """What a state begins with is of another datatype."""
    for key, state, initial in _begun(model):
        if initial.data_type != state.data_type:
            message = f"{state.input_name} is {datatype(state)}, and begins with {datatype(initial)}"
            yield at(model, *key, "data_type", message=message, state=state.input_name)


@rule(
    "SEQ012",
    ERROR,
    says="Field 'name' must be set when using initial_state for state input '{state}'.",
    source=_STATES,
    fix='name: "beginning"',
)
def beginning_without_name(model: Model, case: Case) -> Iterator[Found]:
    """What a state begins with has no name."""
    for key, state, initial in _begun(model):
        if not initial.name:
            message = f"the initial_state of {state.input_name} has no name"
            yield at(model, *key, message=message, state=state.input_name)


@rule("SEQ013", ERROR, says="{words}", source=_STATES, fix="write the dims of the state, with a size for each -1")
def state_begins_with_other_dims(model: Model, case: Case) -> Iterator[Found]:
    """What a state begins with has other dims."""
    for key, state, initial in _begun(model):
        dims, other = list(state.dims), list(initial.dims)
        words = _misfit(state.input_name, dims, other)
        if words:
            message = f"{state.input_name} has the dims {shape(dims)}, and begins with {shape(other)}"
            yield at(model, *key, "dims", message=message, words=words)


def _misfit(name: str, dims: list[int], other: list[int]) -> str | None:
    if len(dims) != len(other):
        what = "Number of dimensions in 'initial_state' doesn't match the size of 'state' dimensions for state input"
        return f"{what} '{name}'. {len(other)} != {len(dims)}"
    for dim, begin in zip(dims, other, strict=True):
        if -1 not in (dim, begin) and dim != begin:
            what = f"'initial_state' dim for input name '{name}' doesn't match 'state' dim description."
            return f"{what} {begin} != {dim}"
    return None


@rule(
    "SEQ014",
    ERROR,
    says="'initial_state' field for state input name '{state}' contains variable dimensions.",
    source=_STATES,
    fix="write the size with which it begins",
)
def beginning_of_variable_size(model: Model, case: Case) -> Iterator[Found]:
    """What a state begins with has no certain size."""
    for key, state, initial in _begun(model):
        for place, dim in enumerate(initial.dims):
            if dim == -1:
                message = f"{state.input_name} begins with something of a certain size: -1 is none"
                yield at(model, *key, "dims", place, message=message, state=state.input_name)


@rule("SEQ015", ERROR, says="{words}", source=_STATES, fix="add the file, or write zero_data: true")
def beginning_missing(model: Model, case: Case) -> Iterator[Found]:
    """The file that a state begins with is not there."""
    for key, _state, initial in _begun(model):
        found = named(model, FOLDER, initial.data_file)
        if initial.WhichOneof("state_data") == "data_file" and found.kind in ("missing", "folder"):
            message = f"there is no file {found.path} in the model's folder"
            yield at(model, *key, "data_file", message=message, words=cannot_open(model, found))


@rule(
    "SEQ016",
    ERROR,
    says="initial_state setting expects {wanted} bytes, but the data provided from {file}only has {size} bytes.",
    source=_STATES,
    fix="write the file anew, or the dims that it has",
)
def beginning_too_short(model: Model, case: Case) -> Iterator[Found]:
    """The file that a state begins with is too short."""
    for key, state, initial in _begun(model):
        found = named(model, FOLDER, initial.data_file)
        size = found.entry.size if found.kind == "file" and found.entry else None
        strings = datatype(initial) == "TYPE_STRING"
        if initial.data_file and size is not None and not strings and byte_size(initial) > size:
            wanted = byte_size(initial)
            message = f"{found.path} has {size} bytes, and {state.input_name} begins with {wanted}"
            yield at(model, *key, "data_file", message=message, wanted=wanted, file=initial.data_file, size=size)


@rule("SEQ017", ERROR, says="{words}", source=_STATES, fix="initial_state: { name, data_type, dims, zero_data: true }")
def not_one_beginning(model: Model, case: Case) -> Iterator[Found]:
    """A state begins with several things, or with nothing."""
    for key, state in _states(model):
        count, name = len(state.initial_state), state.input_name
        if count > 1:
            what = f"initial_state field for state input '{name}' must contain exactly one or zero element."
            message = f"{name} has {count} initial_state: it can begin with one"
            yield at(model, *key, "initial_state", 1, message=message, words=f"{what} Found '{count}' elements.")
        elif count and state.initial_state[0].WhichOneof("state_data") is None:
            words = f"initial_state setting expects state'{name}' to have state_data set"
            message = f"the initial_state of {name} has neither zero_data nor data_file"
            yield at(model, *key, "initial_state", 0, message=message, words=words)


@rule(
    "SEQ018",
    ERROR,
    says="State input name '{state}' specified more than once.",
    source=_STATES,
    fix="remove one of them",
)
def state_twice(model: Model, case: Case) -> Iterator[Found]:
    """Two states that say what they begin with have the same input."""
    seen: set[str] = set()
    for key, state, _initial in _begun(model):
        if state.input_name in seen:
            message = f"there is another state with the input {state.input_name}"
            yield at(model, *key[:3], "input_name", message=message, state=state.input_name)
        seen.add(state.input_name)


@rule(
    "SEQ019",
    ERROR,
    says="{words}",
    source="core: sequence_state.cc, Initialize; seen on a real server: there is no state then",
    fix="remove use_growable_memory",
    since="23.11",
)
def growable_memory(model: Model, case: Case) -> Iterator[Found]:
    """A state may grow, and it cannot: it has two buffers, or is not on a GPU."""
    for key, state in _states(model):
        name, where = state.input_name, (*key, "use_growable_memory")
        if state.use_growable_memory and not state.use_same_buffer_for_input_output:
            words = "In order to 'use_growable_memory', you must also enable 'use_single_buffer' for state input name"
            message = f"{name} can only grow with use_same_buffer_for_input_output: true"
            fix = "use_same_buffer_for_input_output: true"
            yield at(model, *where, message=message, fix=fix, words=f"{words} '{name}'.")
        elif state.use_growable_memory and _on_cpu(model, case):
            words = "'use_growable_memory' can only work with KIND_GPU model instances right now."
            yield at(model, *where, message=f"{name} can only grow on a GPU", words=words)


def _on_cpu(model: Model, case: Case) -> bool:
    """Whether an instance is known to be on no GPU."""
    return case.gpus == 0 or any(group.kind in (2, 3) for group in model.config.instance_group)


@rule(
    "SEQ023",
    ERROR,
    says="Signal (6) received.",
    source="seen on a real server: it ends at the first request",
    fix='input_name: "STATE_IN"',
)
def state_without_input(model: Model, case: Case) -> Iterator[Found]:
    """A state does not say which input it is, which ends the server."""
    for key, state in _states(model):
        if not state.input_name:
            yield at(model, *key, message="a state has no input_name: the first request would end the server")


@rule(
    "SEQ024",
    ERROR,
    says="failed to allocate non-pinned system memory",
    source="core: sequence_state.cc, Initialize; seen on a real server",
    fix="data_type: TYPE_FP32",
)
def state_without_type(model: Model, case: Case) -> Iterator[Found]:
    """A state has no data_type, so that there is no telling its size."""
    for key, state in _states(model):
        if not state.data_type:
            yield at(model, *key, message=f"the state {state.input_name} has no data_type")


# -- backends -------------------------------------------------------------------------------------


@rule(
    "SEQ025",
    ERROR,
    says="{words}",
    source="core: sequence_batch_scheduler.cc; backend: backend_common.cc; seen on a real server",
    fix="data_type: TYPE_UINT64, or release 25.01",
    until="24.12",
)
def correlation_id_as_string(model: Model, case: Case) -> Iterator[Found]:
    """The IDs of sequences are strings, which this release cannot hand over."""
    for key, control_input in _inputs(model):
        for number, control in enumerate(control_input.control):
            string = enum_name(control, "kind") == CORRID and datatype(control) == "TYPE_STRING"
            words = _no_strings(model, case, control_input.name) if string else None
            if words:
                message = "this release refuses all requests whose sequence has a string for an ID"
                yield at(model, *key, "control", number, "data_type", message=message, words=words)


def _no_strings(model: Model, case: Case, name: str) -> str | None:
    """Why the backend does not take strings: the Python one took numbers alone; later both refuse the padding."""
    if case.release and case.before("24.04") and model.backend == "python":
        return "correlation ID in request is not an unsigned int"
    if case.release and case.from_("24.08") and model.backend in ("python", "onnxruntime"):
        return f"unexpected number of string elements 2 for inference input '{name}', expecting 1"
    return None


_VALUE_TYPES: Final = dict(zip(_VALUES, ("TYPE_INT32", "TYPE_FP32", "TYPE_BOOL"), strict=True))


@rule(
    "SEQ020",
    ERROR,
    says="{words}",
    source="onnxruntime_backend: onnxruntime.cc, ValidateBooleanSequenceControl; seen on a real server",
    fix="write the names, types and dims that the model file has",
)
def not_in_the_onnx_file(model: Model, case: Case) -> Iterator[Found]:
    """A control or a state is not in the ONNX file, or is another one there."""
    if not model.config.HasField("sequence_batching"):
        return
    for file in onnx_files(model):
        yield from _unlisted(model, case, file)
        for key, control_input in _inputs(model):
            if control_input.control:
                yield from _control_in(model, file, key, control_input)
        for key, state in _states(model):
            yield from _state_in(model, file, key, state)
        return


def _unlisted(model: Model, case: Case, file: OnnxModel) -> Iterator[Found]:
    """With no inputs in the config, controls and states are counted twice: the server adds all that the file has."""
    kinds = {kind for _, _, kind in _controls(model)}
    more = len(kinds) + len(model.config.sequence_batching.state)
    if more and not model.config.input and may_add(model, case, "input"):
        words = f"unable to load model '{model.name}', configuration expects {len(file.inputs) + more} inputs, model"
        message = "the inputs that are no controls and no states must be in the config"
        yield at(model, "sequence_batching", message=message, words=f"{words} provides {len(file.inputs)}")


def _control_in(model: Model, file: OnnxModel, key: Key, control_input: Message) -> Iterator[Found]:
    name, control = control_input.name, control_input.control[0]
    value = next((one for one in file.inputs if one.name == name), None)
    given = _given(control)
    wanted = _VALUE_TYPES[given[0]] if given else datatype(control)
    if value is None:
        words = f"configuration specified sequence control '{name}', but model does not provide that input"
        yield at(model, *key, "name", message=f"the model file has no input {name}", words=words)
        return
    dims = value.shape[1:] if model.max_batch_size > 0 else value.shape
    words = f"unable to load model '{model.name}', sequence control '{name}'"
    if dims != (1,) and value.sure:
        words = f"{words} in model has dims {shape(dims)} but dims [1] is expected"
        yield at(
            model, *key, "name", message=f"{name} has the dims {shape(dims)} in the model file, not [1]", words=words
        )
    elif value.datatype and value.datatype != wanted:
        words = f"{words}, the model expects data-type {value.datatype} but the model configuration specifies"
        message = f"{name} is {value.datatype} in the model file, and {wanted} here"
        yield at(model, *key, "control", 0, message=message, words=f"{words} data-type {wanted}")


def _state_in(model: Model, file: OnnxModel, key: Key, state: Message) -> Iterator[Found]:
    given = next((one for one in file.inputs if one.name == state.input_name), None)
    taken = next((one for one in file.outputs if one.name == state.output_name), None)
    if given is None and state.input_name:
        words = f"Failed to retrieve the ONNX input tensor info from '{state.input_name}'."
        message = f"the model file has no input {state.input_name}"
        yield at(model, *key, "input_name", message=message, words=words)
    if taken is None:
        words = f"Invalid output name: {state.output_name}"
        message = f"the model file has no output {state.output_name}"
        yield at(model, *key, "output_name", message=message, words=words)
    for one in (given, taken):
        if one and one.datatype and state.data_type and one.datatype != datatype(state):
            message = f"{one.name} is {one.datatype} in the model file, and {datatype(state)} here"
            words = f"Unexpected input data type. Actual: ({datatype(state)}) , expected: ({one.datatype})"
            yield at(model, *key, "data_type", message=message, words=words)
            return
    if given and given.sure and given.shape and not _goes_in(model, given.shape, state):
        words = f"Got invalid dimensions for input: {state.input_name}"
        message = (
            f"{state.input_name} has the shape {shape(given.shape)} in the model file, and {shape(state.dims)} here"
        )
        yield at(model, *key, "dims", message=message, words=words)


def _goes_in(model: Model, wanted: tuple[int, ...], state: Message) -> bool:
    """Whether what a state begins with has a shape that the model takes: 1 stands for what varies."""
    dims = state.initial_state[0].dims if len(state.initial_state) == 1 else state.dims
    begins = [*([1] if model.max_batch_size > 0 else []), *(1 if dim == -1 else dim for dim in dims)]
    if len(begins) != len(wanted):
        return False
    return all(want in (-1, dim) for want, dim in zip(wanted, begins, strict=True))


@rule(
    "SEQ021",
    ERROR,
    says="input '{name}' does not follow <name>__<index> naming convention.",
    source="pytorch_backend: libtorch.cc, ValidateTypedSequenceControl, ValidateBooleanSequenceControl",
    fix="name it as the arguments of forward are counted: START__1",
)
def torch_control_names(model: Model, case: Case) -> Iterator[Found]:
    """The name of a control of a PyTorch model does not say which argument it is."""
    if model.backend != "pytorch" or model.config.runtime:
        return
    for key, control_input in _inputs(model):
        name = control_input.name
        _, joint, index = name.partition("__")
        if name and len(control_input.control) and not (joint and re.fullmatch("[0-9]*", index)):
            message = f"{name} does not end in __ and the number of an argument"
            yield at(model, *key, "name", message=message, name=name)
