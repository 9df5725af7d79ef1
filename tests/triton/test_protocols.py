"""A real server asked in every way: JSON, bytes and gRPC say the same of the same, also of what is refused."""

from __future__ import annotations

import math
import random
import re
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy
import pytest
import tritonclient.grpc as nvidia

from composer.checks.health import health
from composer.checks.inference import one_check
from composer.checks.inference.agreement import disagreement
from composer.checks.inference.ways import WAYS, Asker, Heard
from composer.checks.report import Result
from composer.checks.subject import Subject, Terms
from composer.events import ignore
from composer.protocol import grpc
from composer.protocol.http import Client
from composer.protocol.messages import NoAnswer, Refused, Request, Response, Turn
from composer.protocol.tensors import FORMATS, Tensor
from composer.recipe import Run, parse_recipe
from composer.runners import Running
from composer.runners.rootfs import RootfsRunner
from tests.triton.images import Bench, python_model

pytestmark = pytest.mark.triton

KINDS = (*FORMATS, "BYTES")
"""BF16 is none of NumPy's."""
SIGNS = ("UNKNOWN", "INTERNAL", "NOT_FOUND", "INVALID_ARG", "UNAVAILABLE", "UNSUPPORTED", "ALREADY_EXISTS", "CANCELLED")

ECHO = f"""\
def execute(self, requests):
    return [answer(**{{name + '_': tensor(request, name) for name in {KINDS!r}}}) for request in requests]
"""
REFUSE = f"""\
def execute(self, requests):
    names = [{SIGNS!r}[tensor(request, 'X')[0]] for request in requests]
    errors = [pb.TritonError('told to: ' + name, getattr(pb.TritonError, name)) for name in names]
    return [pb.InferenceResponse(error=error) for error in errors]
"""
COUNT = """\
def execute(self, requests):
    for request in requests:
        sender, count = request.get_response_sender(), int(tensor(request, 'X')[0])
        if count == 99:
            sender.send(pb.InferenceResponse(error=pb.TritonError('no such number', pb.TritonError.INVALID_ARG)))
        else:
            for number in range(abs(count)):
                sender.send(answer(Y=np.array([number], dtype=np.int32)))
        if count >= 0:
            sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
ADD_UP = """\
sums = {}
def execute(self, requests):
    return [self.add(request) for request in requests]
def add(self, request):
    start, name = (tensor(request, one).flat[0] for one in ('START', 'ID'))
    before = 0 if start else self.sums.get(name, 0)
    self.sums[name] = before + int(tensor(request, 'X').flat[0])
    return answer(Y=np.array([[self.sums[name]]], dtype=np.int32))
"""
NAN = "return [answer(Y=np.array([np.nan, np.inf, -np.inf, -0.0], dtype=np.float32)) for request in requests]"
ONE = {"X": "FP32 [1]"}


def control(name: str, kind: str, form: str) -> str:
    return f'control_input [{{ name: "{name}" control [{{ kind: {kind} {form} }}] }}]'


def models() -> dict[str, str]:
    made = {
        **python_model("echo", ECHO, forms(""), forms("_")),
        **just("FP32", "FP64", "INT64", "BYTES"),
        **python_model("refuse", REFUSE, {"X": "INT32 [1]"}, {"Y": "FP32 [1]"}),
        **python_model("count", COUNT, {"X": "INT32 [1]"}, {"Y": "INT32 [1]"}),
        **python_model("add_up", ADD_UP, {"X": "INT32 [1]"}, {"Y": "INT32 [1]"}, batch=4),
        **python_model("double", each("Y=tensor(request, 'X') * 2"), {"X": "FP32 [2]"}, {"Y": "FP32 [2]"}, batch=8),
        **python_model("nan", f"def execute(self, requests):\n    {NAN}", ONE, {"Y": "FP32 [4]"}),
        **python_model("dice", each("Y=np.random.rand(1).astype(np.float32)"), ONE, {"Y": "FP32 [1]"}),
        **python_model("slow", f"{each('Y=tensor(request, chr(88))', 'time.sleep(0.2)')}", ONE, {"Y": "FP32 [1]"}),
        **python_model("mute", "def execute(self, requests):\n    return None", ONE, {"Y": "FP32 [1]"}),
        **python_model("dies", "def execute(self, requests):\n    os._exit(3)", ONE, {"Y": "FP32 [1]"}),
    }
    made["count/config.pbtxt"] += "\nmodel_transaction_policy { decoupled: true }"
    controls = (
        control("START", "CONTROL_SEQUENCE_START", "int32_false_true: [0, 1]"),
        control("ID", "CONTROL_SEQUENCE_CORRID", "data_type: TYPE_UINT64"),
    )
    made["add_up/config.pbtxt"] += f"\nsequence_batching {{ {' '.join(controls)} }}"
    return made


def just(*kinds: str) -> dict[str, str]:
    """Models that say one tensor again."""
    body = each("Y=tensor(request, 'X')")
    made = (python_model(f"just_{k.lower()}", body, {"X": f"{form(k)} [-1]"}, {"Y": f"{form(k)} [-1]"}) for k in kinds)
    return {path: text for model in made for path, text in model.items()}


def forms(suffix: str) -> dict[str, str]:
    return {f"{kind}{suffix}": f"{form(kind)} [-1]" for kind in KINDS}


def form(datatype: str) -> str:
    return "STRING" if datatype == "BYTES" else datatype


def each(outputs: str, first: str = "pass") -> str:
    return f"def execute(self, requests):\n    {first}\n    return [answer({outputs}) for request in requests]"


@pytest.fixture(scope="module")
def running(bench: Bench) -> Iterator[Running]:
    """One server for all of this. In the end it must still be there."""
    with RootfsRunner().start(bench.image(models()), bench.store, Run(), emit=ignore) as server:
        (ready, *_) = health(subject(server, ""))
        assert ready.ok, ready.message
        yield server
        assert server.exit_code() is None


def subject(running: Running, checks: str) -> Subject:
    text = f'triton: "24.10"\nbackends: [python]\nvalidate:\n  startup: {{deadline: 60s}}\n{checks}'
    wanted = parse_recipe(text, path=Path("recipe.yaml"), environ={}).validation
    assert wanted
    terms = Terms(validation=wanted, models=None, base=Path())
    return Subject(running=running, terms=terms, client=Client(running.http), emit=ignore)


def check(running: Running, model: str, sent: str, expect: str, more: str = "", timeout: int = 5) -> Result:
    """What comes of one check. `sent` are datatype, shape and data of the input X."""
    datatype, shape, data = sent.split(" ", 2)
    inputs = f"inputs: {{X: {{dtype: {datatype}, shape: {shape}, data: {data}}}}}"
    asked = f"request: {{{inputs}, timeout: {timeout}s}}, expect: {{{expect}}}"
    one = subject(running, f"  checks: [{{id: it, model: {model}, {more}{asked}}}]")
    return one_check(one, one.validation.checks[0])


def ask(running: Running, request: Request) -> dict[str, Heard]:
    """What is heard in every way."""
    with closing(Asker(subject(running, ""))) as asker:
        return {way: asker.ask(way, request) for way in WAYS}


EVERYWHERE = "over http-binary, grpc and http-json"

# -- values --------------------------------------------------------------------------------------


def test_a_golden_check_in_every_way(running: Running) -> None:
    found = check(running, "double", "FP32 [1,2] [0.1,2]", "outputs: {Y: {allclose: {values: [[0.2, 4]]}}}")
    assert (found.outcome, found.message) == ("passed", f"the answer is as expected {EVERYWHERE}")
    figures = [way["outputs"]["Y"] for way in found.evidence["ways"].values()]
    assert figures == [figures[0]] * 3
    assert figures[0]["max_abs"] < 1e-7
    assert figures[0]["max_rel"] < 1e-7


EXTREMES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    **{f"INT{bits}": [-(1 << bits - 1), (1 << bits - 1) - 1] for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": [0, (1 << bits) - 1] for bits in (8, 16, 32, 64)},
    "FP32": [1.401298464324817e-45, math.nan],
    "FP64": [5e-324, 1.7976931348623157e308],
    "FP16": [0.0999755859375, -0.0],
    "BYTES": ['a"\n\x07\\ü漢', "\udcff"],
}


def test_every_datatype_comes_back_bit_by_bit(running: Running) -> None:
    inputs = {kind: Tensor(datatype=kind, shape=(2,), values=values) for kind, values in EXTREMES.items()}
    with closing(Asker(subject(running, ""))) as asker:
        for way in ("http-binary", "grpc"):
            (answer,) = asker.ask(way, Request(model="echo", inputs=inputs)).answers
            assert isinstance(answer, Response)
            assert not answer.odd
            back = {kind: [repr(value) for value in answer.outputs[f"{kind}_"].values] for kind in KINDS}
            assert back == {kind: [repr(value) for value in values] for kind, values in EXTREMES.items()}


def test_json_loses_nothing_but_the_last_place_of_fp64(running: Running) -> None:
    rolls = random.Random(7)
    numbers: dict[str, list[Any]] = {
        "FP32": [struct.unpack("<f", rolls.randbytes(4))[0] for _ in range(500)],
        "FP64": [struct.unpack("<d", rolls.randbytes(8))[0] for _ in range(500)],
        "INT64": [rolls.randrange(-(1 << 63), 1 << 63) for _ in range(500)],
    }
    for kind, values in numbers.items():
        sent = [value for value in values if math.isfinite(value)]
        tensor = Tensor(datatype=kind, shape=(len(sent),), values=sent)
        heard = ask(running, Request(model=f"just_{kind.lower()}", inputs={"X": tensor}))
        assert disagreement([heard["http-binary"]], [heard["grpc"]]) is None
        assert disagreement([heard["http-json"]], [heard["grpc"]], inexact=kind == "FP64") is None
        # Triton reads some FP64 as the number beside it: if it ever stops doing so, INEXACT can go.
        assert bool(disagreement([heard["http-json"]], [heard["grpc"]])) == (kind == "FP64")


def test_what_no_number_is_comes_in_every_way(running: Running) -> None:
    found = check(running, "nan", "FP32 [1] [1]", "outputs: {Y: {finite: true}}")
    assert found.message == ("output Y: finite: at [0] a finite number is expected, it is nan (3 of 4 are not)")


def test_nvidias_client_hears_the_same(running: Running) -> None:
    values = numpy.array([[0.1, -7.25]], dtype=numpy.float32)
    theirs = nvidia.InferInput("X", values.shape, "FP32")
    theirs.set_data_from_numpy(values)
    client = nvidia.InferenceServerClient(running.grpc)
    answer = client.infer("double", [theirs]).as_numpy("Y")
    client.close()
    tensor = Tensor(datatype="FP32", shape=(1, 2), values=[0.1, -7.25])
    for heard in ask(running, Request(model="double", inputs={"X": tensor})).values():
        (ours,) = heard.answers
        assert isinstance(ours, Response)
        assert list(ours.outputs["Y"].values) == answer[0].tolist()


def test_large_tensors_go_and_come(running: Running) -> None:
    """gRPC libraries stop at 4 MB unless they are told not to."""
    tensor = Tensor(datatype="BYTES", shape=(1,), values=["a" * (9 << 20)])
    for heard in ask(running, Request(model="just_bytes", inputs={"X": tensor})).values():
        (answer,) = heard.answers
        assert isinstance(answer, Response)
        assert answer.outputs["Y"] == tensor


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", SIGNS)
def test_what_http_calls_an_error_grpc_calls_the_same(running: Running, sign: str) -> None:
    tensor = Tensor(datatype="INT32", shape=(1,), values=[SIGNS.index(sign)])
    heard = ask(running, Request(model="refuse", inputs={"X": tensor}))
    (said,) = {way.answers[0] for way in heard.values()}
    assert isinstance(said, Refused)
    assert said.message == f"told to: {sign}"
    assert said.code == {"INTERNAL": 500, "NOT_FOUND": 404, "UNAVAILABLE": 503, "UNSUPPORTED": 501}.get(sign, 400)


SHAPE = "FP32 [1,3] [1,2,3]"


def test_a_refusal_is_expected_once_for_all_ways(running: Running) -> None:
    found = check(running, "double", SHAPE, 'status: {error: {code: 400, match: "unexpected shape"}}')
    assert (found.outcome, found.message) == ("passed", f"the answer is as expected {EVERYWHERE}")
    found = check(running, "double", SHAPE, "outputs: {Y: {range: [0, 1]}}")
    assert found.message.startswith(
        "the server refuses with 400: [request id: <id_unknown>] unexpected shape for input"
    )
    found = check(running, "double", "FP32 [1,2] [1,2]", "status: {error: {code: 400}}")
    assert found.message == "HTTP 400 is expected, it is 200"


@pytest.mark.parametrize(
    ("model", "sent", "words", "hint"),
    [
        ("count", "INT32 [1] [1]", "the model is decoupled: it answers on streams only", "mode: stream"),
        ("add_up", "INT32 [1,1] [1]", "must specify a non-zero or non-empty correlation ID", "sequence: {}"),
        ("nobody", "INT32 [1] [1]", "the server does not know this model: Request for unknown model: 'nobody'", ""),
        (
            "mute",
            "FP32 [1] [1]",
            "no answer within 1 s; the server counts the request as answered: the model returned no response",
            "execute must return a list with a response for each request",
        ),
    ],
)
def test_requests_that_a_model_cannot_answer(running: Running, model: str, sent: str, words: str, hint: str) -> None:
    found = check(running, model, sent, "outputs: {Y: {range: [0, 9]}}", timeout=1 if model == "mute" else 5)
    assert found.outcome == "failed"
    assert words in found.message
    assert found.hint == hint


def test_a_model_whose_process_is_gone(running: Running) -> None:
    for _ in range(2):
        expect = "outputs: {Y: {range: [0, 9]}}"
        found = check(running, "dies", "FP32 [1] [1]", expect, "protocols: [grpc], ")
        assert "Stub process 'dies_0_0' is not healthy." in found.message
        assert "the Python process that ran the model has ended" in found.hint


# -- again and again -----------------------------------------------------------------------------


def test_a_model_that_rolls_dice(running: Running) -> None:
    found = check(running, "dice", "FP32 [1] [1]", "outputs: {Y: {range: [0, 1]}}")
    assert found.outcome == "passed"
    assert found.message.endswith("; its answers differ from one to the next, so the ways cannot be compared")
    found = check(running, "dice", "FP32 [1] [1]", "outputs: {Y: {range: [0, 1]}}", "repeat: 3, stable: true, ")
    assert found.message.startswith("its answers differ: output Y at [0] is ")


def test_a_budget(running: Running) -> None:
    expect = "outputs: {Y: {equals: [7]}}, latency: {budget: 150ms}"
    found = check(running, "slow", "FP32 [1] [7]", expect, "protocols: [grpc], ")
    assert re.fullmatch(r"the answer took [2-9]\d\d ms, at most 150 ms, after one to warm up", found.message)
    expect = "outputs: {Y: {allclose: {values: [[2, 4]]}}}, latency: {budget: 2s}"
    found = check(running, "double", "FP32 [1,2] [1,2]", expect, "repeat: 5, stable: true, ")
    assert (found.outcome, found.message) == ("passed", f"all 5 answers are as expected {EVERYWHERE}")


# -- sequences and streams -----------------------------------------------------------------------

STEPS = """
  checks:
    - id: sum
      model: add_up
      {more}
      steps:
"""
STEP = """
        - request: {{inputs: {{X: {{dtype: INT32, shape: [1, 1], data: [{}]}}}}}}
          expect: {{outputs: {{Y: {{equals: [[{}]]}}}}}}
"""


@pytest.mark.parametrize(("more", "words"), [
    ("", f"all 3 answers are as expected {EVERYWHERE}"),
    ("sequence: {id: 42}", f"all 3 answers are as expected {EVERYWHERE}"),
    ("repeat: 2", f"all 6 answers are as expected {EVERYWHERE}"),
    ("mode: stream", "all 3 answers are as expected"),
])  # fmt: skip
def test_a_sequence(running: Running, more: str, words: str) -> None:
    steps = "".join(STEP.format(*numbers) for numbers in ((1, 1), (2, 3), (4, 7)))
    one = subject(running, STEPS.format(more=more) + steps)
    found = one_check(one, one.validation.checks[0])
    assert (found.outcome, found.message) == ("passed", words)


def test_two_sequences_at_once_do_not_mix(running: Running) -> None:
    tensor = Tensor(datatype="INT32", shape=(1, 1), values=[1])
    with closing(Asker(subject(running, ""))) as asker:
        for number in range(3):
            for name in (7, 8):
                turn = Turn(id=name, start=number == 0, end=number == 2)
                (answer,) = asker.ask("grpc", Request(model="add_up", inputs={"X": tensor}, sequence=turn)).answers
                assert isinstance(answer, Response)
                assert list(answer.outputs["Y"].values) == [number + 1]


FLAG = "responses: {min: 3, max: 3, final_flag: true}"


@pytest.mark.parametrize(
    ("sent", "expect", "outcome", "words"),
    [
        (3, f"outputs: {{Y: {{range: [0, 2]}}}}, {FLAG}", "passed", "the answer is as expected"),
        (2, f"outputs: {{Y: {{range: [0, 2]}}}}, {FLAG}", "failed", "at least 3 responses are expected, 2 came"),
        (4, f"outputs: {{Y: {{range: [0, 9]}}}}, {FLAG}", "failed", "at most 3 responses are expected, more came"),
        (
            2,
            "responses: {outputs: [{Y: {equals: [0]}}, {Y: {equals: [5]}}]}",
            "failed",
            "response 2: output Y: equals: at [0] 5 is expected, it is 1 (1 of 1 differ, max abs error 4, "
            "max rel error 0.8)",
        ),
        (0, "outputs: {Y: {range: [0, 2]}}", "failed", "the stream ended without a response"),
        (99, 'status: {error: {code: 400, match: "no such number"}}', "passed", "the answer is as expected"),
        (99, "outputs: {Y: {range: [0, 2]}}", "failed", "the server refuses: no such number"),
        (-2, "outputs: {Y: {range: [0, 2]}}", "failed", "2 responses came, but the stream did not end within 1 s"),
    ],
)
def test_a_stream(running: Running, sent: int, expect: str, outcome: str, words: str) -> None:
    found = check(running, "count", f"INT32 [1] [{sent}]", expect, "mode: stream, ", timeout=1 if sent < 0 else 5)
    assert (found.outcome, found.message) == (outcome, words)


def test_a_plain_model_answers_on_streams_too(running: Running) -> None:
    expect = "outputs: {Y: {equals: [[2, 4]]}}, responses: {min: 1, max: 1, final_flag: true}"
    assert check(running, "double", "FP32 [1,2] [1,2]", expect, "mode: stream, ").outcome == "passed"
    found = check(running, "double", SHAPE, 'status: {error: {code: 400, match: "unexpected shape"}}', "mode: stream, ")
    assert found.outcome == "passed"


def test_calls_end_at_their_deadline(running: Running) -> None:
    data = grpc.encode(Request(model="mute", inputs={"X": Tensor(datatype="FP32", shape=(1,), values=[1])}))
    with closing(grpc.Client(running.grpc)) as client:
        for call in (lambda: client.infer(data, timeout=0.3), lambda: list(client.stream(data, timeout=0.3))):
            begun = time.monotonic()
            with pytest.raises(NoAnswer, match=r"no answer within 0.3 s"):
                call()
            assert time.monotonic() - begun < 1
