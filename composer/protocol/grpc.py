"""The protocol over gRPC: messages as bytes, and a client that ends every call and every stream by a deadline.

The messages are made of data (service.py); only the channel is the library's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Mapping
from typing import Any, Final

from composer.protocol import service
from composer.protocol.messages import MOST, UNREACHABLE, WORDS, NoAnswer, Parameter, Refused, Request, Response
from composer.protocol.tensors import Tensor, oddity, pack, unpack

CODES: Final[Mapping[str, int]] = {
    "UNKNOWN": 400,
    "INTERNAL": 500,
    "NOT_FOUND": 404,
    "INVALID_ARGUMENT": 400,
    "UNAVAILABLE": 503,
    "UNIMPLEMENTED": 501,
    "ALREADY_EXISTS": 400,
    "CANCELLED": 400,
}
"""The HTTP status that Triton gives where its gRPC gives these. Each was seen on 2.51.0."""

FINAL: Final = "triton_final_response"
"""The parameter by which a response says whether it is the last one to its request."""

_MARK_END: Final = "triton_enable_empty_final_response"
_OPTIONS: Final = (
    # What a tensor takes is for the server to say: the library's own limit is 4 MB. An answer ends where HTTP's does.
    ("grpc.max_receive_message_length", MOST),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)

_MAX_INT64: Final = (1 << 63) - 1


# -- messages ----------------------------------------------------------------------------------


def encode(request: Request) -> bytes:
    """A ModelInferRequest. Raises `ValueError` for a value that its datatype cannot hold."""
    return _encoded(request, request.all_parameters())


def encode_for_stream(request: Request) -> bytes:
    """The same, and the server is to mark the end of the answer even where the model has nothing more to say."""
    return _encoded(request, {_MARK_END: True, **request.all_parameters()})


def decode(data: bytes) -> Response:
    """The answer that a ModelInferResponse is. Raises `ValueError` for what is none."""
    return _response(_parsed("ModelInferResponse", data))


def decode_from_stream(data: bytes) -> Response | Refused:
    """The answer that a ModelStreamInferResponse is. Raises `ValueError` for what is none."""
    message = _parsed("ModelStreamInferResponse", data)
    if message.error_message:
        return Refused(code=None, message=message.error_message[:WORDS])
    return _response(message.infer_response)


def _encoded(request: Request, parameters: Mapping[str, Parameter]) -> bytes:
    message = service.message("ModelInferRequest")(model_name=request.model, model_version=request.version)
    for name, tensor in request.inputs.items():
        message.inputs.add(name=name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_input_contents.append(pack(tensor))
    for name in request.outputs:
        message.outputs.add(name=name)
    for key, value in parameters.items():
        setattr(message.parameters[key], _choice(value), value)
    data: bytes = message.SerializeToString()
    return data


def _choice(value: Parameter) -> str:
    if isinstance(value, bool):
        return "bool_param"
    if isinstance(value, int):
        return "uint64_param" if value > _MAX_INT64 else "int64_param"
    return "double_param" if isinstance(value, float) else "string_param"


def _parsed(name: str, data: bytes) -> Any:  # noqa: ANN401
    from google.protobuf.message import DecodeError

    message = service.message(name)()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ValueError(f"an answer that is no {name}: {error}") from error
    return message


def _response(message: Any) -> Response:  # noqa: ANN401
    if len(message.outputs) != len(message.raw_output_contents):
        raise ValueError(f"{len(message.outputs)} outputs with the bytes of {len(message.raw_output_contents)}")
    outputs: dict[str, Tensor] = {}
    odd: dict[str, str] = {}
    for output, body in zip(message.outputs, message.raw_output_contents, strict=True):
        shape = tuple(output.shape)
        fault = oddity(output.datatype, shape, body)
        outputs[output.name] = Tensor(datatype=output.datatype, shape=shape, values=unpack(output.datatype, body))
        odd |= {output.name: fault} if fault else {}
    parameters = {
        key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in message.parameters.items()
    }
    return Response(
        model=message.model_name, version=message.model_version, outputs=outputs, parameters=parameters, odd=odd
    )


# -- calls -------------------------------------------------------------------------------------


class Client:
    """Speaks to the server at `address`: `127.0.0.1:8001`. Opens its connection with the first call."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel: Any = None

    def infer(self, data: bytes, *, timeout: float) -> bytes | Refused:
        """Send a ModelInferRequest, and give the ModelInferResponse to it. Raises `NoAnswer`."""
        library = _library()
        call = self._opened().unary_unary(service.INFER)
        try:
            answer: bytes = call(data, timeout=timeout)
        except library.RpcError as error:
            return _refused(error, timeout)
        return answer

    def stream(self, data: bytes, *, timeout: float) -> Generator[bytes | Refused]:
        """Send a ModelInferRequest on a stream of its own, and give each ModelStreamInferResponse as it comes.

        It ends when the server ends it, or at the deadline for all of it. Raises `NoAnswer`.
        """
        library = _library()
        # No metadata that asks for errors as a status (triton_grpc_error): a model that sends an error, and then that
        # it has ended, makes a server of 24.10 crash if they come with it.
        call = self._opened().stream_stream(service.STREAM)(iter((data,)), timeout=timeout)
        count = 0
        try:
            for answer in call:
                count += 1
                yield answer
        except library.RpcError as error:
            yield _refused(error, timeout, count)
        finally:
            call.cancel()

    def close(self) -> None:
        """Let go of the connection. The client may be used again."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _opened(self) -> Any:  # noqa: ANN401
        if self._channel is None:
            self._channel = _library().insecure_channel(self._address, options=_OPTIONS)
        return self._channel


def _library() -> Any:  # noqa: ANN401
    """grpcio, told to write nothing of its own to stderr, and to leave processes that we start alone."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    import grpc  # type: ignore[import-untyped]

    return grpc


def _refused(error: Any, timeout: float, streamed: int = 0) -> Refused:  # noqa: ANN401
    """The server's refusal. Raises `NoAnswer` where it is not the server who speaks."""
    code, words = error.code().name, str(error.details() or "")
    if code == "DEADLINE_EXCEEDED":
        came = f"{streamed} responses came, but the stream did not end" if streamed else "no answer"
        raise NoAnswer(f"{came} within {timeout:g} s", waited=True) from error
    if code == "RESOURCE_EXHAUSTED":
        raise NoAnswer(f"a message is larger than gRPC carries here: {words}", waited=False) from error
    if sign := _OF_CONNECTIONS.search(words):
        raise NoAnswer(_why(sign[0], words), waited=False) from error
    return Refused(code=CODES.get(code, 500), message=words)


_OF_CONNECTIONS: Final = re.compile(
    r"Connection refused|^failed to connect|Socket closed|Connection reset|Broken pipe|End of TCP stream|Stream removed"
    r"|GOAWAY|RST_STREAM|DNS resolution failed|[Hh]andshake"
)
"""What the library says of connections. The status does not tell its words from the server's."""


def _why(sign: str, words: str) -> str:
    if "Connection refused" in words:
        return UNREACHABLE
    if sign in ("DNS resolution failed", "Handshake", "handshake") or words.startswith("failed to connect"):
        return f"the server cannot be reached: {words}"
    return "the server closed the connection without a whole answer"
