"""Whether we say of a config and its ONNX file what the server does: `python -m tests.judge.onnx_configs` records it.

Configs are drawn, each from its number: a good one for one of a few models, with up to three changes. What the server
refuses them with is recorded, and the unit tests compare it with `differences`.
"""

from __future__ import annotations

import json
import math
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format

from composer.models.agreement import differences
from composer.models.autoconfig import written
from composer.models.configuration import parse_configuration
from composer.models.onnx import OnnxModel, read_onnx
from composer.models.schema import ModelConfig
from tests.modelfiles import node, onnx_add_sub, onnx_cnn, onnx_identity, onnx_linear, onnx_model, tensor
from tests.upstream.inputs import UpstreamError

from .judging import judge
from .server import RELEASES, prepared

COUNT: Final = 600
OWN: Final = "dims and reshape|empty reshape"
"""What the server finds wrong with a config before it looks at the file: not for `differences` to say."""

FILES: Final = {
    "cnn": onnx_cnn(),
    "fixed": onnx_cnn(batch=1),
    "identity": onnx_identity(),
    "vary": onnx_identity(dims=("N", "L")),
    "one_each": onnx_identity(dims=("N",)),
    "single": onnx_identity(dims=()),
    "add_sub": onnx_add_sub(),
    "add_sub_fixed": onnx_add_sub("FP32", (1, 16)),
    "own_values": onnx_linear(overridable=True),
    "texts": onnx_identity(datatype="STRING"),
    "found": onnx_model(
        inputs={"X": ("FP32", ["N", 4])},
        outputs={"Y": ("FP32", ["b", "c"])},
        nodes=[node("MatMul", ["X", "W"], ["Y"])],
        initializers=[tensor("W", "FP32", [4, 3], [1.0] * 12)],
    ),
    "sequence": onnx_model(
        inputs={"X": ("FP32", ["N", 4]), "START": ("FP32", ["N", 1])},
        outputs={"Y": ("FP32", ["N", 4])},
        nodes=[node("Mul", ["X", "START"], ["Y"])],
    ),
}
Change = Callable[[random.Random, ModelConfig], None]


def _io(draw: random.Random, config: ModelConfig) -> Any:
    """An input or output; a new one where there is none."""
    return draw.choice([*config.input, *config.output] or [config.output.add(name="Y", data_type=11, dims=[4])])


def _batch(draw: random.Random, config: ModelConfig) -> None:
    config.max_batch_size = draw.choice([0, 1, 4, 8])


def _size(draw: random.Random, config: ModelConfig) -> None:
    io = _io(draw, config)
    io.dims[draw.randrange(len(io.dims))] = draw.choice([1, 2, 3, 4, 16, -1])


def _rank(draw: random.Random, config: ModelConfig) -> None:
    io = _io(draw, config)
    if len(io.dims) > 1 and draw.random() < 0.5:
        del io.dims[0]
    else:
        io.dims.insert(0, draw.choice([-1, 1, 4]))


def _all_vary(draw: random.Random, config: ModelConfig) -> None:
    io = _io(draw, config)
    io.dims[:] = [-1] * len(io.dims)


def _reshape(draw: random.Random, config: ModelConfig) -> None:
    io = _io(draw, config)
    io.reshape.shape[:] = io.dims
    if all(dim > 0 for dim in io.dims):
        io.dims[:] = [math.prod(io.dims)]


def _datatype(draw: random.Random, config: ModelConfig) -> None:
    _io(draw, config).data_type = draw.choice([1, 8, 9, 10, 11, 13])


def _name(draw: random.Random, config: ModelConfig) -> None:
    _io(draw, config).name = draw.choice(["X", "Y", "other", "W", "prob", "START", "data", "INPUT0", "OUTPUT1"])


def _one_less(draw: random.Random, config: ModelConfig) -> None:
    side = draw.choice([config.input, config.output])
    if side:
        del side[draw.randrange(len(side))]


def _none(draw: random.Random, config: ModelConfig) -> None:
    config.ClearField(draw.choice(["input", "output"]))


def _one_more(draw: random.Random, config: ModelConfig) -> None:
    name, dims = draw.choice(["W", "B", "extra", "X"]), draw.choice([[4, 3], [3], [4]])
    if draw.random() < 0.3:
        config.output.add(name=name, data_type=11, dims=dims)
    else:
        config.input.add(name=name, data_type=11, dims=dims, optional=draw.random() < 0.5)


def _flag(draw: random.Random, config: ModelConfig) -> None:
    if config.input:
        setattr(config.input[0], draw.choice(["optional", "allow_ragged_batch"]), True)


def _sequence(draw: random.Random, config: ModelConfig) -> None:
    config.ClearField("dynamic_batching")
    if not config.sequence_batching.control_input:
        control = config.sequence_batching.control_input.add(name="START").control.add(kind=0)
        control.fp32_false_true[:] = [0, 1]
    if draw.random() < 0.8:
        kept = [io for io in config.input if io.name != "START"]
        config.ClearField("input")
        config.input.extend(kept)


CHANGES: Final[tuple[Change, ...]] = (
    *(_batch, _batch, _size, _size, _size, _rank, _all_vary, _reshape, _datatype, _name, _one_less, _none, _one_more),
    *(_flag, _flag, _sequence),
)


def drawn(number: int) -> tuple[str, bytes, str]:
    """The name of a model, its file and its config."""
    draw = random.Random(number)
    file = draw.choice(sorted(FILES))
    name = f"n{number}_{file}"
    config = parse_configuration(written(name, _read(FILES[file])).encode(), path=Path("config.pbtxt")).message
    for _ in range(draw.choice([0, 1, 1, 1, 2, 2, 3])):
        draw.choice(CHANGES)(draw, config)
    if not config.max_batch_size:
        config.ClearField("dynamic_batching")
    return name, FILES[file], str(text_format.MessageToString(config))


def _read(data: bytes) -> OnnxModel:
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(data)
        file.flush()
        model = read_onnx(Path(file.name))
    assert isinstance(model, OnnxModel), model
    return model


def judged(number: int, refusal: str | None, release: str) -> str:
    """`served` or `refused`, by the server and by us; `own`, for what is wrong with the config alone; or `wrong`.

    It is wrong too where the server's words are not among ours, if we know any.
    """
    _, data, text = drawn(number)
    if refusal is not None and re.search(OWN, refusal):
        return "own"
    config = parse_configuration(text.encode(), path=Path("config.pbtxt")).message
    found = differences(config, _read(data), release=release)
    if refusal is None:
        return "wrong" if found else "served"
    return "refused" if any(one.words[:300] in refusal for one in found) else "wrong"


def record_path(release: str) -> Path:
    """Where the server's words are."""
    return Path(__file__).with_name(f"onnx-configs-{release}.json")


def recorded(release: str) -> Mapping[int, str | None]:
    """What the server refused each config with; None for those that it serves."""
    return {int(number): words for number, words in json.loads(record_path(release).read_text())["refusals"].items()}


def record(release: str) -> None:
    """Ask the server."""
    with prepared(release) as server, tempfile.TemporaryDirectory(prefix="onnx-configs-") as folder:
        if server.backend == "stand-in":
            raise UpstreamError("these checks are the real backend's: the stand-in has none")
        Path(folder).chmod(0o755)
        for number in range(COUNT):
            name, data, text = drawn(number)
            version = Path(folder, name, "1")
            version.mkdir(parents=True)
            (version / "model.onnx").write_bytes(data)
            (version.parent / "config.pbtxt").write_text(text)
        verdict = judge(Path(folder), server, flags=("--exit-on-error=false",))
    refusals = dict.fromkeys(range(COUNT))
    served = {int(name.partition("_")[0][1:]) for name in verdict.configs}
    for words in verdict.words:
        if found := re.match(r"n(\d+)_\w+ \d*: (?!READY)(.*)", words):
            refusals[int(found[1])] = found[2]
    odd = served ^ {number for number, words in refusals.items() if words is None}
    assert not odd, [words for words in verdict.words if re.match(f"n({'|'.join(map(str, odd))})_", words)]
    rows = ",\n".join(f'  "{number}": {json.dumps(words)}' for number, words in refusals.items())
    record_path(release).write_text(f'{{"judge": "{server.backend}", "refusals": {{\n{rows}\n}}}}\n')


def main() -> int:
    """Record, compare, and print how many are what."""
    release = sys.argv[1] if len(sys.argv) > 1 else RELEASES[0]
    record(release)
    found = {number: judged(number, words, release) for number, words in recorded(release).items()}
    print(dict(Counter(found.values())))
    wrong = [number for number, outcome in found.items() if outcome == "wrong"]
    print("wrong:", ", ".join(map(str, wrong)) or "none")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
