"""`--fix`: what it writes, moves and makes, and what it leaves alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from composer.models.lint import RULES, Case, Finding, lint, refusals
from composer.models.lint.fixes import fix
from composer.models.lint.rule import Edit
from composer.models.repository import read_repository
from composer.releases import RELEASES
from tests.judge.corpus import Fifo, Files, Link, write
from tests.modelfiles import onnx_identity

R2410 = Case(release=RELEASES["24.10"])
ONNX = onnx_identity(dims=("N", 2), ir_version=7)
CONFIG = """name: "m"
backend: "onnxruntime"
max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" } ]
"""
GOOD: Files = {"m/config.pbtxt": CONFIG, "m/1/model.onnx": ONNX, "m/labels.txt": "a\nb\n"}


def finding(edit: Edit | None, *, suppressed: str | None = None) -> Finding:
    """A finding with an edit."""
    one = next(iter(RULES.values()))
    return Finding(
        rule=one,
        severity="error",
        model="m",
        path=edit.path if edit else Path("x"),
        place=None,
        message="m",
        says="",
        fix="f",
        edit=edit,
        suppressed=suppressed,
    )


# -- edits ----------------------------------------------------------------------------------------


def test_writing_keeps_permissions(tmp_path: Path) -> None:
    place = tmp_path / "a"
    place.write_bytes(b"old")
    place.chmod(0o640)
    one = finding(Edit(path=place, write=b"new\xff"))
    assert fix([one]) == (one,)
    assert place.read_bytes() == b"new\xff"
    assert stat.S_IMODE(place.stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_writing_nothing_empties(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    fix([finding(Edit(path=tmp_path / "a", write=b""))])
    assert (tmp_path / "a").read_bytes() == b""


def test_making_a_folder(tmp_path: Path) -> None:
    one = finding(Edit(path=tmp_path / "1", make=True))
    assert fix([one, one]) == (one,)
    assert fix([one]) == (), "it is there"
    assert (tmp_path / "1").is_dir()


def test_moving(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    one = finding(Edit(path=tmp_path / "a", move=tmp_path / "1/a"))
    assert fix([one]) == (one,)
    assert (tmp_path / "1/a").read_text() == "x"
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("there", ["file", "link to nothing"])
def test_nothing_is_moved_over_something(tmp_path: Path, there: str) -> None:
    (tmp_path / "a").write_text("x")
    if there == "file":
        (tmp_path / "b").write_text("y")
    else:
        (tmp_path / "b").symlink_to("nowhere")
    assert fix([finding(Edit(path=tmp_path / "a", move=tmp_path / "b"))]) == ()
    assert (tmp_path / "a").read_text() == "x"


@pytest.mark.parametrize("way", ["file", "link to a folder", "link to nothing"])
def test_nothing_is_moved_through_something_else(tmp_path: Path, way: str) -> None:
    """A link may lead out of the repository, to what is somebody else's."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m/a").write_text("x")
    (tmp_path / "outside").mkdir()
    if way == "file":
        (tmp_path / "m/1").write_text("y")
    else:
        (tmp_path / "m/1").symlink_to("../outside" if way == "link to a folder" else "nowhere")
    moved = finding(Edit(path=tmp_path / "m/a", move=tmp_path / "m/1/a"))
    made = finding(Edit(path=tmp_path / "m/1", make=True))
    assert fix([moved]) == fix([made]) == ()
    assert (tmp_path / "m/a").read_text() == "x"
    assert not list((tmp_path / "outside").iterdir())


def test_a_link_stays_in_its_folder(tmp_path: Path) -> None:
    """What it says is counted from there."""
    (tmp_path / "data").write_text("x")
    (tmp_path / "a").symlink_to("data")
    assert fix([finding(Edit(path=tmp_path / "a", move=tmp_path / "1/a"))]) == ()
    assert len(fix([finding(Edit(path=tmp_path / "a", move=tmp_path / "b"))])) == 1
    assert (tmp_path / "b").read_text() == "x"


def test_nothing_is_made_in_a_folder_that_was_moved(tmp_path: Path) -> None:
    (tmp_path / "01").mkdir()
    moved = finding(Edit(path=tmp_path / "01", move=tmp_path / "1"))
    made = finding(Edit(path=tmp_path / "01/1", make=True))
    assert fix([moved, made]) == (moved,)


def test_what_is_gone_is_not_moved(tmp_path: Path) -> None:
    assert fix([finding(Edit(path=tmp_path / "a", move=tmp_path / "b"))]) == ()


def test_one_edit_of_a_file_at_a_time(tmp_path: Path) -> None:
    """The second was made for the file as it was."""
    place = tmp_path / "a"
    place.write_text("x")
    first, second = (finding(Edit(path=place, write=text)) for text in (b"1", b"2"))
    assert fix([first, second]) == (first,)
    assert place.read_bytes() == b"1"


def test_nothing_is_edited_in_a_folder_that_was_moved(tmp_path: Path) -> None:
    (tmp_path / "01").mkdir()
    (tmp_path / "01/a").write_text("x")
    moved = finding(Edit(path=tmp_path / "01", move=tmp_path / "1"))
    inside = finding(Edit(path=tmp_path / "01/a", write=b"y"))
    assert fix([moved, inside]) == (moved,)
    assert (tmp_path / "1/a").read_text() == "x"


def test_what_is_passed_over_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    assert fix([finding(Edit(path=tmp_path / "a", write=b"y"), suppressed="as it is"), finding(None)]) == ()
    assert (tmp_path / "a").read_text() == "x"


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No such file|Not a directory"):
        fix([finding(Edit(path=tmp_path / "gone/a", write=b"y"))])


# -- what rules do --------------------------------------------------------------------------------

MENDED: list[tuple[str, Files, Files]] = [
    ("LAY011", {"m/config.pbtxt": CONFIG, "m/labels.txt": "a\nb\n", "m/01/model.onnx": ONNX}, {"m/1/model.onnx": ONNX}),
    ("LAY017", {"m/config.pbtxt": CONFIG, "m/labels.txt": "a\nb\n", "m/model.onnx": ONNX}, {"m/1/model.onnx": ONNX}),
    ("LAY018", {"m/config.txt": CONFIG, "m/labels.txt": "a\nb\n", "m/1/model.onnx": ONNX}, {"m/config.pbtxt": CONFIG}),
    ("CFG003", {**GOOD, "m/config.pbtxt": CONFIG.replace("FP32", "FLOAT")}, {"m/config.pbtxt": CONFIG}),
    ("CFG003", {**GOOD, "m/config.pbtxt": CONFIG.replace("TYPE_FP", "type_fp")}, {"m/config.pbtxt": CONFIG}),
    ("CFG006", {**GOOD, "m/config.pbtxt": "\ufeff" + CONFIG}, {"m/config.pbtxt": CONFIG}),
    ("CFG017", {**GOOD, "m/config.pbtxt": CONFIG.replace('"m"', '"other"')}, {"m/config.pbtxt": CONFIG}),
    ("CFG020", {**GOOD, "m/config.pbtxt": CONFIG.replace("runtime", "runtime_onnx")}, {"m/config.pbtxt": CONFIG}),
    ("IO028", {**GOOD, "m/labels.txt": "a\r\nb\r\n"}, {"m/labels.txt": "a\nb\n"}),
]


@pytest.mark.parametrize(("rule", "files", "after"), MENDED, ids=[rule for rule, _, _ in MENDED])
def test_what_is_mended(tmp_path: Path, rule: str, files: Files, after: Files) -> None:
    write(files, tmp_path)
    mended = fix(lint([read_repository(tmp_path)], R2410))
    assert [one.rule.id for one in mended] == [rule]
    for path, content in after.items():
        assert (tmp_path / path).read_bytes() == (content.encode() if isinstance(content, str) else content)
    again = lint([read_repository(tmp_path)], R2410)
    assert not [one for one in again if one.edit]
    assert not refusals(again)


UNMENDED: dict[str, Files] = {
    "a folder whose name is no text": {"\udcff/config.pbtxt": CONFIG, "\udcff/1/model.onnx": ONNX},
    "a folder with a quote in its name": {'a"b/config.pbtxt': CONFIG, 'a"b/1/model.onnx': ONNX},
    "one folder under two names": {**GOOD, "n": Link("m")},
    "a name in two pieces": {**GOOD, "m/config.pbtxt": CONFIG.replace('"m"', '"x" # why\n "y"')},
    "returns that end no line": {**GOOD, "m/labels.txt": "a\rb\n"},
    "a file in place of a version": {
        "m/config.pbtxt": CONFIG,
        "m/labels.txt": "a\nb\n",
        "m/1": "",
        "m/model.onnx": ONNX,
    },
    "a link beside config.pbtxt": {"m/config.pbtxt": CONFIG, "m/x": ONNX, "m/model.onnx": Link("x")},
    "a pipe in place of config.pbtxt": {"m/config.pbtxt": Fifo(), "m/config.txt": CONFIG, "m/1/model.onnx": ONNX},
    "an ensemble with a file as version": {"e/config.pbtxt": 'platform: "ensemble"\n', "e/1": ""},
}


@pytest.mark.parametrize("what", UNMENDED)
def test_what_cannot_be_mended_is_not_said_to_be(tmp_path: Path, what: str) -> None:
    write(UNMENDED[what], tmp_path)
    found = lint([read_repository(tmp_path)], R2410)
    assert found
    assert not [one for one in found if one.edit]
    assert fix(found) == ()


def test_what_a_tool_keeps_is_not_mended(tmp_path: Path) -> None:
    """A repository in git has a file called config, too."""
    kept = {".git/config": "[core]\n", ".git/HEAD": "ref: x\n", ".dvc/cache/01/a": "a", ".dvc/01/model.onnx": ONNX}
    write({**GOOD, **kept}, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert fix(lint([read_repository(tmp_path)], R2410)) == ()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_all_words_of_a_file_are_mended_at_once(tmp_path: Path) -> None:
    config = 'backend: "python"\n' + "".join(
        f'input {{ name: "{name}", data_type: TYPE_{kind}, dims: [1] }}\n'
        for name, kind in (("a", "FLOAT"), ("b", "DOUBLE"), ("c", "FP32"), ("d", "QUATERNION"), ("e", "BYTES"))
    )
    write({"m/config.pbtxt": config, "m/1/model.py": ""}, tmp_path)
    fix(lint([read_repository(tmp_path)], R2410))
    words = (("FLOAT", "FP32"), ("DOUBLE", "FP64"), ("BYTES", "STRING"))
    for word, right in words:
        config = config.replace(f"TYPE_{word}", f"TYPE_{right}")
    assert (tmp_path / "m/config.pbtxt").read_text() == config


def test_a_good_repository_stays_as_it_is(tmp_path: Path) -> None:
    write(GOOD, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert fix(lint([read_repository(tmp_path)], R2410)) == ()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_bytes_that_are_no_text_survive(tmp_path: Path) -> None:
    text = (
        CONFIG.replace('"m"', '"other"').encode()
        + b'# \xff\xfe\nparameters { key: "k" value { string_value: "\xff" } }\n'
    )
    write({**GOOD, "m/config.pbtxt": text}, tmp_path)
    fix(lint([read_repository(tmp_path)], R2410))
    assert (tmp_path / "m/config.pbtxt").read_bytes() == text.replace(b'"other"', b'"m"')


def test_a_link_is_not_followed_out_of_the_repository(tmp_path: Path) -> None:
    """What a link leads to is somebody else's: the link is replaced, not its target."""
    outside = tmp_path / "outside.txt"
    outside.write_text("a\r\nb\r\n")
    write(GOOD, tmp_path / "models")
    (tmp_path / "models/m/labels.txt").unlink()
    (tmp_path / "models/m/labels.txt").symlink_to(outside)
    fix(lint([read_repository(tmp_path / "models")], R2410))
    assert outside.read_bytes() == b"a\r\nb\r\n"
