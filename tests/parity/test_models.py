"""Models of several origins go into one image, and may name each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.errors import RecipeError
from tests.modelfiles import onnx_identity
from tests.parity.place import BASE, Place, packed, server
from tests.repositories import put_model

RECIPE = """\
backends: [onnxruntime, python]
models:
  - path: ./models
  - {name: fetched, source: ./net.onnx, config: auto}
server: {model-control-mode: explicit, load-model: NAME}
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.upstream(BASE, packed(server("onnxruntime", "python", "tensorrt")), base=1)
    put_model(tmp_path / "models/own", "python")
    (tmp_path / "net.onnx").write_bytes(onnx_identity())
    return made


def test_a_flag_may_name_a_model_that_is_fetched(place: Place) -> None:
    """It was refused while only what lies here was known."""
    outcome = place.build(RECIPE.replace("NAME", "fetched"))
    assert [model.name for model in outcome.plans[0].models] == ["own", "fetched"]


def test_one_that_nothing_brings_is_refused(place: Place) -> None:
    with pytest.raises(RecipeError, match="SRV002"):
        place.build(RECIPE.replace("NAME", "nothing"))
