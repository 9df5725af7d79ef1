"""Servers that are made by hand, of nothing but replies, to be proved: over HTTP, and over gRPC."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2

from composer.checks import Report, Result, Terms, prove
from composer.protocol import service
from composer.protocol.tensors import Tensor, pack
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
      protocols: [http]
      encoding: [json]
      request: {inputs: {X: {dtype: FP32, shape: [1, 2], data: [1, 2]}}, timeout: 500ms}
      expect: {outputs: {Y: {allclose: {values: [[2, 4]]}}}}
"""


@dataclass
class Server:
    """A `Running` that is nothing but HTTP replies."""

    http: str
    replies: dict[str, Reply]
    asked: list[tuple[str, bytes, Mapping[str, str]]] = field(default_factory=list)
    log: str = "I1121 00:00:00.1 7 server.cc:1] starting\n"
    code: int | None = None
    oom: bool = False
    grpc: str = "127.0.0.1:9"
    engine: str = "none"

    @property
    def metrics(self) -> str:
        return f"{self.http}/metrics"

    def logs(self) -> str:
        return self.log

    def exit_code(self) -> int | None:
        return self.code

    def oom_killed(self) -> bool:
        return self.oom

    def pids(self) -> tuple[int, ...]:
        return ()

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
        "/v2/models/m/ready": (200, b""),
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
    return prove(server, Terms(validation=wanted or validation(), models=models, base=Path()), emit=lambda _: None)


def result(report: Report, name: str) -> Result:
    return next(one for one in report.results if one.id == name)


# -- answers in every way ------------------------------------------------------------------------


def json_reply(outputs: Mapping[str, Tensor]) -> Reply:
    """What a server answers as JSON."""
    rows = [
        {"name": name, "datatype": tensor.datatype, "shape": tensor.shape, "data": list(tensor.values)}
        for name, tensor in outputs.items()
    ]
    return 200, json.dumps({"model_name": "m", "model_version": "1", "outputs": rows}).encode()


def binary_reply(outputs: Mapping[str, Tensor]) -> Reply:
    """What it answers as JSON with the bytes behind it."""
    bodies = {name: pack(tensor) for name, tensor in outputs.items()}
    rows = [
        {
            "name": name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
            "parameters": {"binary_data_size": len(bodies[name])},
        }
        for name, tensor in outputs.items()
    ]
    head = json.dumps({"model_name": "m", "model_version": "1", "outputs": rows}).encode()
    return 200, head + b"".join(bodies.values()), {"Inference-Header-Content-Length": str(len(head))}


def grpc_reply(outputs: Mapping[str, Tensor], **parameters: bool) -> bytes:
    """What it answers over gRPC, written by NVIDIA's own messages."""
    message = service_pb2.ModelInferResponse(model_name="m", model_version="1")
    for name, tensor in outputs.items():
        message.outputs.add(name=name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(pack(tensor))
    for name, value in parameters.items():
        message.parameters[name].bool_param = value
    data: bytes = message.SerializeToString()
    return data


def streamed(answer: bytes = b"", error: str = "") -> bytes:
    """A response of a stream: an answer, or an error."""
    message = service_pb2.ModelStreamInferResponse(error_message=error)
    if not error:
        message.infer_response.ParseFromString(answer)
    data: bytes = message.SerializeToString()
    return data


def either(plain: Reply, binary: Reply) -> Reply:
    """A reply in the form in which it is asked for."""

    def reply(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        asked = binary if "Inference-Header-Content-Length" in handler.headers else plain
        if callable(asked):
            asked(handler, body)
            return
        handler.send_response(asked[0])
        for name, value in (asked[2] if len(asked) > 2 else {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(asked[1])))
        handler.end_headers()
        handler.wfile.write(asked[1])

    return reply


Call = Callable[[bytes, Any], Any]
"""What answers a call: from a ModelInferRequest (or, of a stream, an iterator of them), and gRPC's context."""


@contextmanager
def speaking(infer: Call | None = None, stream: Call | None = None) -> Iterator[str]:
    """A gRPC server that answers so; gives its address."""
    calls = {service.INFER: infer, service.STREAM: stream}

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            call = calls.get(details.method)
            if call is None:
                return None
            make = grpc.stream_stream_rpc_method_handler if call is stream else grpc.unary_unary_rpc_method_handler
            return make(call)

    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(4), handlers=[Handler()], options=options)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def saying(*answers: bytes) -> Call:
    """A stream that gives these answers to each request, and ends."""
    return lambda requests, context: iter(answers)


def numbers(*values: float, datatype: str = "FP32", shape: Sequence[int] | None = None) -> Tensor:
    """A tensor of a batch of one, unless another shape is given."""
    return Tensor(datatype=datatype, shape=tuple(shape or (1, len(values))), values=values)
