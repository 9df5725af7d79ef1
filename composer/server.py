"""tritonserver's command line: the flags it takes, and how a recipe's `server:` is written with them. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Final

FLAGS_OF: Final = "24.10"
"""The release whose `tritonserver --help` (2.51.0) the table below was taken from."""

Scalar = bool | int | float | str
FlagValue = Scalar | tuple[Scalar, ...] | Mapping[str, Scalar | Mapping[str, Scalar]]

# What a flag's value is, as --help says: <string>, <integer>, <float>, <boolean>, nothing, <integer>:<integer>
# (keyed by a device), <string>=<string> and <string>,<string>=<string> (a setting, maybe of something).
_KINDS: Final = {
    "text": """id log-format log-file model-store model-repository model-control-mode load-model model-config-name
        http-address http-header-forward-pattern http-restricted-api grpc-address grpc-header-forward-pattern
        grpc-server-cert grpc-server-key grpc-root-cert grpc-infer-response-compression-level
        grpc-restricted-protocol sagemaker-safe-port-range vertex-ai-default-model metrics-address
        backend-directory repoagent-directory cache-directory rate-limit rate-limit-resource
        trace-file trace-level""",
    "integer": """exit-timeout-secs log-verbose repository-poll-secs model-load-thread-count model-load-retry-count
        http-port http-thread-count grpc-port grpc-infer-allocation-pool-size grpc-keepalive-time
        grpc-keepalive-timeout grpc-http2-max-pings-without-data grpc-http2-min-recv-ping-interval-without-data
        grpc-http2-max-ping-strikes grpc-max-connection-age grpc-max-connection-age-grace sagemaker-port
        sagemaker-thread-count vertex-ai-port vertex-ai-thread-count metrics-port pinned-memory-pool-byte-size
        buffer-manager-thread-count response-cache-byte-size trace-rate trace-count trace-log-frequency""",
    "number": "metrics-interval-ms min-supported-compute-capability",
    "boolean": """log-info log-warning log-error exit-on-error strict-readiness model-namespacing enable-peer-access
        allow-http reuse-http-port allow-grpc reuse-grpc-port grpc-use-ssl grpc-use-ssl-mutual
        grpc-keepalive-permit-without-calls allow-sagemaker allow-vertex-ai allow-metrics allow-gpu-metrics
        allow-cpu-metrics strict-model-config""",
    "switch": "disable-auto-complete-config",
    "device": "cuda-memory-pool-byte-size cuda-virtual-address-size model-load-gpu-limit",
    "setting": "metrics-config trace-config backend-config cache-config host-policy",
}
FLAGS: Final[Mapping[str, str]] = {name: kind for kind, names in _KINDS.items() for name in names.split()}

_WANTED: Final = {
    "text": ("a text", '"..."'),
    "integer": ("a whole number", "1"),
    "number": ("a number", "0.5"),
    "boolean": ("true or false", "true"),
    "switch": ("true or false", "true"),
    "device": ("a mapping from device to value", "{0: 67108864}"),
    "setting": ("a mapping of settings", "{local: {size: 1048576}}"),
}


def nearest_flag(name: str) -> str | None:
    """The known flag that an unknown one was probably meant to be."""
    plain = name.lower().lstrip("-").replace("_", "-")
    return plain if plain in FLAGS else next(iter(difflib.get_close_matches(plain, FLAGS, 1)), None)


def misfit(name: str, value: FlagValue) -> tuple[str, str] | None:
    """What the flag wants, in words and as an example, if the value is something else; None for unknown flags."""
    kind = FLAGS.get(name)
    fits = kind is None or all(_fits(kind, item) for item in (value if isinstance(value, tuple) else (value,)))
    return None if fits or kind is None else _WANTED[kind]


def _fits(kind: str, value: FlagValue) -> bool:
    if isinstance(value, bool):
        return kind in ("boolean", "switch")
    if isinstance(value, Mapping):
        nested = any(isinstance(item, Mapping) for item in value.values())
        return kind == "setting" or (kind == "device" and not nested)
    if isinstance(value, int):
        return kind in ("integer", "number")
    if isinstance(value, float):
        return kind == "number"
    # `{0: 1}` may be written as the server's own text, "0:1".
    return kind == "text" or (kind in ("device", "setting") and ("=" in value or ":" in value))


def server_command(flags: Mapping[str, FlagValue], *, repository: str = "/models") -> tuple[str, ...]:
    """The command that starts the server: `repository` unless the flags name one, then the flags in their order.

    Lists and mappings repeat their flag; a flag without argument is left out when it is false.
    """
    named = "model-repository" in flags or "model-store" in flags
    first = () if named else (f"--model-repository={repository}",)
    rest = (argument for name, value in flags.items() for argument in _arguments(name, value))
    return ("tritonserver", *first, *rest)


def _arguments(name: str, value: FlagValue) -> Iterator[str]:
    if FLAGS.get(name) == "switch":
        yield from (f"--{name}",) if value is True else ()
    elif isinstance(value, Mapping):
        yield from (f"--{name}={text}" for text in _pairs(name, value))
    else:
        yield from (f"--{name}={_text(item)}" for item in (value if isinstance(value, tuple) else (value,)))


def _pairs(name: str, value: Mapping[str, Scalar | Mapping[str, Scalar]]) -> Iterator[str]:
    equals = ":" if FLAGS.get(name) == "device" else "="
    for key, held in value.items():
        if isinstance(held, Mapping):
            yield from (f"{key},{setting}={_text(item)}" for setting, item in held.items())
        else:
            yield f"{key}{equals}{_text(held)}"


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
