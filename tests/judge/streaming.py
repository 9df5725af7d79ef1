"""Requests to decoupled models, which only gRPC's streams take: the messages are written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import grpc  # type: ignore[import-untyped]

from tests.modelfiles import field, varint

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
FINAL = b"triton_final_response\x12\x02\x08\x01"
"""The parameter of the last response, as an entry of a map."""


def stream(port: int, request: bytes, timeout: float) -> tuple[int, str]:
    """Send one ModelInferRequest. Returns 200 once the last response came, or 500 and what went wrong.

    Any number of responses is fine, none too. Raises TimeoutError if the last one does not come in `timeout` seconds.
    """
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream(METHOD, request_serializer=bytes, response_deserializer=bytes)
        try:
            for response in call(_kept_open(request), timeout=timeout):
                if response.startswith(b"\x0a"):  # error_message, of ModelStreamInferResponse
                    return 500, response[2:].decode(errors="replace").strip()
                if FINAL in response:
                    return 200, ""
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError from error
            return 500, str(error.details())
    return 500, "the stream ended"


def _kept_open(request: bytes) -> Iterator[bytes]:
    yield request


def infer_request(
    model: str, version: str, inputs: Mapping[str, tuple[str, list[int], bytes]], parameters: Mapping[str, Any]
) -> bytes:
    """A ModelInferRequest: each input with its datatype, its shape and its bytes."""
    wanted = {**parameters, "triton_enable_empty_final_response": True}
    return b"".join(
        (
            field(1, model),
            field(2, version),
            *(field(4, field(1, name) + field(2, _parameter(value))) for name, value in wanted.items()),
            *(field(5, _tensor(name, datatype, shape)) for name, (datatype, shape, _) in inputs.items()),
            *(field(7, data) for _, _, data in inputs.values()),
        )
    )


def _parameter(value: Any) -> bytes:
    return field(1, int(value)) if isinstance(value, bool) else field(2, int(value))


def _tensor(name: str, datatype: str, shape: list[int]) -> bytes:
    packed = b"".join(varint(size) for size in shape)
    return field(1, name) + field(2, datatype) + field(3, packed)
