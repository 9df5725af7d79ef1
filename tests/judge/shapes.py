"""Whether the shapes that we find out are those that ONNX Runtime does: `python -m tests.judge.shapes record`.

Graphs are drawn, each from its number; what the real ONNX Runtime says of their outputs is recorded, and compared with
what `read_onnx` says, here and in the unit tests.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from composer.models.onnx import OnnxModel, read_onnx
from tests.modelfiles import Dims, Value, node, onnx_model, tensor

RECORD: Final = Path(__file__).with_name("shapes.json")
COUNT: Final = 1500
LAST: Final = (1 << 63) - 1
Truth = list[int] | None
"""The shape of a graph's output, -1 where it varies; None for a graph that ONNX Runtime refuses."""


@dataclass(slots=True)
class Graph:
    """A graph as it grows. `values` are names with the number of dimensions that they should have."""

    draw: random.Random
    nodes: list[bytes] = field(default_factory=list)
    weights: list[bytes] = field(default_factory=list)
    inputs: dict[str, Value] = field(default_factory=dict)
    values: list[tuple[str, int]] = field(default_factory=list)
    names: int = 0

    def name(self) -> str:
        self.names += 1
        return f"v{self.names}"

    def input(self) -> None:
        """One more input, of one to four dimensions of which some vary."""
        name, rank = f"x{len(self.inputs)}", self.draw.choice([1, 2, 3, 4, 4])
        self.inputs[name] = ("FP32", [self._dim() for _ in range(rank)])
        self.values.append((name, rank))

    def _dim(self) -> int | str | None:
        return self.draw.choice(["N", "M", "L", None] if self.draw.random() < 0.35 else [1, 2, 3, 4, 6, 8])

    def any(self) -> tuple[str, int]:
        return self.draw.choice(self.values)

    def numbers(self, *values: int, dims: Sequence[int] | None = None) -> str:
        """A constant: an initializer, or a node."""
        name = self.name()
        value = tensor(name, "INT64", [len(values)] if dims is None else dims, values)
        if self.draw.random() < 0.3:
            self.nodes.append(node("Constant", [], [name], value=value))
        else:
            self.weights.append(value)
        return name

    def ones(self, *dims: int) -> str:
        name = self.name()
        self.weights.append(tensor(name, "FP32", dims, [1.0] * math.prod(dims)))
        return name

    def add(self, operator: str, inputs: Sequence[str], rank: int, outputs: int = 1, **attributes: Any) -> str:
        """A node that others may use."""
        name = self.aside(operator, inputs, outputs, **attributes)
        self.values.append((name, rank))
        return name

    def aside(self, operator: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> str:
        """A node that only the next one uses."""
        names = [self.name() for _ in range(outputs)]
        self.nodes.append(node(operator, inputs, names, **attributes))
        return names[0]


def _unary(g: Graph, x: str, rank: int) -> None:
    g.add(g.draw.choice(["Relu", "Tanh", "Identity", "Exp", "Neg", "Abs", "Sigmoid"]), [x], rank)


def _softmax(g: Graph, x: str, rank: int) -> None:
    g.add("Softmax", [x], rank, axis=-1)


def _binary(g: Graph, x: str, rank: int) -> None:
    y, other = g.any()
    g.add(g.draw.choice(["Add", "Mul", "Sub"]), [x, y], max(rank, other))


def _where(g: Graph, x: str, rank: int) -> None:
    y, other = g.any()
    g.add("Where", [g.aside("Less", [x, y]), x, y], max(rank, other))


def _matmul(g: Graph, x: str, rank: int) -> None:
    y, other = g.any()
    if g.draw.random() < 0.5:
        dims = [g.draw.choice([2, 3, 4, 8]) for _ in range(g.draw.choice([1, 2, 2, 3]))]
        y, other = g.ones(*dims), len(dims)
    g.add("MatMul", [x, y], max(rank, other) - (other == 1))


def _gemm(g: Graph, x: str, rank: int) -> None:
    dims = [g.draw.choice([2, 3, 4, 8]) for _ in range(2)]
    g.add("Gemm", [x, g.ones(*dims)], 2, transB=g.draw.choice([0, 1]), transA=g.draw.choice([0, 0, 1]))


def _conv(g: Graph, x: str, rank: int) -> None:
    how: dict[str, Any] = {"strides": [g.draw.choice([1, 2])] * 2}
    pad = g.draw.random()
    if pad < 0.3:
        how["auto_pad"] = g.draw.choice(["SAME_UPPER", "VALID", "SAME_LOWER"])
    elif pad < 0.6:
        how |= {"pads": [1, 1, 1, 1], "dilations": g.draw.choice([[1, 1], [2, 2]])}
    g.add("Conv", [x, g.ones(5, g.draw.choice([1, 2, 3, 4]), 3, 3)], 4, **how)


def _pool(g: Graph, x: str, rank: int) -> None:
    how: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [g.draw.choice([1, 2])] * 2}
    how |= {"ceil_mode": 1} if g.draw.random() < 0.3 else {}
    how |= {"pads": [1, 0, 1, 0]} if g.draw.random() < 0.3 else {}
    g.add(g.draw.choice(["MaxPool", "AveragePool"]), [x], 4, **how)


def _global_pool(g: Graph, x: str, rank: int) -> None:
    g.add("GlobalAveragePool", [x], rank)


def _flatten(g: Graph, x: str, rank: int) -> None:
    g.add("Flatten", [x], 2, axis=g.draw.choice([0, 1, 1, 2, -1]))


def _transpose(g: Graph, x: str, rank: int) -> None:
    order = list(range(rank))
    g.draw.shuffle(order)
    how: dict[str, Any] = {"perm": order} if order and g.draw.random() < 0.8 else {}
    g.add("Transpose", [x], rank, **how)


def _concat(g: Graph, x: str, rank: int) -> None:
    g.add("Concat", [x, g.any()[0]], rank, axis=g.draw.choice([0, 1, -1]))


def _reshape(g: Graph, x: str, rank: int) -> None:
    targets = [[0, -1], [-1], [1, -1], [0, 0, -1], [-1, 4], [2, 3, 4], [-1, 0], [0, 2, -1], [0, 1, 0]]
    target = g.draw.choice(targets)
    g.add("Reshape", [x, g.numbers(*target)], len(target), **({"allowzero": 1} if g.draw.random() < 0.05 else {}))


def _view(g: Graph, x: str, rank: int) -> None:
    """x.view(x.size(0), -1), as exporters write it, and its like."""
    shape = g.aside("Shape", [x])
    way = g.draw.random()
    if way < 0.25:
        g.add("Reshape", [x, shape], rank)
        return
    if way < 0.6:
        size = g.aside("Unsqueeze", [g.aside("Gather", [shape, g.numbers(0, dims=[])]), g.numbers(0)])
    else:
        size = g.aside("Mul", [g.aside("Slice", [shape, g.numbers(0), g.numbers(1)]), g.numbers(1)])
    g.add("Reshape", [x, g.aside("Concat", [size, g.numbers(-1)], axis=0)], 2)


def _squeeze(g: Graph, x: str, rank: int) -> None:
    axes = [g.numbers(g.draw.choice([0, 1, -1]))] if g.draw.random() < 0.7 else []
    g.add("Squeeze", [x, *axes], max(0, rank - 1))


def _unsqueeze(g: Graph, x: str, rank: int) -> None:
    axes = g.draw.choice([[0], [1], [-1], [0, 1], [0, -1]])
    g.add("Unsqueeze", [x, g.numbers(*axes)], rank + len(axes))


def _reduce(g: Graph, x: str, rank: int) -> None:
    how: dict[str, Any] = {"keepdims": g.draw.choice([0, 1])}
    axes = g.draw.choice([[1], [0], [-1], [1, 2], []])
    if g.draw.random() < 0.5:
        how |= {"axes": axes} if axes else {}
        g.add("ReduceMean", [x], rank, **how)
    else:
        how |= {"noop_with_empty_axes": 1} if g.draw.random() < 0.2 else {}
        g.add("ReduceSum", [x, *([g.numbers(*axes)] if axes else [])], rank, **how)


def _arg(g: Graph, x: str, rank: int) -> None:
    found = g.aside("ArgMax", [x], axis=g.draw.choice([0, 1, -1]), keepdims=g.draw.choice([0, 1]))
    g.add("Cast", [found], rank, to=1)


def _gather(g: Graph, x: str, rank: int) -> None:
    dims = g.draw.choice([[1], [2], [], [2, 2]])
    g.add("Gather", [x, g.numbers(*[0] * math.prod(dims), dims=dims)], rank, axis=g.draw.choice([0, 1, -1]))


def _slice(g: Graph, x: str, rank: int) -> None:
    limits = [g.numbers(g.draw.choice(some)) for some in ([0, 1, -1, -2], [1, 2, 3, -1, LAST], [0, 1, -1])]
    steps = [g.numbers(g.draw.choice([1, 2, -1]))] if g.draw.random() < 0.4 else []
    g.add("Slice", [x, *limits, *steps], rank)


def _split(g: Graph, x: str, rank: int) -> None:
    parts = [g.numbers(*g.draw.choice([[1, 1], [1, 3], [2, 2]]))] if g.draw.random() < 0.5 else []
    g.add("Split", [x, *parts], rank, 2, axis=g.draw.choice([0, 1]))


def _expand(g: Graph, x: str, rank: int) -> None:
    target = g.draw.choice([[1], [2, 1], [4, 1, 1], [3, 1, 4]])
    g.add("Expand", [x, g.numbers(*target)], max(rank, len(target)))


def _tile(g: Graph, x: str, rank: int) -> None:
    g.add("Tile", [x, g.numbers(*(g.draw.choice([1, 2]) for _ in range(rank)))], rank)


def _pad(g: Graph, x: str, rank: int) -> None:
    g.add("Pad", [x, g.numbers(*(g.draw.choice([0, 0, 1]) for _ in range(2 * rank)))], rank)


def _top(g: Graph, x: str, rank: int) -> None:
    g.add("TopK", [x, g.numbers(1)], rank, 2, axis=g.draw.choice([0, -1, 1]))


STEPS: Final[tuple[Callable[[Graph, str, int], None], ...]] = (
    *(_unary, _softmax, _binary, _where, _matmul, _gemm, _conv, _pool, _global_pool, _flatten, _transpose, _concat),
    *(_reshape, _view, _squeeze, _unsqueeze, _reduce, _arg, _gather, _slice, _split, _expand, _tile, _pad, _top),
)


def drawn(number: int) -> bytes:
    """The model of this number. Of its output it says no shape, or names for all dimensions."""
    graph = Graph(random.Random(number))
    for _ in range(graph.draw.choice([1, 1, 2])):
        graph.input()
    for _ in range(graph.draw.choice([1, 1, 2, 3, 4])):
        graph.draw.choice(STEPS)(graph, *graph.any())
    last, rank = graph.values[-1]
    said: Dims | None = [f"o{at}" for at in range(rank)] if graph.draw.random() < 0.5 else None
    return onnx_model(
        inputs=graph.inputs, outputs={last: ("FP32", said)}, nodes=graph.nodes, initializers=graph.weights
    )


def judged(number: int, folder: Path, truth: Truth) -> str:
    """`right`, `unsure`, `refused` by ONNX Runtime, or `wrong`."""
    if truth is None:
        return "refused"
    path = folder / "model.onnx"
    path.write_bytes(drawn(number))
    model = read_onnx(path)
    assert isinstance(model, OnnxModel), model
    output = model.outputs[0]
    if output.sure:
        return "right" if list(output.shape) == truth else "wrong"
    if output.dims is None:
        return "unsure"
    same = len(truth) == len(output.shape) and all(
        mine in (-1, theirs) for mine, theirs in zip(output.shape, truth, strict=True)
    )
    return "unsure" if same else "wrong"


def recorded() -> Mapping[str, Truth]:
    """What ONNX Runtime said, by the numbers of the graphs."""
    return dict(json.loads(RECORD.read_text())["outputs"])


def record() -> None:
    """Ask ONNX Runtime, which must be installed."""
    import onnxruntime  # type: ignore[import-not-found, import-untyped, unused-ignore]

    onnxruntime.set_default_logger_severity(4)
    outputs = {str(number): _asked(onnxruntime, drawn(number)) for number in range(COUNT)}
    rows = ",\n".join(f'  "{number}": {json.dumps(truth)}' for number, truth in outputs.items())
    RECORD.write_text(f'{{"onnxruntime": "{onnxruntime.__version__}", "outputs": {{\n{rows}\n}}}}\n')


def _asked(runtime: Any, data: bytes) -> Truth:
    try:
        session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - whatever it refuses a model with
        return None
    return [dim if isinstance(dim, int) and dim >= 0 else -1 for dim in session.get_outputs()[0].shape]


def main() -> int:
    """Compare, and print how many are what; with `record`, ask ONNX Runtime first."""
    if "record" in sys.argv[1:]:
        record()
    with tempfile.TemporaryDirectory() as name:
        found = {number: judged(int(number), Path(name), truth) for number, truth in recorded().items()}
    print(dict(Counter(found.values())))
    wrong = [number for number, outcome in found.items() if outcome == "wrong"]
    print("wrong:", ", ".join(wrong) or "none")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
