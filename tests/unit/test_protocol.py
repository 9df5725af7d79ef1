"""The v2 protocol: what goes over the wire, held against NVIDIA's own messages, and calls that always end."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import grpc as library  # type: ignore[import-untyped]
import numpy
import pytest
from google.protobuf.descriptor import Descriptor
from hypothesis import given
from hypothesis import strategies as st
from tritonclient import utils
from tritonclient.grpc import service_pb2

from composer.protocol import grpc, http, service
from composer.protocol.messages import NoAnswer, Refused, Request, Response, Turn
from composer.protocol.tensors import FORMATS, Tensor, oddity, pack, size_of, unpack
from tests.fakes import binary_reply, grpc_reply, json_reply, numbers, saying, serving, speaking, streamed

DATATYPES = (*FORMATS, "BF16", "BYTES")
MESSAGES = (
    "InferParameter",
    "InferTensorContents",
    "ModelInferRequest",
    "ModelInferResponse",
    "ModelStreamInferResponse",
)


def whole(datatype: str) -> st.SearchStrategy[Any]:
    if datatype == "BOOL":
        return st.booleans()
    if datatype == "BYTES":
        return st.binary(max_size=5).map(lambda raw: raw.decode(errors="surrogateescape"))
    if "INT" in datatype:
        bits = int(datatype.lstrip("UINT"))
        low = 0 if datatype.startswith("U") else -(1 << bits - 1)
        return st.integers(low, low + (1 << bits) - 1)
    return st.floats(width={"FP64": 64, "FP32": 32}.get(datatype, 16))


TENSORS = st.sampled_from(DATATYPES).flatmap(
    lambda datatype: st.lists(whole(datatype), max_size=6).map(
        lambda values: Tensor(datatype=datatype, shape=(len(values),), values=values)
    )
)


def same(one: Tensor, other: Tensor) -> bool:
    """NaN is as good as another one."""
    return (one.datatype, one.shape, [repr(v) for v in one.values]) == (
        other.datatype,
        other.shape,
        [repr(v) for v in other.values],
    )


def request(**more: Any) -> Request:
    return Request(**{"model": "m", "inputs": {"X": numbers(1, 2)}, **more})


# -- messages ----------------------------------------------------------------------------------


def fields(message: Descriptor) -> dict[str, object]:
    """All that decides what a message is on the wire, of it and of those inside it."""
    own = {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.message_type.full_name if field.message_type else None,
            field.containing_oneof.name if field.containing_oneof else None,
        )
        for field in message.fields
    }
    return own | {f"{inner.name}.": fields(inner) for inner in message.nested_types}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_are_those_of_the_clients_that_nvidia_makes(name: str) -> None:
    ours = service.message(name).DESCRIPTOR
    theirs = service_pb2.DESCRIPTOR.message_types_by_name[name]
    assert ours.full_name == theirs.full_name
    assert fields(ours) == fields(theirs)


def test_no_message_is_left_out_of_that() -> None:
    table = service.pool().FindFileByName("grpc_service.proto").message_types_by_name
    assert sorted(table) == sorted(MESSAGES)


@pytest.mark.parametrize(("path", "inner", "outer"), [
    (service.INFER, "ModelInferRequest", "ModelInferResponse"),
    (service.STREAM, "ModelInferRequest", "ModelStreamInferResponse"),
])  # fmt: skip
def test_methods_are_theirs_too(path: str, inner: str, outer: str) -> None:
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    method = theirs.methods_by_name[path.rpartition("/")[2]]
    assert path == f"/{theirs.full_name}/{method.name}"
    assert (method.input_type.name, method.output_type.name) == (inner, outer)


def test_a_request_is_what_nvidias_message_reads() -> None:
    asked = request(
        version="2",
        outputs=("Y",),
        parameters={"yes": True, "many": 7, "huge": 2**64 - 1, "part": 0.5, "text": "ü"},
        sequence=Turn(id=42, start=True),
    )
    read = service_pb2.ModelInferRequest.FromString(grpc.encode(asked))
    assert (read.model_name, read.model_version) == ("m", "2")
    assert [(one.name, one.datatype, list(one.shape)) for one in read.inputs] == [("X", "FP32", [1, 2])]
    assert list(read.raw_input_contents) == [numpy.array([1, 2], dtype="<f4").tobytes()]
    assert [one.name for one in read.outputs] == ["Y"]
    said = {key: (one.WhichOneof("parameter_choice"), getattr(one, one.WhichOneof("parameter_choice"))) for key, one in
            read.parameters.items()}  # fmt: skip
    assert said == {
        "yes": ("bool_param", True),
        "many": ("int64_param", 7),
        "huge": ("uint64_param", 2**64 - 1),
        "part": ("double_param", 0.5),
        "text": ("string_param", "ü"),
        "sequence_id": ("int64_param", 42),
        "sequence_start": ("bool_param", True),
        "sequence_end": ("bool_param", False),
    }


def test_a_stream_is_asked_to_mark_its_end() -> None:
    read = service_pb2.ModelInferRequest.FromString(grpc.encode_for_stream(request(sequence=Turn(id="a"))))
    assert read.parameters["triton_enable_empty_final_response"].bool_param
    assert read.parameters["sequence_id"].string_param == "a"


# -- tensors -----------------------------------------------------------------------------------


@given(TENSORS)
def test_tensors_come_back_as_they_went(tensor: Tensor) -> None:
    body = pack(tensor)
    assert oddity(tensor.datatype, tensor.shape, body) is None
    outputs = {"Y": tensor}
    status, content, headers = binary_reply(outputs)  # type: ignore[misc]
    lowered = {name.lower(): value for name, value in headers.items()}
    for answer in (http.decode(status, lowered, content), grpc.decode(grpc_reply(outputs))):
        assert isinstance(answer, Response)
        assert not answer.odd
        held = unpack(tensor.datatype, body)
        assert same(answer.outputs["Y"], Tensor(datatype=tensor.datatype, shape=tensor.shape, values=held))


@given(TENSORS)
def test_json_says_what_the_bytes_say_or_says_that_it_cannot(tensor: Tensor) -> None:
    asked = request(inputs={"X": tensor})
    if http.unsendable(asked):
        with pytest.raises(ValueError, match="input X: JSON cannot carry"):
            http.encode(asked, binary=False)
        return
    _, _, body = http.encode(asked, binary=False)
    (sent,) = json.loads(body)["inputs"]
    held = unpack(tensor.datatype, pack(tensor))
    there = Tensor(datatype=sent["datatype"], shape=tuple(sent["shape"]), values=sent["data"])
    assert same(there, Tensor(datatype=tensor.datatype, shape=tensor.shape, values=held))


@pytest.mark.parametrize("datatype", sorted({*FORMATS} - {"BOOL"}))
def test_numbers_have_numpys_bytes(datatype: str) -> None:
    kind = numpy.dtype(utils.triton_to_np_dtype(datatype))
    values = [0, 1, 100] if "INT" in datatype else [0.1, -1e4, math.inf]
    assert pack(numbers(*values, datatype=datatype)) == numpy.array(values, dtype=kind).tobytes()
    assert size_of(datatype) == kind.itemsize


def test_texts_have_nvidias_bytes() -> None:
    texts = ["", "a", "ü\n", "\x00"]
    theirs = utils.serialize_byte_tensor(numpy.array([text.encode() for text in texts], dtype=object)).item()
    assert pack(Tensor(datatype="BYTES", shape=(4,), values=texts)) == theirs


@given(st.lists(st.floats(width=32)))
def test_bf16_has_the_bytes_that_nvidias_client_sends(values: list[float]) -> None:
    body = pack(numbers(*values, datatype="BF16"))
    theirs = numpy.array(values, dtype=numpy.float32).astype(utils.triton_to_np_dtype("BF16"))
    assert repr(unpack("BF16", body)) == repr([float(value) for value in theirs])


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 128), ("UINT8", -1), ("INT32", 0.5), ("FP32", "a"),
                                                 ("BYTES", 1), ("FP16", 1e6), ("BF16", "a")])  # fmt: skip
def test_what_a_datatype_cannot_hold_is_not_sent(datatype: str, value: Any) -> None:
    asked = request(inputs={"X": Tensor(datatype=datatype, shape=(1,), values=[value])})
    for send in (grpc.encode, lambda one: http.encode(one, binary=True)):
        with pytest.raises(ValueError, match=f"{datatype} cannot hold"):
            send(asked)


@pytest.mark.parametrize(
    ("datatype", "shape", "body", "words"),
    [
        ("FP32", (4,), b"", "it has 0 bytes, FP32 [4] takes 16"),
        ("FP32", (1,), b"12345", "it has 5 bytes, FP32 [1] takes 4"),
        ("INT8", (), b"", "it has 0 bytes, INT8 [] takes 1"),
        ("BYTES", (2,), b"\1\0\0\0a", "it has 1 texts, its shape [2] has 2"),
        ("BYTES", (1,), b"\5\0\0\0a", "its 5 bytes are not texts with their lengths before them"),
        ("BYTES", (1,), b"\1\0\0\0ab", "its 6 bytes are not texts with their lengths before them"),
        ("BF16", (2,), b"1234", None),
    ],
)
def test_bytes_that_are_not_of_their_shape(datatype: str, shape: tuple[int, ...], body: bytes, words: str) -> None:
    assert oddity(datatype, shape, body) == words


# -- over HTTP ---------------------------------------------------------------------------------


def test_a_request_as_json() -> None:
    path, headers, body = http.encode(request(version="3", outputs=("Y",), parameters={"a": 1}), binary=False)
    assert path == "/v2/models/m/versions/3/infer"
    assert headers == {"Content-Type": "application/json"}
    assert json.loads(body) == {
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}],
        "outputs": [{"name": "Y", "parameters": {"binary_data": False}}],
        "parameters": {"a": 1},
    }


def test_a_request_as_bytes() -> None:
    asked = request(inputs={"X": numbers(1, 2), "S": Tensor(datatype="BYTES", shape=(1,), values=["a"])})
    path, headers, body = http.encode(asked, binary=True)
    size = int(headers["Inference-Header-Content-Length"])
    assert path == "/v2/models/m/infer"
    assert json.loads(body[:size]) == {
        "inputs": [
            {"name": "X", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
            {"name": "S", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}},
        ],
        "parameters": {"binary_data_output": True},
    }
    assert body[size:] == numpy.array([1, 2], dtype="<f4").tobytes() + b"\1\0\0\0a"


def test_json_has_the_number_that_the_datatype_holds() -> None:
    _, _, body = http.encode(request(inputs={"X": numbers(0.1)}), binary=False)
    assert json.loads(body)["inputs"][0]["data"] == [float(numpy.float32(0.1))]


def test_names_that_no_path_can_have() -> None:
    assert http.model_path("a b/ü") == "/v2/models/a%20b%2F%C3%BC"


def test_a_refusal_in_words_or_without() -> None:
    assert http.decode(400, {}, b'{"error":"no"}') == Refused(code=400, message="no")
    assert http.decode(500, {}, b"<html>oops") == Refused(code=500, message="<html>oops")
    assert http.decode(503, {}, b"") == Refused(code=503, message="no reason given")


def test_bare_nan_and_broken_texts_are_read() -> None:
    rows = b'{"outputs":[{"name":"Y","datatype":"FP32","shape":[2],"data":[NaN,-Infinity]},'
    rows += b'{"name":"S","datatype":"BYTES","shape":[1],"data":["\xff"]}]}'
    answer = http.decode(200, {}, rows)
    assert isinstance(answer, Response)
    assert repr(answer.outputs["Y"].values) == "[nan, -inf]"
    assert answer.outputs["S"].values == ["\udcff"]


def test_outputs_that_are_odd_are_told() -> None:
    answer = http.decode(200, {}, json_reply({"Y": numbers(1, shape=(2, 2))})[1])  # type: ignore[index]
    assert isinstance(answer, Response)
    assert answer.odd == {"Y": "it has 1 values, its shape [2, 2] has 4"}
    message = service_pb2.ModelInferResponse(raw_output_contents=[b""])
    message.outputs.add(name="Y", datatype="FP32", shape=[4])
    assert grpc.decode(message.SerializeToString()).odd == {"Y": "it has 0 bytes, FP32 [4] takes 16"}


def _with_size(size: object, tail: bytes) -> Response | Refused:
    output = {"name": "Y", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": size}}
    head = json.dumps({"outputs": [output]}).encode()
    return http.decode(200, {http.HEADER_SIZE.lower(): str(len(head))}, head + tail)


def test_sizes_that_lie_are_told() -> None:
    answer = _with_size(1 << 40, bytes(8))
    assert isinstance(answer, Response)
    assert answer.odd == {"Y": "its binary_data_size is 1099511627776, and 8 bytes are left"}
    for size, tail in ((-8, bytes(8)), ("8", bytes(8)), (True, bytes(8)), (8.0, bytes(8)), (8, bytes(9))):
        with pytest.raises(ValueError, match=r"binary_data_size|no output's"):
            _with_size(size, tail)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"outputs":7}', b'{"outputs":[{"name":"Y"}]}',
                                  b'{"outputs":[{"name":"Y","datatype":"FP8","shape":[]}]}'])  # fmt: skip
def test_what_is_no_answer_over_http(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        http.decode(200, {}, body)


def test_what_is_no_answer_over_grpc() -> None:
    lonely = service_pb2.ModelInferResponse(raw_output_contents=[b""]).SerializeToString()
    for data in (b"\xff\xff", lonely):
        with pytest.raises(ValueError, match=r"answer that is no|0 outputs"):
            grpc.decode(data)


# -- calls that end ----------------------------------------------------------------------------


@contextmanager
def accepting(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that takes connections and does this with each."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)

        def run() -> None:
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    try:
                        serve(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stop.set()
            thread.join()


def drip(text: bytes) -> Callable[[socket.socket], None]:
    """A byte now and then, after a text."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(text)
        for _ in range(8):
            time.sleep(0.1)
            connection.sendall(b" ")

    return serve


HEAD = b"HTTP/1.1 200 OK\r\n"
SLOW: Mapping[str, tuple[Callable[[socket.socket], None], str]] = {
    "silent": (lambda connection: time.sleep(0.9), "no answer within 0.3 s"),
    "headers": (drip(HEAD + b"X: "), "no answer within 0.3 s"),
    "body": (drip(HEAD + b"Content-Length: 1000\r\n\r\n"), "no whole answer within 0.3 s"),
    "chunks": (drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n"), "no whole answer within 0.3 s"),
    "no length": (drip(HEAD + b"\r\n"), "no whole answer within 0.3 s"),
}


@pytest.mark.parametrize("case", SLOW)
def test_a_server_that_takes_its_time_over_http(case: str) -> None:
    serve, words = SLOW[case]
    with accepting(serve) as port:
        begun = time.monotonic()
        with pytest.raises(NoAnswer, match=f"^{words}$") as caught:
            http.Client(f"http://127.0.0.1:{port}").get("/v2", timeout=0.3)
        assert time.monotonic() - begun < 0.8
    assert caught.value.waited


def test_a_server_that_does_not_read_what_is_sent() -> None:
    with accepting(lambda connection: time.sleep(0.9)) as port:
        begun = time.monotonic()
        with pytest.raises(NoAnswer, match="no answer within"):
            http.Client(f"http://127.0.0.1:{port}").post("/v2", bytes(1 << 26), {}, timeout=0.3)
        assert time.monotonic() - begun < 0.8


BROKEN: Mapping[str, tuple[bytes, str]] = {
    "closed": (b"", "the server closed the connection without a whole answer"),
    "half": (HEAD + b"Content-Length: 9\r\n\r\nabc", "the server closed the connection without a whole answer"),
    "strange": (b"SSH-2.0-OpenSSH\r\n", "the call failed: SSH-2.0-OpenSSH"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_server_that_breaks_off_over_http(case: str) -> None:
    text, words = BROKEN[case]

    def serve(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(text)

    with accepting(serve) as port, pytest.raises(NoAnswer, match=words) as caught:
        http.Client(f"http://127.0.0.1:{port}").get("/v2")
    assert not caught.value.waited


def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def asked_over_grpc(address: str, timeout: float = 5.0, one: Request | None = None) -> bytes | Refused:
    with closing(grpc.Client(address)) as client:
        return client.infer(grpc.encode(one or request()), timeout=timeout)


def test_nobody_listens() -> None:
    for call in (lambda: http.Client(f"http://{nobody()}").get("/v2"), lambda: asked_over_grpc(nobody())):
        with pytest.raises(NoAnswer, match=r"^the server refuses connections$") as caught:
            call()
        assert not caught.value.waited


def test_no_proxy_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "grpc_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://{nobody()}")
    with serving({"/v2": (200, b"{}")}) as server:
        assert http.Client(server.http).get("/v2").status == 200
    with speaking(lambda data, context: grpc_reply({})) as address:
        assert isinstance(asked_over_grpc(address), bytes)


def test_a_server_that_is_silent_over_grpc() -> None:
    def wait(data: bytes, context: Any) -> bytes:
        time.sleep(0.8)
        return b""

    with speaking(wait) as address:
        begun = time.monotonic()
        with pytest.raises(NoAnswer, match=r"^no answer within 0.3 s$") as caught:
            asked_over_grpc(address, timeout=0.3)
        assert time.monotonic() - begun < 0.7
    assert caught.value.waited


def test_a_server_that_only_takes_connections() -> None:
    with accepting(lambda connection: time.sleep(0.9)) as port:
        begun = time.monotonic()
        with pytest.raises(NoAnswer, match="no answer within"):
            asked_over_grpc(f"127.0.0.1:{port}", timeout=0.3)
        assert time.monotonic() - begun < 0.8


def test_a_server_that_breaks_off_over_grpc() -> None:
    with accepting(lambda connection: None) as port, pytest.raises(NoAnswer) as caught:
        asked_over_grpc(f"127.0.0.1:{port}", timeout=3)
    assert not caught.value.waited


@pytest.mark.parametrize(("code", "status"), [*grpc.CODES.items(), ("ABORTED", 500)])
def test_refusals_over_grpc_have_https_codes(code: str, status: int) -> None:
    def refuse(data: bytes, context: Any) -> bytes:
        context.abort(library.StatusCode[code], "not today")
        raise AssertionError

    with speaking(refuse) as address:
        assert asked_over_grpc(address) == Refused(code=status, message="not today")


def test_messages_may_be_large() -> None:
    large = {"Y": Tensor(datatype="BYTES", shape=(1,), values=["a" * (6 << 20)])}
    with speaking(lambda data, context: grpc_reply(large)) as address:
        answer = asked_over_grpc(address, one=request(inputs={"X": large["Y"]}))
    assert isinstance(answer, bytes)
    assert len(answer) > 6 << 20


# -- streams -----------------------------------------------------------------------------------


def heard(address: str, timeout: float = 5.0) -> list[Response | Refused]:
    with closing(grpc.Client(address)) as client:
        answers = client.stream(grpc.encode_for_stream(request()), timeout=timeout)
        return [one if isinstance(one, Refused) else grpc.decode_from_stream(one) for one in answers]


def test_a_stream_is_heard_to_its_end() -> None:
    answers = [streamed(grpc_reply({"Y": numbers(value)})) for value in (1, 2, 3)]
    with speaking(stream=saying(*answers, streamed(grpc_reply({}, triton_final_response=True)))) as address:
        found = heard(address)
    assert [list(one.outputs["Y"].values) for one in found[:-1] if isinstance(one, Response)] == [[1], [2], [3]]
    assert isinstance(found[-1], Response)
    assert found[-1].parameters == {"triton_final_response": True}


def test_errors_on_a_stream_have_no_code() -> None:
    with speaking(stream=saying(streamed(error="no such number"))) as address:
        assert heard(address) == [Refused(code=None, message="no such number")]


def test_a_stream_that_ends_with_an_error() -> None:
    def refuse(requests: Any, context: Any) -> Iterator[bytes]:
        yield streamed(grpc_reply({"Y": numbers(1)}))
        context.abort(library.StatusCode.NOT_FOUND, "gone")

    with speaking(stream=refuse) as address:
        assert heard(address)[-1] == Refused(code=404, message="gone")


def test_a_stream_that_never_ends() -> None:
    def go_on(requests: Any, context: Any) -> Iterator[bytes]:
        while context.is_active():
            yield streamed(grpc_reply({"Y": numbers(1)}))
            time.sleep(0.05)

    with speaking(stream=go_on) as address:
        begun = time.monotonic()
        with pytest.raises(NoAnswer, match=r"^\d+ responses came, but the stream did not end within 0.4 s$"):
            heard(address, timeout=0.4)
        assert time.monotonic() - begun < 0.8


def test_a_stream_that_nobody_hears_to_its_end_is_let_go() -> None:
    gone = threading.Event()

    def go_on(requests: Any, context: Any) -> Iterator[bytes]:
        context.add_callback(gone.set)
        while context.is_active():
            yield streamed(grpc_reply({"Y": numbers(1)}))
            time.sleep(0.01)

    with speaking(stream=go_on) as address, closing(grpc.Client(address)) as client:
        with closing(client.stream(grpc.encode_for_stream(request()), timeout=60)) as answers:
            next(answers)
        assert gone.wait(5)


# -- what is left behind -----------------------------------------------------------------------

QUIET = """
import os, sys, threading
from contextlib import closing
from composer.protocol import grpc
from composer.protocol.messages import NoAnswer, Request
data = grpc.encode(Request(model="m", inputs={}))
for _ in range(2):
    with closing(grpc.Client(sys.argv[1])) as client:
        try:
            client.infer(data, timeout=1)
            list(client.stream(data, timeout=1))
        except NoAnswer:
            pass
        if os.fork() == 0:
            os._exit(0)
        os.wait()
print([thread.name for thread in threading.enumerate() if thread is not threading.main_thread()])
"""


@pytest.mark.parametrize("there", [True, False])
def test_grpc_says_nothing_and_leaves_no_threads(there: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC")}
    with speaking(lambda data, context: grpc_reply({}), saying(streamed(grpc_reply({})))) as address:
        line = [sys.executable, "-W", "error", "-c", QUIET, address if there else nobody()]
        ran = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=30)
    assert (ran.returncode, ran.stderr, ran.stdout) == (0, "", "[]\n")
