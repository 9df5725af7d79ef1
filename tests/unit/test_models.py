"""Model repositories as they lie on disk: what is found in them, and what is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from composer.errors import RecipeError
from composer.models import repository as repository_module
from composer.models.lint import Case, Finding, lint, refusals
from composer.models.repository import ModelRepository, needed_backends, read_repository

# A model of a backend that nobody knows: nothing in its files can be wrong.
OTHER = {"m/config.pbtxt": 'backend: "other"', "m/1/data": "x"}
EXAMPLES = Path(__file__).parents[2] / "recipes" / "models"


def put(root: Path, **files: str | None) -> Path:
    """Write files by `model/path`; None makes a folder."""
    for name, text in files.items():
        path = root / name
        (path if text is None else path.parent).mkdir(parents=True, exist_ok=True)
        if text is not None:
            path.write_text(text)
    return root


def survey(path: Path) -> ModelRepository:
    """A repository, read as one that is baked in."""
    return read_repository(path, baked=True)


def problems(path: Path) -> tuple[Finding, ...]:
    """What keeps it from being baked in."""
    return refusals(lint([survey(path)], Case(baked=True)))


def only(path: Path) -> Finding:
    (problem,) = problems(path)
    assert problem.fix
    return problem


def test_the_examples() -> None:
    repository = survey(EXAMPLES)
    assert [(model.name, model.backend, model.versions) for model in repository.models] == [
        ("add_sub", "python", (1,)),
        ("linear_onnx", "onnxruntime", (1,)),
    ]
    linear = repository.models[1]
    assert linear.configured
    assert linear.folders == ("linear_onnx", "linear_onnx/1")
    assert [(file.path, file.source.read_bytes()[:0], file.size) for file in linear.files] == [
        (f"linear_onnx/{name}", b"", (EXAMPLES / "linear_onnx" / name).stat().st_size)
        for name in ("1/model.onnx", "config.pbtxt")
    ]
    assert linear.size == sum(file.size for file in linear.files)
    assert needed_backends([repository]) == ("onnxruntime", "python")


@pytest.mark.parametrize(
    ("config", "file", "backend"),
    [
        ('backend: "vllm"', "model.json", "vllm"),
        ('platform: "onnxruntime_onnx"', "other.onnx", "onnxruntime"),
        ('platform: "tensorrt_plan"', "model.plan", "tensorrt"),
        ('platform: "pytorch_libtorch"', "model.pt", "pytorch"),
        ('platform: "tensorflow_savedmodel"', "model.savedmodel", "tensorflow"),
        ('platform: "onnxruntime_onnx" backend: "onnxruntime"', "model.onnx", "onnxruntime"),
        # What the server does with a platform beside a backend that it does not belong to: nothing.
        ('platform: "whatever" backend: "python"', "model.py", "python"),
        ('default_model_filename: "model.plan"', "model.onnx", "tensorrt"),
        ("", "model.onnx", "onnxruntime"),
        ("", "model.plan", "tensorrt"),
        ("", "model.pt", "pytorch"),
        ("", "model.py", "python"),
        ("", "model.xml", "openvino"),
        ("", "model.graphdef", "tensorflow"),
        (None, "model.onnx", "onnxruntime"),
        ('parameters { key: "backend" value { string_value: "no" } } # backend: "no"', "model.py", "python"),
    ],
)
def test_backend(tmp_path: Path, config: str | None, file: str, backend: str) -> None:
    put(tmp_path, **{f"m/1/{file}": "x"}, **({} if config is None else {"m/config.pbtxt": config}))
    (model,) = survey(tmp_path).models
    assert (model.backend, model.configured) == (backend, config is not None)


def test_a_saved_model_is_a_folder(tmp_path: Path) -> None:
    put(tmp_path, **{"m/1/model.savedmodel/saved_model.pb": "x"})
    assert survey(tmp_path).models[0].backend == "tensorflow"


def test_a_custom_backend_is_named_by_the_model(tmp_path: Path) -> None:
    put(tmp_path, **{"model.identity/1/data": "x"})
    assert survey(tmp_path).models[0].backend == "identity"


def test_only_the_first_folder_is_looked_into(tmp_path: Path) -> None:
    put(tmp_path, **{"m/.notes/x": "", "m/1/model.onnx": "x"})
    assert only(tmp_path).rule.id == "LAY016"


def test_versions_and_batch_size(tmp_path: Path) -> None:
    put(
        tmp_path,
        **{"m/1/model.py": "", "m/10/model.py": "", "m/9/model.py": "", "m/02/model.py": "", "m/warmup/x": ""},
        **{"m/config.pbtxt": 'backend: "python" max_batch_size: 0x10'},
    )
    (model,) = survey(tmp_path).models
    assert (model.versions, model.max_batch_size) == ((1, 9, 10), 16)


def test_stray_files_of_the_root_are_left_alone(tmp_path: Path) -> None:
    put(tmp_path, **{"README.md": "x", "m/1/model.py": ""})
    assert [model.name for model in survey(tmp_path).models] == ["m"]


def test_what_python_leaves_behind_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, **{"m/1/model.py": "", "m/1/__pycache__/model.cpython-311.pyc": "x"})
    (model,) = survey(tmp_path).models
    assert [file.path for file in model.files] == ["m/1/model.py"]
    assert model.folders == ("m", "m/1")


def ensemble(tmp_path: Path, *members: str) -> ModelRepository:
    steps = ",".join(f'{{ model_name: "{name}" model_version: -1 }}' for name in members)
    config = f'platform: "ensemble" ensemble_scheduling {{ step [ {steps} ] }}'
    return survey(put(tmp_path, **{"all/config.pbtxt": config, "all/1": None, "m/1/model.onnx": "x"}))


def test_an_ensemble_has_no_backend_but_members(tmp_path: Path) -> None:
    repository = ensemble(tmp_path, "m", "m")
    assert (repository.models[0].backend, repository.models[0].members) == (None, ("m",))
    assert repository.models[0].folders == ("all", "all/1")
    assert needed_backends([repository]) == ("onnxruntime",)


def test_an_ensemble_s_members_may_stand_in_another_repository(tmp_path: Path) -> None:
    first, second = ensemble(tmp_path / "a", "m", "n"), survey(put(tmp_path / "b", **{"n/1/model.py": ""}))
    assert needed_backends([first, second]) == ("onnxruntime", "python")


def test_an_ensemble_s_members_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        needed_backends([ensemble(tmp_path, "m", "gone", "lost")])
    messages = [problem.message for problem in caught.value.problems]
    assert messages == [
        f'the ensemble "all" calls the model "{name}", which no repository has' for name in ("gone", "lost")
    ]


def test_a_model_may_not_stand_in_two_repositories(tmp_path: Path) -> None:
    first, second = (survey(put(tmp_path / name, **{"m/1/model.py": ""})) for name in "ab")
    with pytest.raises(RecipeError, match=r'there is a model "m" in .*/a too'):
        needed_backends([first, second])


# -- what is refused ------------------------------------------------------------------------------


def test_no_repository(tmp_path: Path) -> None:
    assert only(tmp_path / "gone").message == "there is no such model repository"


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("")
    assert only(tmp_path / "m").message == "a model repository is a folder"


def test_an_empty_repository(tmp_path: Path) -> None:
    assert only(tmp_path).message == "there are no models in this repository"


def test_one_model_in_place_of_a_repository(tmp_path: Path) -> None:
    put(tmp_path, **OTHER)
    problem, *_ = problems(tmp_path / "m")
    assert problem.message == "this is one model, not a repository of models"
    assert problem.fix == str(tmp_path)


@pytest.mark.parametrize(
    ("files", "rule", "fix"),
    [
        ({"m/config.pbtxt": 'backend: "python"'}, "LAY010", "mkdir .*/m/1"),
        ({"m/config.pbtxt": 'backend: "python"', "m/model.py": ""}, "LAY017", "mkdir -p .*/m/1 && mv .*/m/model.py "),
        ({"m/config.pbtxt": 'backend: "python"', "m/01/model.py": ""}, "LAY011", "mv .*/m/01 .*/m/1$"),
        ({"m/config.pbtxt": 'backend: "python"', "m/latest/model.py": ""}, "LAY012", "mv .*/m/latest .*/m/1$"),
    ],
)
def test_no_versions(tmp_path: Path, files: dict[str, str], rule: str, fix: str) -> None:
    problem = only(put(tmp_path, **files))
    assert problem.rule.id == rule
    assert re.match(fix, problem.fix)


def test_folders_of_tools_do_not_go_into_an_image(tmp_path: Path) -> None:
    put(tmp_path, **{".git/HEAD": "x", ".ipynb_checkpoints/x": "", "m/1/model.onnx": "x", "m/1/.m.swp": "", "m/a~": ""})
    repository = survey(tmp_path)
    assert [model.name for model in repository.models] == ["m"]
    assert [entry.path for entry in repository.left_out] == [".git", ".ipynb_checkpoints"]
    assert [file.path for file in repository.models[0].files] == ["m/1/model.onnx"]
    assert {one.severity for one in lint([repository], Case(baked=True)) if one.rule.id == "LAY005"} == {"info"}


@pytest.mark.parametrize("name", ["2abc", "2.0", "+2"])
def test_names_that_the_server_takes_for_versions(tmp_path: Path, name: str) -> None:
    put(tmp_path, **{"m/1/model.onnx": "x", f"m/{name}/model.onnx": "", "m/config.pbtxt": 'backend: "onnxruntime"'})
    assert (only(tmp_path).path, only(tmp_path).rule.id) == (tmp_path / "m" / name, "LAY013")


def test_everything_at_once(tmp_path: Path) -> None:
    put(
        tmp_path,
        **{"a/config.pbtxt": 'backend: "onnxruntime"', "b/1/x": ""},
        **{"c/config.pbtxt": 'name: "d" backend: "other"', "c/1/data": "x"},
        **{"e/config.pbtxt": "name:", "e/1/y": ""},
    )
    found = [(one.path.relative_to(tmp_path).as_posix(), one.rule.id) for one in problems(tmp_path)]
    assert found == [("a", "LAY010"), ("b", "CFG018"), ("c/config.pbtxt", "CFG017"), ("e/config.pbtxt", "CFG004")]


@pytest.mark.parametrize(
    ("config", "rule", "fix"),
    [
        ('platform: "onnx"', "CFG019", 'backend: "onnxruntime", in place of platform'),
        ('platform: "python"', "CFG019", 'backend: "python", in place of platform'),
        ('backend: "onnxruntime_onnx"', "CFG020", 'backend: "onnxruntime"'),
        (
            'backend: "tensorrt" platform: "onnxruntime_onnx" default_model_filename: "model.bin"',
            "CFG021",
            'backend: "onnxruntime", and no platform',
        ),
        ('backend: "x" backend: "x"', "CFG008", "keep one of them"),
    ],
)
def test_bad_configs(tmp_path: Path, config: str, rule: str, fix: str) -> None:
    found = problems(put(tmp_path, **{"m/1/model.bin": "x", "m/config.pbtxt": config}))
    assert (rule, fix) in [(one.rule.id, one.fix) for one in found]


def test_two_backends_and_no_word_on_which(tmp_path: Path) -> None:
    put(tmp_path, **{"m/1/model.py": "", "m/1/model.onnx": "x"})
    found = lint([survey(tmp_path)], Case())
    assert [one.message for one in found if one.rule.id == "CFG028"] == [
        "there are model files of onnxruntime and python: the server takes onnxruntime"
    ]
    put(tmp_path, **{"m/config.pbtxt": 'backend: "python"'})
    assert survey(tmp_path).models[0].backend == "python"


# -- links ----------------------------------------------------------------------------------------


def test_links_within_the_repository_are_followed(tmp_path: Path) -> None:
    put(tmp_path, **{"m/1/model.onnx": "weights", "m/2": None})
    (tmp_path / "m/2/model.onnx").symlink_to("../1/model.onnx")
    (tmp_path / "m/3").symlink_to(tmp_path / "m/1")
    (model,) = survey(tmp_path).models
    assert model.versions == (1, 2, 3)
    real = tmp_path / "m/1/model.onnx"
    assert [(file.path, file.source, file.size) for file in model.files] == [
        (f"m/{version}/model.onnx", real, 7) for version in (1, 2, 3)
    ]


def test_a_repository_that_is_itself_a_link(tmp_path: Path) -> None:
    put(tmp_path / "real", **OTHER)
    (tmp_path / "link").symlink_to("real")
    assert survey(tmp_path / "link").models[0].folder == tmp_path / "link/m"


@pytest.mark.parametrize("place", ["link", "m/link", "m/1/link"])
def test_links_to_nothing_and_to_the_outside(tmp_path: Path, place: str) -> None:
    root = put(tmp_path / "models", **OTHER)
    outside = put(tmp_path, secret="x") / "secret"
    (root / place).symlink_to("gone")
    assert only(root).message == "this link leads to nothing: gone"
    (root / place).unlink()
    (root / place).symlink_to(outside)
    assert only(root).message == f"this link leads out of the repository, to {outside}"


def test_a_link_that_leads_back(tmp_path: Path) -> None:
    put(tmp_path, **OTHER)
    (tmp_path / "m/1/again").symlink_to("..")
    assert only(tmp_path).message == "this link leads back to a folder that it is in"
    (tmp_path / "m/1/again").unlink()
    (tmp_path / "m/1/again").symlink_to("again")
    assert "link" in only(tmp_path).message


def test_what_is_neither_file_nor_folder(tmp_path: Path) -> None:
    put(tmp_path, **OTHER)
    os.mkfifo(tmp_path / "m/1/pipe")
    assert only(tmp_path).message == "this is neither a file nor a folder"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become someone else")
@pytest.mark.parametrize(("place", "mode"), [("m/1/data", 0o600), ("m/1", 0o700), ("m", 0o744), (".", 0o700)])
def test_what_may_not_be_read(place: str, mode: int) -> None:
    """Root reads everything, so another user looks."""
    code = """if True:
        import os, sys; from pathlib import Path
        from composer.models.lint import Case, lint, refusals
        from composer.models.repository import read_repository
        lint([read_repository(Path("composer"), baked=True)], Case())  # all modules, while they can be read
        os.setuid(65534)
        found = refusals(lint([read_repository(Path(sys.argv[1]), baked=True)], Case(baked=True)))
        print(*sorted({f"{p.path.relative_to(sys.argv[1])}: {p.message}" for p in found}), sep="\\n")
    """
    with tempfile.TemporaryDirectory() as top:  # pytest's own are closed to other users
        os.chmod(top, 0o755)
        root = put(Path(top, "models"), **OTHER)
        (root / place).chmod(mode)
        done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, timeout=60)
    assert (done.stderr, done.stdout) == ("", f"{place}: it cannot be read: Permission denied\n")


# -- what goes into an image ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "kept"),
    [(0o644, 0o644), (0o664, 0o644), (0o600, 0o644), (0o755, 0o755), (0o710, 0o755), (0o400, 0o444), (0o6555, 0o555)],
)
def test_permissions_are_kept_but_for_what_a_umask_decides(tmp_path: Path, mode: int, kept: int) -> None:
    put(tmp_path, **OTHER)
    (tmp_path / "m/1/data").chmod(mode)
    assert [file.mode for file in survey(tmp_path).models[0].files if file.path == "m/1/data"] == [kept]


@pytest.mark.parametrize("shape", ["each twice to the next", "each to many"])
def test_a_maze_of_links_is_left(tmp_path: Path, shape: str) -> None:
    """A few folders whose links lead to each other have millions of paths."""
    put(tmp_path, **OTHER)
    for number in range(24):
        (tmp_path / f"m/d{number}").mkdir()
        others = [number + 1] * (number < 23) * 2 if shape == "each twice to the next" else range(min(number, 12))
        for name, other in enumerate(others):
            (tmp_path / f"m/d{number}/l{name}").symlink_to(f"../d{other}")
    repository = read_repository(tmp_path, baked=True)
    (model,) = repository.models
    assert [entry.kind for entry in model.entries].count("maze") == 1
    assert len(model.entries) < 40_000
    assert "LAY029" in {one.rule.id for one in refusals(lint([repository], Case(baked=True)))}


def test_links_to_one_folder_are_no_maze(tmp_path: Path) -> None:
    put(tmp_path, **OTHER)
    for number in range(2, 1200):
        (tmp_path / f"m/{number}").symlink_to("1")
    (model,) = read_repository(tmp_path).models
    assert len(model.versions) == 1199


def test_what_vanishes_while_it_is_read_was_never_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, **OTHER)
    (tmp_path / "m/gone").write_text("")
    (tmp_path / "m/lost").symlink_to("gone")
    real = repository_module._linked

    def vanished(root: Path, above: tuple[Path, ...], link: Path, path: str) -> object:
        link.unlink()
        return real(root, above, link, path)

    monkeypatch.setattr(repository_module, "_linked", vanished)
    (model,) = read_repository(tmp_path).models
    assert [entry.path for entry in model.entries] == ["1", "1/data", "config.pbtxt", "gone"]
