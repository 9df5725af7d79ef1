"""Models that a recipe names by their source: where their files go, which config they get, and what is refused."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import pytest

from composer import network
from composer.errors import NotFound, Problem, RecipeError
from composer.events import Event, Logged, StageFinished
from composer.models.bringing import bring
from composer.models.repository import ModelRepository, needed_backends
from composer.models.sources import Way
from composer.oci.credentials import Credentials
from composer.oci.transports import Access
from composer.recipe import Recipe, parse_recipe
from tests.modelfiles import onnx_linear, plan, state_dict, torchscript_two_outputs
from tests.parity.place import BASE, Place, packed, server
from tests.services.storage import Objects

ONNX, TORCH = onnx_linear(), torchscript_two_outputs()
PYTHON = "class TritonPythonModel:\n    def execute(self, requests):\n        return [None for _ in requests]\n"
CONFIG = b'name: "net"\nbackend: "onnxruntime"\n'


class Desk:
    """A folder with a recipe in it, files beside it, and a cache."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.events: list[Event] = []

    def put(self, files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            place = self.base / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)

    def recipe(self, *models: str) -> Recipe:
        listed = "".join(f"\n  - {{{model}}}" for model in models)
        text = f'triton: "24.10"\nbackends: auto\nmodels:{listed}\n'
        return parse_recipe(text, path=self.base / "recipe.yaml", environ={})

    def bring(self, *models: str) -> tuple[ModelRepository, ...]:
        access = Access(
            session=lru_cache(network.session),
            credentials=Credentials(files=()),
            insecure=frozenset(),
            scratch=self.base / "cache" / "ingest",
            emit=self.events.append,
        )
        way = Way(access=access, base=self.base, patience=1.0)
        return bring(self.recipe(*models), into=self.base / "cache" / "models", way=way)

    def problem(self, model: str) -> Problem:
        with pytest.raises(RecipeError) as caught:
            self.bring(model)
        [problem] = caught.value.problems
        assert problem.hint
        return problem


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def files_of(brought: ModelRepository) -> dict[str, bytes]:
    """What goes into an image."""
    [model] = brought.models
    assert all(entry.kind in ("file", "folder") for entry in model.entries)
    found = {file.path: file.source.read_bytes() for file in model.files}
    assert {file.path: file.size for file in model.files} == {path: len(data) for path, data in found.items()}
    assert {file.mode for file in model.files} == {0o644}
    return found


@pytest.mark.parametrize(
    ("name", "data", "placed", "backend"),
    [
        ("densenet121.onnx", ONNX, "net/1/model.onnx", "onnxruntime"),
        ("resnet.PT", TORCH, "net/1/model.pt", "pytorch"),
        ("traced.torchscript", TORCH, "net/1/model.pt", "pytorch"),
        ("resnet50.engine", plan(), "net/1/model.plan", "tensorrt"),
        ("handler.py", b"class TritonPythonModel: ...", "net/1/model.py", "python"),
        ("pytorch_model", TORCH, "net/1/model.pt", "pytorch"),
        ("onnx_model.bin", ONNX, "net/1/model.onnx", "onnxruntime"),
        ("weights", plan(), "net/1/model.plan", "tensorrt"),
    ],
)
def test_a_file_goes_where_the_server_looks_for_it(
    desk: Desk, name: str, data: bytes, placed: str, backend: str
) -> None:
    desk.put({name: data})
    [brought] = desk.bring(f"name: net, source: ./{name}")
    assert files_of(brought) == {placed: data}
    assert needed_backends([brought]) == (backend,)
    [model] = brought.models
    assert (model.name, model.versions, model.configured) == ("net", (1,), False)
    assert [entry.path for entry in model.model_files] == [placed.removeprefix("net/")]


FOLDERS: dict[str, tuple[dict[str, bytes], dict[str, bytes]]] = {
    "as-triton-has-it": (
        {"config.pbtxt": CONFIG, "1/model.onnx": ONNX, "2/model.onnx": ONNX, "labels.txt": b"cat"},
        {"config.pbtxt": CONFIG, "1/model.onnx": ONNX, "2/model.onnx": ONNX, "labels.txt": b"cat"},
    ),
    "wrapped": ({"densenet/1/model.onnx": ONNX}, {"1/model.onnx": ONNX}),
    "versions-alone": ({"3/model.pt": TORCH}, {"3/model.pt": TORCH}),
    "loose": (
        {"net.onnx": ONNX, "net.onnx.data": b"weights", "tokenizer/vocab.txt": b"a"},
        {"1/model.onnx": ONNX, "1/net.onnx.data": b"weights", "1/tokenizer/vocab.txt": b"a"},
    ),
    "usual-name-wins": (
        {"model.onnx": ONNX, "model_fp16.onnx": b"other", "convert.py": b""},
        {"1/model.onnx": ONNX, "1/model_fp16.onnx": b"other", "1/convert.py": b""},
    ),
    "python": ({"model.py": b"x", "helper.py": b"y"}, {"1/model.py": b"x", "1/helper.py": b"y"}),
    "openvino": ({"net.xml": b"<net/>", "net.bin": b"w"}, {"1/model.xml": b"<net/>", "1/model.bin": b"w"}),
    "saved-model": (
        {"saved_model.pb": b"g", "variables/variables.index": b"v"},
        {"1/model.savedmodel/saved_model.pb": b"g", "1/model.savedmodel/variables/variables.index": b"v"},
    ),
    "ensemble": ({"config.pbtxt": b'platform: "ensemble"\n'}, {"config.pbtxt": b'platform: "ensemble"\n'}),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_becomes_a_model(desk: Desk, case: str) -> None:
    given, expected = FOLDERS[case]
    desk.put({f"in/{path}": data for path, data in given.items()})
    [brought] = desk.bring("name: net, source: ./in")
    assert files_of(brought) == {f"net/{path}": data for path, data in expected.items()}
    assert brought.models[0].versions, "the server wants a version even of an ensemble"


@pytest.mark.parametrize(
    ("files", "words", "hint"),
    [
        ({"in/a/1/model.onnx": ONNX, "in/b/1/model.onnx": ONNX}, "several models: a, b", "/a"),
        ({"in/a.onnx": ONNX, "in/b.onnx": ONNX}, "several models: a.onnx, b.onnx", "a.onnx"),
        ({"in/README.md": b"x", "in/onnx/model.onnx": ONNX}, "no model", "onnx/model.onnx"),
        ({"in/model.safetensors": b"x", "in/config.json": b"{}"}, "no model", "the file"),
    ],
)
def test_a_folder_that_is_no_one_model_is_refused(desk: Desk, files: dict[str, bytes], words: str, hint: str) -> None:
    desk.put(files)
    problem = desk.problem("name: net, source: ./in")
    assert words in problem.message
    assert hint in (problem.hint or "")
    assert problem.where.endswith("recipe.yaml:4:25")


def archive(base: Path) -> bytes:
    with zipfile.ZipFile(base / "made", "w") as made:
        made.writestr("model.onnx", ONNX)
    return (base / "made").read_bytes()


@pytest.mark.parametrize("name", ["model.zip", "model.tar.gz", "notes.txt", "model.safetensors", "unknown"])
def test_a_file_that_is_no_model_is_refused(desk: Desk, name: str) -> None:
    desk.put({name: archive(desk.base) if name.endswith(".zip") else b"\x1f\x8b or whatever"})
    problem = desk.problem(f"name: net, source: ./{name}")
    assert name in problem.message
    assert ("not unpacked" in problem.message) == name.startswith("model.") * (not name.endswith("safetensors"))


# -- configs ------------------------------------------------------------------------------------------------------


def test_config_auto_writes_what_the_file_says(desk: Desk) -> None:
    desk.put({"net.onnx": ONNX})
    [brought] = desk.bring("name: net, source: ./net.onnx, config: auto")
    [model] = brought.models
    assert model.configured
    assert not model.configuration.faults
    assert (model.config.name, model.config.backend, model.max_batch_size > 0) == ("net", "onnxruntime", True)
    assert b"net/config.pbtxt" not in files_of(brought)["net/config.pbtxt"]


def test_a_config_of_the_user_is_taken_and_its_faults_are_said_of_it(desk: Desk) -> None:
    desk.put({"net.onnx": ONNX, "in/config.pbtxt": b"old", "in/1/model.onnx": ONNX, "mine.pbtxt": CONFIG})
    for source in ("./net.onnx", "./in"):
        [brought] = desk.bring(f"name: net, source: {source}, config: ./mine.pbtxt")
        assert files_of(brought) == {"net/config.pbtxt": CONFIG, "net/1/model.onnx": ONNX}
    desk.put({"mine.pbtxt": b"bakend: 1\n"})
    [brought] = desk.bring("name: net, source: ./net.onnx, config: ./mine.pbtxt")
    assert brought.models[0].configuration.faults
    assert brought.models[0].configuration.path == desk.base / "mine.pbtxt"


def test_a_config_that_is_a_pipe_is_not_waited_for(desk: Desk) -> None:
    desk.put({"net.onnx": ONNX})
    os.mkfifo(desk.base / "mine.pbtxt")
    with pytest.raises(NotFound, match="FIFO"):
        desk.bring("name: net, source: ./net.onnx, config: ./mine.pbtxt")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("model.py", b"class TritonPythonModel: ...", "config: auto is for"),
        ("net.onnx", b"\x00\x01garbage", "net.onnx"),
        ("net.pt", state_dict(), "torch.save"),
    ],
)
def test_config_auto_is_refused_where_the_file_says_too_little(desk: Desk, name: str, data: bytes, words: str) -> None:
    desk.put({name: data})
    assert words in desk.problem(f"name: net, source: ./{name}, config: auto").message


def test_config_auto_beside_a_config_is_refused(desk: Desk) -> None:
    desk.put({"in/config.pbtxt": CONFIG, "in/1/model.onnx": ONNX})
    problem = desk.problem("name: net, source: ./in, config: auto")
    assert "its own config.pbtxt" in problem.message
    assert problem.where.endswith("recipe.yaml:4:39")
    with pytest.raises(NotFound, match=r"none\.pbtxt"):
        desk.bring("name: net, source: ./in, config: ./none.pbtxt")


# -- as a whole ---------------------------------------------------------------------------------------------------


def test_what_is_not_pinned_is_said_so_that_it_can_be_pasted(desk: Desk) -> None:
    desk.put({"net.onnx": ONNX})
    digest = hashlib.sha256(ONNX).hexdigest()
    desk.bring("name: net, source: ./net.onnx")
    [note] = [event for event in desk.events if isinstance(event, Logged)]
    assert note.text.endswith(f"sha256: {digest}")
    desk.events.clear()
    desk.bring(f"name: net, source: ./net.onnx, sha256: '{digest}'")
    assert not [event for event in desk.events if isinstance(event, Logged)]
    assert [event.detail for event in desk.events if isinstance(event, StageFinished)] == [f"net is sha256:{digest}"]


def test_a_file_that_changes_is_another_model(desk: Desk) -> None:
    desk.put({"net.onnx": ONNX})
    [first] = desk.bring("name: net, source: ./net.onnx")
    desk.put({"net.onnx": ONNX + b"\0"})
    [second] = desk.bring("name: net, source: ./net.onnx")
    assert files_of(second) == {"net/1/model.onnx": ONNX + b"\0"}
    desk.put({"net.onnx": ONNX})
    [third] = desk.bring("name: net, source: ./net.onnx")
    assert files_of(third) == {"net/1/model.onnx": ONNX}
    assert third.path == first.path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.upstream(BASE, packed(server("onnxruntime", "python", "tensorrt")), base=1)
    return made


def test_a_recipe_with_sources_is_planned_and_built(place: Place) -> None:
    """Fetched once, baked in, its backend found; and with a digest the second build asks nobody."""
    from composer import pipeline

    with Objects(objects={"/densenet121.onnx": ONNX}) as store:
        source = f"{store.url}/densenet121.onnx"
        (place.path / "in" / "1").mkdir(parents=True)
        (place.path / "in" / "1" / "model.py").write_text(PYTHON)
        (place.path / "in" / "config.pbtxt").write_text(
            'backend: "python"\ninput [{name: "A" data_type: TYPE_FP32 dims: [1]}]\n'
            'output [{name: "B" data_type: TYPE_FP32 dims: [1]}]\n'
        )
        digest = hashlib.sha256(ONNX).hexdigest()
        models = (
            f"- {{name: densenet, source: '{source}', sha256: {digest}, config: auto}}\n  - {{name: add, source: ./in}}"
        )
        text = f"backends: auto\nmodels:\n  {models}\n"
        plans = pipeline.plan(place.recipe(text), place.workplace(), scan="new")
        assert "backends/onnxruntime" in [component.key for component in plans[0].kept]
        place.build(text)
        assert len(store.asked) == 1
        result = place.result()
        assert "backends/tensorrt" not in "".join(result)
        assert {path for path in result if path.startswith("models/")} >= {
            "models/densenet/1/model.onnx",
            "models/densenet/config.pbtxt",
            "models/add/1/model.py",
            "models/add/config.pbtxt",
        }
        place.build(text, f"oci:{place.path}/again:slim")
        assert len(store.asked) == 1
