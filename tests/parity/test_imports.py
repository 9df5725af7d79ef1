"""What Python models import is looked for in the image that they go into."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.errors import RecipeError
from composer.events import Warned
from tests.parity.place import BASE, Place, file, folder, packed, server
from tests.repositories import PYTHON, put_model

PACKAGES = "usr/local/lib/python3.10/dist-packages"
RECIPE = "backends: [python]\nmodels: [{path: ./models}]"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An image whose Python has numpy, and a model that imports it and pandas."""
    made = Place(tmp_path)
    parts = f"{PACKAGES}/numpy".split("/")
    have = [folder("/".join(parts[:end])) for end in range(1, len(parts) + 1)]
    packages = [*have, file(f"{PACKAGES}/numpy/__init__.py")]
    made.upstream(BASE, packed(packages), packed(server("python", "tensorrt")), base=1)
    model = put_model(tmp_path / "models/one", "python")
    (model / "1/model.py").write_text(f"import numpy\nimport pandas\n{PYTHON}")
    return made


def warnings(place: Place) -> list[str]:
    return [event.message for event in place.events if isinstance(event, Warned)]


def test_a_module_that_no_layer_has_is_refused(place: Place) -> None:
    place.origin = "upstream: 'oci:upstream:full'"
    with pytest.raises(RecipeError) as caught:
        place.build(RECIPE)
    (problem,) = caught.value.problems
    assert problem.where.endswith("one/1/model.py:2:8")
    assert "pandas" in problem.message
    assert problem.hint
    assert "pip: [pandas]" in problem.hint


def test_where_layers_were_not_read_it_is_only_said(place: Place) -> None:
    place.build(RECIPE)
    (warning,) = warnings(place)
    assert "pandas" in warning


def test_a_file_of_the_recipe_brings_it(place: Place) -> None:
    place.origin = "upstream: 'oci:upstream:full'"
    (place.path / "pandas.py").write_text("")
    place.build(f"{RECIPE}\nfiles: [{{source: ./pandas.py, target: /{PACKAGES}/pandas.py}}]")
    assert not warnings(place)
