"""Batching, queues, the response cache and how a model answers: BAT, CCH, DEC."""

from __future__ import annotations

from . import Entry, File, bad, good
from .parts import FIXED, ONNX, PYTHON, changed, onnx, python

_UNBATCHED = """name: "m"
backend: "onnxruntime"
input [ { name: "X" data_type: TYPE_FP32 dims: [ 3, 2 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 3, 2 ] } ]
"""
_LEVELS = "priority_levels: 3 default_priority_level: 2"
_ONE_LEVEL = "priority_levels: 1 default_priority_level: 1"
_DELAY = "timeout_action: DELAY default_timeout_microseconds: 100000"
_STREAM = """import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            sender.send(pb.InferenceResponse([pb.Tensor("Y", np.zeros((1, 2), np.float32))]))
            sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
"""A decoupled model that answers once."""
_DECOUPLED = PYTHON + "model_transaction_policy { decoupled: true }\n"
_STRATEGY = 'parameters { key: "TRITON_BATCH_STRATEGY_PATH" value { string_value: "/nowhere/x.so" } }\n'
_CACHE = "--cache-config=local,size=1048576"


def _batched(inside: str) -> dict[str, File]:
    return onnx(ONNX + "dynamic_batching { " + inside + " }\n")


def _unbatched(text: str) -> dict[str, File]:
    return onnx(_UNBATCHED + text, FIXED)


ENTRIES: list[Entry] = [
    good("batching/dynamic", _batched("")),
    good("batching/preferred", _batched("preferred_batch_size: [ 2, 4 ]")),
    good("batching/preferred-one", _batched("preferred_batch_size: 1")),
    good("batching/delay", _batched("preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 100")),
    bad("BAT001", "batching/preferred-too-large", _batched("preferred_batch_size: [ 2, 8 ]")),
    bad("BAT001", "batching/preferred-unbatched", _unbatched("dynamic_batching { preferred_batch_size: [ 2 ] }\n")),
    bad(
        "BAT001",
        "batching/preferred-batch-left-out",
        onnx(
            changed(ONNX, "max_batch_size: 4\n", "").replace("[ 2 ]", "[ -1, 2 ]")
            + "dynamic_batching { preferred_batch_size: 4 }\n"
        ),
    ),
    bad("BAT002", "batching/preferred-zero", _batched("preferred_batch_size: [ 0 ]")),
    bad("BAT002", "batching/preferred-negative", _batched("preferred_batch_size: [ -1 ]")),
    bad("BAT003", "batching/dynamic-unbatched", _unbatched("dynamic_batching { }\n")),
    bad(
        "BAT003",
        "batching/dynamic-unbatched-python",
        python(PYTHON.replace("max_batch_size: 4", "") + "dynamic_batching { }\n"),
    ),
    bad("BAT004", "batching/default-level-zero", _batched("priority_levels: 3")),
    bad("BAT004", "batching/default-level-too-high", _batched("priority_levels: 3 default_priority_level: 4")),
    good("batching/levels", _batched(_LEVELS)),
    good("batching/one-level", _batched("priority_levels: 1 default_priority_level: 1")),
    good("batching/default-level-without-levels", _batched("default_priority_level: 2")),
    good("batching/levels-many", _batched("priority_levels: 4294967296 default_priority_level: 4294967296")),
    bad("BAT005", "batching/policy-of-no-level", _batched(_LEVELS + " priority_queue_policy { key: 4 value { } }")),
    bad("BAT005", "batching/policy-of-level-zero", _batched(_LEVELS + " priority_queue_policy { key: 0 value { } }")),
    good("batching/policy-without-levels", _batched("priority_queue_policy { key: 1 value { } }")),
    good("batching/policy", _batched(_LEVELS + " priority_queue_policy { key: 3 value { max_queue_size: 8 } }")),
    bad("BAT006", "batching/ordering-and-levels", _batched("preserve_ordering: true " + _LEVELS)),
    good(
        "batching/ordering-and-one-level",
        _batched("preserve_ordering: true priority_levels: 1 default_priority_level: 1"),
    ),
    good("batching/ordering", _batched("preserve_ordering: true")),
    bad(
        "BAT007",
        "batching/ordering-and-delay",
        _batched("preserve_ordering: true default_queue_policy { " + _DELAY + " }"),
    ),
    bad(
        "BAT007",
        "batching/ordering-and-delay-of-a-level",
        _batched(
            "preserve_ordering: true " + _ONE_LEVEL + " priority_queue_policy { key: 1 value { " + _DELAY + " } }"
        ),
    ),
    bad(
        "BAT007",
        "batching/ordering-and-delay-of-no-level",
        _batched("preserve_ordering: true priority_queue_policy { key: 1 value { " + _DELAY + " } }"),
    ),
    good(
        "batching/ordering-and-delay-without-timeout",
        _batched("preserve_ordering: true default_queue_policy { timeout_action: DELAY }"),
    ),
    good(
        "batching/ordering-and-reject",
        _batched("preserve_ordering: true default_queue_policy { default_timeout_microseconds: 10000000 }"),
    ),
    good(
        "batching/delayed",
        _batched("default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 100000 }"),
    ),
    good(
        "batching/rejected",
        _batched("default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 10000000 }"),
    ),
    bad("BAT008", "batching/delay-of-two-seconds", _batched("max_queue_delay_microseconds: 2000000")),
    good("batching/queue-size", _batched("default_queue_policy { max_queue_size: 1 }")),
    good("batching/timeout-overridden", _batched("default_queue_policy { allow_timeout_override: true }")),
    bad("BAT009", "batching/filled-in", onnx('backend: "onnxruntime"\nmax_batch_size: 0\n')),
    bad("BAT009", "batching/filled-in-batch-of-two", onnx('backend: "onnxruntime"\nmax_batch_size: 2\n')),
    bad("BAT010", "batching/model-has-no-batch", onnx('backend: "onnxruntime"\nmax_batch_size: 4\n', FIXED)),
    bad("BAT010", "batching/model-has-no-batch-all-said", onnx(ONNX, FIXED)),
    good("batching/model-has-no-batch-nor-config", onnx(None, FIXED)),
    good("batching/unbatched", _unbatched("")),
    bad(
        "BAT011",
        "batching/strategy-missing",
        onnx(ONNX + "dynamic_batching { }\n" + _STRATEGY),
    ),
    bad(
        "BAT011",
        "batching/strategy-escapes",
        onnx(ONNX + "dynamic_batching { }\n" + _STRATEGY.replace("/nowhere", "../..")),
    ),
    bad(
        "BAT011",
        "batching/strategy-without-batching",
        onnx(ONNX + _STRATEGY),
    ),
    bad(
        "BAT011",
        "batching/strategy-by-name-in-model",
        {
            **onnx(ONNX + "dynamic_batching { }\n"),
            "m/batchstrategy.so": b"not a library",
        },
    ),
    bad(
        "BAT011",
        "batching/strategy-by-name-in-version",
        {
            **onnx(ONNX + "dynamic_batching { }\n"),
            "m/1/batchstrategy.so": b"not a library",
        },
    ),
    bad("BAT011", "batching/strategy-by-name-unbatched", {**onnx(), "m/batchstrategy.so": b"not a library"}),
    good("batching/eager", onnx(ONNX + "optimization { eager_batching: true }\n")),
    good(
        "batching/pinned",
        onnx(ONNX + "optimization { input_pinned_memory { enable: false } gather_kernel_buffer_threshold: 9 }\n"),
    ),
    good("batching/priority", onnx(ONNX + "optimization { priority: PRIORITY_MAX }\n")),
    good("batching/cuda-graphs-on-cpu", onnx(ONNX + "optimization { cuda { graphs: true busy_wait_events: true } }\n")),
    bad("CCH001", "batching/cache-decoupled", python(_DECOUPLED + "response_cache { enable: true }\n", _STREAM)),
    bad(
        "CCH001",
        "batching/cache-decoupled-with-cache",
        python(_DECOUPLED + "response_cache { enable: true }\n", _STREAM),
        flags=(_CACHE,),
    ),
    bad(
        "CCH002", "batching/cache-sequence", python(PYTHON + "sequence_batching { }\nresponse_cache { enable: true }\n")
    ),
    bad(
        "CCH002",
        "batching/cache-sequence-with-cache",
        python(PYTHON + "sequence_batching { }\nresponse_cache { enable: true }\n"),
        flags=(_CACHE,),
    ),
    bad("CCH003", "batching/cache-without-server", onnx(ONNX + "response_cache { enable: true }\n")),
    good("batching/cache", onnx(ONNX + "response_cache { enable: true }\n"), flags=(_CACHE,)),
    good(
        "batching/cache-dynamic",
        onnx(ONNX + "response_cache { enable: true }\ndynamic_batching { }\n"),
        flags=(_CACHE,),
    ),
    good(
        "batching/cache-disabled-sequence", python(PYTHON + "sequence_batching { }\nresponse_cache { enable: false }\n")
    ),
    good("batching/cache-disabled-decoupled", python(_DECOUPLED + "response_cache { enable: false }\n", _STREAM)),
    bad("CCH004", "batching/cache-absent", onnx(), flags=("--cache-config=redis,host=localhost",)),
    bad("CCH004", "batching/cache-without-size", onnx(), flags=("--cache-config=local",)),
    good("batching/decoupled", python(_DECOUPLED, _STREAM)),
    bad("PY008", "batching/decoupled-but-returns", python(_DECOUPLED)),
    bad("DEC001", "batching/decoupled-onnx", onnx(ONNX + "model_transaction_policy { decoupled: true }\n")),
    good("batching/not-decoupled", onnx(ONNX + "model_transaction_policy { decoupled: false }\n")),
]
