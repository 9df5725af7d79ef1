"""The model files of the examples in recipes/: `python -m tests.examples` writes them, and they are small.

No weight is learned. Each is chosen so that an answer can be worked out by hand, and the recipes' checks are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.modelfiles import node, onnx_model, tensor, torchscript_two_outputs

RECIPES: Final = Path(__file__).parents[1] / "recipes"

COLOURS: Final = (
    *((0.5, 0.75, 1.0), (1.0, 0.0, 0.0), (1.0, 1.0, 0.0), (0.5, 0.5, 0.5), (0.75, 0.5, 0.25)),
    *((0.25, 0.25, 0.0), (0.0, 1.0, 0.0), (0.25, 0.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 1.0)),
)
"""For each line of cifar10_labels.txt the one colour, red, green and blue, by which it is known."""


def colours() -> bytes:
    """Pictures by their colour: the class whose colour c is nearest to the picture's mean m has the largest 2cm - cc.

    FP16 images [N, 3, H, W] in, FP32 scores [N, 10] out. A blur goes first; of a plain picture it leaves all as it is.
    """
    rows = (1, 2, 1)
    blur = [a * b / 16 if one == other else 0.0 for one in range(3) for other in range(3) for a in rows for b in rows]
    nearest = [2 * colour[channel] for channel in range(3) for colour in COLOURS]
    return onnx_model(
        inputs={"images": ("FP16", ["N", 3, "H", "W"])},
        outputs={"output": ("FP32", ["N", 10])},
        nodes=[
            node("Conv", ["images", "blur"], ["blurred"], kernel_shape=[3, 3]),
            node("GlobalAveragePool", ["blurred"], ["mean"]),
            node("Flatten", ["mean"], ["flat"], axis=1),
            node("MatMul", ["flat", "W"], ["product"]),
            node("Add", ["product", "B"], ["scores"]),
            node("Cast", ["scores"], ["output"], to=1),
        ],
        initializers=[
            tensor("blur", "FP16", (3, 3, 3, 3), blur),
            tensor("W", "FP16", (3, 10), nearest),
            tensor("B", "FP16", (10,), [-sum(part * part for part in colour) for colour in COLOURS]),
        ],
    )


def _mean(name: str, *dims: int) -> bytes:
    """A convolution's weights that give the mean of what they see."""
    count = math.prod(dims)
    return tensor(name, "FP32", dims, [dims[0] / count] * count)


def _levels(name: str, *dims: int) -> tuple[bytes, bytes]:
    """Weights and biases for 1000 classes, of which class k stands for a mean of k/999: 2cm - cc, as for colours."""
    inputs = math.prod(dims) // 1000
    weights = [2 * k / 999 / inputs for k in range(1000) for _ in range(inputs)]
    return tensor(name, "FP32", dims, weights), tensor("B", "FP32", (1000,), [-((k / 999) ** 2) for k in range(1000)])


def densenet() -> bytes:
    """The shape of DenseNet, 224 x 224 pixels in and 1000 scores out: each layer sees what all before it have made.

    FP32 data_0 [1, 3, 224, 224] in, FP32 prob_1 [1, 1000, 1, 1] out. The class is the brightness, in 1000 steps.
    """
    weights, biases = _levels("W", 1000, 6, 1, 1)
    return onnx_model(
        inputs={"data_0": ("FP32", [1, 3, 224, 224])},
        outputs={"prob_1": ("FP32", [1, 1000, 1, 1])},
        nodes=[
            node("Conv", ["data_0", "stem"], ["seen"], kernel_shape=[7, 7], strides=[4, 4]),
            node("Relu", ["seen"], ["x2"]),
            node("Conv", ["x2", "first"], ["new1"], kernel_shape=[1, 1]),
            node("Concat", ["x2", "new1"], ["x4"], axis=1),
            node("Conv", ["x4", "second"], ["new2"], kernel_shape=[1, 1]),
            node("Concat", ["x4", "new2"], ["x6"], axis=1),
            node("GlobalAveragePool", ["x6"], ["pooled"]),
            node("Conv", ["pooled", "W", "B"], ["prob_1"], kernel_shape=[1, 1]),
        ],
        initializers=[
            _mean("stem", 2, 3, 7, 7),
            _mean("first", 2, 2, 1, 1),
            _mean("second", 2, 4, 1, 1),
            weights,
            biases,
        ],
    )


def keras_like() -> bytes:
    """What comes of a Keras model that is exported: colours last. The class is the brightness, in 1000 steps.

    FP32 input_1 [N, 224, 224, 3] in, FP32 predictions [N, 1000] out.
    """
    weights, biases = _levels("W", 1000, 3)
    return onnx_model(
        inputs={"input_1": ("FP32", ["N", 224, 224, 3])},
        outputs={"predictions": ("FP32", ["N", 1000])},
        nodes=[
            node("Transpose", ["input_1"], ["first"], perm=[0, 3, 1, 2]),
            node("Conv", ["first", "stem"], ["seen"], kernel_shape=[7, 7], strides=[4, 4]),
            node("Relu", ["seen"], ["relu"]),
            node("GlobalAveragePool", ["relu"], ["pooled"]),
            node("Flatten", ["pooled"], ["flat"], axis=1),
            node("Gemm", ["flat", "W", "B"], ["predictions"], transB=1),
        ],
        initializers=[_mean("stem", 3, 3, 7, 7), weights, biases],
    )


def classifier() -> bytes:
    """Scores for three classes: Y = X W + B. FP32 X [N, 4] in, FP32 Y [N, 3] out."""
    weights: Sequence[float] = (1, 0, 2, 0, 1, 0, 1, 1, 0, 0, 0, 0.5)
    return onnx_model(
        inputs={"X": ("FP32", ["N", 4])},
        outputs={"Y": ("FP32", ["N", 3])},
        nodes=[node("Gemm", ["X", "W", "B"], ["Y"])],
        initializers=[tensor("W", "FP32", (4, 3), weights), tensor("B", "FP32", (3,), (0.5, -1.0, 0.0))],
    )


FILES: Final[Mapping[str, Callable[[], bytes]]] = {
    "models-bls/fc_model_pt/1/model.pt": torchscript_two_outputs,
    "models-densenet/densenet121.onnx": densenet,
    "models-labels/model_test/1/model.onnx": colours,
    "models-tensorrt/model.onnx": keras_like,
    "models-tuned/classifier/1/model.onnx": classifier,
}
"""By their paths within recipes/."""


def write(folder: Path) -> None:
    """Write all of them below `folder`."""
    for path, make in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(make())


if __name__ == "__main__":
    write(RECIPES)
