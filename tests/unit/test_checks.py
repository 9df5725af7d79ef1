"""Health and inference against servers that are made by hand: what real ones do wrong, said in so many words."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from composer.checks import Report, Result, prove
from composer.events import Event, Logged
from composer.recipe import Validate, parse_recipe

Reply = tuple[int, bytes] | tuple[int, bytes, Mapping[str, str]] | Callable[[BaseHTTPRequestHandler, bytes], None]

CONFIG = {
    "name": "m",
    "max_batch_size": 8,
    "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [2]}],
    "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [2]}],
}
READY = [{"name": "m", "version": "1", "state": "READY"}]
ILL = {"name": "m", "version": "2", "state": "UNAVAILABLE", "reason": "Internal: x"}
STRANGER = {"name": "n", "version": "1", "state": "READY"}
CHECK = """
    - id: golden
      model: m
      request: {inputs: {X: {dtype: FP32, shape: [1, 2], data: [1, 2]}}, timeout: 500ms}
      expect: {outputs: {Y: {allclose: {values: [[2, 4]]}}}}
"""


@dataclass
class Server:
    """A `Running` that is nothing but HTTP replies."""

    http: str
    replies: dict[str, Reply]
    asked: list[tuple[str, bytes, Mapping[str, str]]] = field(default_factory=list)
    log: str = "I1121 00:00:00 server.cc:1] starting\n"
    code: int | None = None
    grpc: str = "127.0.0.1:9"

    @property
    def metrics(self) -> str:
        return f"{self.http}/metrics"

    def logs(self) -> str:
        return self.log

    def exit_code(self) -> int | None:
        return self.code

    def stop(self) -> None:
        pass


@contextmanager
def serving(replies: dict[str, Reply]) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.asked.append((self.path, body, dict(self.headers)))
            reply = server.replies.get(self.path, (404, b'{"error":"not found"}'))
            if callable(reply):
                reply(self, body)
                return
            self.send_response(reply[0])
            for name, value in (reply[2] if len(reply) > 2 else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply[1])))
            self.end_headers()
            self.wfile.write(reply[1])

        do_POST = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(http=f"http://127.0.0.1:{httpd.server_port}", replies=replies)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def answer(**changes: object) -> bytes:
    output = {"name": "Y", "datatype": "FP32", "shape": [1, 2], "data": [2.0, 4.0]} | changes
    return json.dumps({"model_name": "m", "model_version": "1", "outputs": [output]}).encode()


GOOD: Reply = (200, answer())


def replies(infer: Reply = GOOD, **changes: Reply) -> dict[str, Reply]:
    return {
        "/v2": (200, b'{"name":"triton","version":"2.51.0"}'),
        "/v2/health/live": (200, b""),
        "/v2/health/ready": (200, b""),
        "/v2/repository/index": (200, json.dumps(READY).encode()),
        "/v2/models/m/config": (200, json.dumps(CONFIG).encode()),
        "/v2/models/m/infer": infer,
    } | changes


def validation(checks: str = CHECK, more: str = "", startup: str = "{deadline: 2s, stall: 1s}") -> Validate:
    text = f'triton: "24.10"\nbackends: [python]\nvalidate:\n  startup: {startup}\n{more}'
    text += f"  checks:{checks}" if checks else ""
    wanted = parse_recipe(text, path=Path("recipe.yaml"), environ={}).validation
    assert wanted
    return wanted


def proved(server: Server, wanted: Validate | None = None, models: tuple[str, ...] = ("m",)) -> Report:
    return prove(server, wanted or validation(), models, base=Path(), emit=lambda _: None)


def result(report: Report, name: str) -> Result:
    return next(one for one in report.results if one.id == name)


# -- the whole ---------------------------------------------------------------------------------


def test_a_server_that_serves() -> None:
    events: list[Event] = []
    with serving(replies()) as server:
        report = prove(server, validation(more="  after: [health, golden]\n"), ["m"], base=Path(), emit=events.append)
    outcomes = {one.id: one.outcome for one in report.results}
    assert outcomes == {
        "ready": "passed",
        "models": "passed",
        "golden": "passed",
        "gpu": "unverified",
        "after:ready": "passed",
        "after:models": "passed",
        "after:golden": "passed",
    }
    assert report.ok
    assert report.server == "triton 2.51.0"
    assert len([event for event in events if isinstance(event, Logged)]) == len(outcomes)
    document = json.loads(json.dumps(report.to_json()))
    assert document["schema"] == 1
    assert document["ok"] is True
    assert document["results"][2] | {"seconds": 0} == {
        "id": "golden",
        "outcome": "passed",
        "message": "the answer is as expected",
        "evidence": {"status": 200, "bytes": len(answer())},
        "seconds": 0,
    }


def test_nothing_passes_by_default() -> None:
    assert not Report(results=()).ok
    assert not Report(results=(Result(id="a", outcome="skipped", message=""),)).ok
    passed = Result(id="a", outcome="passed", message="")
    assert Report(results=(passed, Result(id="b", outcome="unverified", message=""))).ok
    for outcome in ("failed", "error"):
        assert not Report(results=(passed, Result(id="b", outcome=outcome, message=""))).ok  # type: ignore[arg-type]


def test_no_proxy_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    with serving(replies()) as server:
        assert proved(server).ok


# -- health ------------------------------------------------------------------------------------


def test_a_server_that_ends() -> None:
    with serving({}) as server:
        server.code, server.log = 1, "I1 loading\nerror: creating server: Internal - failed to load all models\n"
        report = proved(server)
    ready = result(report, "ready")
    assert ready.outcome == "failed"
    assert ready.message == (
        "the server ended with status 1: error: creating server: Internal - failed to load all models"
    )
    assert ready.evidence["log"][0] == "I1 loading"
    assert ready.seconds < 1
    assert [(one.id, one.outcome) for one in report.results[1:]] == [
        ("inference", "skipped"),
        ("gpu", "skipped"),
        ("after", "skipped"),
    ]


def test_a_server_that_ends_because_of_its_models() -> None:
    with serving({}) as server:
        server.code = 1
        server.log = (
            "E1121 01:00:00.1 7 model_lifecycle.cc:641] \"failed to load 'a' version 1: Internal: no module x\"\n"
            "E1121 01:00:00.1 7 model_repository_manager.cc:1] \"Poll failed for model directory 'b': bad name\"\n"
            "error: creating server: Internal - failed to load all models\n"
        )
        message = result(proved(server), "ready").message
    assert message == "the server ended with status 1; b: bad name; a: Internal: no module x"


def test_a_server_that_a_signal_ends() -> None:
    with serving({}) as server:
        server.code, server.log = 139, ""
        assert result(proved(server), "ready").message == "the server ended by SIGSEGV and wrote nothing"


def test_a_server_that_hangs() -> None:
    with serving({}) as server:
        server.log = 'I1121 x] "loading: good:1"\nI1121 x] "loading: bad:2"\nI1121 x] "successfully loaded \'good\'"\n'
        ready = result(proved(server), "ready")
    assert ready.message == ("the server made no progress for 1 s; these models never finished loading: bad version 2")
    assert 1 <= ready.seconds < 2


def test_a_server_that_talks_for_ever() -> None:
    def talk(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        server.log += "I1121 still at it\n"
        handler.send_error(503)

    with serving({"/v2/health/ready": talk}) as server:
        ready = result(proved(server), "ready")
    assert ready.message == "the server was not ready within 2 s; its last line: I1121 still at it"


def test_a_server_whose_models_come_one_by_one_makes_progress() -> None:
    begun = time.monotonic()

    def index(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        loaded = int((time.monotonic() - begun) / 0.5)
        if loaded >= 3:
            server.replies = replies()
        rows = json.dumps([{"name": str(one), "state": "READY"} for one in range(loaded)]).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(rows)))
        handler.end_headers()
        handler.wfile.write(rows)

    with serving({"/v2/repository/index": index}) as server:
        ready = result(proved(server, validation(startup="{deadline: 10s, stall: 900ms}")), "ready")
    assert ready.outcome == "passed"
    assert ready.seconds > 1


def test_alive_is_asked_as_well() -> None:
    with serving(replies(**{"/v2/health/live": (400, b"")})) as server:
        assert result(proved(server), "ready").message == "the server does not answer /v2/health/live with 200"


@pytest.mark.parametrize(
    ("index", "log", "words"),
    [
        ([], "", "m is not in the server's repository"),
        ([{"name": "m"}], "", "m is not ready: it was not loaded, and the log does not say why"),
        ([{"name": "m"}], "Poll failed for model directory 'm': unexpected name", "m is not ready: unexpected name"),
        ([{"name": "m", "version": "1", "state": "LOADING"}], "", "m is not ready: LOADING"),
        ([*READY, ILL], "", "m is not ready: Internal: x"),
        ([*READY, STRANGER], "", "n is served, but not among the image's models"),
    ],
)  # fmt: skip
def test_models_that_are_not_as_expected(index: list[object], log: str, words: str) -> None:
    with serving(replies(**{"/v2/repository/index": (200, json.dumps(index).encode())})) as server:
        server.log += log
        found = result(proved(server), "models")
    assert (found.outcome, found.message) == ("failed", words)
    assert found.evidence == {"index": index, "expected": ["m"]}


def test_versions_that_the_policy_put_aside_and_models_that_nobody_loads_are_in_order() -> None:
    aside = {"name": "m", "version": "2", "state": "UNAVAILABLE", "reason": "unloaded"}
    with serving(
        replies(**{"/v2/repository/index": (200, json.dumps([*READY, aside, {"name": "n"}]).encode())})
    ) as server:
        assert result(proved(server), "models").outcome == "passed"


def test_no_models_prove_nothing() -> None:
    with serving(replies(**{"/v2/repository/index": (200, b"[]")})) as server:
        assert result(proved(server, validation(""), ()), "models").outcome == "unverified"


def test_an_index_that_is_none() -> None:
    with serving(replies(**{"/v2/repository/index": (200, b'{"x": 1}')})) as server:
        found = result(proved(server), "models")
    assert found.outcome == "error"
    assert "makes no sense" in found.message


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
        "output Y: allclose: at [0, 1] 4 is expected, it is 5 (1 of 2 differ, max abs error 1)",
    ),
    "nan": (
        (200, b'{"outputs":[{"name":"Y","datatype":"FP32","shape":[1,2],"data":[2.0,NaN]}]}'),
        "output Y: allclose: at [0, 1] 4 is expected, it is nan (1 of 2 differ, max abs error 0)",
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
        "HTTP 400: unexpected shape for input X",
    ),
    "broken": (
        (500, b"<html>oops"),
        "HTTP 500: <html>oops",
    ),
    "silent": (never, "no answer within 0.5 s"),
    "dripping": (drip, "no whole answer within 0.5 s"),
    "closed": (hang_up, "the server closed the connection without an answer"),
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


@pytest.mark.parametrize("body", [b"not json", b"[]", b'{"outputs":[{"name":"Y"}]}', b'{"outputs":7}'])
def test_answers_that_make_no_sense(body: bytes) -> None:
    with serving(replies((200, body))) as server:
        found = result(proved(server), "golden")
    assert found.outcome == "error"
    assert found.message.startswith("the server's answer makes no sense")


def test_a_request_that_counts_as_answered_but_never_was() -> None:
    stats = {"model_stats": [{"inference_stats": {"success": {"count": 1}}}]}
    with serving(replies(never, **{"/v2/models/m/stats": (200, json.dumps(stats).encode())})) as server:
        message = result(proved(server), "golden").message
    assert message.endswith(
        "the server counts the request as answered: the model returned no response (None from execute?)"
    )


def test_a_server_that_dies_of_a_request() -> None:
    def die(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        server.code = 139
        handler.close_connection = True

    with serving(replies(die)) as server:
        message = result(proved(server), "golden").message
    assert message == "the server closed the connection without an answer: the server ended by SIGSEGV"


def test_a_model_that_the_server_does_not_know() -> None:
    with serving(replies(**{"/v2/models/m/config": (400, b'{"error":"unknown model m"}')})) as server:
        assert result(proved(server), "golden").message == "the server does not know this model: unknown model m"


EXPECTED = """
    - id: golden
      model: m
      version: 3
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
        "output Y: range: at [0, 1] a value from 0 to 3 is expected, it is 4.0 (1 of 2 are not)"
    )


@pytest.mark.parametrize("expected", ["Y: {dtype: FP32}", "Y: {finite: true}", "Y: {shape: [1, 2]}"])
def test_a_check_that_asserts_nothing_says_so(expected: str) -> None:
    found = proved_version(expected, (200, answer()))
    assert found.outcome == "passed"
    assert found.message.startswith("V001: it asserts nothing about values")


def test_grpc_is_unverified_not_passed() -> None:
    with serving(replies()) as server:
        report = proved(server, validation(CHECK.replace("model: m", "model: m\n      protocols: [http, grpc]")))
    assert result(report, "golden").outcome == "passed"
    assert result(report, "golden:grpc").outcome == "unverified"


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
    assert refusal(500, "", reply).message == "HTTP 500 is expected, it is 400"
    assert refusal(400, "^shape", reply).message == "the refusal does not match '^shape': unexpected shape"
    assert refusal(400, "", (200, answer())).message == "HTTP 400 is expected, it is 200"


# -- inference: what goes over the wire ------------------------------------------------------------


def test_a_request_as_json() -> None:
    with serving(replies()) as server:
        proved(server)
    _, body, headers = next(asked for asked in server.asked if asked[0].endswith("/infer"))
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


def test_halves_travel_as_bytes() -> None:
    config = CONFIG | {
        "output": [
            {"name": "Y", "data_type": "TYPE_FP16", "dims": [2]},
            {"name": "S", "data_type": "TYPE_STRING", "dims": [1]},
        ]
    }
    outputs = [
        {"name": "Y", "datatype": "FP16", "shape": [1, 2], "parameters": {"binary_data_size": 4}},
        {"name": "S", "datatype": "BYTES", "shape": [1, 1], "data": ["text"]},
    ]
    head = json.dumps({"outputs": outputs}).encode()
    reply: Reply = (200, head + struct.pack("<2e", 2, 4), {"Inference-Header-Content-Length": str(len(head))})
    check = CHECK.replace("FP32", "FP16").replace("Y: {", "S: {equals: [text]}, Y: {")
    with serving(replies(reply, **{"/v2/models/m/config": (200, json.dumps(config).encode())})) as server:
        found = result(proved(server, validation(check)), "golden")
    assert (found.outcome, found.message) == ("passed", "the answer is as expected")
    _, body, headers = next(asked for asked in server.asked if asked[0].endswith("/infer"))
    size = int(headers["Inference-Header-Content-Length"])
    assert json.loads(body[:size]) == {
        "inputs": [{"name": "X", "datatype": "FP16", "shape": [1, 2], "parameters": {"binary_data_size": 4}}],
        "outputs": [
            {"name": "Y", "parameters": {"binary_data": True}},
            {"name": "S", "parameters": {"binary_data": False}},
        ],
    }
    assert struct.unpack("<2e", body[size:]) == (1, 2)


# -- the GPU -----------------------------------------------------------------------------------

SEEN = 'I1121 00:00:00 metrics.cc:1] "Collecting metrics for GPU 0: NVIDIA H200"\n'
USED = b'nv_inference_exec_count{gpu_uuid="GPU-1",model="m",version="1"} 3\n'
ON_CPU = b'nv_inference_exec_count{model="m",version="1"} 3\n'


@pytest.mark.parametrize(
    ("mode", "log", "metrics", "outcome", "words"),
    [
        ("auto", "", ON_CPU, "unverified", "sees no GPU"),
        ("required", "", ON_CPU, "failed", "sees no GPU"),
        ("auto", SEEN, ON_CPU, "unverified", "sees NVIDIA H200, but no model was seen to run on it"),
        ("required", SEEN, ON_CPU, "failed", "sees NVIDIA H200, but no model was seen to run on it"),
        ("required", SEEN, USED.replace(b"} 3", b"} 0"), "failed", "no model was seen to run on it"),
        ("auto", SEEN, USED, "passed", "these models ran on a GPU: m"),
        ("required", SEEN, USED + ON_CPU, "passed", "these models ran on a GPU: m"),
        ("off", SEEN, USED, "skipped", "the recipe says gpu: off"),
    ],
)
def test_a_gpu_counts_only_if_a_model_ran_on_it(mode: str, log: str, metrics: bytes, outcome: str, words: str) -> None:
    with serving(replies(**{"/metrics": (200, metrics)})) as server:
        server.log += log
        found = result(proved(server, validation(more=f"  gpu: {json.dumps(mode)}\n")), "gpu")
    assert found.outcome == outcome
    assert words in found.message
