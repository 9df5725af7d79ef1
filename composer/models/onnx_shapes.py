"""The shapes that ONNX Runtime finds out for the outputs of a graph, beyond what the file says of them.

A file may call a dimension of an output `N` or nothing, and the runtime knows that it is 1000: it follows shapes from
node to node when it loads a model, and the server holds configs against what it then knows. This does the same for the
common operators; what other operators make of a shape counts as not known for sure, and so does all that follows.

Source: the type and shape inference of onnx (onnx/defs), and how onnxruntime merges it with what a file says
(onnxruntime/core/graph/graph.cc), both tried against onnxruntime 1.19.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Final

Dim = int | str | None
"""A size; a name, empty or not, where it varies and the runtime knows no better; None where it might know better."""

Shape = tuple[Dim, ...] | None
"""None where even the number of dimensions cannot be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A constant or what is known of a value. `ints` are its numbers, where it has few and they are whole."""

    shape: Shape = None
    ints: tuple[int, ...] | None = None


Attribute = int | str | tuple[int, ...] | Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of a graph, of ONNX's own domain; `operator` is empty for those of others."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


NOTHING: Final = Tensor()
INTEGERS: Final = {6: "i", 7: "q"}
"""ONNX's numbers of the element types of which values are followed, and how `struct` calls them."""

_MOST_INTS: Final = 64
_MOST_DIMS: Final = 64
_LARGEST: Final = (1 << 63) - 1
_CONFUSED: Final = (IndexError, ValueError, TypeError, KeyError, ArithmeticError)
"""What comes of attributes and shapes that do not go with an operator: the runtime refuses such a model."""


def follow(nodes: Iterable[Node], known: Mapping[str, Tensor], said: Mapping[str, Shape]) -> Mapping[str, Tensor]:
    """What is known of all values of a graph, from those `known` at its start. `said` are shapes that the file gives.

    `nodes` are in the order in which they run.
    """
    values = dict(known)
    for node in nodes:
        for name, found in zip(node.outputs, _outputs(node, values), strict=False):
            if name:
                values[name] = replace(found, shape=merged(said[name], found.shape)) if name in said else found
    return values


def merged(said: Shape, found: Shape) -> Shape:
    """What the runtime makes of the shape that a file gives and the one that it found itself."""
    if said is None or found is None:
        return found if said is None else tuple(dim if isinstance(dim, int) else None for dim in said)
    if len(said) != len(found):
        return None
    return tuple(map(_merged, said, found))


def _merged(said: Dim, found: Dim) -> Dim:
    if isinstance(said, int) and isinstance(found, int):
        return said if said == found else None
    if isinstance(said, int) or isinstance(found, int):
        return said if isinstance(said, int) else found
    return None if found is None else said or found


def _outputs(node: Node, values: Mapping[str, Tensor]) -> list[Tensor]:
    inputs = [values.get(name, NOTHING) for name in node.inputs]
    while inputs and not node.inputs[len(inputs) - 1]:
        inputs.pop()
    if not (rule := _RULES.get(node.operator)):
        return [NOTHING] * len(node.outputs)
    try:
        return rule(_Call(node=node, inputs=inputs))
    except _CONFUSED:
        return [NOTHING] * len(node.outputs)


class _Unknown(ValueError):
    """A shape or a constant that a rule cannot do without is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A node with what is known of its inputs."""

    node: Node
    inputs: list[Tensor]

    def shape(self, at: int = 0) -> tuple[Dim, ...]:
        shape = self.inputs[at].shape
        if shape is None:
            raise _Unknown
        return shape

    def ints(self, at: int) -> tuple[int, ...]:
        ints = self.inputs[at].ints
        if ints is None:
            raise _Unknown
        return ints

    def has(self, at: int) -> bool:
        return at < len(self.inputs) and bool(self.node.inputs[at])

    def number(self, name: str, default: int) -> int:
        value = self.node.attributes.get(name, default)
        return value if isinstance(value, int) else default

    def numbers(self, name: str) -> tuple[int, ...] | None:
        value = self.node.attributes.get(name)
        return value if isinstance(value, tuple) else None

    def text(self, name: str) -> str:
        value = self.node.attributes.get(name)
        return value if isinstance(value, str) else ""

    def axes(self, at: int) -> tuple[int, ...] | None:
        """Axes, an attribute of old and an input today; None where there are none."""
        return self.ints(at) if self.has(at) else self.numbers("axes")

    def axis(self, default: int, rank: int) -> int:
        axis = self.number("axis", default)
        return axis + rank if axis < 0 else axis


Rule = Callable[[_Call], list[Tensor]]
_RULES: Final[dict[str, Rule]] = {}


def _rule(operators: str) -> Callable[[Rule], Rule]:
    """The rule of these operators, with spaces between."""

    def keep(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(operators.split(), rule))
        return rule

    return keep


def _of(*dims: Dim, ints: Sequence[int] | None = None) -> list[Tensor]:
    if len(dims) > _MOST_DIMS or any(isinstance(dim, int) and not 0 <= dim <= _LARGEST for dim in dims):
        return [NOTHING]
    small = ints is not None and len(ints) <= _MOST_INTS and all(abs(one) <= _LARGEST for one in ints)
    return [Tensor(shape=dims, ints=tuple(ints) if ints is not None and small else None)]


# -- the same shape -------------------------------------------------------------------------------


@_rule(
    "Abs Acos Acosh Asin Asinh Atan Atanh BatchNormalization Bernoulli BitwiseNot Ceil Celu Clip Cos Cosh "
    "CumSum DequantizeLinear Dropout Elu Erf Exp Floor Gelu GroupNormalization HardSigmoid HardSwish Hardmax "
    "InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Log LogSoftmax LpNormalization "
    "MeanVarianceNormalization Mish Neg Not PRelu QuantizeLinear Reciprocal Relu Round Selu Shrink Sigmoid "
    "Sign Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Trilu"
)
def _same(call: _Call) -> list[Tensor]:
    """Of further outputs (masks, running means) nothing is said."""
    return _of(*call.shape())


@_rule("Identity")
def _alike(call: _Call) -> list[Tensor]:
    return [call.inputs[0]]


@_rule("Cast")
def _cast(call: _Call) -> list[Tensor]:
    whole = call.number("to", 0) in INTEGERS
    return _of(*call.shape(), ints=call.inputs[0].ints if whole else None)


@_rule(
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max "
    "Mean Min Mod Mul Or Pow Sub Sum Where Xor"
)
def _broadcast(call: _Call) -> list[Tensor]:
    shapes = [call.shape(at) for at in range(len(call.inputs))]
    return _of(*_broadcasted(shapes), ints=_computed(call))


def _broadcasted(shapes: Sequence[Sequence[Dim]]) -> list[Dim]:
    columns = zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1)
    return [_wider(dims) for dims in columns][::-1]


def _wider(dims: Sequence[Dim]) -> Dim:
    """Of the sizes that are spread over each other: a size if there is one, a name if there is only one."""
    sizes = [dim for dim in dims if isinstance(dim, int) and dim != 1]
    if sizes:
        return sizes[0]
    names = {dim for dim in dims if not isinstance(dim, int)}
    if not names:
        return 1
    return None if None in names else names.pop() if len(names) == 1 else ""


_ARITHMETIC: Final[Mapping[str, Callable[[int, int], int]]] = {
    "Add": lambda left, right: left + right,
    "Sub": lambda left, right: left - right,
    "Mul": lambda left, right: left * right,
    "Div": lambda left, right: abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1),
}


def _computed(call: _Call) -> list[int] | None:
    """Sums of sizes and the like: the runtime computes what it can before a model runs."""
    compute = _ARITHMETIC.get(call.node.operator)
    if not compute or len(call.inputs) != 2:
        return None
    left, right = (tensor.ints for tensor in call.inputs)
    if left is None or right is None or not (len(left) == len(right) or 1 in (len(left), len(right))):
        return None
    count = max(len(left), len(right))
    return [compute(left[at % len(left)], right[at % len(right)]) for at in range(count)]


# -- products -------------------------------------------------------------------------------------


@_rule("MatMul")
def _matmul(call: _Call) -> list[Tensor]:
    left, right = call.shape(0), call.shape(1)
    rows = left[-2:-1]
    columns = right[-1:] if len(right) > 1 else ()
    return _of(*_broadcasted([left[:-2], right[:-2]]), *rows, *columns)


@_rule("Gemm")
def _gemm(call: _Call) -> list[Tensor]:
    left, right = call.shape(0), call.shape(1)
    if len(left) != 2 or len(right) != 2:
        raise _Unknown
    return _of(left[1 if call.number("transA", 0) else 0], right[0 if call.number("transB", 0) else 1])


@_rule("Conv")
def _conv(call: _Call) -> list[Tensor]:
    shape, weights = call.shape(0), call.shape(1)
    kernel = call.numbers("kernel_shape") or weights[2:]
    return _of(shape[0], weights[0], *_slid(call, shape[2:], kernel))


@_rule("MaxPool AveragePool LpPool")
def _pool(call: _Call) -> list[Tensor]:
    shape = call.shape()
    found = _of(*shape[:2], *_slid(call, shape[2:], call.numbers("kernel_shape") or ()))
    return found * len(call.node.outputs)


@_rule("GlobalAveragePool GlobalMaxPool GlobalLpPool")
def _global_pool(call: _Call) -> list[Tensor]:
    shape = call.shape()
    if len(shape) < 3:
        raise _Unknown
    return _of(*shape[:2], *[1] * (len(shape) - 2))


def _slid(call: _Call, sizes: Sequence[Dim], kernel: Sequence[Dim]) -> list[Dim]:
    """The sizes that are left where a window slides over a picture."""
    rank = len(sizes)
    if len(kernel) != rank:
        raise _Unknown
    strides = call.numbers("strides") or (1,) * rank
    dilations = call.numbers("dilations") or (1,) * rank
    pads = call.numbers("pads") or (0,) * 2 * rank
    return [
        _steps(call, size, window, strides[at], dilations[at], pads[at] + pads[at + rank])
        for at, (size, window) in enumerate(zip(sizes, kernel, strict=True))
    ]


def _steps(call: _Call, size: Dim, window: Dim, stride: int, dilation: int, pads: int) -> Dim:
    if not isinstance(size, int) or not isinstance(window, int):
        return None if size is None or window is None else ""
    if call.text("auto_pad").startswith("SAME"):
        return -(-size // stride)
    room = size + (0 if call.text("auto_pad") == "VALID" else pads) - ((window - 1) * dilation + 1)
    if room < 0 or (call.number("ceil_mode", 0) and room % stride):
        return None  # versions of onnx differ in whether the last window may begin in the padding
    return room // stride + 1


# -- other shapes ---------------------------------------------------------------------------------


@_rule("Flatten")
def _flatten(call: _Call) -> list[Tensor]:
    shape = call.shape()
    axis = call.axis(1, len(shape))
    return _of(_product(shape[:axis]), _product(shape[axis:]))


def _product(dims: Sequence[Dim]) -> Dim:
    rest = [dim for dim in dims if dim != 1]
    if all(isinstance(dim, int) for dim in rest):
        return math.prod(dim for dim in rest if isinstance(dim, int))
    if None in rest:
        return None
    return rest[0] if len(rest) == 1 else ""


@_rule("Transpose")
def _transpose(call: _Call) -> list[Tensor]:
    shape = call.shape()
    order = call.numbers("perm") or tuple(reversed(range(len(shape))))
    return _of(*(shape[at] for at in order))


@_rule("Concat")
def _concat(call: _Call) -> list[Tensor]:
    shapes = [call.shape(at) for at in range(len(call.inputs))]
    axis = call.axis(0, len(shapes[0]))
    dims = [_sum(column) if at == axis else _agreed(column) for at, column in enumerate(zip(*shapes, strict=True))]
    parts = [tensor.ints for tensor in call.inputs]
    ints = None if None in parts or len(dims) != 1 else [one for part in parts for one in part or ()]
    return _of(*dims, ints=ints)


def _sum(dims: Sequence[Dim]) -> Dim:
    if all(isinstance(dim, int) for dim in dims):
        return sum(dim for dim in dims if isinstance(dim, int))
    return None if None in dims else ""


def _agreed(dims: Sequence[Dim]) -> Dim:
    """The one size of several that must be equal: what any of them knows."""
    sizes = [dim for dim in dims if isinstance(dim, int)]
    return sizes[0] if sizes else None if None in dims else dims[0]


@_rule("Reshape")
def _reshape(call: _Call) -> list[Tensor]:
    target = call.ints(1) if call.has(1) else call.numbers("shape") or ()
    zero_is_zero = bool(call.number("allowzero", 0))
    kept = [at for at, size in enumerate(target) if not size and not zero_is_zero]
    shape = call.shape() if kept or -1 in target else ()
    dims: list[Dim] = [shape[at] if at in kept else size for at, size in enumerate(target)]
    if -1 in target:
        dims[target.index(-1)] = _rest(shape, dims, kept)
    return _of(*dims, ints=call.inputs[0].ints)


def _rest(shape: Sequence[Dim], dims: Sequence[Dim], kept: Sequence[int]) -> Dim:
    """What is left for the one dimension of -1 when those `kept` and all the others have their part."""
    left = [dim for at, dim in enumerate(shape) if at not in kept]
    others = [dim for at, dim in enumerate(dims) if at not in kept and dim != -1]
    if None in left or None in others:
        return None
    whole = _product(left)
    divisor = math.prod(dim for dim in others if isinstance(dim, int))
    if not isinstance(whole, int):
        return ""
    return whole // divisor if divisor else None


@_rule("Squeeze")
def _squeeze(call: _Call) -> list[Tensor]:
    shape = call.shape()
    axes = call.axes(1)
    if axes is None:
        if not all(isinstance(dim, int) for dim in shape):
            raise _Unknown
        return _of(*(dim for dim in shape if dim != 1), ints=call.inputs[0].ints)
    away = {axis % len(shape) for axis in axes}
    return _of(*(dim for at, dim in enumerate(shape) if at not in away), ints=call.inputs[0].ints)


@_rule("Unsqueeze")
def _unsqueeze(call: _Call) -> list[Tensor]:
    shape, axes = list(call.shape()), call.axes(1) or ()
    rank = len(shape) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        shape.insert(axis, 1)
    return _of(*shape, ints=call.inputs[0].ints)


@_rule(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
)
def _reduce(call: _Call) -> list[Tensor]:
    shape = call.shape()
    axes = call.axes(1)
    if not axes and call.number("noop_with_empty_axes", 0):
        return _of(*shape)
    away = {axis % len(shape) for axis in axes} if axes else set(range(len(shape)))
    return _of(*_without(shape, away, keep=bool(call.number("keepdims", 1))))


@_rule("ArgMax ArgMin")
def _arg(call: _Call) -> list[Tensor]:
    shape = call.shape()
    return _of(*_without(shape, {call.axis(0, len(shape))}, keep=bool(call.number("keepdims", 1))))


def _without(shape: Sequence[Dim], away: set[int], *, keep: bool) -> list[Dim]:
    return [1 if at in away else dim for at, dim in enumerate(shape) if keep or at not in away]


@_rule("Gather")
def _gather(call: _Call) -> list[Tensor]:
    shape, indices = call.shape(0), call.shape(1)
    axis = call.axis(0, len(shape))
    ints = None
    if len(shape) == 1 and call.inputs[0].ints is not None and call.inputs[1].ints is not None:
        ints = [call.ints(0)[at] for at in call.ints(1)]
    return _of(*shape[:axis], *indices, *shape[axis + 1 :], ints=ints)


@_rule("Slice")
def _slice(call: _Call) -> list[Tensor]:
    shape = list(call.shape())
    old = not call.has(1)
    starts = call.numbers("starts") if old else call.ints(1)
    ends = call.numbers("ends") if old else call.ints(2)
    axes = call.numbers("axes") if old else call.ints(3) if call.has(3) else None
    steps = call.ints(4) if call.has(4) else None
    if starts is None or ends is None:
        raise _Unknown
    ints = call.inputs[0].ints
    for at, axis in enumerate(axes or range(len(starts))):
        taken = slice(starts[at], _end(ends[at], steps[at] if steps else 1), steps[at] if steps else 1)
        dim = shape[axis]
        shape[axis] = len(range(dim)[taken]) if isinstance(dim, int) else dim if dim is None else ""
        ints = ints[taken] if ints is not None and len(shape) == 1 else None
    return _of(*shape, ints=ints)


def _end(end: int, step: int) -> int | None:
    """The end of a slice: a very negative one, going down, is before the first."""
    return None if step < 0 and end < -(1 << 31) + 1 else end


@_rule("Split")
def _split(call: _Call) -> list[Tensor]:
    shape = call.shape()
    axis = call.axis(0, len(shape))
    count = len(call.node.outputs)
    parts = call.ints(1) if call.has(1) else call.numbers("split")
    size = shape[axis]
    sizes: Sequence[Dim] = [None if size is None else ""] * count
    if isinstance(size, int):
        part = -(-size // count)
        sizes = parts or [max(0, min(part, size - part * at)) for at in range(count)]
    return [Tensor(shape=(*shape[:axis], one, *shape[axis + 1 :])) for one in sizes]


@_rule("Expand")
def _expand(call: _Call) -> list[Tensor]:
    return _of(*_broadcasted([call.shape(0), call.ints(1)]))


@_rule("Tile")
def _tile(call: _Call) -> list[Tensor]:
    pairs = zip(call.shape(), call.ints(1), strict=True)
    return _of(*(dim * times if isinstance(dim, int) else dim if dim is None else "" for dim, times in pairs))


@_rule("Pad")
def _pad(call: _Call) -> list[Tensor]:
    shape = call.shape()
    pads = call.ints(1) if call.has(1) else call.numbers("pads")
    if pads is None or call.has(3) or len(pads) != 2 * len(shape):
        raise _Unknown
    more = [pads[at] + pads[at + len(shape)] for at in range(len(shape))]
    pairs = zip(shape, more, strict=True)
    return _of(*(dim + pad if isinstance(dim, int) else dim if not pad or dim is None else "" for dim, pad in pairs))


@_rule("TopK")
def _top_k(call: _Call) -> list[Tensor]:
    shape = list(call.shape())
    axis = call.axis(-1, len(shape))
    if not isinstance(shape[axis], int):
        return _of(*[None if shape[axis] is None else ""] * len(shape)) * 2
    shape[axis] = call.ints(1)[0] if call.has(1) else call.number("k", 1)
    return _of(*shape) * 2


# -- constants ------------------------------------------------------------------------------------


@_rule("Constant")
def _constant(call: _Call) -> list[Tensor]:
    value = call.node.attributes.get("value")
    if isinstance(value, Tensor):
        return [value]
    if "value_int" in call.node.attributes:
        return _of(ints=[call.number("value_int", 0)])
    if (numbers := call.numbers("value_ints")) is not None:
        return _of(len(numbers), ints=numbers)
    raise _Unknown


@_rule("Shape")
def _shape(call: _Call) -> list[Tensor]:
    shape = call.shape()[call.number("start", 0) : call.number("end", len(call.shape()))]
    ints = [dim for dim in shape if isinstance(dim, int)]
    return _of(len(shape), ints=ints if len(ints) == len(shape) else None)


@_rule("ConstantOfShape")
def _constant_of_shape(call: _Call) -> list[Tensor]:
    return _of(*call.ints(0))
