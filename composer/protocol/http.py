"""The protocol over HTTP: requests and answers as bytes, and a client that ends every call by a deadline.

A request goes as JSON alone, or as JSON with the tensors' bytes behind it. Which of the two comes back is asked for.
"""

from __future__ import annotations

import http.client
import io
import json
import math
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from composer.protocol.messages import MOST, TIMEOUT, UNREACHABLE, WORDS, NoAnswer, Refused, Request, Response
from composer.protocol.tensors import EXACT_TEXT, Tensor, flat, not_in_json, oddity, pack, size_of, unpack

HEADER_SIZE: Final = "Inference-Header-Content-Length"
"""The header with the number of bytes of JSON, where bytes of tensors follow."""

_IN_PATHS: Final = "!$&'()*+,;=:@"
_PIECE: Final = 1 << 20

_MOST_TOLD: Final = 1 << 26
"""Bytes of what a server tells of itself."""


# -- requests ----------------------------------------------------------------------------------


def model_path(model: str, version: str = "") -> str:
    """Where a model is asked: `/v2/models/NAME`, and its version where one is meant."""
    path = f"/v2/models/{quote(model, safe=_IN_PATHS, errors=EXACT_TEXT)}"
    return f"{path}/versions/{version}" if version else path


def unsendable(request: Request) -> str | None:
    """Why JSON cannot carry a request, or None if it can."""
    reasons = ((name, not_in_json(tensor)) for name, tensor in request.inputs.items())
    return next((f"input {name}: {reason}" for name, reason in reasons if reason), None)


def encode(request: Request, binary: bool) -> tuple[str, dict[str, str], bytes]:
    """The path, headers and body of a request. What it asks for comes back in the same form.

    Raises `ValueError` for a value that its datatype, or JSON, cannot carry.
    """
    bodies = {name: pack(tensor) for name, tensor in request.inputs.items()}
    if not binary and (reason := unsendable(request)):
        raise ValueError(reason)
    document = _document(request, bodies, binary)
    head = json.dumps(document, allow_nan=False).encode()
    path = f"{model_path(request.model, request.version)}/infer"
    if not binary:
        return path, {"Content-Type": "application/json"}, head
    headers = {"Content-Type": "application/octet-stream", HEADER_SIZE: str(len(head))}
    return path, headers, b"".join((head, *bodies.values()))


def _document(request: Request, bodies: Mapping[str, bytes], binary: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "inputs": [_input(name, tensor, bodies[name], binary) for name, tensor in request.inputs.items()]
    }
    parameters = request.all_parameters()
    if request.outputs:
        document["outputs"] = [{"name": name, "parameters": {"binary_data": binary}} for name in request.outputs]
    elif binary:
        parameters["binary_data_output"] = True
    if parameters:
        document["parameters"] = parameters
    return document


def _input(name: str, tensor: Tensor, body: bytes, binary: bool) -> dict[str, Any]:
    head = {"name": name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    if binary:
        return {**head, "parameters": {"binary_data_size": len(body)}}
    # From the bytes, so that both ways send the same: the recipe's 0.1 is another number in FP32.
    return {**head, "data": unpack(tensor.datatype, body)}


# -- answers -----------------------------------------------------------------------------------


def decode(status: int, headers: Mapping[str, str], body: bytes) -> Response | Refused:
    """What an answer says; `headers` by lower-case name. Raises `ValueError` for what is none in this protocol."""
    if status != 200:
        return Refused(code=status, message=complaint(body))
    size = int(headers.get(HEADER_SIZE.lower(), len(body)))
    try:
        return _response(_json(body[:size]), body[size:])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"an answer without what the protocol asks for: {error!r}") from error
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def complaint(body: bytes) -> str:
    """Triton's own words for what it refused, from the body of its answer."""
    try:
        return str(_json(body)["error"])[:WORDS]
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace").strip() or "no reason given"


def _json(body: bytes) -> Any:  # noqa: ANN401
    """JSON in which bare NaN and Infinity are numbers, and texts need not be UTF-8, as Triton writes it."""
    try:
        return json.loads(body.decode(errors=EXACT_TEXT))
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def _response(document: Mapping[str, Any], tail: bytes) -> Response:
    outputs: dict[str, Tensor] = {}
    odd: dict[str, str] = {}
    for output in document.get("outputs") or []:
        name = str(output["name"])
        size = (output.get("parameters") or {}).get("binary_data_size")
        if size is None:
            tensor, fault = _from_json(output)
        else:
            if type(size) is not int or size < 0:
                raise ValueError(f"output {name} has a binary_data_size of {size!r}")
            tensor, fault = _from_bytes(output, tail[:size])
            if size > len(tail):
                fault = f"its binary_data_size is {size}, and {len(tail)} bytes are left"
            tail = tail[size:]
        outputs[name] = tensor
        odd |= {name: fault} if fault else {}
    if tail:
        raise ValueError(f"{len(tail)} bytes at its end are no output's")
    return Response(
        model=str(document.get("model_name", "")),
        version=str(document.get("model_version", "")),
        outputs=outputs,
        parameters=dict(document.get("parameters") or {}),
        odd=odd,
    )


def _form(output: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    datatype = str(output["datatype"])
    size_of(datatype)
    shape = tuple(output["shape"])
    if any(type(dimension) is not int for dimension in shape):
        raise ValueError(f"output {output['name']} has a shape of {list(shape)}")
    return datatype, shape


def _from_json(output: Mapping[str, Any]) -> tuple[Tensor, str | None]:
    datatype, shape = _form(output)
    values: Sequence[Any] = flat(output.get("data", []))
    count = math.prod(shape)
    odd = None if len(values) == count else f"it has {len(values)} values, its shape {list(shape)} has {count}"
    return Tensor(datatype=datatype, shape=shape, values=values), odd


def _from_bytes(output: Mapping[str, Any], body: bytes) -> tuple[Tensor, str | None]:
    datatype, shape = _form(output)
    return Tensor(datatype=datatype, shape=shape, values=unpack(datatype, body)), oddity(datatype, shape, body)


# -- calls -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back: status, headers by lower-case name, and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:  # noqa: ANN401
        """The body as JSON. Raises `ValueError`."""
        return _json(self.body)

    def complaint(self) -> str:
        """Triton's own words for what it refused."""
        return complaint(self.body)


class Client:
    """Speaks to the server at `base`, a URL. Each call has a connection of its own, and no proxy stands between.

    A kept connection would be one that Triton waits for when it is to end.
    """

    def __init__(self, base: str) -> None:
        self._base = base
        self._url = urlsplit(base)

    def get(self, path: str, *, timeout: float = TIMEOUT) -> Answer:
        """Ask for `path`. Raises `NoAnswer`."""
        return self._call("GET", path, b"", {}, timeout)

    def post(self, path: str, body: bytes, headers: Mapping[str, str], *, timeout: float = TIMEOUT) -> Answer:
        """Send `body` to `path`. Raises `NoAnswer`."""
        return self._call("POST", path, body, headers, timeout)

    def close(self) -> None:
        """Nothing is kept open."""

    def _call(self, method: str, path: str, body: bytes, headers: Mapping[str, str], timeout: float) -> Answer:
        end = time.monotonic() + timeout
        try:
            return self._answer(method, path, body, headers, end)
        except TimeoutError as error:
            words = "no whole answer" if isinstance(error, _Dripped) else "no answer"
            raise NoAnswer(f"{words} within {timeout:g} s", waited=True) from error
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(_why(error), waited=False) from error

    def _answer(self, method: str, path: str, body: bytes, headers: Mapping[str, str], end: float) -> Answer:
        connection = self._connection(_left(end))
        try:
            connection.connect()
            connection.sock = _Hurried(connection.sock, end)
            sent = {"Connection": "close", "Accept-Encoding": "identity", **headers}
            connection.request(method, self._url.path + path, body or None, sent)
            with connection.getresponse() as response:
                content = _read(response, MOST if path.endswith("/infer") else _MOST_TOLD)
                lowered = {name.lower(): value for name, value in response.getheaders()}
                return Answer(status=response.status, headers=lowered, body=content)
        finally:
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self._url.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(self._url.netloc, timeout=timeout, context=context)
        return http.client.HTTPConnection(self._url.netloc, timeout=timeout)


class _Dripped(TimeoutError):
    """The time was over after the answer had begun."""


def _read(response: http.client.HTTPResponse, most: int) -> bytes:
    pieces: list[bytes] = []
    length = 0
    try:
        while piece := response.read(_PIECE):
            pieces.append(piece)
            length += len(piece)
            if length > most:
                raise NoAnswer(f"the answer is larger than {most >> 20} MiB", waited=False)
    except TimeoutError as error:
        raise _Dripped from error
    content = b"".join(pieces)
    if response.length:
        raise http.client.IncompleteRead(content, response.length)
    return content


def _left(end: float) -> float:
    """Seconds until then. Raises `TimeoutError` when there are none."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Hurried:
    """A socket each of whose waits ends when the time of the call is over, not each after a time of its own."""

    def __init__(self, sock: socket.socket, end: float) -> None:
        self._sock = sock
        self._end = end

    def sendall(self, data: bytes) -> None:
        """Send all of it. The timeout of a socket is here for all of the data."""
        self._sock.settimeout(_left(self._end))
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """What the answer is read from."""
        return io.BufferedReader(_Hurry(self._sock, self._end))

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()


class _Hurry(io.RawIOBase):
    def __init__(self, sock: socket.socket, end: float) -> None:
        super().__init__()
        self._sock = sock
        # A connection that the server will close is let go of before its answer was read: this keeps it open.
        self._raw = sock.makefile("rb", buffering=0)
        self._end = end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        self._sock.settimeout(_left(self._end))
        return self._raw.readinto(buffer) or 0

    def close(self) -> None:
        """Let go of the connection."""
        self._raw.close()
        super().close()


def _why(error: OSError | http.client.HTTPException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return UNREACHABLE
    if isinstance(error, ConnectionError | http.client.IncompleteRead):
        return "the server closed the connection without a whole answer"
    return f"the call failed: {error}"
