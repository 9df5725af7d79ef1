"""Flags that a real tritonserver was started with, and what it did: `python -m tests.judged <bin/tritonserver>`.

The verdicts are kept beside the unit tests, which hold the table of flags and lint to them. The server must be
2.51.0 with its libraries found by LD_LIBRARY_PATH, and is given an empty repository.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from composer.server import server_command

VERDICTS: Final = Path(__file__).parent / "unit" / "data" / "tritonserver-verdicts.json"

RELEASE: Final = "24.10"

PORTS: Final = {"http-port": 18100, "grpc-port": 18101, "metrics-port": 18102}
"""Ports that nothing else here is likely to use."""

_EXPLICIT: Final = {"model-control-mode": "explicit"}
_SAGEMAKER: Final = {"allow-sagemaker": True, "sagemaker-port": 18103}
_TLS: Final = {"grpc-server-cert": "/nowhere.crt", "grpc-server-key": "/nowhere.key"}

CASES: Final[list[dict[str, Any]]] = [
    {},
    {"http-prot": 1},
    {"grpc-infer-thread-count": 4},
    {"log-info": "perhaps"},
    {"log-format": "ISO8601"},
    {"log-format": "iso8601"},
    {"http-thread-count": 2, "exit-timeout-secs": 1, "model-load-thread-count": 2},
    {"exit-timeout-secs": 1 << 31},
    {"metrics-interval-ms": 500},
    {"metrics-config": {"summary_latencies": True}},
    {"metrics-config": "a,b=c"},
    {"trace-config": {"level": "TIMESTAMPS", "rate": 5, "triton": {"file": "/dev/null"}}},
    {"trace-config": {"mode": "opentelemetry", "opentelemetry": {"url": "localhost:1/v1/traces"}}},
    {"trace-config": {"jaeger": {"url": "x"}}},
    {"trace-level": ["TIMESTAMPS", "TENSORS"], "trace-count": 3},
    {"trace-level": "SOME"},
    {"host-policy": {"p": {"cpu-cores": "0-1"}}},
    {"host-policy": {"p": {"cores": "0-1"}}},
    {"rate-limit": "EXECUTION_COUNT", "rate-limit-resource": ["R:4", "S:2:0"]},
    {"rate-limit": "always"},
    {"rate-limit-resource": "R:x"},
    {"cuda-memory-pool-byte-size": {"0": 1048576}},
    {"cuda-memory-pool-byte-size": {"gpu0": 1}},
    {"model-load-gpu-limit": {"0": 0.9}},
    {"model-load-gpu-limit": {"0": 90}},
    {"grpc-infer-response-compression-level": "High"},
    {"grpc-infer-response-compression-level": "most"},
    {"grpc-restricted-protocol": "health,inference:key=secret"},
    {"grpc-restricted-protocol": "everything:key=secret"},
    {"http-restricted-api": "statistics:key=secret"},
    {"http-header-forward-pattern": "x-.*", "grpc-header-forward-pattern": "x-.*"},
    {"grpc-keepalive-time": 10000, "grpc-keepalive-timeout": 5000, "grpc-keepalive-permit-without-calls": True},
    {"grpc-max-connection-age": 1000, "grpc-max-connection-age-grace": 1000},
    {
        "pinned-memory-pool-byte-size": 1 << 20,
        "buffer-manager-thread-count": 1,
        "min-supported-compute-capability": 7.0,
    },
    {"backend-config": {"nothing": {"x": 1}, "default-max-batch-size": 4}},
    {"backend-config": ",x=1"},
    {"cache-config": "local"},
    {"cache-config": "size=1"},
    {"cache-config": {"redis": {"host": "h"}}},
    {"cache-config": {"local": {"size": 1048576}}, "response-cache-byte-size": 1048576},
    {"strict-model-config": True},
    {"strict-model-config": False, "disable-auto-complete-config": True},
    {"model-control-mode": "POLL", "repository-poll-secs": 1},
    {"model-control-mode": "sometimes"},
    {"repository-poll-secs": 5},
    {"load-model": "a"},
    {**_EXPLICIT},
    {**_EXPLICIT, "load-model": "*"},
    {**_EXPLICIT, "load-model": "nothing"},
    {**_EXPLICIT, "load-model": ["*", "nothing"]},
    {"model-repository": "relative"},
    {"exit-on-error": False, "strict-readiness": False},
    {"grpc-port": 18100},
    {"metrics-port": 18101},
    {"metrics-port": 18100, "metrics-address": "127.0.0.1"},
    {"grpc-port": 18100, "http-address": "127.0.0.1", "grpc-address": "127.0.0.2"},
    {"grpc-port": 18100, "allow-http": False},
    {"allow-http": False, "allow-grpc": False},
    {**_SAGEMAKER},
    {**_SAGEMAKER, "sagemaker-port": 18100},
    {**_SAGEMAKER, "sagemaker-safe-port-range": "18100-18102"},
    {**_SAGEMAKER, "sagemaker-safe-port-range": "18100-18101"},
    {"grpc-use-ssl": True},
    {"grpc-use-ssl-mutual": True},
    {"grpc-use-ssl-mutual": False},
    {"grpc-use-ssl-mutual": False, "grpc-use-ssl": False},
    {"grpc-use-ssl": True, "allow-grpc": False},
    {**_TLS},
]


def given(case: dict[str, Any]) -> dict[str, Any]:
    """The flags of a case, on ports of our own, with lists as recipes hold them."""
    flags = {**PORTS, **case}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}


def verdict(server: str, case: dict[str, Any], repository: str) -> str:
    """`serves`, or `ends` where the server does so by itself within some seconds."""
    command = [server, *server_command(given(case), repository=repository)[1:]]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 5
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if process.poll() is not None:
        return "ends"
    process.kill()
    process.wait()
    return "serves"


def main(server: str) -> None:
    with tempfile.TemporaryDirectory() as repository:
        seen = [{"server": case, "verdict": verdict(server, case, repository)} for case in CASES]
    lines = ",\n".join(f"  {json.dumps(one)}" for one in seen)
    VERDICTS.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main(sys.argv[1])
