"""Real servers, made to fail in the ways that `composer.diagnosis` knows, and what they wrote: text for its tests.

    python -m tests.judge.failures                         records what is missing, and healthy logs of all releases
    python -m tests.judge.failures --only hang --again

What comes out is in tests/unit/diagnosis, a folder for each class. tests/unit/test_diagnosis.py says how such a file is
written. What engines say, and what no machine without a GPU can be made to say, is there as well, and not made here.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import re
import socket
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer.releases import RELEASES as KNOWN
from tests.modelfiles import node, onnx_model, tensor
from tests.upstream.wheels import ORT_GPU, Wheel, fetch_wheel

from . import corpus
from .corpus import Files
from .corpus.parts import ANY, IDENTITY, ONNX, PYTHON, onnx, python
from .judging import _free_port as free_port
from .processes import Stillness, end
from .server import CACHE, OLDER, RELEASES, Server, prepared
from .streaming import infer_request

PLACE = Path(__file__).parents[1] / "unit/diagnosis"
STILL, DEADLINE = 4.0, 60.0
_counter = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to fail: a repository (or the name of one of the corpus), how the server is started, what it is asked.

    `expect` are the classes that it should be told as, the cause first. `asked` are bodies of requests by model; with
    `grpc` it is asked once, over that. `wheels` are unpacked beside the program of the model m. `shm` is the size of
    the server's own /dev/shm, `hidden` a library that it does not see. Of what it writes, lines with `part` are kept.
    """

    expect: tuple[str, ...]
    name: str
    files: Files | str | Callable[[], Files] = "layout/python"
    flags: tuple[str, ...] = ()
    asked: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    grpc: bool = False
    wheels: tuple[Wheel, ...] = ()
    shm: str = ""
    hidden: str = ""
    part: str = ""
    metrics: bool = False
    gpu_wanted: bool = False
    releases: Sequence[str] = RELEASES


def _config(more: str) -> str:
    return PYTHON + more


def _code(body: str, where: str = "initialize") -> str:
    """A program that does this when it is loaded, or asked."""
    arguments = "args" if where == "initialize" else "requests"
    extra = "" if where == "execute" else "\n    def execute(self, requests):\n        return []\n"
    return f"class TritonPythonModel:\n    def {where}(self, {arguments}):\n        {body}\n{extra}"


X = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


def _asking(**changes: Any) -> dict[str, dict[str, Any]]:
    return {"m": {"inputs": [{**X["inputs"][0], **changes}]}}


OPENCV = Wheel("opencv-python", "4.10.0.84", "9ace140fc6d647fbe1c692bcb2abce768973491222c067c131d80957c595b71f")
TORCH = (
    Wheel("nvidia-cublas-cu11", "11.10.3.66", "d32e4d75f94ddfb93ea0a5dda08389bcc65d8916a25cb9f37ac89edaeed3bded"),
    Wheel("nvidia-cuda-nvrtc-cu11", "11.7.99", "9f1562822ea264b7e34ed5930567e89242d266448e936b85bc97a3370feabb03"),
    Wheel("nvidia-cuda-runtime-cu11", "11.7.99", "cc768314ae58d2641f07eac350f40f99dcb35719c4faff4bc458a7cd2b119e31"),
    Wheel("nvidia-cudnn-cu11", "8.5.0.96", "402f40adfc6f418f9dae9ab402e773cfed9beae52333f6d86ae3107a1b9527e7"),
    Wheel("torch", "1.13.1", "22128502fd8f5b25ac1cd849ecb64a418382ae81dd4ce2b5cebaa09ab15b0d9b"),
    Wheel("typing-extensions", "4.16.0", "481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8"),
)
"""The last PyTorch of a size that can be had for one line of a log: 1.8 GB."""

_FAR = "int from_afar(void);\nint TRITONBACKEND_Initialize(void *b) { return from_afar(); }\n"


def _backend(*, needs: str = "", version: str = "") -> Files:
    """A model with a backend of its own, which needs a library, a version of one, or a function that is not there."""
    with tempfile.TemporaryDirectory() as name:
        far, near = Path(name) / "far", Path(name) / "near"
        Path(f"{near}.c").write_text(_FAR)
        Path(f"{far}.c").write_text("int from_afar(void) { return 1; }\n")
        Path(f"{far}.map").write_text(f"{version} {{ global: from_afar; }};\n")
        shared = ["gcc", "-shared", "-fPIC", "-nostdlib", "-s", "-Wl,-z,now"]
        if needs:
            versioned = [f"-Wl,--version-script={far}.map"] if version else []
            subprocess.run([*shared, f"-Wl,-soname,{needs}", *versioned, "-o", far, f"{far}.c"], check=True)
        subprocess.run([*shared, "-o", near, f"{near}.c", *([far] if needs else [])], check=True)
        return {"m/config.pbtxt": PYTHON.replace('"python"', '"own"'), "m/1/libtriton_own.so": near.read_bytes()}


def _crashing(code: str) -> Callable[[], Files]:
    """A model with a backend of its own that ends the server."""

    def made() -> Files:
        with tempfile.TemporaryDirectory() as name:
            source, made = Path(name) / "own.c", Path(name) / "own.so"
            execute = "void *TRITONBACKEND_ModelInstanceExecute(void) { return 0; }"
            source.write_text(
                f"#include <stdlib.h>\n{execute}\nvoid *TRITONBACKEND_Initialize(void *b) {{ {code} return 0; }}\n"
            )
            subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-s", "-o", made, source], check=True)
            return {"m/config.pbtxt": PYTHON.replace('"python"', '"own"'), "m/1/libtriton_own.so": made.read_bytes()}

    return made


def _ensemble(program: str) -> Callable[[], Files]:
    """An ensemble, of whose members one does not load."""
    return lambda: {**_of_corpus("ensembles/two-steps"), "b/1/model.py": program}


_HUGE = onnx_model(
    inputs={"X": ("FP32", ["N", 2])},
    outputs={"Y": ("FP32", ["N", "M"])},
    nodes=[
        node("Reshape", ["X", "ALL"], ["FLAT"]),
        node("Cast", ["FLAT"], ["TIMES"], to=7),
        node("Tile", ["X", "TIMES"], ["Y"]),
    ],
    initializers=[tensor("ALL", "INT64", [1], [-1])],
)
_SESSION = """import os, sys
sys.path.insert(0, os.path.dirname(__file__))
import onnxruntime
onnxruntime.InferenceSession({model!r}, providers=["{provider}"])
"""

_WARMUP = """model_warmup [ { name: "zeros" batch_size: 1
  inputs { key: "X" value { data_type: TYPE_FP32 dims: [ 3 ] zero_data: true } } } ]
"""
_STATE_DICT = """import io, os, sys
sys.path.insert(0, os.path.dirname(__file__))
import torch
saved = io.BytesIO()
torch.save(torch.nn.Linear(1, 1).state_dict(), saved)
saved.seek(0)
torch.jit.load(saved)
"""
_CPU = "instance_group [ { kind: KIND_CPU } ]\n"
_GPU = "instance_group [ { kind: KIND_GPU } ]\n"

CASES = (
    Case(expect=(), name="healthy", asked={"m": X}, metrics=True, releases=(*RELEASES, *OLDER)[:-1]),
    Case(expect=("hang",), name="other-python", files=python(_config(_CPU)), releases=("23.04",)),
    Case(expect=("gpu-wanted-by-model",), name="says-nothing", releases=("23.04",)),
    Case(expect=(), name="healthy-two", files="layout/two-models", asked={"m": X}, metrics=True),
    Case(expect=(), name="healthy-iso", flags=("--log-format=ISO8601",), asked={"m": X}, metrics=True),
    Case(expect=(), name="healthy-verbose", flags=("--log-verbose=1",), asked={"m": X}, metrics=True),
    Case(expect=("gpu-none", "pinned-memory"), name="gpu-wanted", metrics=True, gpu_wanted=True),
    Case(
        expect=("gpu-wanted-by-model",),
        name="kind-gpu",
        files=python(_config(_GPU)),
    ),
    Case(
        expect=("gpu-wanted-by-model",),
        name="kind-gpu-onnx",
        files=onnx(ONNX + _GPU),
    ),
    Case(
        expect=("gpu-id-invalid",),
        name="gpu-3",
        files=python(_config("instance_group [ { kind: KIND_GPU gpus: [ 3 ] } ]\n")),
    ),
    Case(expect=("flag-unknown",), name="flag", flags=("--no-such-flag=1",), releases=(*RELEASES, "23.04")),
    Case(
        expect=("tls-files",),
        name="cert",
        flags=(
            "--grpc-use-ssl=true",
            "--grpc-server-cert=/etc/tls/server.crt",
            "--grpc-server-key=/etc/tls/server.key",
            "--grpc-root-cert=/etc/tls/ca.crt",
        ),
    ),
    Case(expect=("socket-in-use",), name="port", flags=("--grpc-port=TAKEN",)),
    Case(expect=("socket-in-use",), name="port-http", flags=("--http-port=TAKEN",)),
    Case(expect=("backend-absent",), name="backend", files="parse/backend-absent", releases=(*RELEASES, "23.10")),
    Case(expect=("cache-absent",), name="cache", files="batching/cache-absent", flags=("--cache-config=redis,host=h",)),
    Case(expect=("repoagent-absent",), name="agent", files="parse/agent-absent"),
    Case(expect=("config-unreadable",), name="field", files="parse/unknown-field"),
    Case(expect=("config-unreadable",), name="type", files="parse/unknown-type"),
    Case(expect=("config-unreadable",), name="newer", files="parse/newer-model-metrics"),
    Case(expect=("no-version",), name="named", files="layout/version-named"),
    Case(expect=("no-version",), name="none", files="layout/no-version-python"),
    Case(expect=("no-version",), name="ensemble", files="ensembles/no-version"),
    Case(expect=("python-module-missing",), name="module", files=python(code="import cv2\n" + ANY)),
    Case(
        expect=("python-module-missing",),
        name="module-in-execute",
        files=python(code=_code("import sklearn.linear_model", "execute")),
        asked={"m": X},
    ),
    Case(expect=("shared-memory",), name="shm", files=python(), shm="512k"),
    Case(
        expect=("shared-memory",),
        name="shm-region",
        flags=("--backend-config=python,shm-default-byte-size=99999999999999",),
    ),
    Case(expect=("stub-killed-at-load",), name="exit", files="python/exits-in-initialize"),
    Case(
        expect=("stub-killed-at-load",),
        name="crash",
        files=python(code="import ctypes\n" + _code("ctypes.string_at(0)")),
    ),
    Case(expect=("stub-killed-at-request",), name="exit", files="python/exits-in-execute", asked={"m": X}),
    Case(expect=("stub-killed-at-load",), name="kill", files="python/kills-itself"),
    Case(expect=("onnx-too-new",), name="ir", files="onnx/ir-13"),
    Case(expect=("onnx-too-new",), name="opset", files="onnx/opset-99"),
    Case(expect=("config-differs-from-model",), name="inputs", files="io/input-twice-onnx"),
    Case(expect=("config-differs-from-model",), name="type", files="onnx/input-of-another-type"),
    Case(expect=("config-differs-from-model",), name="dims", files="io/dims-with-batch-onnx"),
    Case(expect=("config-differs-from-model",), name="name", files="onnx/input-unknown"),
    Case(expect=("warmup",), name="shape", files=onnx(ONNX + _WARMUP)),
    Case(
        expect=("warmup",),
        name="batch",
        files=onnx(ONNX + _WARMUP.replace("size: 1", "size: 9").replace("[ 3 ]", "[ 2 ]")),
    ),
    Case(expect=("warmup",), name="variable", files=onnx(ONNX + _WARMUP.replace("dims: [ 3 ]", "dims: [ -1 ]"))),
    Case(expect=("warmup",), name="no-data", files=onnx(ONNX + _WARMUP.replace("zero_data: true", ""))),
    Case(expect=("warmup",), name="python", files=python(_config(_WARMUP))),
    Case(
        expect=("warmup",),
        name="file",
        files=onnx(ONNX + _WARMUP.replace("zero_data: true", 'input_data_file: "x"')),
    ),
    Case(expect=("ensemble-version-0",), name="version", files="ensembles/version-0"),
    Case(expect=("ensemble-member",), name="missing", files="ensembles/model-missing"),
    Case(
        expect=("python-module-missing", "ensemble-member"),
        name="ensemble",
        files=_ensemble("import transformers\n" + ANY),
    ),
    Case(expect=("ensemble-member", "models-failed"), name="broken", files=_ensemble(ANY[:-9])),
    Case(expect=("backend-library",), name="cudnn", files=lambda: _backend(needs="libcudnn.so.9")),
    Case(expect=("backend-library",), name="apt", files=lambda: _backend(needs="libb64.so.0d")),
    Case(expect=("backend-library",), name="symbol", files=_backend),
    Case(expect=("backend-library",), name="glibc", files=lambda: _backend(needs="libc.so.6", version="GLIBC_2.98")),
    Case(
        expect=("backend-library",),
        name="glibcxx",
        files=lambda: _backend(needs="libstdc++.so.6", version="GLIBCXX_3.4.98"),
    ),
    Case(
        expect=("python-library-missing",),
        name="opencv",
        files=python(code="import cv2\n" + ANY),
        wheels=(OPENCV,),
        hidden="usr/lib/x86_64-linux-gnu/libGL.so.1",
    ),
    Case(
        expect=("gpu-library-of-onnxruntime",),
        name="provider",
        files=python(code=_SESSION.format(model=IDENTITY, provider="CUDAExecutionProvider") + ANY),
        wheels=(ORT_GPU,),
        releases=RELEASES[:1],
    ),
    Case(
        expect=("tensorrt-library-of-onnxruntime",),
        name="provider",
        files=python(code=_SESSION.format(model=IDENTITY, provider="TensorrtExecutionProvider") + ANY),
        wheels=(ORT_GPU,),
        releases=RELEASES[:1],
    ),
    Case(
        expect=("gpu-wanted-by-model",),
        name="torch",
        files=python(code=_STATE_DICT.partition("saved")[0] + "torch.zeros(1).cuda()\n" + ANY),
        wheels=TORCH,
        releases=RELEASES[:1],
    ),
    Case(
        expect=("torchscript-not-scripted",),
        name="state-dict",
        files=python(code=_STATE_DICT + ANY),
        wheels=TORCH,
        releases=RELEASES[:1],
    ),
    Case(expect=("library-missing",), name="server", hidden="server/nvidia_pytriton.libs/libdcgm*"),
    Case(
        expect=("library-missing", "hang"),
        name="stub",
        hidden="usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0",
    ),
    Case(expect=("library-missing",), name="host", hidden="usr/lib/x86_64-linux-gnu/libstdc++.so.6"),
    Case(
        expect=("memory",),
        name="onnxruntime",
        files=onnx(
            ONNX.replace('"Y" data_type: TYPE_FP32 dims: [ 2 ]', '"Y" data_type: TYPE_FP32 dims: [ -1 ]'), _HUGE
        ),
        asked=_asking(data=[1, 10**12]),
    ),
    Case(
        expect=("request-too-large",),
        name="answer",
        files=python(
            PYTHON.replace("dims: [ 2 ] } ]\n", "dims: [ -1 ] } ]\n"), ANY.replace("1 if int", "2000000 if int")
        ),
        grpc=True,
    ),
    Case(expect=("gpu-metrics",), name="dcgm", metrics=True, gpu_wanted=True, part="NVML|DCGM"),
    Case(
        expect=("pinned-memory",),
        name="falls-back",
        metrics=True,
        gpu_wanted=True,
        part="falling back",
        files=onnx(ONNX + _WARMUP.replace("[ 3 ]", "[ 2 ]")),
    ),
    Case(expect=("models-failed",), name="syntax", files="python/syntax"),
    Case(
        expect=("crashed",),
        name="passive",
        files=python(_config("instance_group [ { passive: true } ]\n")),
        asked={"m": X},
    ),
    Case(expect=("crashed",), name="ensemble", files="ensembles/of-one-that-is-of-itself"),
    Case(expect=("crashed",), name="backend", files=_crashing("*(volatile int *)0 = 1;")),
    Case(expect=("illegal-instruction",), name="backend", files=_crashing("__builtin_trap();")),
    Case(expect=("aborted",), name="backend", files=_crashing("abort();")),
    Case(expect=("aborted",), name="shared-region", files="layout/two-models", releases=("24.03", "23.10")),
    Case(expect=("aborted",), name="labels", files="io/labels-a-folder"),
    Case(expect=("hang",), name="no-program", files="python/no-model-py"),
    Case(expect=("hang",), name="space", files="layout/name-with-space-python"),
    Case(expect=("hang",), name="exits", files="python/exits-at-import"),
    Case(expect=("hang",), name="sleeps", files=python(code="import threading\n" + _code("threading.Event().wait()"))),
    Case(expect=("request-shape",), name="no-batch", asked=_asking(shape=[2])),
    Case(expect=("request-shape",), name="other", asked=_asking(shape=[1, 3], data=[1, 2, 3])),
    Case(expect=("request-batch",), name="batch", asked=_asking(shape=[5, 2], data=[0] * 10)),
    Case(expect=("request-decoupled",), name="http", files="python/decoupled", asked={"m": X}),
    Case(
        expect=("disk-full",),
        name="initialize",
        files=python(code=_code("open('/dev/full', 'w').write('x' * 99999)")),
    ),
)


# -- doing --------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.judge.failures", description=__doc__)
    parser.add_argument("--only", default="", help="classes or names that hold this")
    parser.add_argument("--release", default="", help="this release alone")
    parser.add_argument("--again", action="store_true", help="also what is there")
    parser.add_argument("--place", type=Path, default=PLACE)
    options = parser.parse_args()
    for release in (*RELEASES, *OLDER):
        if options.release in ("", release):
            cases = [
                case for case in CASES if release in case.releases and options.only in f"{case.expect} {case.name}"
            ]
            missing = [case for case in cases if options.again or not _file(case, release, options.place).exists()]
            if missing:
                _record_all(missing, release, options.place)


def _file(case: Case, release: str, place: Path) -> Path:
    return place / (case.expect[0] if case.expect else "healthy") / f"{case.name}-{release}.txt"


def _record_all(cases: Sequence[Case], release: str, place: Path) -> None:
    with prepared(release) as server:
        for case in cases:
            text = record(case, server)
            file = _file(case, release, place)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            print(file.relative_to(place))


def record(case: Case, server: Server) -> str:
    """Start a server, ask it, end it, and write down what was seen."""
    with tempfile.TemporaryDirectory(prefix="failing-") as name:
        models = Path(name) / "models"
        corpus.write(_files(case), models)
        for wheel in case.wheels:
            zipfile.ZipFile(fetch_wheel(wheel, CACHE)).extractall(models / "m/1")
        prefix = f"triton_judge{os.getpid()}_{next(_counter)}_"
        try:
            return _Trial(case, server, models, Path(name), prefix).text()
        finally:
            for left in Path("/dev/shm").glob(f"{prefix}*"):
                left.unlink(missing_ok=True)


def _files(case: Case) -> Files:
    if isinstance(case.files, str):
        return _of_corpus(case.files)
    return case.files() if callable(case.files) else case.files


def _of_corpus(name: str) -> Files:
    return next(entry.files for entry in corpus.entries() if entry.name == name)


@dataclass(slots=True)
class _Trial:
    """One start of a server."""

    case: Case
    server: Server
    models: Path
    work: Path
    prefix: str
    ready: bool = False
    hung: bool = False
    refusals: list[tuple[str, int | str, str]] = field(default_factory=list)

    def text(self) -> str:
        port, grpc_port = free_port(), free_port()
        argv = self.server.command([self.models], port, grpc_port, self.prefix)
        if self.case.metrics:
            argv = [*(one for one in argv if one != "--allow-metrics=false"), f"--metrics-port={free_port()}"]
        with _taken() as taken, (self.work / "log").open("wb") as log:
            argv += [flag.replace("TAKEN", str(taken)) for flag in self.case.flags]
            process = subprocess.Popen(
                [*self._namespace(), *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.work,
                env=self.server.environment(),
                start_new_session=True,
            )
            try:
                self._watch(process, port, grpc_port)
                code = process.poll()
            finally:
                end(process)
        return self._written(code)

    def _namespace(self) -> list[str]:
        """What runs the server where /dev/shm is small, or a library is not to be seen."""
        script = 'exec "$@"'
        if self.case.shm:
            script = f"mount -t tmpfs -o size={self.case.shm} tmpfs /dev/shm; {script}"
        if self.case.hidden:
            (found,) = (Path("/") if self.case.hidden.startswith("usr/") else self.server.folder).glob(self.case.hidden)
            upper, work = self.work / "upper", self.work / "work"
            options = f"lowerdir={found.parent},upperdir={upper},workdir={work}"
            script = (
                f"mkdir {upper} {work}; mknod {upper / found.name} c 0 0; "
                f"mount -t overlay overlay -o {options} {found.parent}; {script}"
            )
        return (
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh"] if "mount" in script else []
        )

    def _watch(self, process: subprocess.Popen[bytes], port: int, grpc_port: int) -> None:
        still, deadline = Stillness(process.pid), time.monotonic() + DEADLINE
        while process.poll() is None and time.monotonic() < deadline:
            if "Started HTTPService" in self._log():
                time.sleep(0.5)
                self.ready = True
                self._ask_grpc(grpc_port) if self.case.grpc else self._ask(port)
                time.sleep(1.0)
                return
            if still.seconds() > STILL:
                self.hung = True
                return
            time.sleep(0.05)

    def _ask(self, port: int) -> None:
        for model, body in self.case.asked.items():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            try:
                connection.request("POST", f"/v2/models/{model}/infer", json.dumps(body))
                answer = connection.getresponse()
                content = answer.read()
                if answer.status != 200:
                    self.refusals.append((model, answer.status, self._named(json.loads(content)["error"])))
            except (OSError, http.client.HTTPException):
                continue
            finally:
                connection.close()

    def _ask_grpc(self, port: int) -> None:
        import grpc  # type: ignore[import-untyped]

        shape = [1, 2]
        body = infer_request("m", "", {"X": ("FP32", shape, bytes(8))}, {})
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", bytes, bytes)
            try:
                call(body, timeout=20)
            except grpc.RpcError as error:
                self.refusals.append(("m", error.code().name, str(error.details())))

    def _log(self) -> str:
        return (self.work / "log").read_bytes().decode(errors="backslashreplace")

    def _written(self, code: int | None) -> str:
        triton = KNOWN[self.server.release].triton
        facts: dict[str, Any] = {
            "expect": list(self.case.expect),
            "source": f"recorded: tritonserver {triton}, release {self.server.release}",
            "release": self.server.release,
        }
        if code is not None:
            facts["exit_code"] = code if code >= 0 else 128 - code
        facts |= {name: True for name in ("ready", "hung") if getattr(self, name)}
        facts |= {"gpu_wanted": True} if self.case.gpu_wanted else {}
        head = "".join(f"{key} = {json.dumps(value)}\n" for key, value in facts.items())
        for model, status, message in self.refusals:
            said = {"model": model, "code": status, "message": message}
            head += "".join(("[[refusals]]\n", *(f"{key} = {json.dumps(value)}\n" for key, value in said.items())))
        log = _without_tables(self._named(self._log()))
        if self.case.part:
            log = "".join(line for line in log.splitlines(keepends=True) if re.search(self.case.part, line))
        return f"{head}---\n{log}"

    def _named(self, text: str) -> str:
        """Without what names this machine."""
        for place, name in {
            str(self.models): "/models",
            str(self.work): "/work",
            str(self.server.program.parents[1]): "/opt/tritonserver",
            str(self.server.folder): "/opt/tritonserver",
            str(self.server.python): "/usr",
            self.prefix: "triton_python_backend_shm_region_",
        }.items():
            text = text.replace(place, name)
        return text


@contextmanager
def _taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield int(holder.getsockname()[1])


_TABLE = re.compile(r"(?:^\+-.*\n\|(?!.*\bStatus\b).*\n\+-.*\n(?:^[|+].*\n)*)", re.MULTILINE)
"""A table, but for that of the models: these are wide, and say what is set."""


def _without_tables(log: str) -> str:
    return _TABLE.sub("", log)


if __name__ == "__main__":
    main()
