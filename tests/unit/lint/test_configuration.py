"""config.pbtxt: where everything stands, what is wrong with it and where; that no text, however odd, does harm."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from composer.models.configuration import KINDS, Configuration, parse_configuration, read_configuration, reported_at
from composer.models.lint import Case, lint, refusals
from composer.models.repository import Model, ModelRepository, read_repository
from composer.releases import RELEASES
from tests.modelfiles import onnx_identity

from . import MARK, Files, assert_finds, assert_finds_at, assert_silent, model, unmarked

PATH = Path("m/config.pbtxt")
R2410 = Case(release=RELEASES["24.10"])
ONNX: Files = {"1/model.onnx": onnx_identity(dims=("N", 2), ir_version=7)}
X = 'input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]\n'
Y = 'output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ]\n'
HEAD = 'backend: "onnxruntime"\nmax_batch_size: 4\n'
WHOLE = HEAD + X + Y

FULL = """# everything at once
name: "m"
backend: 'onnxruntime'
max_batch_size: 8
input [
  {
    name: "X"
    data_type: TYPE_FP32, format: FORMAT_NONE;
    dims: [ 3, -1 ]
    reshape { shape: [ -1 ] }
  },
  { name: "Z" data_type: TYPE_INT64 dims: 1 dims: 2 }
]
output < name: "Y" data_type: TYPE_STRING dims: [ 1 ] label_filename: "a" "b" >
instance_group [ { count: 2 kind: KIND_CPU } ]
parameters { key: "A" value { string_value: "1" } }
parameters: { key: "B" value: { string_value: "2" } }
version_policy: { specific { versions: [ 1, 3 ] } }
dynamic_batching { preferred_batch_size: [ 4, 8 ] priority_queue_policy { key: 2 value { max_queue_size: 1 } } }
"""


def parsed(text: str | bytes) -> Configuration:
    return parse_configuration(text if isinstance(text, bytes) else text.encode(errors="surrogateescape"), path=PATH)


# -- where values stand ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "word", "nth"),
    [
        (("name",), '"m"', 0),
        (("max_batch_size",), "8", 0),
        (("input",), "input", 0),
        (("input", 0), "{", 0),
        (("input", 0, "name"), '"X"', 0),
        (("input", 0, "format"), "FORMAT_NONE", 0),
        (("input", 0, "dims"), "dims", 0),
        (("input", 0, "dims", 1), "-1", 0),
        (("input", 0, "reshape", "shape", 0), "-1", 1),
        (("input", 1, "name"), '"Z"', 0),
        (("input", 1, "dims", 1), "2", 2),
        (("output", 0, "label_filename"), '"a"', 0),
        (("parameters", "A", "string_value"), '"1"', 0),
        (("parameters", "B", "string_value"), '"2"', 0),
        (("version_policy", "specific", "versions", 1), "3", 3),
        (("dynamic_batching", "preferred_batch_size", 1), "8", 1),
        (("dynamic_batching", "priority_queue_policy", "2", "max_queue_size"), "1 }", 7),
    ],
)
def test_places(key: tuple[str | int, ...], word: str, nth: int) -> None:
    found = parsed(FULL)
    assert found.faults == ()
    place = found.places[key]
    at = FULL.split("\n")[place.line - 1][place.column - 1 :]
    assert at.startswith(word), at


def test_what_is_not_there_stands_where_it_would_be() -> None:
    found = parsed(FULL)
    assert found.place("input", 0, "optional") == found.places["input", 0]
    assert found.place("sequence_batching", "state") == found.place("nothing")
    assert parsed("").place("name") is not None
    assert (found.has("name"), found.has("input", 0, "optional")) == (True, False)


def test_values() -> None:
    message = parsed(FULL).message
    assert (message.name, message.backend, message.max_batch_size) == ("m", "onnxruntime", 8)
    assert list(message.input[0].dims) == [3, -1]
    assert message.output[0].label_filename == "ab"
    assert {key: message.parameters[key].string_value for key in message.parameters} == {"A": "1", "B": "2"}


# -- what is wrong, and where ---------------------------------------------------------------------

FAULTS = [
    ("unknown_field", "^max_batchsize: 4\n"),
    ("unknown_field", HEAD + 'input [ { name: "X" ^datatype: TYPE_FP32 } ]\n'),
    ("unknown_enum", HEAD + 'input [ { name: "X" data_type: ^TYPE_FLOAT dims: [ 2 ] } ]\n'),
    ("syntax", 'name ^"m"\n'),
    ("syntax", "max_batch_size: ^four\n"),
    ("syntax", "max_batch_size: ^10_000\n"),
    ("json", '^{ "name": "m" }\n'),
    ("byte_order_mark", '^\ufeffname: "m"\n'),
    ("non_ascii", "name: ^\u201cm\u201d\n"),
    ("not_text", 'name: "m"\n^\x00backend: "x"\n'),
    ("given_twice", 'name: "a"\nname: ^"b"\n'),
    ("trailing_comma", 'input [ { name: "X" }, ^]\n'),
    ("quoted_word", 'max_batch_size: ^"4"\n'),
    ("slashes", 'name: "m"\n^// a comment\n'),
    ("no_message", 'parameters { key: "A" value: ^"1" }\n'),
    ("unfilled", "max_batch_size: ^${size}\n"),
    ("exclusive", "version_policy { latest { num_versions: 1 } ^all { } }\n"),
]


@pytest.mark.parametrize(("kind", "text"), FAULTS, ids=[kind for kind, _ in FAULTS])
def test_faults(kind: str, text: str) -> None:
    plain, place = unmarked(text)
    first = parsed(plain).faults[0]
    assert first.kind == kind, first
    assert (first.place.line, first.place.column) == place, first
    assert first.words
    assert kind in KINDS


def test_unknown_names_are_all_said_at_once() -> None:
    found = parsed('nam: "m"\nbackend: "x"\nmax_batchsize: 4\ninput { names: "X" data_type: TYPE_FLOAT }\n')
    assert [(one.name, one.place.line) for one in found.faults] == [
        ("nam", 1),
        ("max_batchsize", 3),
        ("names", 4),
        ("TYPE_FLOAT", 4),
    ]
    assert found.message.backend == ""


REPORTED = [
    ("max_batchsize^: 4\n", 'Message type "inference.ModelConfig" has no field named "max_batchsize".'),
    ("max_batchsize # a comment\n  ^: 4\n", 'Message type "inference.ModelConfig" has no field named "max_batchsize".'),
    ("input { data_type: TYPE_FLOAT ^}\n", 'Unknown enumeration value of "TYPE_FLOAT" for field "data_type".'),
    ('name: "a"\nname^: "b"\n', 'Non-repeated field "name" is specified multiple times.'),
    ("max_batch_size: 0^8\n", "Numbers starting with leading zero must be in octal."),
    ("max_batch_size: ^2147483648\n", "Integer out of range (2147483648)"),
    ('name: "a^\nbackend: "b"\n', "String literals cannot cross line boundaries."),
    ('name: "a^', "Unexpected end of string."),
    ('input { name: "X"\n^', "Expected identifier, got: "),
    ("name: ^]\n", "Expected string, got: ]"),
    ('name ^"a"\n', 'Expected ":", found ""a"".'),
    (
        "version_policy { latest { num_versions: 1 } all ^{ } }\n",
        'Field "all" is specified along with field "latest", another member of oneof "policy_choice".',
    ),
]


@pytest.mark.parametrize(("text", "words"), REPORTED, ids=[words[:30] for _, words in REPORTED])
def test_what_libprotobuf_says_and_where(text: str, words: str) -> None:
    """Its place is often the token behind the one that it is about. Seen on a real server."""
    plain, place = unmarked(text)
    first = parsed(plain).faults[0]
    assert (reported_at(plain, first), first.words) == (place, words)


# -- rules ----------------------------------------------------------------------------------------

SPOKEN: list[tuple[str, str, Case]] = [
    ("CFG001", WHOLE + "^max_batchsize: 4\n", R2410),
    ("CFG002", WHOLE + "^model_metrics { }\n", R2410),
    ("CFG003", WHOLE.replace("TYPE_FP32", "^TYPE_FLOAT", 1), R2410),
    ("CFG004", WHOLE + "name: ^}\n", R2410),
    ("CFG005", '^{ "name": "m" }\n', R2410),
    ("CFG006", "^\ufeff" + WHOLE, R2410),
    ("CFG007", WHOLE + "name: ^\u201cm\u201d\n", R2410),
    ("CFG008", WHOLE + 'backend: ^"onnxruntime"\n', R2410),
    ("CFG009", WHOLE + "instance_group [ { count: 1 }, ^]\n", R2410),
    ("CFG010", WHOLE.replace("max_batch_size: 4", 'max_batch_size: ^"4"'), R2410),
    ("CFG011", WHOLE + "^// a comment\n", R2410),
    ("CFG012", WHOLE + 'parameters { key: "A" value: ^"1" }\n', R2410),
    ("CFG013", WHOLE.replace("max_batch_size: 4", "max_batch_size: ^${size}"), R2410),
    ("CFG014", WHOLE + "version_policy { latest { num_versions: 1 } ^all { } }\n", R2410),
    ("CFG016", WHOLE + 2 * 'parameters { key: "A" value { string_value: "1" } }\n', R2410),
    ("CFG017", WHOLE + 'name: ^"n"\n', R2410),
    ("CFG019", WHOLE.replace("backend: ", "platform: ^").replace("onnxruntime", "onnx"), R2410),
    ("CFG020", WHOLE.replace("backend: ", "backend: ^").replace('"onnxruntime"', '"onnxruntime_onnx"'), R2410),
    ("CFG021", WHOLE + 'platform: ^"tensorrt_plan"\n', R2410),
    ("CFG023", 'platform: "ensemble"\nbackend: ^"onnxruntime"\n', R2410),
    ("CFG024", WHOLE.replace("max_batch_size: 4", "max_batch_size: ^-1"), R2410),
    ("CFG025", WHOLE + 'runtime: ^"../x.so"\n', R2410),
    ("CFG031", WHOLE + "version_policy { specific { versions: [ 1, ^7 ] } }\n", R2410),
    ("CFG032", WHOLE + "version_policy { ^latest { num_versions: 0 } }\n", R2410),
    ("CFG040", WHOLE + "^# tricompose: ignore[IO001]\n", R2410),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "text", "case"), SPOKEN, ids=[rule for rule, _, _ in SPOKEN])
def test_what_is_wrong(tmp_path: Path, rule: str, text: str, case: Case) -> None:
    plain, place = unmarked(text) if MARK in text else (text, None)
    own = [one for one in model(tmp_path, plain, ONNX, case) if one.rule.id == rule]
    assert len(own) == 1, own
    assert own[0].place
    assert place is None or (own[0].place.line, own[0].place.column) == place
    assert own[0].message
    assert own[0].fix
    assert own[0].path == tmp_path / "m/config.pbtxt"


def test_a_good_config(tmp_path: Path) -> None:
    assert model(tmp_path, WHOLE, ONNX, R2410) == []


def test_fields_that_are_newer(tmp_path: Path) -> None:
    found = assert_finds(tmp_path, "CFG002", WHOLE + "^response_cache { }\n", ONNX, old("21.09"))
    assert found.message == '"response_cache" came with 21.10, and this is for 21.09'
    (tmp_path / "good").mkdir()
    assert_silent(tmp_path / "good", "CFG002", WHOLE + "response_cache { }\n", ONNX, old("21.10"))


def old(release: str) -> Case:
    return Case(release=RELEASES[release], server={"strict-model-config": False})


def test_near_names(tmp_path: Path) -> None:
    found = model(tmp_path, WHOLE + "max_batchsize: 4\n", ONNX, R2410)
    assert found[0].message == 'there is no field "max_batchsize" here; did you mean "max_batch_size"?'
    assert found[0].says.startswith(
        "[libprotobuf ERROR] Error parsing text-format inference.ModelConfig: 5:14: Message"
    )


def test_files_that_are_not_there(tmp_path: Path) -> None:
    files = {"1/other.onnx": ONNX["1/model.onnx"]}
    found = assert_finds_at(tmp_path, "CFG026", "1", WHOLE, files, R2410)
    assert found.fix == 'default_model_filename: "other.onnx"'
    (tmp_path / "said").mkdir()
    text = WHOLE + 'default_model_filename: ^"model2.onnx"\n'
    assert_finds(tmp_path / "said", "CFG026", text, files, R2410)
    (tmp_path / "good").mkdir()
    assert_silent(tmp_path / "good", "CFG026", WHOLE + 'default_model_filename: "other.onnx"\n', files, R2410)


def test_windows_lines(tmp_path: Path) -> None:
    (found,) = model(tmp_path, "# one\n" + WHOLE.replace("\n", "\r\n"), ONNX, R2410)
    assert (found.rule.id, found.severity) == ("CFG015", "info")
    assert found.place
    assert (found.place.line, found.place.column) == (2, len('backend: "onnxruntime"') + 1)


def test_comments_that_pass_over_a_rule(tmp_path: Path) -> None:
    broken = "max_batch_size: -1  # tricompose: ignore[CFG024] a test of ours\n"
    found = model(tmp_path, HEAD.splitlines()[0] + "\n" + broken + X + Y, ONNX, R2410)
    own = [one for one in found if one.rule.id == "CFG024"]
    assert [one.suppressed for one in own] == ["a test of ours"]
    assert "CFG024" not in [one.rule.id for one in refusals(found)]


# -- files that are none --------------------------------------------------------------------------


@pytest.mark.timeout(10)
def test_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.pbtxt")
    assert read_configuration(tmp_path / "config.pbtxt").text is None


@pytest.mark.timeout(10)
@pytest.mark.parametrize("target", ["config.pbtxt", "/dev/zero", "nowhere", "."])
def test_links(tmp_path: Path, target: str) -> None:
    (tmp_path / "config.pbtxt").symlink_to(target)
    assert read_configuration(tmp_path / "config.pbtxt").text is None


def test_more_than_any_config(tmp_path: Path) -> None:
    with (tmp_path / "config.pbtxt").open("wb") as file:
        file.truncate(10 << 30)
    assert [one.kind for one in read_configuration(tmp_path / "config.pbtxt").faults] == ["too_large"]


# -- texts that mean harm -------------------------------------------------------------------------


def check(data: bytes) -> Configuration:
    """Read it, and hold that everything it tells lies in the text."""
    found = parsed(data)
    text = found.text or ""
    lines = text.split("\n")
    for place in (*found.places.values(), *(one.place for one in (*found.faults, *found.uses))):
        assert 1 <= place.line <= len(lines), (place, text)
        assert 1 <= place.column <= len(lines[place.line - 1]) + 1, (place, text)
        assert place.length >= 1
    assert {one.kind for one in found.faults} <= KINDS
    assert found.readable == (not found.faults)
    return found


def judged(data: bytes) -> None:
    """Give it to all rules: they find what they find, in the text."""
    configuration = check(data)
    one = Model(name="m", folder=Path("m"), entries=(), configuration=configuration)
    repository = ModelRepository(path=Path("."), models=(one,))
    lines = (configuration.text or "").split("\n")
    for found in lint([repository], R2410):
        if found.place and found.path == PATH:
            assert 1 <= found.place.line <= len(lines), found
            assert 1 <= found.place.column <= len(lines[found.place.line - 1]) + 1, found


ODD = """{ } [ ] < > : , ; " ' \\ # - --1 1e999 0x7fffffffffffffffff inf nan true [a.b] :: // /* */ "\\377\\x00" any
[type.googleapis.com/x]"""
PIECES = st.sampled_from(
    [
        *FULL.split(),
        *WHOLE.split(),
        *ODD.split(),
        *("\n", "\r\n", " ", "\x00", "\x0c", "\x85", "\u2028", "\ufeff", "9" * 400, "a" * 400),
    ]
)
SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SLOW
@given(st.binary(max_size=400))
@example(b"'\x80")
@example(b"'\x80' 'a'")
@example(b"")
@example(b"\xff\xfe\x00")
@example(b"\n\n\n")
@example(b"# a comment\x0c\n name")
def test_any_bytes(data: bytes) -> None:
    judged(data)


@SLOW
@given(st.lists(PIECES, max_size=40).map(" ".join))
@example('name: "\u2028"\nfoo: 1')
@example('input { name: "a\x85b" }\nfoo: 1')
@example("input {")
@example("parameters { key: ")
@example('parameters { value { string_value: "a" } key: "b"')
def test_any_words(text: str) -> None:
    judged(text.encode())


@SLOW
@given(st.integers(0, len(FULL) - 1), st.integers(0, 40), st.one_of(PIECES, st.binary(max_size=4).map(os.fsdecode)))
def test_any_change_of_a_good_one(at: int, count: int, new: str) -> None:
    judged((FULL[:at] + new + FULL[at + count :]).encode(errors="surrogateescape"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "data",
    [
        b"{" * (1 << 20),
        b"[" * (1 << 20),
        b"input {" * (1 << 17),
        b"dynamic_batching { default_queue_policy { " * (1 << 14),
        b"unknown {" * (1 << 17),
        b"unknown: [" * (1 << 17),
        b'name: "' + b"a" * (1 << 20),
        b'name: "' + b'\\"' * (1 << 19),
        b"9" * (1 << 20),
        b"max_batch_size: " + b"9" * (1 << 20),
        b"max_batch_size: -" + b"-" * (1 << 20),
        b"#" * (1 << 20),
        b"\n" * (1 << 20),
        b"a." * (1 << 19),
        b"'\"" * (1 << 19),
        b"\xef\xbb\xbf" * (1 << 18),
    ],
    ids=lambda data: repr(data[:18]),
)
def test_a_megabyte_of_it(data: bytes) -> None:
    started = time.process_time()
    check(data)
    assert time.process_time() - started < 10


@pytest.mark.timeout(60)
def test_many_fields_take_no_longer_each(tmp_path: Path) -> None:
    """What is read of a parameter does not depend on how many there are."""
    text = HEAD + "".join(
        f'parameters {{ key: "p{number}" value {{ string_value: "1" }} }}\n' for number in range(10_000)
    )
    started = time.process_time()
    assert len(check(text.encode()).message.parameters) == 10_000
    assert time.process_time() - started < 10


@pytest.mark.parametrize("name", [b"\xff", "ä".encode(), b"a\nb", b"\xed\xa0\x80", b"-", b"'\""])
def test_names_in_any_encoding(tmp_path: Path, name: bytes) -> None:
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    (folder / "config.pbtxt").write_bytes(b'name: "' + name + b'"\n' + HEAD.encode())
    (folder / "1").mkdir()
    for one in lint([read_repository(tmp_path)], replace(R2410, baked=True)):
        assert one.message.encode(errors="surrogateescape")
