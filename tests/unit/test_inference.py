"""Inference checks against servers that are made by hand: what real ones do wrong though they are ready, in so many
words, in every way of asking."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from composer.checks.inference import expected, one_check, requests_of
from composer.checks.report import Result
from composer.checks.subject import Subject, Terms
from composer.events import ignore
from composer.protocol.http import Client
from composer.protocol.messages import Refused, Response
from composer.protocol.tensors import Tensor
from tests.fakes import (
    CHECK,
    CONFIG,
    Call,
    Reply,
    Server,
    answer,
    binary_reply,
    either,
    grpc_reply,
    json_reply,
    numbers,
    proved,
    replies,
    result,
    saying,
    serving,
    speaking,
    streamed,
    validation,
)

# -- inference: what a server does wrong though it is ready --------------------------------------


def drip(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(20):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.1)


def never(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    time.sleep(1)
    handler.close_connection = True


def hang_up(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.close_connection = True


WRONG: Mapping[str, tuple[Reply, str]] = {
    "value": (
        (200, answer(data=[2, 5])),
        "output Y: allclose: at [0, 1] 4 is expected, it is 5 (1 of 2 differ, max abs error 1, max rel error 0.25)",
    ),
    "nan": (
        (200, b'{"outputs":[{"name":"Y","datatype":"FP32","shape":[1,2],"data":[2.0,NaN]}]}'),
        "output Y: allclose: at [0, 1] 4 is expected, it is nan (1 of 2 differ, max abs error 0, max rel error 0)",
    ),
    "dtype": (
        (200, answer(datatype="FP64")),
        "output Y: its datatype is FP64, the model's configuration says FP32",
    ),
    "shape": (
        (200, answer(shape=[2])),
        "output Y: its shape is [2], the model's configuration says [-1, 2]",
    ),
    "dims": (
        (200, answer(shape=[1, 3], data=[1, 2, 3])),
        "output Y: its shape is [1, 3], the model's configuration says [-1, 2]",
    ),
    "count": (
        (200, answer(data=[])),
        "output Y: it has 0 values, its shape [1, 2] has 2",
    ),
    "other": (
        (200, answer(name="Z")),
        "output Y is missing: the answer has Z",
    ),
    "none": (
        (200, b'{"model_name":"m","outputs":[]}'),
        "output Y is missing: the answer has no outputs",
    ),
    "refused": (
        (400, b'{"error":"unexpected shape for input X"}'),
        "the server refuses with 400: unexpected shape for input X",
    ),
    "broken": (
        (500, b"<html>oops"),
        "the server refuses with 500: <html>oops",
    ),
    "silent": (never, "no answer within 0.5 s"),
    "dripping": (drip, "no whole answer within 0.5 s"),
    "closed": (hang_up, "the server closed the connection without a whole answer"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_answers_that_are_wrong(case: str) -> None:
    reply, words = WRONG[case]
    with serving(replies(reply)) as server:
        report = proved(server)
    found = result(report, "golden")
    assert (found.outcome, found.message) == ("failed", words)
    assert not report.ok


def test_each_wrong_answer_has_words_of_its_own() -> None:
    assert len({words for _, words in WRONG.values()}) == len(WRONG)


DEEP = b"[" * 2_000_000
NESTED = b'{"outputs":[{"name":"Y","datatype":"FP32","shape":[1,2],"data":' + b"[" * 900 + b"1" + b"]" * 900 + b"}]}"
TRUTH = b'{"outputs":[{"name":"Y","datatype":"FP32","shape":[true,2],"data":[2,4]}]}'


@pytest.mark.parametrize("body", [DEEP, NESTED, TRUTH], ids=["deep", "nested", "true"])
def test_answers_that_are_made_to_hurt(body: bytes) -> None:
    with serving(replies((200, body))) as server:
        assert result(proved(server), "golden").outcome == "error"


@pytest.mark.parametrize("path", ["/v2/repository/index", "/v2/models/m/config", "/v2", "/v2/models/m/stats"])
def test_what_a_server_tells_of_itself_may_hurt_as_well(path: str) -> None:
    with serving(replies(**{path: (200, DEEP)})) as server:
        assert proved(server).results


def test_an_answer_without_end_takes_no_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        with suppress(OSError):
            while True:
                handler.wfile.write(b" " * (1 << 16))

    monkeypatch.setattr("composer.protocol.http.MOST", 4 << 20)
    with serving(replies(endless)) as server:
        found = result(proved(server, validation(CHECK.replace("500ms", "10s"))), "golden")
    assert found.message == "the answer is larger than 4 MiB"
    assert found.seconds < 5


@pytest.mark.parametrize("body", [b"not json", b"[]", b'{"outputs":[{"name":"Y"}]}', b'{"outputs":7}'])
def test_answers_that_make_no_sense(body: bytes) -> None:
    with serving(replies((200, body))) as server:
        found = result(proved(server), "golden")
    assert found.outcome == "error"
    assert found.message.startswith("the server's answer makes no sense")


def stats(success: int) -> Reply:
    return 200, json.dumps({"model_stats": [{"inference_stats": {"success": {"count": success}}}]}).encode()


def test_a_request_that_counts_as_answered_but_never_was() -> None:
    def count(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        server.replies["/v2/models/m/stats"] = stats(8)
        never(handler, body)

    with serving(replies(count, **{"/v2/models/m/stats": stats(7)})) as server:
        found = result(proved(server), "golden")
    assert found.message.endswith(
        "the server counts the request as answered: the model returned no response (None from execute?)"
    )
    assert found.hint == "execute must return a list with a response for each request"


def test_requests_that_were_counted_before_do_not_count() -> None:
    with serving(replies(never, **{"/v2/models/m/stats": stats(7)})) as server:
        assert result(proved(server), "golden").message == "no answer within 0.5 s"


def test_a_server_that_dies_of_a_request() -> None:
    def die(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        server.code = 139
        handler.close_connection = True

    with serving(replies(die)) as server:
        message = result(proved(server), "golden").message
    assert message == "the server closed the connection without a whole answer: the server ended by SIGSEGV"


def test_a_model_that_the_server_does_not_know() -> None:
    with serving(replies(**{"/v2/models/m/config": (400, b'{"error":"unknown model m"}')})) as server:
        assert result(proved(server), "golden").message == "the server does not know this model: unknown model m"


EXPECTED = """
    - id: golden
      model: m
      version: 3
      protocols: [http]
      encoding: [json]
      request: {{inputs: {{X: {{dtype: FP32, shape: [1, 2], data: [1, 2]}}}}}}
      expect: {{outputs: {{{}}}}}
"""


def proved_version(expected: str, reply: Reply) -> Result:
    version = "/v2/models/m/versions/3"
    more = {f"{version}/config": (200, json.dumps(CONFIG).encode()), f"{version}/infer": reply}
    with serving(replies(**more)) as server:
        return result(proved(server, validation(EXPECTED.format(expected))), "golden")


def test_what_the_recipe_expects_of_form() -> None:
    assert proved_version("Y: {dtype: FP64, shape: [2, 1]}", (200, answer())).message == (
        "output Y: its datatype is FP32, FP64 is expected; output Y: its shape is [1, 2], [2, 1] is expected"
    )


def test_an_output_that_the_model_does_not_have() -> None:
    assert proved_version("Q: {finite: true}", (200, answer())).message == ("output Q is missing: the answer has Y")


def test_all_that_is_wrong_with_a_value_is_said() -> None:
    message = proved_version("Y: {finite: true, range: [0, 3], argmax: {equals: [0]}}", (200, answer())).message
    assert message == (
        "output Y: argmax: row 0 along axis -1 is largest at 1, not at 0; "
        "output Y: range: at [0, 1] a value from 0 to 3 is expected, it is 4 (1 of 2 are not)"
    )


@pytest.mark.parametrize("expected", ["Y: {dtype: FP32}", "Y: {finite: true}", "Y: {shape: [1, 2]}"])
def test_a_check_that_asserts_nothing_says_so(expected: str) -> None:
    found = proved_version(expected, (200, answer()))
    assert found.outcome == "passed"
    assert found.message.startswith("V001: it asserts nothing about values")


def test_a_golden_file_that_is_not_there() -> None:
    with serving(replies()) as server:
        wanted = CHECK.replace("values: [[2, 4]]", "npy: golden/none.npy")
        found = result(proved(server, validation(wanted)), "golden")
    assert (found.outcome, found.message) == ("error", "golden/none.npy cannot be read: No such file or directory")


def refusal(code: int, match: str, reply: Reply) -> Result:
    expected = f"{{status: {{error: {{code: {code}, match: {json.dumps(match)}}}}}}}"
    check = CHECK.replace("{outputs: {Y: {allclose: {values: [[2, 4]]}}}}", expected)
    with serving(replies(reply)) as server:
        return result(proved(server, validation(check)), "golden")


def test_a_request_that_is_to_be_refused() -> None:
    reply: Reply = (400, b'{"error":"unexpected shape"}')
    assert refusal(400, "shape", reply).outcome == "passed"
    assert refusal(500, "", reply).message == "HTTP 500 is expected, it is 400: unexpected shape"
    assert refusal(400, "^shape", reply).message == "the refusal does not match '^shape': unexpected shape"
    assert refusal(400, "", (200, answer())).message == "HTTP 400 is expected, it is 200"


# -- every way of asking -------------------------------------------------------------------------

EVERY = """
    - id: golden
      model: m
      request: {inputs: {X: {dtype: FP32, shape: [1, 2], data: [1, 2]}}, timeout: 5s}
      expect: {outputs: {Y: {allclose: {values: [[2, 4]]}}}}
"""
Y = numbers(2, 4)


@contextmanager
def answering(
    plain: Reply | None = None, binary: Reply | None = None, rpc: Call | None = None, stream: Call | None = None
) -> Iterator[Server]:
    """A model that answers well in every way but those that are given."""
    good = {"Y": Y}
    reply = either(plain or json_reply(good), binary or binary_reply(good))
    with (
        serving(replies(reply)) as server,
        speaking(rpc or (lambda data, context: grpc_reply(good)), stream) as address,
    ):
        server.grpc = address
        yield server


def subject(server: Server, checks: str, **terms: Any) -> Subject:
    wanted = validation(checks)
    return Subject(
        running=server,
        terms=Terms(**{"validation": wanted, "models": ["m"], "base": Path(), **terms}),
        client=Client(server.http),
        emit=ignore,
    )


def check(server: Server, checks: str = EVERY, **terms: Any) -> Result:
    """What comes of the only check of a recipe."""
    one = subject(server, checks, **terms)
    return one_check(one, one.validation.checks[0])


def configured(server: Server, **changes: object) -> None:
    server.replies["/v2/models/m/config"] = (200, json.dumps(CONFIG | changes).encode())


def rpc(**outputs: Tensor) -> Call:
    return lambda data, context: grpc_reply(outputs)


def test_a_check_is_asked_in_every_way() -> None:
    with answering() as server:
        found = check(server)
    assert (found.outcome, found.kind) == ("passed", "inference")
    assert found.message == "the answer is as expected over http-binary, grpc and http-json"
    assert list(found.evidence["ways"]) == ["http-binary", "grpc", "http-json"]
    for way in found.evidence["ways"].values():
        assert way["status"] == 200
        assert 0 < way["seconds"] < 5
        assert way["outputs"]["Y"].items() >= {"datatype": "FP32", "shape": [1, 2], "max_abs": 0, "max_rel": 0}.items()
    assert re.fullmatch("[0-9a-f]{64}", found.evidence["request_sha256"])
    assert json.loads(json.dumps(found.to_json())) == found.to_json()


def test_the_request_is_the_same_in_every_way() -> None:
    seen: list[bytes] = []
    with answering(rpc=lambda data, context: seen.append(data) or grpc_reply({"Y": Y})) as server:  # type: ignore[func-returns-value]
        check(server, EVERY.replace("timeout: 5s", "timeout: 5s, outputs: [Y], parameters: {a: 1}"))
    bodies = [body for path, body, _ in server.asked if "infer" in path]
    binary, plain = (json.loads(body[: body.rindex(b"}") + 1]) for body in bodies)
    read = service_pb2.ModelInferRequest.FromString(seen[0])
    assert plain["parameters"] == binary["parameters"] == {"a": 1}
    assert read.parameters["a"].int64_param == 1
    assert [one["name"] for one in plain["outputs"]] == [one.name for one in read.outputs] == ["Y"]
    assert plain["inputs"][0]["data"] == [1, 2]
    assert bodies[0].endswith(read.raw_input_contents[0])


@pytest.mark.parametrize(("given", "asked"), [
    ("protocols: [http], encoding: [json]", ["http-json"]),
    ("protocols: [http], encoding: [binary]", ["http-binary"]),
    ("protocols: [grpc]", ["grpc"]),
    ("encoding: [binary]", ["http-binary", "grpc"]),
])  # fmt: skip
def test_the_recipe_says_in_which(given: str, asked: list[str]) -> None:
    with answering() as server:
        found = check(server, EVERY.replace("model: m", "model: m\n      " + given.replace(", e", "\n      e")))
    assert list(found.evidence["ways"]) == asked
    assert found.outcome == "passed"


def test_what_is_wrong_in_every_way_is_said_once() -> None:
    wrong = {"Y": numbers(2, 5)}
    with answering(json_reply(wrong), binary_reply(wrong), rpc(**wrong)) as server:
        assert check(server).message == (
            "output Y: allclose: at [0, 1] 4 is expected, it is 5 (1 of 2 differ, max abs error 1, max rel error 0.25)"
        )


def test_what_is_wrong_in_one_way_is_said_of_that() -> None:
    with answering(rpc=rpc(Z=Y)) as server:
        found = check(server)
    assert (found.outcome, found.message) == ("failed", "over grpc: output Y is missing: the answer has Z")
    odd = {"Y": numbers(2, 4, shape=(1, 2))}
    empty: Reply = (500, b'{"error":"no bytes"}')
    with answering(empty, binary_reply(odd | {"Y": numbers(shape=(1, 2))}), rpc(Y=numbers(shape=(1, 2)))) as server:
        assert check(server).message == (
            "over http-binary and grpc: output Y: it has 0 bytes, FP32 [1, 2] takes 8; "
            "over http-json: the server refuses with 500: no bytes"
        )


def test_ways_that_are_all_well_must_agree() -> None:
    near = {"Y": numbers(2, 4.00001)}
    with answering(rpc=rpc(**near)) as server:
        found = check(server)
    assert found.outcome == "failed"
    assert found.message == (
        "the ways do not agree: output Y at [0, 1] is 4.0 over http-binary, 4.000010013580322 over grpc"
    )


def test_json_has_room_for_every_float() -> None:
    third = {"Y": numbers(1 / 3, -0.0)}
    told: Reply = (200, answer(data=[0.3333333432674408, -0.0]))
    expect = EVERY.replace("values: [[2, 4]]", "values: [[0.3333333, 0]]")
    with answering(told, binary_reply(third), rpc(**third)) as server:
        assert check(server, expect).outcome == "passed"
    with answering((200, answer(data=[0.3333333432674408, 0.0])), binary_reply(third), rpc(**third)) as server:
        assert check(server, expect).message.endswith("output Y at [0, 1] is -0.0 over http-binary, 0.0 over http-json")


def test_fp64_from_json_may_be_a_little_different() -> None:
    near, far = numbers(2, 4, datatype="FP64"), numbers(2, 4.0001, datatype="FP64")
    beside = json_reply({"Y": numbers(2, 4.000000000000001, datatype="FP64")})
    wide = EVERY.replace("FP32", "FP64").replace("values: [[2, 4]]", "values: [[2, 4]], atol: 0.1")
    exact = EVERY.replace("FP32", "FP64").replace("allclose: {values: [[2, 4]]}", "equals: [[2, 4]]")
    with answering(beside, binary_reply({"Y": near}), rpc(Y=near)) as server:
        configured(server, output=[{"name": "Y", "data_type": "TYPE_FP64", "dims": [2]}])
        assert check(server, wide).outcome == "passed"
        assert check(server, wide.replace("FP64", "FP32")).outcome == "failed"
        found = check(server, exact)
        assert found.message.startswith("over http-json: output Y: equals: ")
        assert found.hint.startswith("encoding: [binary]")
    with answering(beside, binary_reply({"Y": near}), rpc(Y=far)) as server:
        configured(server, output=[{"name": "Y", "data_type": "TYPE_FP64", "dims": [2]}])
        assert check(server, wide).message.startswith("the ways do not agree: output Y at [0, 1] is 4.0")


def test_a_model_that_never_answers_the_same_twice_is_not_blamed_on_the_ways() -> None:
    counter = iter(range(100))

    def next_one(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        either(json_reply({"Y": numbers(2, next(counter))}), binary_reply({"Y": numbers(2, next(counter))}))(  # type: ignore[operator]
            handler, body
        )

    expect = EVERY.replace("allclose: {values: [[2, 4]]}", "range: [0, 99]")
    with answering(next_one, next_one) as server:
        found = check(server, expect)
    assert found.outcome == "passed"
    assert found.message.endswith("; its answers differ from one to the next, so the ways cannot be compared")


HALF = EVERY.replace("FP32", "FP16")


def halves(server: Server) -> None:
    configured(
        server,
        input=[{"name": "X", "data_type": "TYPE_FP16", "dims": [2]}],
        output=[{"name": "Y", "data_type": "TYPE_FP16", "dims": [2]}],
    )


def test_a_way_that_cannot_carry_it_is_left_out_and_named() -> None:
    half = {"Y": numbers(2, 4, datatype="FP16")}
    with answering((400, b""), binary_reply(half), rpc(**half)) as server:
        halves(server)
        found = check(server, HALF)
        assert found.message == (
            "the answer is as expected over http-binary and grpc; "
            "not asked over http-json: input X: JSON cannot carry FP16"
        )
        assert found.evidence["left_out"] == {"http-json": "input X: JSON cannot carry FP16"}
        found = check(server, HALF.replace("model: m", "model: m\n      protocols: [http]\n      encoding: [json]"))
        assert (found.outcome, found.hint) == ("error", "encoding: [binary]")
        assert found.message == "it cannot be asked. http-json: input X: JSON cannot carry FP16"
        configured(server, output=[{"name": "Y", "data_type": "TYPE_FP16", "dims": [2]}])
        assert check(server).evidence["left_out"] == {"http-json": "output Y: JSON cannot carry FP16"}


def test_a_protocol_that_the_server_was_told_not_to_speak() -> None:
    with answering() as server:
        found = check(server, off=("grpc",))
        assert found.outcome == "passed"
        assert found.evidence["left_out"] == {"grpc": "the server was told not to speak grpc"}
        server.grpc = ""
        assert check(server).evidence["left_out"] == {"grpc": "it is not known where the server speaks gRPC"}
        only = EVERY.replace("model: m", "model: m\n      protocols: [grpc]")
        assert check(server, only).outcome == "error"


def test_a_server_without_grpc() -> None:
    with answering() as server:
        server.grpc = "127.0.0.1:9"
        found = check(server)
    assert (found.message, found.hint) == ("over grpc: the server refuses connections", "protocols: [http]")


def test_where_the_server_is_silent_the_other_ways_are_not_waited_for() -> None:
    with answering(never, never) as server:
        begun = time.monotonic()
        found = check(server, EVERY.replace("5s", "500ms"))
        assert time.monotonic() - begun < 1
    assert found.message == "no answer within 0.5 s"
    assert found.evidence["ways"] == {
        "http-binary": found.evidence["ways"]["http-binary"] | {"status": None, "silence": "no answer within 0.5 s"}
    }


def test_a_batch_that_is_not_the_requests() -> None:
    two = {"Y": numbers(2, 4, 2, 4, shape=(2, 2))}
    with answering(json_reply(two), binary_reply(two), rpc(**two)) as server:
        assert check(server).message == "output Y: its shape is [2, 2], a batch of 1 was asked for"


def test_a_value_that_the_datatype_cannot_hold() -> None:
    with answering() as server:
        found = check(
            server, EVERY.replace("FP32, shape: [1, 2], data: [1, 2]", "FP16, shape: [1, 2], data: [1, 1.0e6]")
        )
    assert found.outcome == "error"
    assert "FP16 cannot hold" in found.message


@pytest.mark.parametrize("strict", [False, True])
def test_a_check_that_asserts_nothing_fails_where_that_is_strict(strict: bool) -> None:
    vacuous = EVERY.replace("allclose: {values: [[2, 4]]}", "finite: true")
    with answering() as server:
        found = check(server, vacuous, strict=strict)
    assert found.outcome == ("failed" if strict else "passed")
    assert found.message.startswith("V001")
    assert found.hint == "outputs: {Y: {equals: [...]}}"


def test_a_decoupled_model_is_asked_on_a_stream() -> None:
    words = b'{"error":"HTTP end point doesn\'t support models with decoupled transaction policy"}'
    with answering((501, words), (501, words)) as server:
        found = check(server, EVERY.replace("model: m", "model: m\n      protocols: [http]"))
    assert (found.message, found.hint) == ("the model is decoupled: it answers on streams only", "mode: stream")


# -- again and again -----------------------------------------------------------------------------


def test_each_of_many_answers_must_be_right() -> None:
    answers = iter([Y, Y, numbers(2, 5), Y])
    only = EVERY.replace("model: m", "model: m\n      protocols: [grpc]\n      repeat: 4")
    with answering(rpc=lambda data, context: grpc_reply({"Y": next(answers)})) as server:
        found = check(server, only)
    assert found.message.startswith("answer 3 of 4: output Y: allclose: at [0, 1] 4 is expected, it is 5")


def test_all_of_many_answers_are_right() -> None:
    with answering() as server:
        found = check(server, EVERY.replace("model: m", "model: m\n      repeat: 3"))
    assert found.message == "all 3 answers are as expected over http-binary, grpc and http-json"
    assert [len(way["times"]) for way in found.evidence["ways"].values()] == [3, 3, 3]


def test_answers_that_must_be_stable() -> None:
    answers = iter([Y, Y, numbers(2, 4.00001)])
    only = EVERY.replace("model: m", "model: m\n      protocols: [grpc]\n      repeat: 3\n      stable: true")
    with answering(rpc=lambda data, context: grpc_reply({"Y": next(answers)})) as server:
        found = check(server, only)
    assert found.message == ("its answers differ: output Y at [0, 1] is 4.0 in answer 1, 4.000010013580322 in answer 3")


def slow(times: Iterator[float]) -> Call:
    def call(data: bytes, context: Any) -> bytes:
        time.sleep(next(times))
        return grpc_reply({"Y": Y})

    return call


def test_latency_is_the_median_after_one_to_warm_up() -> None:
    budget = EVERY.replace("expect: {", "expect: {latency: {budget: 150ms}, ")
    only = budget.replace("model: m", "model: m\n      protocols: [grpc]\n      repeat: 3")
    with answering(rpc=slow(iter([0.4, 0.0, 0.3, 0.0]))) as server:
        assert check(server, only).outcome == "passed"
    with answering(rpc=slow(iter([0.0, 0.3, 0.0, 0.3]))) as server:
        found = check(server, only)
    words = r"took [3-9]\d\d ms, at most 150 ms, after one to warm up"
    assert re.fullmatch(f"the median of 3 answers {words}", found.message)
    with answering(rpc=slow(iter([0.4, 0.3]))) as server:
        found = check(server, only.replace("repeat: 3", "repeat: 1"))
    assert re.fullmatch(f"the answer {words}", found.message)


def test_a_check_that_fails_is_tried_again() -> None:
    answers = iter([numbers(2, 5), numbers(2, 5), Y])
    only = EVERY.replace("model: m", "model: m\n      protocols: [grpc]\n      retry: {count: 2, delay: 100ms}")
    with answering(rpc=lambda data, context: grpc_reply({"Y": next(answers)})) as server:
        found = check(server, only)
    assert (found.outcome, found.message) == ("passed", "the answer is as expected; that was try 3 of 3")
    assert found.seconds > 0.2


# -- sequences -----------------------------------------------------------------------------------

STEPS = """
    - id: sum
      model: m
      {more}
      steps:
        - request: {{inputs: {{X: {{dtype: FP32, shape: [1, 2], data: [1, 2]}}}}}}
          expect: {{outputs: {{Y: {{equals: [[1, 2]]}}}}}}
        - request: {{inputs: {{X: {{dtype: FP32, shape: [1, 2], data: [3, 4]}}}}}}
          expect: {{outputs: {{Y: {{equals: [[4, 6]]}}}}}}
        - request: {{inputs: {{X: {{dtype: FP32, shape: [1, 2], data: [1, 1]}}}}}}
          expect: {{outputs: {{Y: {{equals: [[5, 7]]}}}}}}
"""


class Adder:
    """A model that adds up what it is given in a sequence, over HTTP with JSON and over gRPC."""

    def __init__(self) -> None:
        self.turns: list[tuple[object, bool, bool]] = []
        self.sums: dict[object, list[float]] = {}

    def add(self, turn: tuple[object, bool, bool], values: list[float]) -> Tensor:
        self.turns.append(turn)
        before = [0.0, 0.0] if turn[1] else self.sums[turn[0]]
        self.sums[turn[0]] = [one + other for one, other in zip(before, values, strict=True)]
        return numbers(*self.sums[turn[0]])

    def http(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        asked = json.loads(body)
        said = asked["parameters"]
        turn = (said["sequence_id"], said["sequence_start"], said["sequence_end"])
        plain = json_reply({"Y": self.add(turn, asked["inputs"][0]["data"])})
        either(plain, plain)(handler, body)  # type: ignore[operator]

    def rpc(self, data: bytes, context: Any) -> bytes:
        return grpc_reply({"Y": self.read(data)})

    def read(self, data: bytes) -> Tensor:
        asked = service_pb2.ModelInferRequest.FromString(data)
        said = asked.parameters
        identity = said["sequence_id"].int64_param or said["sequence_id"].string_param
        turn = (identity, said["sequence_start"].bool_param, said["sequence_end"].bool_param)
        values = memoryview(asked.raw_input_contents[0]).cast("f").tolist()
        return self.add(turn, values)


def test_a_sequence_in_every_way() -> None:
    adder = Adder()
    with answering(adder.http, rpc=adder.rpc) as server:
        found = check(server, STEPS.format(more="encoding: [json]"))
    assert (found.outcome, found.message) == ("passed", "all 3 answers are as expected over grpc and http-json")
    assert [turn[1:] for turn in adder.turns] == [(True, False), (False, False), (False, True)] * 2
    first, second = adder.turns[0][0], adder.turns[3][0]
    assert first != second
    assert {turn[0] for turn in adder.turns} == {first, second}
    assert [step["outputs"]["Y"]["shape"] for step in found.evidence["ways"]["grpc"]["steps"]] == [[1, 2]] * 3


@pytest.mark.parametrize(("given", "identity"), [("42", 42), ("mine", "mine")])
def test_a_sequence_with_an_id_of_its_own(given: str, identity: object) -> None:
    adder = Adder()
    with answering(rpc=adder.rpc) as server:
        assert check(server, STEPS.format(more=f"protocols: [grpc]\n      sequence: {{id: {given}}}")).ok
    assert {turn[0] for turn in adder.turns} == {identity}


def test_a_model_that_wants_texts_for_ids() -> None:
    adder = Adder()
    control = {"kind": "CONTROL_SEQUENCE_CORRID", "data_type": "TYPE_STRING"}
    with answering(rpc=adder.rpc) as server:
        configured(server, sequence_batching={"control_input": [{"name": "ID", "control": [control]}]})
        assert check(server, STEPS.format(more="protocols: [grpc]")).ok
    assert re.fullmatch(r"tricompose-\d+", str(adder.turns[0][0]))


def test_the_step_that_is_wrong_is_named_and_ends_the_sequence() -> None:
    adder = Adder()
    with answering(rpc=adder.rpc) as server:
        found = check(server, STEPS.format(more="protocols: [grpc]").replace("[4, 6]", "[4, 5]"))
    assert found.message.startswith("step 2: output Y: equals: at [0, 1] 5 is expected, it is 6 ")

    def refuse(data: bytes, context: Any) -> bytes:
        import grpc  # type: ignore[import-untyped]

        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "must specify a non-zero or non-empty correlation ID")
        raise AssertionError

    with answering(rpc=refuse) as server:
        found = check(server, STEPS.format(more="protocols: [grpc]"))
    assert found.message.startswith("step 1: the server refuses with 400: must specify")
    assert found.hint == "sequence: {}"


# -- streams -------------------------------------------------------------------------------------

STREAM = """
    - id: count
      model: m
      mode: stream
      request: {{inputs: {{X: {{dtype: FP32, shape: [1, 2], data: [1, 2]}}}}, timeout: {}}}
      expect: {{{}}}
"""
END = streamed(grpc_reply({}, triton_final_response=True))


def several(*values: float) -> list[bytes]:
    return [streamed(grpc_reply({"Y": numbers(value, value)}, triton_final_response=False)) for value in values]


def over_stream(call: Call, expect: str, timeout: str = "5s") -> Result:
    with answering(stream=call) as server:
        configured(server, model_transaction_policy={"decoupled": True})
        return check(server, STREAM.format(timeout, expect))


IN_RANGE = "outputs: {Y: {range: [0, 9]}}"


@pytest.mark.parametrize(
    "expect",
    [
        IN_RANGE,
        f"{IN_RANGE}, responses: {{min: 2, max: 2, final_flag: true}}",
        "responses: {outputs: [{Y: {equals: [[1, 1]]}}, {Y: {equals: [[2, 2]]}}]}",
        f"{IN_RANGE}, responses: {{outputs: [{{Y: {{equals: [[1, 1]]}}}}, {{Y: {{equals: [[2, 2]]}}}}]}}",
    ],
)
def test_a_stream_as_expected(expect: str) -> None:
    found = over_stream(saying(*several(1, 2), END), expect)
    assert (found.outcome, found.message) == ("passed", "the answer is as expected")
    assert found.evidence["ways"]["grpc"]["responses"] == 2


STREAMS: Mapping[str, tuple[Call, str, str]] = {
    "few": (saying(*several(1), END), "responses: {min: 2}", "at least 2 responses are expected, 1 came"),
    "none": (saying(END), IN_RANGE, "the stream ended without a response"),
    "others": (
        saying(*several(1), END),
        "responses: {outputs: [{Y: {equals: [[1, 1]]}}, {Y: {equals: [[2, 2]]}}]}",
        "2 responses are expected, 1 came",
    ),
    "wrong": (
        saying(*several(1, 12.5), END),
        IN_RANGE,
        "response 2: output Y: range: at [0, 0] a value from 0 to 9 is expected, it is 12.5 (2 of 2 are not)",
    ),
    "one wrong": (
        saying(*several(1, 2), END),
        "responses: {outputs: [{Y: {equals: [[1, 1]]}}, {Y: {equals: [[2, 3]]}}]}",
        "response 2: output Y: equals: at [0, 1] 3 is expected, it is 2 "
        "(1 of 2 differ, max abs error 1, max rel error 0.333333)",
    ),
    "no flag": (
        saying(*several(1)),
        f"{IN_RANGE}, responses: {{final_flag: true}}",
        "the last response does not say that it is the last (triton_final_response)",
    ),
    "flag": (
        saying(*several(1), END),
        f"{IN_RANGE}, responses: {{final_flag: false}}",
        "the last response says that it is the last (triton_final_response)",
    ),
    "error": (saying(streamed(error="no such number")), IN_RANGE, "the server refuses: no such number"),
    "form": (
        saying(streamed(grpc_reply({"Y": numbers(1, 2, datatype="FP64")})), END),
        IN_RANGE,
        "response 1: output Y: its datatype is FP64, the model's configuration says FP32",
    ),
    "no refusal": (
        saying(*several(1), END), "status: {error: {code: 400}}", "HTTP 400 is expected, it is 200",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STREAMS)
def test_streams_that_are_wrong(case: str) -> None:
    call, expect, words = STREAMS[case]
    found = over_stream(call, expect)
    assert (found.outcome, found.message) == ("failed", words)


def test_only_the_first_wrong_responses_are_told() -> None:
    found = over_stream(saying(*several(*range(10, 20)), END), IN_RANGE)
    assert found.message.count("a value from 0 to 9 is expected") == 3
    assert found.message.endswith("; 7 more responses are not as expected")


def test_a_refusal_on_a_stream_is_known_by_its_words() -> None:
    call = saying(streamed(error="no such number"))
    assert over_stream(call, 'status: {error: {code: 400, match: "no such"}}').outcome == "passed"
    assert over_stream(call, 'status: {error: {code: 400, match: "else"}}').message == (
        "the refusal does not match 'else': no such number"
    )


def endless(requests: Any, context: Any) -> Iterator[bytes]:
    while context.is_active():
        yield from several(1)
        time.sleep(0.05)


def test_a_stream_that_does_not_end() -> None:
    found = over_stream(endless, IN_RANGE, "500ms")
    assert re.fullmatch(r"\d+ responses came, but the stream did not end within 0.5 s", found.message)
    assert "COMPLETE_FINAL" in found.hint


def test_a_stream_with_too_much_is_not_heard_to_its_end() -> None:
    begun = time.monotonic()
    found = over_stream(endless, f"{IN_RANGE}, responses: {{max: 2}}")
    assert found.message == "at most 2 responses are expected, more came"
    assert time.monotonic() - begun < 3


# -- for load and for goldens --------------------------------------------------------------------


def test_requests_and_judges_for_others() -> None:
    with answering() as server:
        one = subject(server, EVERY)
        wanted = one.validation.checks[0]
        (request,) = requests_of(one, wanted)
        judging = expected(one, wanted)
        right = Response(model="m", version="1", outputs={"Y": Y})
        assert (request.model, request.timeout, request.inputs["X"].shape) == ("m", 5, (1, 2))
        assert judging(right) == []
        assert judging(replace(right, outputs={"Y": numbers(2, 5)}))[0].startswith("output Y: allclose: at [0, 1]")
        assert judging(replace(right, odd={"Y": "odd"})) == ["output Y: odd"]
        assert judging(Refused(code=503, message="busy")) == ["the server refuses with 503: busy"]


def test_every_call_gives_a_sequence_a_new_id() -> None:
    with answering() as server:
        one = subject(server, STEPS.format(more=""))
        identities = [requests_of(one, one.validation.checks[0])[0].sequence for _ in range(2)]
    assert identities[0] != identities[1]
    assert all(turn is not None and turn.start for turn in identities)


def test_the_answer_of_another_model() -> None:
    same = EVERY.replace("allclose: {values: [[2, 4]]}", "same_as: {model: n, output: Q}")
    with answering() as server:
        server.replies["/v2/models/n/infer"] = binary_reply({"Q": Y})
        assert check(server, same).outcome == "passed"
        asked = [path for path, _, _ in server.asked]
        assert asked.count("/v2/models/n/infer") == 1
        server.replies["/v2/models/n/infer"] = binary_reply({"Q": numbers(2, 5)})
        assert check(server, same).outcome == "failed"
        server.replies["/v2/models/n/infer"] = (400, b'{"error":"no"}')
        found = check(server, same)
        assert (found.outcome, found.message) == ("error", "n, which must answer the same, refuses: no")
        server.replies["/v2/models/n/infer"] = binary_reply({"R": Y})
        assert check(server, same).message == "n, which must answer the same, gives no output Q"
