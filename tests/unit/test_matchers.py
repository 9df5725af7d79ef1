"""Values of tensors: where they come from, what is asked of them, and what is said when they are not so."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.checks.inference import pcg64
from composer.checks.inference.inputs import drawn, make_tensor, point
from composer.checks.inference.matchers import MATCHERS, Context, Finding, asked, match, shown
from composer.checks.inference.npy import make_npy, read_npy
from composer.errors import CheckFailed, Corrupt, NotFound
from composer.protocol.tensors import Tensor, flat, pack, rounded, rounded_all, unpack
from composer.recipe_checks import (
    VALUE_MATCHERS,
    AllClose,
    ArgMax,
    OutputExpect,
    Random,
    SameAs,
    Sum,
    TensorSpec,
    TopK,
)

NAN, INF = math.nan, math.inf


def tensor(values: Any, datatype: str = "FP32") -> Tensor:
    return Tensor(datatype=datatype, shape=np.array(values).shape, values=flat(values))


def found(name: str, wanted: Any, values: Any, datatype: str = "FP32", context: Context | None = None) -> Finding:
    return match(name, wanted, tensor(values, datatype), context or Context())


def allclose(values: Any, **more: Any) -> AllClose:
    return AllClose(values=values, **more)


def answering(values: Any, datatype: str = "FP32") -> Context:
    """Where another model answers with these."""
    return Context(ask=lambda wanted: tensor(values, datatype))


OTHER = SameAs(model="other")


@pytest.mark.parametrize(
    ("name", "wanted", "values", "datatype"),
    [
        ("equals", ((1, 2), (3, 4)), [[1, 2], [3, 4]], "INT32"),
        ("equals", (1, 2, 3, 4), [[1, 2], [3, 4]], "INT32"),
        ("equals", (0.1, INF), [0.10000000149011612, INF], "FP32"),
        ("equals", ("a", "é"), ["a", "é"], "BYTES"),
        ("equals", (True, False), [True, False], "BOOL"),
        ("allclose", allclose((1.0, INF, -INF)), [1.000009, INF, -INF], "FP32"),
        ("allclose", allclose((1.0,)), [1.0009], "FP16"),
        ("allclose", allclose((1.0,)), [1.009], "BF16"),
        ("allclose", allclose((1.0,), rtol=0.0, atol=0.5), [1.4], "FP32"),
        ("allclose", allclose((5,)), [5], "INT64"),
        ("allclose", allclose((NAN, 1.0), nan_equal=True), [NAN, 1.0], "FP32"),
        ("allclose", allclose((1.0, 2.0, 3.0), max_mismatch=1), [1.0, 2.5, 3.0], "FP32"),
        ("allclose", allclose((1.0, 2.0), stat="mean", atol=0.1, rtol=0.0), [1.0, 2.15], "FP32"),
        ("allclose", allclose((1.0, 2.0, 3.0), stat="median", atol=0.0, rtol=0.0), [1.0, 2.0, 9.0], "FP32"),
        ("allclose", allclose((100.0, 0.0), stat="max", atol=0.0, rtol=0.2), [110.0, 0.0], "FP32"),
        ("topk", TopK(k=2, equals=(2, 0)), [5, 1, 9], "FP32"),
        ("topk", TopK(k=2, equals=(0, 2), order=False), [5, 1, 9], "FP32"),
        ("topk", TopK(k=1, axis=0, equals=((1,), (0,))), [[1, 4], [2, 3]], "INT32"),
        ("topk", TopK(k=2, equals=(3, 0)), [7, 1, 7, 7], "FP32"),
        ("match", "^hello", ["hello you", "hello"], "BYTES"),
        ("match", "(?s)a.*b", ["xa\nb"], "BYTES"),
        ("argmax", ArgMax(equals=(1, 0)), [[1, 2, 0], [9, 2, 3]], "FP32"),
        ("argmax", ArgMax(equals=(1, 0, 1), axis=0), [[1, 2, 0], [9, 2, 3]], "FP32"),
        ("argmax", ArgMax(equals=2), [1, 2, 3], "FP32"),
        ("argmax", ArgMax(equals=((0, 1),), axis=1), [[[5, 1], [2, 3]]], "FP32"),
        ("finite", True, [1.0, -1e30], "FP32"),
        ("finite", False, [NAN], "FP32"),
        ("range", (0.0, 1.0), [0.0, 1.0, 0.5], "FP32"),
        ("sum", Sum(value=1.0, atol=1e-3), [[0.5, 0.5], [0.2, 0.8005]], "FP32"),
        ("sum", Sum(axis=0, value=3.0), [[1, 2], [2, 1]], "INT32"),
    ],
)
def test_as_wanted(name: str, wanted: object, values: object, datatype: str) -> None:
    assert found(name, wanted, values, datatype).fault is None


@pytest.mark.parametrize(
    ("name", "wanted", "values", "datatype", "words"),
    [
        (
            "equals",
            ((1, 2), (3, 4)),
            [[1, 2], [3, 9]],
            "INT32",
            "at [1, 1] 4 is expected, it is 9 (1 of 4 differ, max abs error 5, max rel error 1.25)",
        ),
        ("equals", (1, 2), [1, 2, 3], "INT32", "2 values are expected, it has 3"),
        (
            "equals",
            ((1, 2),),
            [[1], [2]],
            "INT32",
            "its shape is [2, 1], the values that are expected have [1, 2]",
        ),
        ("equals", ("a", "b"), ["a", "B"], "BYTES", "at [1] 'b' is expected, it is 'B' (1 of 2 differ)"),
        ("equals", ("1",), [1], "INT32", "at [0] '1' is expected, it is 1 (1 of 1 differ)"),
        ("equals", (NAN,), [NAN], "FP32", "at [0] nan is expected, it is nan (1 of 1 differ)"),
        (
            "allclose",
            allclose((1.0, 2.0)),
            [1.0, 2.1],
            "FP32",
            "at [1] 2 is expected, it is 2.1 (1 of 2 differ, max abs error 0.1, max rel error 0.05)",
        ),
        (
            "allclose",
            allclose((1.0,)),
            [1.00002],
            "FP32",
            "at [0] 1 is expected, it is 1.00002 (1 of 1 differ, max abs error 2e-05, max rel error 2e-05)",
        ),
        (
            "allclose",
            allclose((1.0, 1.0)),
            [NAN, 3.0],
            "FP32",
            "at [0] 1 is expected, it is nan (2 of 2 differ, max abs error 2, max rel error 2)",
        ),
        ("allclose", allclose((INF,)), [1.0], "FP32", "at [0] inf is expected, it is 1 (1 of 1 differ)"),
        ("allclose", allclose((1.0,)), [INF], "FP32", "at [0] 1 is expected, it is inf (1 of 1 differ)"),
        (
            "allclose",
            allclose((5,)),
            [6],
            "INT32",
            "at [0] 5 is expected, it is 6 (1 of 1 differ, max abs error 1, max rel error 0.2)",
        ),
        (
            "allclose",
            allclose((NAN,), nan_equal=True),
            [1.0],
            "FP32",
            "at [0] nan is expected, it is 1 (1 of 1 differ)",
        ),
        (
            "allclose",
            allclose((1.0, 2.0, 3.0), max_mismatch=1),
            [1.5, 2.5, 3.0],
            "FP32",
            "at [0] 1 is expected, it is 1.5 (2 of 3 differ, max abs error 0.5, max rel error 0.5)",
        ),
        (
            "allclose",
            allclose((1.0, 2.0), stat="mean", atol=0.1, rtol=0.0),
            [1.0, 2.25],
            "FP32",
            "the mean error is 0.125 absolute and 0.0625 relative, allowed are 0.1 or 0",
        ),
        (
            "allclose",
            allclose((1.0, 2.0, 3.0), stat="median"),
            [1.0, NAN, 3.0],
            "FP32",
            "at [1] 2 is expected, it is nan (1 of 3 differ, which no tolerance allows)",
        ),
        (
            "topk",
            TopK(k=2, equals=(0, 2)),
            [5, 1, 9],
            "FP32",
            "row 0 along axis -1 is largest at [2, 0], not at [0, 2] (in this order)",
        ),
        (
            "topk",
            TopK(k=2, equals=(0, 1), order=False),
            [5, 1, 9],
            "FP32",
            "row 0 along axis -1 is largest at [2, 0], not at [0, 1] (in any order)",
        ),
        (
            "topk",
            TopK(k=2, equals=(2, 2)),
            [5, 1, 9],
            "FP32",
            "row 0 along axis -1 is largest at [2, 0], not at [2, 2] (in this order)",
        ),
        (
            "topk",
            TopK(k=2, equals=(2, 7)),
            [5, 1, 9],
            "FP32",
            "row 0 along axis -1 is largest at [2, 0], not at [2, 7] (in this order)",
        ),
        ("topk", TopK(k=1, equals=(2,)), [[5, 1], [1, 2]], "FP32", "1 rows are expected, along axis -1 there are 2"),
        ("match", "^b", ["bc", "ab", ""], "BYTES", "at [1] 'ab' does not match '^b' (2 of 3)"),
        ("match", "1", [1], "INT32", "only texts are matched, its datatype is INT32"),
        (
            "argmax",
            ArgMax(equals=(1, 1)),
            [[1, 2, 0], [9, 2, 3]],
            "FP32",
            "row 1 along axis -1 is largest at 0, not at 1",
        ),
        (
            "argmax",
            ArgMax(equals=(1,)),
            [[1, 2], [9, 2]],
            "FP32",
            "1 positions are expected, along axis -1 there are 2",
        ),
        ("argmax", ArgMax(equals=(0,)), [1.0, NAN], "FP32", "row 0 along axis -1 is largest at 1, not at 0"),
        (
            "finite",
            True,
            [[1.0, NAN], [INF, 2.0]],
            "FP32",
            "at [0, 1] a finite number is expected, it is nan (2 of 4 are not)",
        ),
        ("range", (0.0, 1.0), [0.5, 1.5], "FP32", "at [1] a value from 0 to 1 is expected, it is 1.5 (1 of 2 are not)"),
        ("range", (0.0, 1.0), [NAN], "FP32", "at [0] a value from 0 to 1 is expected, it is nan (1 of 1 are not)"),
        ("range", (0.0, 1.0), ["x"], "BYTES", "at [0] a value from 0 to 1 is expected, it is 'x' (1 of 1 are not)"),
        (
            "sum",
            Sum(value=1.0, atol=1e-3),
            [[0.5, 0.5], [0.2, 0.9]],
            "FP32",
            "row 1 along axis -1 sums to 1.1, not to 1",
        ),
    ],
)
def test_not_as_wanted(name: str, wanted: object, values: object, datatype: str, words: str) -> None:
    assert found(name, wanted, values, datatype).fault == words


def test_every_matcher_is_tried_here() -> None:
    parameters = [mark for test in (test_as_wanted, test_not_as_wanted) for mark in test.pytestmark]
    tried = [{case[0] for case in mark.args[1]} for mark in parameters]
    # Those two take more than values, and have tests of their own.
    assert all(names | {"golden", "same_as"} == set(MATCHERS) for names in tried)
    assert set(VALUE_MATCHERS) == set(MATCHERS) - {"finite"}


def test_an_axis_that_is_not_there() -> None:
    with pytest.raises(CheckFailed, match="no axis 2"):
        found("argmax", ArgMax(equals=(1,), axis=2), [[1, 2]])


def test_figures_are_there_whether_it_is_well_or_not() -> None:
    well = found("allclose", allclose((1.0, 0.0, -4.0), atol=0.5), [1.25, 0.25, -4.0])
    assert well == Finding(figures={"max_abs": 0.25, "max_rel": 0.25, "differ": 0, "count": 3})
    ill = found("allclose", allclose(((1.0, 2.0), (3.0, 4.0))), [[1.0, 2.0], [3.0, 8.0]])
    assert ill.figures == {"max_abs": 4.0, "max_rel": 1.0, "differ": 1, "count": 4, "first": [1, 1]}
    assert found("equals", (0, 0), [0, 0], "INT32").figures["max_rel"] is None
    assert found("argmax", ArgMax(equals=0), [3, 1]).figures == {"argmax": [0]}
    assert found("topk", TopK(k=2, equals=(0, 1)), [3, 1]).figures == {"topk": [[0, 1]]}
    json.dumps(found("allclose", allclose((1e308, NAN)), [-1e308, INF], "FP64").figures, allow_nan=False)
    json.dumps(found("sum", Sum(value=1), [[NAN, 1.0]]).figures, allow_nan=False)


def test_an_expected_number_is_what_the_datatype_holds_of_it() -> None:
    assert found("allclose", allclose((0.1,), rtol=0.0, atol=0.0), [0.10000000149011612]).figures["max_abs"] == 0
    assert shown(0.10000000149011612, "FP32") == "0.1"
    assert shown(0.10000000149011612, "FP64") == "0.10000000149011612"
    assert shown(1e30, "FP32") == "1e+30"


def test_the_answer_of_another_model() -> None:
    assert found("same_as", OTHER, [1.0, 2.0], context=answering([1.0, 2.000001])).fault is None
    assert found("same_as", OTHER, [1.0, 2.0], context=answering([1.0, 2.5])).fault == (
        "at [1] 2.5 is expected, it is 2 (1 of 2 differ, max abs error 0.5, max rel error 0.2)"
    )
    loose = SameAs(model="other", version=2, rtol=0.3)
    assert found("same_as", loose, [1.0, 2.0], context=answering([1.0, 2.5])).fault is None
    assert found("same_as", loose, [1.0], context=answering([[1.0]])).fault == (
        "its shape is [1], that of other version 2 is [1, 1]"
    )
    assert found("same_as", OTHER, [1.0], context=answering([1], "INT32")).fault == (
        "its datatype is FP32, that of other is INT32"
    )


def test_what_an_expectation_asks() -> None:
    expected = OutputExpect(equals=(1,), finite=True, range=(0.0, 1.0), dtype="FP32")
    assert list(asked(expected)) == [("equals", (1,)), ("range", (0.0, 1.0)), ("finite", True)]


numbers = st.floats(width=32)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=30), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_allclose_is_numpys(pairs: list[tuple[float, float]], rtol: float, atol: float, nan_equal: bool) -> None:
    want, got = (np.array(side) for side in zip(*pairs, strict=True))
    wanted = allclose(tuple(want.tolist()), rtol=rtol, atol=atol, nan_equal=nan_equal)
    finding = match("allclose", wanted, tensor(got.tolist(), "FP64"), Context())
    with np.errstate(all="ignore"):
        close = np.isclose(got, want, rtol=rtol, atol=atol, equal_nan=nan_equal)
    assert finding.figures["differ"] == int((~close).sum())
    assert (finding.fault is None) == bool(close.all())


@given(st.lists(st.integers(-1000, 1000), min_size=3, max_size=20, unique=True))
def test_topk_is_numpys(values: list[int]) -> None:
    order = tuple(np.argsort(-np.array(values), kind="stable")[:3].tolist())
    assert found("topk", TopK(k=3, equals=order), values).fault is None
    assert found("topk", TopK(k=3, equals=order[::-1], order=False), values).fault is None
    assert found("topk", TopK(k=3, equals=order[::-1]), values).fault is not None


# -- where values come from --------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31, 2**32 + 5, 2**64, 2**130 + 17])
def test_drawn_numbers_are_numpys(seed: int) -> None:
    assert list(islice(pcg64.uniform(seed), 1000)) == np.random.default_rng(seed).random(1000).tolist()


def draw(datatype: str, **bounds: float) -> Tensor:
    spec = TensorSpec(dtype=datatype, shape=(2, 50), random=Random(seed=3, **bounds))
    return make_tensor(spec, Path())


def test_drawn_tensors() -> None:
    numbers = np.random.default_rng(3).random(100)
    assert draw("FP64", low=-2.0, high=2.0).values == (-2 + 4 * numbers).tolist()
    assert draw("FP32").values == numbers.astype(np.float32).tolist()
    assert draw("FP16").values == numbers.astype(np.float16).tolist()
    assert draw("INT32", low=-5.0, high=5.0).values == np.floor(-5 + 10 * numbers).astype(int).tolist()
    assert draw("UINT8").values == np.floor(128 * numbers).astype(int).tolist()
    assert draw("BOOL").values == (numbers >= 0.5).tolist()


def test_written_tensors() -> None:
    assert make_tensor(TensorSpec(dtype="INT32", shape=(2, 2), data=((1, 2), (3, 4))), Path()) == Tensor(
        datatype="INT32", shape=(2, 2), values=[1, 2, 3, 4]
    )
    assert make_tensor(TensorSpec(dtype="FP32", shape=(2, 3), fill=0.5), Path()).values == [0.5] * 6
    assert make_tensor(TensorSpec(dtype="BOOL", shape=(2,), fill=False), Path()).values == [False] * 2


ARRAYS = {
    "bool": np.array([[True, False]]),
    "int8": np.arange(-3, 3, dtype=np.int8),
    "big-endian": np.arange(6, dtype=">i4").reshape(2, 3),
    "uint64": np.array([2**64 - 1], dtype=np.uint64),
    "half": np.array([0.1, np.inf], dtype=np.float16),
    "fortran": np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4)),
    "double": np.array([[1e300]]),
    "scalar": np.array(5, dtype=np.int64),
    "empty": np.zeros((0, 3), dtype=np.float32),
    "bytes": np.array([b"ab", b"c"]),
    "texts": np.array([["é", "long one"]]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_npy_files(tmp_path: Path, name: str) -> None:
    array = ARRAYS[name]
    np.save(tmp_path / "a.npy", array)
    found = read_npy(tmp_path / "a.npy")
    texts = array.dtype.kind in "SU"
    assert found.shape == array.shape
    assert list(found.values) == (array.astype(str) if texts else array).flatten().tolist()
    kinds = {"b": "BOOL", "S": "BYTES", "U": "BYTES"}
    sized = {"i": "INT", "u": "UINT", "f": "FP"}.get(array.dtype.kind, "") + str(8 * array.itemsize)
    assert found.datatype == kinds.get(array.dtype.kind, sized)


def test_files_that_are_not_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", np.arange(5))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "complex.npy", np.array([1j]))
    (tmp_path / "text.npy").write_text("1, 2, 3")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:-8])
    for name in ("objects", "complex", "text", "cut"):
        with pytest.raises(Corrupt, match=f"{name}.npy is not a NumPy file of numbers or texts"):
            read_npy(tmp_path / f"{name}.npy")
    with pytest.raises(NotFound, match="cannot be read"):
        read_npy(tmp_path / "none.npy")


def test_an_input_from_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.array([[1, 2]], dtype=np.int32))
    spec = TensorSpec.model_construct(npy=Path("in.npy"))
    assert make_tensor(spec, tmp_path) == Tensor(datatype="INT32", shape=(1, 2), values=[1, 2])
    other = TensorSpec.model_construct(dtype="INT64", npy=Path("in.npy"))
    with pytest.raises(CheckFailed, match="has the dtype INT32, the check says INT64"):
        make_tensor(other, tmp_path)


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "INT8", "UINT16", "INT64", "BOOL"])
def test_bytes_are_numpys(datatype: str) -> None:
    kind = {"BOOL": "?"}.get(datatype) or datatype.lower().replace("fp", "float")
    array = np.array([0, 1, 1, 0] if datatype == "BOOL" else [0, 1, 100, 7], dtype=kind)
    body = pack(Tensor(datatype=datatype, shape=(4,), values=array.tolist()))
    assert body == array.tobytes()
    assert unpack(datatype, body) == array.tolist()


def test_bf16_rounds_to_nearest_even_and_keeps_what_is_not_a_number() -> None:
    for value, expected in ((1.0, 1.0), (0.1, 0.10009765625), (1.00390625, 1.0), (1.01171875, 1.015625), (INF, INF)):
        assert rounded(value, "BF16") == expected
    assert math.isnan(rounded(NAN, "BF16"))


NOT_ASCII = b"\xff\x00\xfejpeg"


def test_raw_bytes(tmp_path: Path) -> None:
    array = np.array([[0.5, -2.0], [1e-3, 7.0]], dtype="<f2")
    (tmp_path / "raw.bin").write_bytes(array.tobytes())
    spec = TensorSpec(dtype="FP16", shape=(2, 2), file=Path("raw.bin"))
    assert make_tensor(spec, tmp_path) == Tensor(datatype="FP16", shape=(2, 2), values=array.flatten().tolist())
    b64 = TensorSpec(dtype="FP16", shape=(2, 2), b64=b64encode(array.tobytes()).decode())
    assert make_tensor(b64, tmp_path) == make_tensor(spec, tmp_path)


def test_raw_bytes_of_one_text(tmp_path: Path) -> None:
    (tmp_path / "cat.jpeg").write_bytes(NOT_ASCII)
    spec = TensorSpec(dtype="BYTES", shape=(1, 1), file=Path("cat.jpeg"))
    assert pack(make_tensor(spec, tmp_path)) == len(NOT_ASCII).to_bytes(4, "little") + NOT_ASCII
    two = TensorSpec(dtype="BYTES", shape=(2,), file=Path("cat.jpeg"))
    with pytest.raises(CheckFailed, match=r"cat.jpeg is one text, the shape \[2\] has 2"):
        make_tensor(two, tmp_path)


@pytest.mark.parametrize(
    ("shape", "message", "hint"),
    [
        ((2, 3), r"raw.bin has 16 bytes, FP32 \[2, 3\] takes 24", None),
        ((1, 2), r"raw.bin has 16 bytes, FP32 \[1, 2\] takes 8", "shape: [2, 2]"),
        ((), r"raw.bin has 16 bytes, FP32 \[\] takes 4", None),
    ],
)
def test_raw_bytes_that_do_not_fit(tmp_path: Path, shape: tuple[int, ...], message: str, hint: str | None) -> None:
    (tmp_path / "raw.bin").write_bytes(bytes(16))
    with pytest.raises(CheckFailed, match=message) as caught:
        make_tensor(TensorSpec(dtype="FP32", shape=shape, file=Path("raw.bin")), tmp_path)
    assert caught.value.hint == hint
    with pytest.raises(NotFound, match=r"none.bin cannot be read"):
        make_tensor(TensorSpec(dtype="FP32", shape=shape, file=Path("none.bin")), tmp_path)


def from_json(tmp_path: Path, document: object, pointer: str | None, datatype: str = "FP32", count: int = 2) -> Tensor:
    (tmp_path / "in.json").write_text(json.dumps(document))
    values: dict[str, Any] = {"dtype": datatype, "shape": (count,), "json": Path("in.json"), "pointer": pointer}
    return make_tensor(TensorSpec.model_validate(values), tmp_path)


def test_values_from_json(tmp_path: Path) -> None:
    assert from_json(tmp_path, [[0.1, 2]], None).values == [rounded(0.1, "FP32"), 2.0]
    assert from_json(tmp_path, [{"x": [1, 2]}], "/0/x", "INT8").values == [1, 2]
    assert from_json(tmp_path, {"a/b": {"m~n": ["é", ""]}}, "/a~1b/m~0n", "BYTES").values == ["é", ""]
    assert from_json(tmp_path, {"": [True, False]}, "/", "BOOL").values == [True, False]
    assert from_json(tmp_path, [NAN], None, count=1).values[0] != 0


@pytest.mark.parametrize(
    ("document", "pointer", "datatype", "message"),
    [
        ([{"x": [1, 2]}], "/1/x", "FP32", "in.json has no /1/x: the whole file is a list of 1"),
        ([{"x": [1, 2]}], "/0/y", "FP32", "in.json has no /0/y: /0 has x"),
        ([{"x": [1, 2]}], "/0/x/0/1", "FP32", "in.json has no /0/x/0/1: /0/x/0 is 1"),
        ([[1, 2]], "/-1", "FP32", "in.json has no /-1: the whole file is a list of 1"),
        ([[1, 2]], "/00", "FP32", "in.json has no /00: the whole file is a list of 1"),
        ([1, 2.5], None, "INT32", "in.json: INT32 cannot hold 2.5"),
        ([1, "2"], None, "FP32", 'in.json: FP32 cannot hold "2"'),
        ([1, None], None, "FP32", "in.json: FP32 cannot hold null"),
        ([True, 1], None, "BOOL", "in.json: BOOL cannot hold 1"),
        ([1, 2, 3], None, "FP32", "3 values do not fill the shape [2]"),
    ],
)
def test_json_that_has_other_values(
    tmp_path: Path, document: object, pointer: str | None, datatype: str, message: str
) -> None:
    with pytest.raises((CheckFailed, NotFound)) as caught:
        from_json(tmp_path, document, pointer, datatype)
    assert caught.value.message == message


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text("{")
    with pytest.raises(CheckFailed, match="is not JSON"):
        make_tensor(TensorSpec.model_validate({"dtype": "FP32", "shape": (1,), "json": Path("in.json")}), tmp_path)


def test_the_pointers_of_rfc_6901() -> None:
    document = {
        "foo": ["bar", "baz"],
        "": 0,
        "a/b": 1,
        "c%d": 2,
        "e^f": 3,
        "g|h": 4,
        "i\\j": 5,
        'k"l': 6,
        " ": 7,
        "m~n": 8,
    }
    wanted = {"": document, "/foo": ["bar", "baz"], "/foo/0": "bar", "/": 0, "/a~1b": 1, "/c%d": 2, "/e^f": 3}
    wanted |= {"/g|h": 4, "/i\\j": 5, '/k"l': 6, "/ ": 7, "/m~0n": 8}
    assert {pointer: point(document, pointer, "x") for pointer in wanted} == wanted


def test_drawn_inputs_can_be_drawn_again_elsewhere() -> None:
    spec = TensorSpec(dtype="FP32", shape=(4,), random=Random(seed=7))
    said = drawn(spec, make_tensor(spec, Path()))
    assert (said["generator"], said["seed"]) == ("PCG64", 7)
    other = TensorSpec(dtype="FP32", shape=(4,), random=Random(seed=8))
    assert said["sha256"] != drawn(other, make_tensor(other, Path()))["sha256"]
    written = TensorSpec(dtype="FP32", shape=(1,), fill=1.0)
    assert drawn(written, make_tensor(written, Path())) == {}


# -- .npy written ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARRAYS)
def test_numpy_reads_what_is_written(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "in.npy", ARRAYS[name])
    before = read_npy(tmp_path / "in.npy")
    (tmp_path / "out.npy").write_bytes(make_npy(before))
    assert read_npy(tmp_path / "out.npy") == before
    array = np.load(tmp_path / "out.npy")
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    assert array.shape == ARRAYS[name].shape
    assert array.tolist() == (ARRAYS[name].astype(str) if array.dtype.kind == "U" else ARRAYS[name]).tolist()


def test_the_header_is_numpys() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    written = make_npy(Tensor(datatype="FP32", shape=(2, 3), values=array.flatten().tolist()))
    assert written.index(b"\n") % 64 == 63
    assert written[written.index(b"\n") + 1 :] == array.tobytes()


def test_bf16_is_kept_in_fp32_and_read_from_what_ml_dtypes_saves(tmp_path: Path) -> None:
    values = [1.0, 0.10009765625, -INF]
    (tmp_path / "a.npy").write_bytes(make_npy(Tensor(datatype="BF16", shape=(3,), values=values)))
    assert np.load(tmp_path / "a.npy").dtype == np.float32
    spec = TensorSpec(dtype="BF16", npy=Path("a.npy"))
    assert make_tensor(spec, tmp_path) == Tensor(datatype="BF16", shape=(3,), values=values)
    np.save(tmp_path / "b.npy", np.frombuffer(pack(make_tensor(spec, tmp_path)), dtype="V2"))
    assert read_npy(tmp_path / "b.npy") == Tensor(datatype="BF16", shape=(3,), values=values)


def test_texts_that_a_numpy_file_would_cut_are_refused() -> None:
    with pytest.raises(ValueError, match="ends in a zero byte"):
        make_npy(Tensor(datatype="BYTES", shape=(1,), values=["ab\0"]))


def test_objects_are_refused_with_what_to_save_instead(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array(["a", "b"], dtype=object), allow_pickle=True)
    with pytest.raises(Corrupt, match="it holds Python objects"):
        read_npy(tmp_path / "o.npy")


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64", "INT32"])
@given(values=st.lists(st.floats(), max_size=8))
def test_many_numbers_are_rounded_as_one(datatype: str, values: list[float]) -> None:
    many = [round(value) if datatype == "INT32" else value for value in values if math.isfinite(value)]
    assert list(rounded_all(many, datatype)) == [rounded(value, datatype) for value in many]
