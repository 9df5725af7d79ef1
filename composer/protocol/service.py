"""The messages of Triton's gRPC service, made of service.toml."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from composer.protobuf import Message, make_pool, message_class, read_messages

if TYPE_CHECKING:
    from google.protobuf.descriptor_pool import DescriptorPool

PACKAGE: Final = "inference"
"""The package that Triton has its messages in."""

INFER: Final = f"/{PACKAGE}.GRPCInferenceService/ModelInfer"
"""The method that takes a ModelInferRequest and gives a ModelInferResponse."""

STREAM: Final = f"/{PACKAGE}.GRPCInferenceService/ModelStreamInfer"
"""The method that takes a stream of the one and gives a stream of ModelStreamInferResponse."""


@cache
def pool() -> DescriptorPool:
    """The descriptors of all messages."""
    table = tomllib.loads((files(__package__) / "service.toml").read_text(encoding="utf-8"))
    return make_pool("grpc_service.proto", PACKAGE, read_messages(table), {})


@cache
def message(name: str) -> type[Message]:
    """The class of a message: `ModelInferRequest`."""
    return message_class(pool(), f"{PACKAGE}.{name}")
