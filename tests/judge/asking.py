"""Requests for a model made from its own config, and what a server answers them. HTTP, the binary form."""

from __future__ import annotations

import http.client
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote

from .streaming import infer_request, stream

Config: TypeAlias = Mapping[str, Any]
SIZES = {
    "BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8,
    "FP16": 2, "FP32": 4, "FP64": 8, "BF16": 2,
}  # fmt: skip
"""Bytes of one element, by the name that the protocol has for each datatype."""
PATH_CHARACTERS = "!$&'()*+,;=:@"
LONGEST = 1 << 24
"""Elements of a tensor, at most: a model with a larger one is not asked, and served if it is ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back for one request: `status` is HTTP's, or 0 if no answer came. None if nothing was asked."""

    status: int | None
    words: str = ""

    @property
    def failed(self) -> bool:
        return self.status not in {None, 200}


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One tritonserver on this machine. Each question has a connection of its own; decoupled models take gRPC."""

    port: int
    grpc_port: int
    timeout: float = 20.0

    def listened(self) -> bool:
        """Whether the server takes connections: it says so a moment before it does."""
        try:
            self._ask("GET", "/v2/health/live")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def config(self, model: str, version: str) -> Config:
        """What the server made of a model's config. Raises OSError, http.client.HTTPException, ValueError."""
        return dict(_json(self._ask("GET", f"{_place(model, version)}/config")[1]))

    def index(self) -> list[dict[str, str]]:
        """The models and versions that the server knows, whatever their state."""
        return list(_json(self._ask("POST", "/v2/repository/index")[1]))

    def infer(self, model: str, version: str, config: Config) -> Answer:
        """Ask a model with zeros, or `a` where it takes strings."""
        try:
            _check_outputs(config)
            if config.get("model_transaction_policy", {}).get("decoupled", False):
                return self._streamed(model, version, config)
            head, tail = _request(config)
            header = {"Inference-Header-Content-Length": str(len(head))}
            return self._answer(_place(model, version) + "/infer", head + tail, header)
        except TooLarge as error:
            return Answer(status=None, words=str(error))

    def given(self, model: str, version: str, request: Mapping[str, Any]) -> Answer:
        """Ask a model what a corpus says: the JSON of a request."""
        place = _place(model, version)
        return self._answer(place + "/infer", json.dumps(request).encode(), {})

    def _streamed(self, model: str, version: str, config: Config) -> Answer:
        batch = is_batched(config)
        inputs = {
            tensor["name"]: (datatype_of(tensor), shape(tensor, batch), zeros(tensor, batch))
            for tensor in config.get("input", [])
        }
        try:
            status, words = stream(
                self.grpc_port, infer_request(model, version, inputs, sequence(config)), self.timeout
            )
        except TimeoutError:
            return Answer(status=0, words="no answer")
        return Answer(status=status, words=words)

    def _answer(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        try:
            status, content = self._ask("POST", path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            return Answer(status=0, words=type(error).__name__)
        return Answer(status=status, words=_said(content) if status != 200 else "")

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class TooLarge(ValueError):
    """A tensor that is not worth sending."""


def _place(model: str, version: str) -> str:
    """The server does not undo percent signs: a name with what no path can have is not to be reached over HTTP."""
    return f"/v2/models/{quote(model, safe=PATH_CHARACTERS, errors='surrogateescape')}/versions/{version}"


def _json(content: bytes) -> Any:
    """The server gives names as they are on the disk, in whatever encoding."""
    return json.loads(content.decode(errors="surrogateescape"))


def shape(tensor: Mapping[str, Any], batch: bool) -> list[int]:
    """What is sent for a tensor of a config: -1 becomes 1, and the batch has one element."""
    return [1] * batch + [1 if int(size) < 0 else int(size) for size in tensor.get("dims", [])]


def _request(config: Config) -> tuple[bytes, bytes]:
    """JSON, and the zeros that follow it."""
    batch = is_batched(config)
    inputs, tail = [], b""
    for tensor in config.get("input", []):
        datatype, data = datatype_of(tensor), zeros(tensor, batch)
        inputs.append(
            {
                "name": tensor["name"],
                "datatype": datatype,
                "shape": shape(tensor, batch),
                "parameters": {"binary_data_size": len(data)},
            }
        )
        tail += data
    parameters: dict[str, object] = {"binary_data_output": True, **sequence(config)}
    return json.dumps({"inputs": inputs, "parameters": parameters}).encode(), tail


def sequence(config: Config) -> dict[str, object]:
    """Parameters of a request that is a whole sequence. An ensemble hands them to its members."""
    if "sequence_batching" not in config and config.get("platform") != "ensemble":
        return {}
    return {"sequence_id": 1, "sequence_start": True, "sequence_end": True}


def _check_outputs(config: Config) -> None:
    """Models of the corpus make what their config says: not so much that the answer takes long."""
    for tensor in config.get("output", []):
        if math.prod(shape(tensor, batch=False)) > LONGEST:
            raise TooLarge(f"{tensor['name']} is too large to be asked for")


def is_batched(config: Config) -> bool:
    """Whether requests have a dimension more than the config says."""
    return int(config.get("max_batch_size", 0)) > 0


def datatype_of(tensor: Mapping[str, Any]) -> str:
    """As the protocol names it."""
    name = str(tensor["data_type"]).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def zeros(tensor: Mapping[str, Any], batch: bool) -> bytes:
    """The bytes of a tensor: zeros, or an `a` for each string. Raises `TooLarge`."""
    datatype, count = datatype_of(tensor), math.prod(shape(tensor, batch))
    if count > LONGEST:
        raise TooLarge(f"{count} elements are not asked")
    if datatype == "BYTES":
        return (struct.pack("<I", 1) + b"a") * count
    return bytes(SIZES[datatype] * count)


def _said(content: bytes) -> str:
    text = content.decode(errors="backslashreplace")
    try:
        said = json.loads(text)
    except ValueError:
        return text
    return str(said.get("error", text)) if isinstance(said, dict) else text
