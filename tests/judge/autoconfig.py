"""Whether written configs are what the server's own auto-complete comes to: `python -m tests.judge.autoconfig`.

Each model file stands in three repositories: without any config, where the server completes everything; with the config
that was written for it, before a server that may complete nothing; and with all the choices taken that stand in it.
The first two must say the same of it, and all must answer.
What the server said is recorded, for the unit tests. Needs the real onnxruntime backend: see README.md.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.errors import Unplannable
from composer.models.autoconfig import written
from composer.models.onnx import read_onnx
from composer.models.opening import Unreadable
from tests.modelfiles import (
    Value,
    external_tensor,
    map_of,
    node,
    onnx_add_sub,
    onnx_cnn,
    onnx_identity,
    onnx_linear,
    onnx_model,
    optional_of,
    sequence_of,
    tensor,
)
from tests.upstream.inputs import UpstreamError

from .asking import Config
from .corpus import entries
from .judging import judge
from .server import RELEASES, Server, prepared

TYPES = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")
Model = Mapping[str, bytes]
"""The files of a version: `model.onnx`, or more."""


def models() -> dict[str, Model]:
    """The models, by names that say what is special about them."""
    found: dict[str, bytes] = {
        **{f"type_{name.lower()}": onnx_identity(datatype=name) for name in (*TYPES, "STRING", "BF16", "COMPLEX64")},
        **_shapes(),
        **_found_out(),
        **_several(),
        **_unusual(),
    }
    return {**{name: {"model.onnx": data} for name, data in found.items()}, **_folders()}


def _shapes() -> dict[str, bytes]:
    dims: dict[str, tuple[int | str | None, ...] | None] = {
        "batch_alone": ("N",),
        "batch_and_one": ("N", 1),
        "fixed": (1, 4),
        "fixed_inside_out": (4, "N"),
        "all_vary": ("N", "C", "H", "W"),
        "unnamed": (None, 4),
        "unnamed_everywhere": (None, None),
        "negative": (-1, 4),
        "negative_inside": ("N", -1),
        "scalar": (),
        "no_shape": None,
        "five_dims": ("N", 2, 3, 4, 5),
        "size_one": (1,),
        "large": ("N", 3, 70000, 1),
        "empty_name": ("", 4),
        "zero": ("N", 0),
    }
    return {f"shape_{name}": onnx_identity(dims=shape) for name, shape in dims.items()}


def _found_out() -> dict[str, bytes]:
    """Of these the file says less than ONNX Runtime finds out."""
    fp32: Value = ("FP32", ["N", 4])
    images: Value = ("FP32", ["N", 3, 8, 8])
    weights = [tensor("W", "FP32", [4, 3], [1.0] * 12), tensor("S", "INT64", [2], [0, -1])]
    weights += [tensor(f"S{at}", "INT64", [1], [value]) for at, value in enumerate((0, 1, -1))]

    def made(said: tuple[int | str | None, ...] | None, *nodes: bytes, x: Value = fp32) -> bytes:
        return onnx_model(inputs={"X": x}, outputs={"Y": ("FP32", said)}, nodes=nodes, initializers=weights)

    return {
        "found_product": made(("batch", "classes"), node("MatMul", ["X", "W"], ["Y"])),
        "found_without_shape": made(None, node("Relu", ["X"], ["Y"])),
        "found_reshape": made(("a", "b"), node("Reshape", ["X", "S"], ["Y"]), x=images),
        "found_view": made(
            None,
            node("Shape", ["X"], ["s"]),
            node("Slice", ["s", "S0", "S1"], ["n"]),
            node("Concat", ["n", "S2"], ["t"], axis=0),
            node("Reshape", ["X", "t"], ["Y"]),
            x=("FP32", [2, 3, 4]),
        ),
        "found_mean": made(("x", "y", "z", "w"), node("ReduceMean", ["X"], ["Y"], axes=[2, 3]), x=images),
        "found_not_a_batch": made(("N", 3), node("MatMul", ["X", "W"], ["Y"]), x=("FP32", [2, 4])),
        "found_whole": made((None,), node("Shape", ["X"], ["s"]), node("Cast", ["s"], ["Y"], to=1)),
    }


def _several() -> dict[str, bytes]:
    names = [(f"IN_{at}", f"OUT_{at}") for at in range(12)]
    mixed: dict[str, Value] = {"ids": ("INT64", ["N", "L"]), "mask": ("INT64", ["N", "L"]), "scale": ("FP32", [1])}
    return {
        "several_add_sub": onnx_add_sub(),
        "several_int32": onnx_add_sub("INT32", ("N", 16)),
        "several_fixed": onnx_add_sub("FP32", (1, 16)),
        "several_twelve": onnx_identity(names),
        "several_one_fixed": onnx_model(
            inputs=mixed,
            outputs={"Y": ("INT64", ["N", "L"])},
            nodes=[node("Mul", ["ids", "mask"], ["Y"]), node("Neg", ["scale"], ["unused"])],
        ),
        "several_output_fixed": onnx_model(
            inputs={"X": ("FP32", ["N", 4])},
            outputs={"Y": ("FP32", ["N", 4]), "S": ("FP32", [])},
            nodes=[node("Relu", ["X"], ["Y"]), node("ReduceSum", ["X"], ["S"], keepdims=0)],
        ),
        "linear": onnx_linear(),
        "linear_fixed": onnx_linear(batch=1),
        "linear_overridable": onnx_linear(overridable=True),
        "cnn": onnx_cnn(),
        "cnn_fixed": onnx_cnn(batch=1),
        "cnn_images": onnx_cnn(channels=3, size=32, classes=1000),
    }


def _unusual() -> dict[str, bytes]:
    hard = 'say "hi"\\ to:me/0 \u00e9'
    fp32: Value = ("FP32", ["N", 4])
    return {
        "old_ir": onnx_linear(overridable=True).replace(b"\x08\x08\x12", b"\x08\x03\x12", 1),
        "hard_names": onnx_identity([(hard, "b" + hard)]),
        "weights_inside": onnx_model(
            inputs={"X": fp32},
            outputs={"Y": fp32},
            nodes=[
                node("Constant", [], ["C"], value=tensor("", "FP32", [4], [1.0] * 4)),
                node("Add", ["X", "C"], ["Y"]),
            ],
        ),
        "sequence_out": onnx_model(
            inputs={"X": fp32}, outputs={"Y": sequence_of(fp32)}, nodes=[node("SequenceConstruct", ["X"], ["Y"])]
        ),
        "map_out": onnx_model(
            inputs={"X": ("INT64", [1])},
            outputs={"Y": sequence_of(map_of("INT64", ("FP32", [])))},
            nodes=[
                node("Cast", ["X"], ["F"], to=1),
                node("Reshape", ["F", "S"], ["R"]),
                node("ZipMap", ["R"], ["Y"], domain="ai.onnx.ml", classlabels_int64s=[0]),
            ],
            initializers=[tensor("S", "INT64", [2], [1, 1])],
            opsets={"ai.onnx.ml": 2},
        ),
        "optional_in": onnx_model(
            inputs={"X": optional_of(fp32)},
            outputs={"Y": fp32},
            nodes=[node("OptionalGetElement", ["X"], ["Y"])],
            opset=18,
        ),
    }


def _folders() -> dict[str, Model]:
    outside = onnx_model(
        inputs={"X": ("FP32", ["N", 4])},
        outputs={"Y": ("FP32", ["N", 3])},
        nodes=[node("MatMul", ["X", "W"], ["Y"])],
        initializers=[external_tensor("W", "FP32", [4, 3], "weights.bin", offset=0, length=48)],
    )
    return {
        "folder": {"model.onnx/model.onnx": onnx_cnn()},
        "external": {"model.onnx": outside, "weights.bin": bytes(48)},
        "external_folder": {"model.onnx/model.onnx": outside, "model.onnx/weights.bin": bytes(48)},
    }


def of_the_corpus(release: str) -> dict[str, Model]:
    """Every model.onnx of the corpus that can be read, each once, by a name made of its bytes."""
    files = {data for entry in entries(release) for path, data in entry.files.items() if path.endswith(".onnx")}
    texts = [data for data in files if isinstance(data, bytes) and data]
    return {f"corpus_{hashlib.sha256(data).hexdigest()[:12]}": {"model.onnx": data} for data in sorted(texts)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What came of a model: `same`, `refused` by the server with and without us, or `different`, and `why`.

    `config` is what the server said of it without a config, its inputs and outputs by name.
    """

    outcome: str
    why: str = ""
    config: Config | None = None


def compared(server: Server, found: Mapping[str, Model]) -> Mapping[str, Comparison]:
    """Ask a server of each model, three times."""
    with tempfile.TemporaryDirectory(prefix="autoconfig-") as name:
        work = Path(name)
        work.chmod(0o755)
        texts = {model: _placed(work, model, files, server.release) for model, files in found.items()}
        automatic = _configs(server, work / "auto")
        strict = _configs(server, work / "strict", "--disable-auto-complete-config")
        chosen = _configs(server, work / "chosen", "--disable-auto-complete-config")
    return {
        model: _compared(text, automatic.get(model), strict.get(model), chosen.get(model))
        for model, text in texts.items()
    }


def _placed(work: Path, name: str, files: Model, release: str) -> str | None:
    """Write the model into both repositories; the text of its config, or None if none can be written for it."""
    for repository in ("auto", "strict", "chosen"):
        for file, data in files.items():
            place = work / repository / name / "1" / file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
    model = read_onnx(work / "strict" / name / "1" / "model.onnx")
    try:
        text = None if isinstance(model, Unreadable) else written(name, model, release=release)
    except Unplannable:
        text = None
    (work / "strict" / name / "config.pbtxt").write_text(text or "")
    (work / "chosen" / name / "config.pbtxt").write_text(with_choices(text or "", "KIND_CPU"))
    return text


def with_choices(text: str, kind: str) -> str:
    """A text of `written` with every choice taken that stands in it: of the instances, those of this kind."""
    if "#dynamic_batching" in text:
        text = text.replace("\ndynamic_batching { }", "", 1)
    lines = []
    for line in text.split("\n"):
        prose = re.match(r"# \S|#$|[^#]|$", line) or ("KIND_" in line and kind not in line)
        lines.append(line if prose else line[1:])
    return "\n".join(lines)


def _configs(server: Server, repository: Path, *flags: str) -> Mapping[str, Config]:
    """What the server says of each model that it could load, and that answered."""
    verdict = judge(repository, server, flags=("--exit-on-error=false", *flags))
    failing = {words.partition(":")[0] for words in verdict.words}
    return {name: config for name, config in verdict.configs.items() if name not in failing}


def _compared(text: str | None, automatic: Config | None, strict: Config | None, chosen: Config | None) -> Comparison:
    if text is None:
        outcome = "different" if automatic else "refused"
        return Comparison(outcome=outcome, why="the server serves it, we do not" if automatic else "")
    if automatic is None or strict is None or chosen is None:
        given = {"automatic": automatic, "written": strict, "with choices": chosen}
        return Comparison(outcome="different", why=", ".join(f"{name}: {bool(one)}" for name, one in given.items()))
    left, right = _in_order(automatic), _in_order(strict)
    unlike = [key for key in sorted({*left, *right}) if left.get(key) != right.get(key)]
    shown = "; ".join(f"{key}: {json.dumps(left.get(key))} != {json.dumps(right.get(key))}" for key in unlike)
    return Comparison(outcome="different" if unlike else "same", why=shown, config=left)


def _in_order(config: Config) -> dict[str, Any]:
    """Inputs and outputs by name: auto-complete has them in the order of a hash table."""
    return {**config, **{key: sorted(config.get(key, []), key=lambda io: io["name"]) for key in ("input", "output")}}


def record_path(release: str) -> Path:
    """Where the comparisons of a release are."""
    return Path(__file__).with_name(f"autoconfig-{release}.json")


def recorded(release: str) -> Mapping[str, Config | None]:
    """What the server made of each model by itself; None for those that it refuses."""
    return dict(json.loads(record_path(release).read_text())["models"])


def _record(release: str, judge_name: str, found: Mapping[str, Comparison]) -> None:
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(_told(one.config))}" for name, one in sorted(found.items()))
    record_path(release).write_text(f'{{"judge": "{judge_name}", "models": {{\n{rows}\n}}}}\n')


def _told(config: Config | None) -> Config | None:
    """The part of a config that auto-complete makes."""
    if config is None:
        return None
    keys = ("name", "backend", "platform", "default_model_filename", "max_batch_size")
    ports = {side: [_port(io) for io in config[side]] for side in ("input", "output")}
    return {**{key: config[key] for key in keys}, **ports, "dynamic_batching": "dynamic_batching" in config}


def _port(io: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: io[key] for key in ("name", "data_type", "dims", "reshape") if key in io}


def main() -> int:
    """Compare, print a line for each that differs and the sum, record what the server said; 1 if anything differs."""
    release = sys.argv[1] if len(sys.argv) > 1 else RELEASES[0]
    with prepared(release) as server:
        if server.backend == "stand-in":
            raise UpstreamError("auto-complete is the real backend's: the stand-in has none")
        found = compared(server, {**models(), **of_the_corpus(release)})
    _record(release, server.backend, found)
    for name, one in found.items():
        if one.outcome != "same":
            print(f"{one.outcome:10} {name}  {one.why}".rstrip())
    print(f"Triton {release}, {server.backend}: {dict(Counter(one.outcome for one in found.values()))}")
    return 1 if any(one.outcome == "different" for one in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
