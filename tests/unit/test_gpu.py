"""What is said of GPUs by what was seen. None of these texts was recorded on a GPU: they are written after the sources
of Triton and of NVIDIA's libraries. What was recorded on one lies in tests/gpu/recorded, where there is any."""

from __future__ import annotations

import ctypes
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pynvml
import pytest

from composer.checks.gpu import baseline, gpu, judge_visible, proved
from composer.checks.gpu import evidence as gpu_evidence
from composer.checks.gpu.evidence import Metrics, ModelSeen, Moment, Processes, Visible, read_metrics, visible
from composer.checks.gpu.nvml import Gpu, Look, look
from composer.checks.gpu.use import Verdict, judge_model
from composer.checks.processes import Stub
from composer.checks.report import Result
from composer.checks.subject import Subject, Terms
from composer.protocol.http import Client
from composer.recipe import Validate
from composer.recipe_proof import GpuProof
from composer.releases import RELEASES
from composer.releases.drivers import gpu_needs, parsed

A, B, PART = "GPU-0a4d2e1c-1111", "GPU-7b8c9d0e-2222", "MIG-5f6a7b8c-3333"
SERVER, STUB, ENGINE = 4000, 4010, 4020
MIB = 1 << 20
MODULE = sys.modules["composer.checks.gpu"]

LOG = f"""\
I1121 10:00:00.1 {SERVER} pinned_memory_manager.cc:277] "Pinned memory pool is created at '0x7f0' with size 268435456"
I1121 10:00:00.1 {SERVER} cuda_memory_manager.cc:107] "CUDA memory pool is created on device 0 with size 67108864"
I1121 10:00:02.1 {SERVER} metrics.cc:890] "Collecting metrics for GPU 0: NVIDIA H200"
"""
NO_DCGM = f"""\
I1121 10:00:00.1 {SERVER} cuda_memory_manager.cc:107] "CUDA memory pool is created on device 0 with size 67108864"
W1121 10:00:02.1 {SERVER} metrics.cc:811] "DCGM unable to start: DCGM initialization error"
"""
FELL = (
    "2026-11-21 10:00:01.5 [E:onnxruntime:, provider_bridge_ort.cc:1744 TryGetProviderInfo_CUDA] Failed to load library"
    " libonnxruntime_providers_cuda.so with error: libcudnn.so.9: cannot open shared object file: No such file"
)


def page(executions: Mapping[tuple[str, str], float], used: int = 500, busy: float = 0.0, joules: float = 10.0) -> str:
    """A page of metrics as Triton writes it."""
    rows = ["# HELP nv_inference_exec_count Number of model executions performed (does not include cached requests)"]
    rows += ["# TYPE nv_inference_exec_count counter"]
    for (model, uuid), count in executions.items():
        label = f'gpu_uuid="{uuid}",' if uuid else ""
        rows.append(f'nv_inference_exec_count{{{label}model="{model}",version="1"}} {count:g}')
    for name, value in (
        ("nv_gpu_utilization", busy),
        ("nv_gpu_memory_total_bytes", 143771 * MIB),
        ("nv_gpu_memory_used_bytes", used * MIB),
        ("nv_gpu_power_usage", 75.5),
        ("nv_energy_consumption", joules),
    ):
        rows += [f"# TYPE {name} gauge", f'{name}{{gpu_uuid="{A}"}} {value}']
    return "\n".join([*rows, "nv_cpu_utilization 0.25", "nv_gpu_power_usage NaN?", ""])


def test_metrics_are_read() -> None:
    metrics = read_metrics(page({("m", A): 7, ("m", ""): 2}, busy=0.5))
    assert metrics.executions == {("m", A): 7, ("m", ""): 2}
    assert metrics.gpus == (A,)
    assert metrics.memory_total == {A: 143771 * MIB}
    assert metrics.memory_used == {A: 500 * MIB}
    assert metrics.utilisation == {A: 0.5}
    assert metrics.energy == {A: 10.0}
    assert read_metrics("") == Metrics()


def test_versions_of_a_model_count_together() -> None:
    text = "".join(f'nv_inference_exec_count{{gpu_uuid="{A}",model="m",version="{v}"}} {v}\n' for v in (1, 2))
    assert read_metrics(text).executions == {("m", A): 3}


# -- a model -----------------------------------------------------------------------------------


def device(*pids: int, used: int = 500) -> Gpu:
    return Gpu(
        index=0,
        uuid=A,
        name="NVIDIA H200",
        memory_total=143771 * MIB,
        memory_used=used * MIB,
        compute_capability="9.0",
        utilisation=0.0,
        processes=dict.fromkeys(pids, 100 * MIB),
    )


def at(seconds: float, metrics: str | None, *gpus: Gpu, driver: str = "570.86.10") -> Moment:
    found = None if metrics is None else read_metrics(metrics)
    return Moment(at=seconds, metrics=found, look=Look(gpus=gpus, driver=driver))


def judged(
    seen: ModelSeen,
    before: str | None = page({}),
    after: str | None = page({}),
    pids: Sequence[int] = (SERVER,),
    on_gpu: Sequence[int] = (SERVER,),
) -> Verdict:
    here = device(*on_gpu)
    sight = Visible(count=1, gpus=(here,), dcgm=after is not None)
    return judge_model(seen, sight, at(0, before, here), at(2, after, here), pids)


ONNX = ModelSeen(name="m", backend="onnxruntime", kinds=("KIND_GPU",), gpus=(0,), executions={A: 5})
PYTHON = replace(ONNX, backend="python", processes=(STUB,))
UNCOUNTED = {"executions": {"": 5}}


@pytest.mark.parametrize(
    ("verdict", "proof", "words"),
    [
        (judged(ONNX, after=page({}, busy=0.4)), "utilisation", "meanwhile it was 40% busy"),
        (judged(ONNX, after=page({}, used=620)), "memory", "meanwhile 120 MiB more of its memory are in use"),
        (judged(ONNX, after=page({}, joules=800)), "energy", "meanwhile it drew 395 W, 76 W at rest"),
        (judged(ONNX), "process", f"the server's process {SERVER} is on a GPU"),
        (judged(PYTHON, pids=(SERVER, STUB), on_gpu=(SERVER, STUB)), "process", f"its process {STUB} is on a GPU"),
        (judged(PYTHON, pids=(SERVER, STUB), on_gpu=(STUB,)), "process", f"its process {STUB} is on a GPU"),
        (
            judged(replace(PYTHON, backend="vllm", kinds=("KIND_MODEL",), processes=(STUB, ENGINE), **UNCOUNTED),
                   pids=(SERVER, STUB, ENGINE), on_gpu=(SERVER, ENGINE)),
            "process",
            f"its process {ENGINE} is on a GPU",
        ),
        # Processes on the GPU are not told: in a container this machine's numbers are not those of the driver.
        (judged(replace(PYTHON, driver=True), after=page({}, busy=0.9), on_gpu=()), "utilisation", "it was 90% busy"),
        (judged(replace(ONNX, **UNCOUNTED), before=None, after=None), "process", "has no metrics of GPUs (DCGM)"),
    ],
)  # fmt: skip
def test_a_model_that_ran_on_a_gpu(verdict: Verdict, proof: str, words: str) -> None:
    assert (verdict.proof, verdict.certain) == (proof, None)
    assert words in verdict.message
    assert verdict.message.startswith("it was executed 5 times")
    assert verdict.evidence["proof"] == proof


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (judged(replace(ONNX, kinds=("KIND_CPU",), gpus=(), **UNCOUNTED)), "on the CPU: its instances are KIND_CPU"),
        (judged(replace(ONNX, **UNCOUNTED)), "on the CPU: it was executed 5 times, never on a GPU (no gpu_uuid)"),
        (judged(replace(ONNX, fell=(FELL,)), after=page({}, busy=0.4)), "libcudnn.so.9: cannot open shared object"),
        # The instance is of kind GPU, and counted so: it is the program that never goes there.
        (judged(PYTHON, pids=(SERVER, STUB), on_gpu=(SERVER,)), f"on the CPU: its process ({STUB}) is on no GPU"),
        (judged(replace(PYTHON, driver=False), pids=(SERVER, STUB), on_gpu=()), "has not loaded the driver's"),
        (judged(replace(PYTHON, driver=False), pids=(SERVER, STUB), after=page({}, busy=0.9)), "libcuda.so"),
        (judged(replace(ONNX, ensemble=True, kinds=())), "it is an ensemble, which runs nothing itself"),
    ],
)  # fmt: skip
def test_a_model_that_ran_on_the_cpu(verdict: Verdict, words: str) -> None:
    assert (verdict.proof, verdict.certain) == (None, True)
    assert words in verdict.message
    assert verdict.hint
    assert verdict.evidence["proof"] is None


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (judged(replace(ONNX, executions={})), "it was not executed, so that nothing is known"),
        (judged(ONNX, on_gpu=()), "nothing shows that a GPU worked for it"),
        # A GPU draws something whatever it does.
        (judged(ONNX, after=page({}, joules=160), on_gpu=()), "nothing shows that a GPU worked for it"),
        # Until the server has looked for the first time, it says 0 of everything.
        (judged(ONNX, page({}, used=0, joules=0), page({}, joules=800), on_gpu=()), "nothing shows that a GPU worked"),
        # What another process does on the GPU says nothing of a model that has a process of its own.
        (judged(PYTHON, after=page({}, busy=0.9), pids=(SERVER, STUB), on_gpu=()), "nothing shows that a GPU worked"),
        (judged(replace(ONNX, **UNCOUNTED), before=None, after=None, on_gpu=()), "nothing shows that a GPU worked"),
        # A server elsewhere, whose processes nobody sees from here.
        (judged(replace(ONNX, backend="python"), after=page({}, busy=0.9), pids=()), "nothing shows that a GPU worked"),
    ],
)
def test_a_model_of_which_it_cannot_be_told(verdict: Verdict, words: str) -> None:
    assert (verdict.proof, verdict.certain) == (None, None)
    assert words in verdict.message


# -- the GPUs that a server sees ---------------------------------------------------------------


def test_what_a_server_sees() -> None:
    here = device(SERVER)
    other = Gpu(index=1, uuid=B, name="NVIDIA L4")
    with_dcgm = visible(LOG, at(0, page({}), here, other), [SERVER])
    assert (with_dcgm.count, with_dcgm.gpus, with_dcgm.dcgm, with_dcgm.no_dcgm) == (1, (here,), True, "")
    without = visible(NO_DCGM, at(0, "", here, other), [SERVER])
    assert (without.count, without.gpus, without.dcgm) == (1, (here,), False)
    assert "DCGM initialization error" in without.no_dcgm
    nameless = visible(LOG + 'metrics.cc:1027] "Unable to get device UUID: x"\n', at(0, page({}), here), [SERVER])
    assert (nameless.count, nameless.dcgm) == (1, False)
    elsewhere = visible(LOG, at(0, page({})), [])
    assert [(gpu.uuid, gpu.name) for gpu in elsewhere.gpus] == [(A, "NVIDIA H200")]
    assert visible("CUDA memory pool disabled\n", at(0, ""), []).count == 0


def test_a_line_of_any_length_is_looked_through_at_once() -> None:
    begun = time.process_time()
    assert visible("a" * 1_000_000, at(0, page({})), []).no_dcgm == ""
    assert gpu_evidence._FELL["onnxruntime"].findall("a" * 1_000_000) == []
    assert time.process_time() - begun < 2


def test_a_part_of_a_gpu_is_known_by_the_whole() -> None:
    cut = replace(device(SERVER), mig=(PART,))
    metrics = page({}).replace(A, PART)
    assert visible(LOG, at(0, metrics, cut), [SERVER]).gpus == (cut,)


H200 = Visible(count=1, gpus=(device(),), dcgm=True)
HERE = Look(gpus=(device(),), driver="570.86.10")
NO_DRIVER = Look(trouble="this machine has no NVIDIA driver: there is no libnvidia-ml.so.1")
NONE = Visible(count=0)
OLD = Visible(count=1, gpus=(replace(device(), name="Tesla P4", compute_capability="6.1"),))


def wants(mode: str = "auto", **visible: Any) -> GpuProof:
    return GpuProof.model_validate({"mode": mode, "visible": visible})


@pytest.mark.parametrize(
    ("wanted", "sight", "here", "release", "outcome", "message"),
    [
        (wants(), H200, HERE, "24.10", "passed", "the server sees NVIDIA H200"),
        (wants("required"), H200, HERE, None, "passed", "the server sees NVIDIA H200"),
        (wants(), NONE, NO_DRIVER, "24.10", "unverified", f"the server sees no GPU: {NO_DRIVER.trouble}"),
        (wants("required"), NONE, NO_DRIVER, "24.10", "failed", f"the server sees no GPU: {NO_DRIVER.trouble}"),
        (wants("required"), NONE, HERE, "24.10", "failed", "this machine has NVIDIA H200, the server sees no GPU"),
        (
            wants("required"), NONE, replace(HERE, driver="470.57.02"), "24.10", "failed",
            "this machine has NVIDIA H200, the server sees no GPU: the driver is 470.57.02,"
            " CUDA 12.4 takes 525.60.13 or newer",
        ),
        (
            wants(), H200, replace(HERE, driver="535.54.03"), "24.10", "passed",
            "the server sees NVIDIA H200; the driver 535.54.03 is older than CUDA 12.4:"
            " it runs by minor version compatibility",
        ),
        (
            wants(), H200, replace(HERE, driver="535.54.03"), "25.10", "passed",
            "the server sees NVIDIA H200; the driver 535.54.03 is older than CUDA 13.0.2:"
            " it runs by forward compatibility",
        ),
        (wants(count=2), H200, HERE, "24.10", "failed", "2 GPUs must be visible, the server sees 1"),
        (
            wants(min_compute_capability="10.0"), H200, HERE, "24.10", "failed",
            "NVIDIA H200 has compute capability 9.0, by the recipe 10.0 is needed",
        ),
        (
            wants(), OLD, HERE, "25.10", "failed",
            "Tesla P4 has compute capability 6.1, by the release 7.5 is needed",
        ),
        (
            wants(min_driver="580"), H200, HERE, "24.10", "failed",
            "the driver is 570.86.10, the recipe wants 580 or newer",
        ),
        (
            wants(min_driver="535"), H200, NO_DRIVER, "24.10", "unverified",
            f"the server sees NVIDIA H200; the driver's version is not known: {NO_DRIVER.trouble}",
        ),
        (
            wants("required", min_compute_capability="7.5"), Visible(count=1), NO_DRIVER, "24.10", "failed",
            f"the server sees 1 of unknown name; their compute capability is not known: {NO_DRIVER.trouble}",
        ),
    ],
)  # fmt: skip
def test_whether_the_gpus_are_there(
    wanted: GpuProof, sight: Visible, here: Look, release: str | None, outcome: str, message: str
) -> None:
    found = judge_visible(wanted, sight, here, gpu_needs(release))
    assert (found.outcome, found.message) == (outcome, message)


def test_what_releases_need() -> None:
    assert gpu_needs("22.07").driver == "450.80.02"
    # What is not known of a release holds as it did for the one before it.
    assert gpu_needs("24.09") == gpu_needs("24.04")
    assert (gpu_needs("26.08").driver, gpu_needs("26.08").compute_capability) == ("580.65.06", "7.5")
    for release in RELEASES.values():
        needs = gpu_needs(release.name)
        assert not release.cuda or (needs.driver and needs.own and needs.compute_capability), release.name
        assert not needs.own or parsed(needs.driver or "") <= parsed(needs.own)
    assert gpu_needs(None).driver is None
    assert gpu_needs("18.11").cuda is None


# -- the whole, beside a server that is nothing but replies --------------------------------------


@dataclass
class Server:
    """A `Running`."""

    http: str
    pages: dict[str, str]
    log: str = LOG
    grpc: str = ""
    engine: str = "none"
    numbers: Sequence[int] = (SERVER,)

    @property
    def metrics(self) -> str:
        return f"{self.http}/metrics"

    def logs(self) -> str:
        return self.log

    def exit_code(self) -> int | None:
        return None

    def oom_killed(self) -> bool:
        return False

    def pids(self) -> Sequence[int]:
        return self.numbers

    def stop(self) -> None:
        pass


@contextmanager
def serving(pages: dict[str, str]) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = server.pages.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len((body or "").encode())))
            self.end_headers()
            self.wfile.write((body or "").encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(http=f"http://127.0.0.1:{httpd.server_port}", pages=pages)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def config(kind: str, backend: str = "onnxruntime") -> str:
    group = {"name": "m_0", "kind": kind, "count": 1, "gpus": [0] if kind == "KIND_GPU" else []}
    return json.dumps({"name": "m", "backend": backend, "instance_group": [group]})


def pages(kind: str = "KIND_GPU", **config_more: str) -> dict[str, str]:
    return {"/metrics": page({("m", A): 1}), "/v2/models/m/config": config(kind, **config_more)}


def results(
    server: Server,
    wanted: object,
    then: Callable[[], object] = lambda: None,
    models: Sequence[str] = ("m",),
) -> dict[str, Result]:
    validation = Validate.model_validate({"gpu": wanted})
    terms = Terms(validation=validation, models=models, base=Path(), release="24.10")
    subject = Subject(running=server, terms=terms, client=Client(server.http), emit=lambda _: None)
    subject = replace(subject, before=baseline(subject))
    then()
    return {result.id: result for result in gpu(subject)}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[Look]:
    """What this machine's driver says, one look after the other; the last for all that follow."""
    looks = [Look(gpus=(device(SERVER),), driver="570.86.10")]
    monkeypatch.setattr(gpu_evidence, "look", lambda: looks[0] if len(looks) == 1 else looks.pop(0))
    monkeypatch.setattr(MODULE, "_POLL", 0.0)
    return looks


def test_a_model_is_used_by(here: list[Look]) -> None:
    with serving(pages()) as server:
        found = results(server, "required", lambda: server.pages.update({"/metrics": page({("m", A): 9}, busy=0.5)}))
    assert {name: one.outcome for name, one in found.items()} == {"gpu:visible": "passed", "gpu:m": "passed"}
    assert found["gpu:m"].message == f"it was executed 8 times on {A}; meanwhile it was 50% busy"
    assert found["gpu:visible"].evidence["gpus"] == [
        {"uuid": A, "name": "NVIDIA H200", "memory_total": 143771 * MIB, "driver": "570.86.10",
         "compute_capability": "9.0", "mig": []},
    ]  # fmt: skip
    model = found["gpu:m"].evidence["models"][0]
    assert model["executions"] == {A: 8}
    assert (model["model"], model["kinds"], model["gpus"], model["proof"]) == ("m", ["KIND_GPU"], [0], "utilisation")
    assert proved(list(found.values())) == "verified"
    json.dumps([one.to_json() for one in found.values()], allow_nan=False)


def test_what_is_not_there_is_unverified_or_fails(here: list[Look]) -> None:
    here[:] = [NO_DRIVER]
    with serving({"/metrics": "", "/v2/models/m/config": config("KIND_CPU")}) as server:
        server.log = "CUDA memory pool disabled\n"
        assert {name: one.outcome for name, one in results(server, "auto").items()} == {"gpu:visible": "unverified"}
        named = {"mode": "required", "used_by": ("m",)}
        assert {one.outcome for one in results(server, named).values()} == {"failed"}
        assert {one.outcome for one in results(server, {**named, "mode": "auto"}).values()} == {"unverified"}
        off = results(server, "off")
    assert [(one.id, one.outcome) for one in off.values()] == [("gpu:visible", "skipped")]
    assert proved(list(off.values())) == "off"


def test_a_model_that_fell_to_the_cpu_fails_even_if_no_gpu_is_required(here: list[Look]) -> None:
    with serving(pages()) as server:
        server.log += FELL
        found = results(server, "auto", lambda: server.pages.update({"/metrics": page({("m", A): 2}, busy=0.9)}))
        assert found["gpu:m"].outcome == "failed"
        assert found["gpu:m"].evidence["models"][0]["lines"] == [FELL]
        assert found["gpu:m"].evidence["on_cpu"] == "m"
        assert proved(list(found.values())) == "unverified"
        server.pages["/v2/models/m/config"] = config("KIND_CPU")
        assert results(server, {"used_by": ("m",)})["gpu:m"].message == "it runs on the CPU: its instances are KIND_CPU"


def test_a_gpu_that_no_model_uses(here: list[Look]) -> None:
    with serving(pages("KIND_CPU")) as server:
        assert [(one.id, one.outcome) for one in results(server, "auto").values()] == [("gpu:visible", "passed")]
        required = results(server, "required")
        assert (required["gpu:models"].outcome, required["gpu:models"].hint != "") == ("failed", True)
        assert not any("on_cpu" in one.evidence for one in required.values())
        assert proved(list(results(server, "auto").values())) == "unverified"
        named = results(server, {"used_by": ("n",)}, models=("m",))
        assert named["gpu:n"].message == "the server does not serve this model"


def test_a_moment_more_for_figures_that_come_late(here: list[Look]) -> None:
    quiet = Look(gpus=(device(),), driver="570.86.10")
    here[:] = [quiet]
    asked = {"/metrics": page({("m", A): 2})}
    with serving(pages()) as server:
        found = results(server, "required", lambda: server.pages.update(asked))
    assert found["gpu:m"].outcome == "failed"
    here[:] = [quiet, quiet, Look(gpus=(replace(device(), utilisation=0.7),), driver="570.86.10")]
    with serving(pages()) as server:
        found = results(server, "required", lambda: server.pages.update(asked))
    assert found["gpu:m"].message.endswith("meanwhile it was 70% busy")


def test_processes_that_others_started_count_as_the_models(here: list[Look], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = frozenset(["/usr/lib/libcuda.so.1"])
    stub = Stub(pid=STUB, program="stub", instance="m_0_0", env={}, libraries=loaded, root=Path("/"))
    family = Processes(stubs=(stub,), parents={STUB: SERVER, ENGINE: STUB, ENGINE + 1: ENGINE, SERVER: 1})
    monkeypatch.setattr(MODULE, "processes", lambda pids: family)
    here[:] = [Look(gpus=(device(SERVER, ENGINE + 1),), driver="570.86.10")]
    with serving(pages(backend="python")) as server:
        server.numbers = (SERVER, STUB, ENGINE, ENGINE + 1)
        asked = page({("m", A): 3})
        found = results(server, "required", lambda: server.pages.update({"/metrics": asked}))
        assert found["gpu:m"].evidence["models"][0]["processes"] == [STUB, ENGINE, ENGINE + 1]
        assert found["gpu:m"].message.endswith(f"its process {ENGINE + 1} is on a GPU")
        here[:] = [Look(gpus=(device(SERVER),), driver="570.86.10")]
        server.pages["/metrics"] = page({("m", A): 1})
        found = results(server, "auto", lambda: server.pages.update({"/metrics": asked}))
        assert found["gpu:m"].outcome == "failed"
        assert "is on no GPU" in found["gpu:m"].message


# -- NVIDIA's own binding, over a library that is not NVIDIA's -----------------------------------


@dataclass
class Driver:
    """What the binding finds in libnvidia-ml.so.1, as far as it is asked for: functions that fill in what they get."""

    processes: Mapping[int, Sequence[int]]
    parts: int = 0
    broken: frozenset[str] = frozenset()
    calls: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*args: Any) -> int:
            self.calls.append(name)
            if name in self.broken:
                return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return int(answer(*args) or 0)

        try:
            answer = object.__getattribute__(self, f"_{name.removesuffix('_v2').removesuffix('_v3')}")
        except AttributeError:
            raise AttributeError(name) from None
        return call

    def _nvmlInitWithFlags(self, flags: int) -> None: ...

    def _nvmlShutdown(self) -> None: ...

    def _nvmlDeviceGetCount(self, count: Any) -> None:
        count._obj.value = len(self.processes)

    def _nvmlDeviceGetHandleByIndex(self, index: Any, handle: Any) -> None:
        ctypes.cast(handle, ctypes.POINTER(ctypes.c_void_p))[0] = 100 + index.value

    def _nvmlDeviceGetUUID(self, handle: Any, text: Any, size: Any) -> None:
        text.value = f"{'MIG' if number(handle) >= 200 else 'GPU'}-{number(handle)}".encode()

    def _nvmlDeviceGetName(self, handle: Any, text: Any, size: Any) -> None:
        text.value = b"NVIDIA H200"

    def _nvmlSystemGetDriverVersion(self, text: Any, size: Any) -> None:
        text.value = b"570.86.10"

    def _nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> None:
        memory._obj.total, memory._obj.used = 1000, 10

    def _nvmlDeviceGetCudaComputeCapability(self, handle: Any, major: Any, minor: Any) -> None:
        major._obj.value, minor._obj.value = 9, 0

    def _nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> None:
        rates._obj.gpu = 37

    def _nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, energy: Any) -> None:
        energy._obj.value = 5500

    def _nvmlDeviceGetMigMode(self, handle: Any, current: Any, pending: Any) -> None:
        current._obj.value = 1 if self.parts else 0

    def _nvmlDeviceGetMaxMigDeviceCount(self, handle: Any, count: Any) -> None:
        count._obj.value = 7

    def _nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: Any, part: Any) -> int:
        if index.value >= self.parts:
            return int(pynvml.NVML_ERROR_NOT_FOUND)
        ctypes.cast(part, ctypes.POINTER(ctypes.c_void_p))[0] = 200 + index.value
        return 0

    def _nvmlDeviceGetComputeRunningProcesses(self, handle: Any, count: Any, rows: Any) -> int:
        pids = self.processes.get(number(handle), ())
        if rows is None:
            count._obj.value = len(pids)
            return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE if pids else 0)
        for row, pid in zip(rows, pids, strict=False):
            row.pid, row.usedGpuMemory = pid, 64
        count._obj.value = len(pids)
        return 0


def number(handle: Any) -> int:
    return int(ctypes.cast(handle, ctypes.c_void_p).value or 0)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Driver], Driver]:
    def installed(driver: Driver) -> Driver:
        monkeypatch.setattr(pynvml, "nvmlLib", driver)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        return driver

    return installed


def test_what_the_driver_says(install: Callable[[Driver], Driver]) -> None:
    driver = install(Driver(processes={100: [7, 8], 101: []}))
    found = look()
    assert (found.driver, found.trouble, [gpu.uuid for gpu in found.gpus]) == ("570.86.10", "", ["GPU-100", "GPU-101"])
    assert found.gpus[0] == Gpu(
        index=0,
        uuid="GPU-100",
        name="NVIDIA H200",
        memory_total=1000,
        memory_used=10,
        compute_capability="9.0",
        utilisation=0.37,
        energy=5.5,
        processes={7: 64, 8: 64},
    )
    assert driver.calls[-1] == "nvmlShutdown"


def test_a_gpu_that_is_cut_into_parts(install: Callable[[Driver], Driver]) -> None:
    unsupported = frozenset(["nvmlDeviceGetUtilizationRates", "nvmlDeviceGetTotalEnergyConsumption"])
    install(Driver(processes={100: [], 200: [7], 201: [9]}, parts=2, broken=unsupported))
    gpu = look().gpus[0]
    assert gpu.mig == ("MIG-200", "MIG-201")
    assert set(gpu.processes) == {7, 9}
    assert (gpu.utilisation, gpu.energy, gpu.memory_total) == (None, None, 1000)


def test_drivers_that_know_less_or_nothing(install: Callable[[Driver], Driver]) -> None:
    install(Driver(processes={100: [7]}, broken=frozenset(["nvmlDeviceGetComputeRunningProcesses_v3"])))
    assert set(look().gpus[0].processes) == {7}
    install(Driver(processes={100: [7]}, broken=frozenset(["nvmlDeviceGetName"])))
    assert look().trouble == "NVIDIA's driver does not answer: Not Supported"
    install(Driver(processes={}, broken=frozenset(["nvmlInitWithFlags"])))
    assert look() == Look(trouble="NVIDIA's driver does not answer: Not Supported")


def test_a_machine_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", nothing)
    assert look().trouble == "this machine has no NVIDIA driver: there is no libnvidia-ml.so.1"


def test_no_driver_is_asked_for_where_nobody_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_evidence, "look", lambda: pytest.fail("it was asked"))
    with serving({}) as server:
        assert results(server, "off")["gpu:visible"].outcome == "skipped"
