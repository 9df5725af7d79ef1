"""Values of tensors: where they come from, what is asked of them, and what is said when they are not so."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from composer.checks import pcg64
from composer.checks.inputs import make_tensor
from composer.checks.matchers import MATCHERS
from composer.checks.npy import read_npy
from composer.checks.tensors import Tensor, decode, encode, flat, pack, rounded, unpack
from composer.errors import CheckFailed, Corrupt, NotFound
from composer.recipe import AllClose, ArgMax, Random, Sum, TensorSpec

NAN, INF = math.nan, math.inf


def tensor(values: Any, datatype: str = "FP32") -> Tensor:
    return Tensor(datatype=datatype, shape=np.array(values).shape, values=flat(values))


def match(name: str, wanted: Any, values: Any, datatype: str = "FP32", base: Path = Path()) -> str | None:
    return MATCHERS[name](wanted, tensor(values, datatype), base)


def allclose(values: Any, **tolerance: float) -> AllClose:
    return AllClose(values=values, **tolerance)


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
    assert match(name, wanted, values, datatype) is None


@pytest.mark.parametrize(
    ("name", "wanted", "values", "datatype", "words"),
    [
        (
            "equals",
            ((1, 2), (3, 4)),
            [[1, 2], [3, 9]],
            "INT32",
            "at [1, 1] 4 is expected, it is 9 (1 of 4 differ, max abs error 5)",
        ),
        ("equals", (1, 2), [1, 2, 3], "INT32", "2 values are expected, it has 3"),
        ("equals", ("a", "b"), ["a", "B"], "BYTES", "at [1] 'b' is expected, it is 'B' (1 of 2 differ)"),
        ("equals", ("1",), [1], "INT32", "at [0] '1' is expected, it is 1 (1 of 1 differ)"),
        ("equals", (NAN,), [NAN], "FP32", "at [0] nan is expected, it is nan (1 of 1 differ)"),
        (
            "allclose",
            allclose((1.0, 2.0)),
            [1.0, 2.1],
            "FP32",
            "at [1] 2.0 is expected, it is 2.1 (1 of 2 differ, max abs error 0.1)",
        ),
        (
            "allclose",
            allclose((1.0,)),
            [1.00002],
            "FP32",
            "at [0] 1.0 is expected, it is 1.00002 (1 of 1 differ, max abs error 2e-05)",
        ),
        (
            "allclose",
            allclose((1.0, 1.0)),
            [NAN, 3.0],
            "FP32",
            "at [0] 1.0 is expected, it is nan (2 of 2 differ, max abs error 2)",
        ),
        ("allclose", allclose((INF,)), [1.0], "FP32", "at [0] inf is expected, it is 1.0 (1 of 1 differ)"),
        ("allclose", allclose((1.0,)), [INF], "FP32", "at [0] 1.0 is expected, it is inf (1 of 1 differ)"),
        ("allclose", allclose((5,)), [6], "INT32", "at [0] 5 is expected, it is 6 (1 of 1 differ, max abs error 1)"),
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
    assert match(name, wanted, values, datatype) == words


def test_every_matcher_is_tried_here() -> None:
    parameters = [mark for test in (test_as_wanted, test_not_as_wanted) for mark in test.pytestmark]
    tried = [{case[0] for case in mark.args[1]} for mark in parameters]
    assert all(names == set(MATCHERS) for names in tried)


def test_an_axis_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no axis 2"):
        match("argmax", ArgMax(equals=(1,), axis=2), [[1, 2]])


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31, 2**32 + 5, 2**64, 2**130 + 17])
def test_drawn_numbers_are_numpys(seed: int) -> None:
    assert list(islice(pcg64.uniform(seed), 1000)) == np.random.default_rng(seed).random(1000).tolist()


def drawn(datatype: str, **bounds: float) -> Tensor:
    spec = TensorSpec(dtype=datatype, shape=(2, 50), random=Random(seed=3, **bounds))
    return make_tensor(spec, Path())


def test_drawn_tensors() -> None:
    numbers = np.random.default_rng(3).random(100)
    assert drawn("FP64", low=-2.0, high=2.0).values == (-2 + 4 * numbers).tolist()
    assert drawn("FP32").values == numbers.astype(np.float32).tolist()
    assert drawn("FP16").values == numbers.astype(np.float16).tolist()
    assert drawn("INT32", low=-5.0, high=5.0).values == np.floor(-5 + 10 * numbers).astype(int).tolist()
    assert drawn("UINT8").values == np.floor(128 * numbers).astype(int).tolist()
    assert drawn("BOOL").values == (numbers >= 0.5).tolist()


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


def test_a_golden_file(tmp_path: Path) -> None:
    np.save(tmp_path / "golden.npy", np.array([1.0, 2.0], dtype=np.float32))
    wanted = AllClose.model_construct(values=None, npy=Path("golden.npy"), rtol=None, atol=None)
    assert match("allclose", wanted, [1.0, 2.0], base=tmp_path) is None
    assert "at [1]" in (match("allclose", wanted, [1.0, 2.5], base=tmp_path) or "")


def test_an_input_from_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.array([[1, 2]], dtype=np.int32))
    spec = TensorSpec.model_construct(npy=Path("in.npy"))
    assert make_tensor(spec, tmp_path) == Tensor(datatype="INT32", shape=(1, 2), values=(1, 2))
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


def test_bytes_tensors_from_bytes() -> None:
    body = b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0c"
    answer = {"name": "Y", "datatype": "BYTES", "shape": [3], "parameters": {"binary_data_size": len(body)}}
    assert decode([answer], body)["Y"].values == ["ab", "", "c"]


def test_what_json_cannot_hold_goes_as_bytes() -> None:
    head, body = encode("X", Tensor(datatype="FP32", shape=(2,), values=[1.0, NAN]))
    assert head == {"name": "X", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}
    assert np.isnan(np.frombuffer(body, np.float32)[1])
    head, body = encode("X", Tensor(datatype="INT32", shape=(2,), values=[1, 2]))
    assert head["data"] == [1, 2]
    assert body == b""
    with pytest.raises(ValueError, match="INT8 cannot hold"):
        pack(Tensor(datatype="INT8", shape=(1,), values=[300]))
