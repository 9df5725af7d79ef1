"""Real servers, started without Docker, and what the checks say of models that are ready but do not serve."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from composer.checks import Report, Result, Terms, prove
from composer.errors import Unplannable
from composer.events import Event, Warned, ignore
from composer.oci.image import Image
from composer.recipe import Run, Validate, parse_recipe
from composer.runners import Running, pick
from composer.runners.ports import free_ports, listened
from composer.runners.rootfs import RootfsRunner
from tests.triton.images import Bench, python_model

pytestmark = pytest.mark.triton

AS_USER = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
"""Makes a process that is an ordinary user, whoever we are."""

INPUT, OUTPUT = {"X": "FP32 [2]"}, {"Y": "FP32 [2]"}


def each(returned: str) -> str:
    return f"def execute(self, requests):\n    return [{returned} for request in requests]"


INTS = {"A": "INT32 [4]", "B": "INT32 [4]"}
ADD = python_model(
    "add", each("answer(Y=tensor(request, 'A') + tensor(request, 'B'))"), INTS, {"Y": "INT32 [4]"}, batch=8
)
UPPER = "answer(Y=np.array([text.decode().upper().encode() for text in tensor(request, 'X')], dtype=object))"
GOOD = {
    **ADD,
    **python_model(
        "half", each("answer(Y=tensor(request, 'X') * np.float16(2))"), {"X": "FP16 [2]"}, {"Y": "FP16 [2]"}
    ),
    **python_model("upper", each(UPPER), {"X": "STRING [2]"}, {"Y": "STRING [2]"}),
}


def check(model: str, expected: str, name: str = "", sent: str = "X: {dtype: FP32, shape: [2], data: [1, 2]}") -> str:
    return f"""
    - id: {name or model}
      model: {model}
      request: {{inputs: {{{sent}}}, timeout: 2s}}
      expect: {{outputs: {{{expected}}}}}"""


def validation(checks: str, more: str = "", startup: str = "{deadline: 60s, stall: 30s}") -> Validate:
    text = f'triton: "24.10"\nbackends: [python]\nvalidate:\n  startup: {startup}\n{more}  checks:{checks}\n'
    wanted = parse_recipe(text, path=Path("recipe.yaml"), environ={}).validation
    assert wanted
    return wanted


A, B = (
    "A: {dtype: INT32, shape: [1, 4], data: [1, 2, 3, 4]}",
    "B: {dtype: INT32, shape: [1, 4], data: [10, 20, 30, 40]}",
)
SUM = check("add", "Y: {equals: [[11, 22, 33, 44]]}", "sum", f"{A}, {B}")


@pytest.fixture(autouse=True)
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where servers are unpacked. After each test nothing of them may be left: no file, no mount, no process."""
    folder = Path(tempfile.mkdtemp(prefix="scratch-", dir="/dev/shm"))  # in memory: unpacked for each test anew
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert _servers(folder) == []
    assert list(folder.iterdir()) == []
    assert folder.name not in Path("/proc/self/mountinfo").read_text()
    folder.rmdir()


def _servers(folder: Path) -> list[str]:
    """Processes whose root was below a folder when they were started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if folder.name in (process / "mountinfo").read_text().split("\n", 1)[0]:
                found.append(process.name)
    return found


def _is_first(pid: str) -> bool:
    """Whether a process is number 1 of its container."""
    status = Path(f"/proc/{pid}/status").read_text()
    return re.search(r"^NSpid:.*\t1$", status, re.MULTILINE) is not None


@contextmanager
def started(bench: Bench, models: dict[str, str], *flags: str) -> Iterator[Running]:
    """A server that serves `models`, and has time to end."""
    image = bench.image(models, *flags)
    with RootfsRunner().start(image, bench.store, Run(), emit=ignore, ports=free_ports()) as running:
        yield running
    assert running.exit_code() is not None


def proved(running: Running, wanted: Validate, *models: str) -> Report:
    return prove(running, Terms(validation=wanted, models=models, base=Path()), emit=ignore)


def result(report: Report, name: str) -> Result:
    return next(one for one in report.results if one.id == name)


def test_a_good_image_is_proved(bench: Bench, scratch: Path) -> None:
    checks = SUM + check("half", "Y: {equals: [3, 0.2]}", sent="X: {dtype: FP16, shape: [2], data: [1.5, 0.1]}")
    checks += check("upper", "Y: {equals: [AB, É]}", sent="X: {dtype: BYTES, shape: [2], data: [ab, é]}")
    checks += check(
        "add", "Y: {equals: [[2, 2, 2, 2]]}", "refused", "A: {dtype: INT32, shape: [1, 3], data: [1, 2, 3]}"
    )
    with started(bench, GOOD) as running:
        report = proved(running, validation(checks, "  after: [health, sum]\n"), "add", "half", "upper")
        assert requests.get(running.metrics, timeout=5).text.count("nv_inference_request_success")
        assert "Started GRPCInferenceService at " + running.grpc in running.logs()
        assert running.exit_code() is None
        (inner,) = [Path(f"/proc/{pid}/root/dev/shm") for pid in _servers(scratch) if _is_first(pid)]
        regions = {path.name for path in inner.iterdir()}
        assert regions
        assert not regions & {path.name for path in Path("/dev/shm").iterdir()}
        running.stop()
        assert "All models are stopped, unloading models" in running.logs()
        assert running.exit_code() == 0
    outcomes = {one.id: one.outcome for one in report.results}
    assert outcomes == {
        "ready": "passed",
        "models": "passed",
        **dict.fromkeys(["model:add", "model:half", "model:upper"], "passed"),
        "sum": "passed",
        "half": "passed",
        "upper": "passed",
        "refused": "failed",
        "gpu:visible": "unverified",
        "after:ready": "passed",
        "after:models": "passed",
        **dict.fromkeys(["after:model:add", "after:model:half", "after:model:upper"], "passed"),
        "after:sum": "passed",
    }
    assert result(report, "refused").message.startswith("the server refuses with 400: ")
    assert report.about.server == "triton 2.51.0"


def test_a_model_that_does_not_load(bench: Bench) -> None:
    bad = python_model("bad", "def initialize(self, args):\n    import not_there", INPUT, OUTPUT)
    with started(bench, ADD | bad) as running:
        report = proved(running, validation(SUM), "add", "bad")
    ready = result(report, "ready")
    assert ready.outcome == "failed"
    assert ready.message.startswith("the server ended with status 1; bad: ")
    assert "No module named 'not_there'" in ready.message
    assert {one.outcome for one in report.results[1:]} == {"skipped"}


def test_a_server_that_hangs_is_given_up(bench: Bench) -> None:
    hangs = python_model("hangs", "def initialize(self, args):\n    time.sleep(600)", INPUT, OUTPUT)
    begun = time.monotonic()
    with started(bench, ADD | hangs) as running:
        report = proved(running, validation(SUM, startup="{deadline: 60s, stall: 6s}"), "add", "hangs")
    assert result(report, "ready").message.startswith(
        "the server made no progress for 6 s; these models never finished loading: hangs version 1"
    )
    assert time.monotonic() - begun < 60


def test_a_command_that_is_not_there(bench: Bench) -> None:
    image = bench.image({}, command=("no-such-server",))
    with RootfsRunner().start(image, bench.store, Run(), emit=ignore) as running:
        report = proved(running, validation(SUM), "add")
    assert result(report, "ready").outcome == "failed"
    assert "no-such-server" in result(report, "ready").message


def script(bench: Bench, text: str) -> Image:
    return bench.image({}, command=("/bin/sh", "-c", text))


TELL = """
exec 2>&1; echo begin; echo "one: $ONE"; cat /data/x/file /data/one; touch /data/x/new; echo more >> /data/one
grep cache.example.com /etc/hosts; stat -fc %b:%S /dev/shm; ulimit -Sn; ulimit -Hn; echo told; sleep 600
"""


def options(folder: Path, **more: object) -> Run:
    """Most of what there is. What is mounted lies in `folder`."""
    (folder / "x").mkdir()
    (folder / "x" / "file").write_text("of the folder\n")
    (folder / "one, two").write_text("of the file\n")
    return Run.model_validate(
        {
            "gpus": "none",
            "shm_size": 1 << 22,
            "env": {"ONE": "it's $HOME"},
            "mounts": (
                {"source": Path("x"), "target": "/data/x"},
                {"source": Path("one, two"), "target": "/data/one", "read_only": False},
            ),
            "ulimits": {"nofile": {"soft": 100, "hard": 200}},
            "extra_hosts": {"cache.example.com": "10.1.2.3"},
            **more,
        }
    )


def told(running: Running) -> list[str]:
    """What `TELL` has written."""
    deadline = time.monotonic() + 30
    while "told" not in running.logs() and running.exit_code() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return running.logs().partition("begin\n")[2].splitlines()


def assert_told(lines: list[str], folder: Path) -> None:
    assert lines[0] == "one: it's $HOME"
    assert {"of the folder", "of the file", f"{(1 << 22) // 4096}:4096", "100", "200"} <= set(lines)
    assert any("Read-only file system" in line for line in lines)
    assert any(re.fullmatch(r"10\.1\.2\.3\s+cache\.example\.com", line) for line in lines)
    assert (folder / "one, two").read_text() == "of the file\nmore\n"
    assert [path.name for path in (folder / "x").iterdir()] == ["file"]


def test_options(bench: Bench, tmp_path: Path) -> None:
    run = options(tmp_path)
    with RootfsRunner().start(script(bench, TELL), bench.store, run, emit=ignore, base=tmp_path) as running:
        assert_told(told(running), tmp_path)
        assert running.engine == "rootfs"
        names = [Path(f"/proc/{pid}/comm").read_text() for pid in running.pids()]
        assert names == ["sh\n", "sleep\n"]


def test_a_mount_goes_where_the_image_s_links_lead(bench: Bench, tmp_path: Path) -> None:
    """Never where they would lead on this machine."""
    (tmp_path / "file").write_text("of the host")
    run = Run.model_validate({"mounts": ({"source": Path("file"), "target": "/leads/deep/file"},)})
    image = bench.image(
        {}, command=("/bin/sh", "-c", "echo begin; cat /mnt/deep/file; echo; echo told"), links={"leads": "/mnt"}
    )
    with RootfsRunner().start(image, bench.store, run, emit=ignore, base=tmp_path) as running:
        assert told(running) == ["of the host", "told"]
    assert not Path("/mnt/deep").exists()


def test_a_network_that_is_not_the_host_s(bench: Bench) -> None:
    with (
        pytest.raises(Unplannable, match="has the host's network only, the recipe wants 'back'") as raised,
        RootfsRunner().start(script(bench, "true"), bench.store, Run(network="back"), emit=ignore),
    ):
        pytest.fail("it started")
    assert raised.value.hint == "--runner docker"


def test_limits_that_only_root_may_raise() -> None:
    script = """
import resource
from composer.recipe import Run
from composer.runners.rootfs import _allowed, _lacks
resource.setrlimit(resource.RLIMIT_MEMLOCK, (1000, 2000))
print(_allowed("memlock", -1, -1), _allowed("memlock", 10, 20), _allowed("memlock", 10, 2001))
print(resource.getrlimit(resource.RLIMIT_MEMLOCK))
run = Run.model_validate({"ulimits": {"memlock": -1, "nofile": 20}})
print([one.message for one in _lacks(run)])
"""
    ran = subprocess.run([*AS_USER, sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == [
        "(2000, 2000) (10, 20) (10, 2000)",
        "(1000, 2000)",
        "['only root may raise these limits, so they stay below what the recipe wants: memlock']",
    ]


def test_a_killed_server(bench: Bench) -> None:
    """By somebody else, as the kernel does it where memory runs out."""
    with RootfsRunner().start(script(bench, "sleep 600 & sleep 600"), bench.store, Run(), emit=ignore) as running:
        deadline = time.monotonic() + 10
        while len(running.pids()) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        first, *_ = sorted(running.pids())
        os.kill(first, signal.SIGKILL)
        while running.exit_code() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert running.exit_code() == 137
        assert list(running.pids()) == []


SHOW = """
echo begin
id -u; id -G; pwd; env | sort; hostname; stat -fc %b:%S /dev/shm; grep -E 'CapBnd|NoNewPrivs' /proc/self/status
ls -A / | tr '\\n' ' '; echo; echo x > /dev/null && echo done; echo processes: /proc/[0-9]*
echo 1 > /proc/sys/vm/drop_caches
"""


def shown(bench: Bench, user: str = "") -> list[str]:
    """What a program in the container sees."""
    image = bench.image({}, command=("/bin/sh", "-c", f'exec /bin/sh -c "$0"; {SHOW}', SHOW), user=user)
    image = bench.image({}, command=("/bin/sh", "-c", SHOW), user=user)
    with RootfsRunner().start(image, bench.store, Run(shm_size=1 << 22), emit=ignore) as running:
        deadline = time.monotonic() + 20
        while running.exit_code() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return running.logs().partition("begin\n")[2].splitlines()


def test_the_container_is_as_the_image_says_and_nothing_of_the_host(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "1")
    lines = shown(bench, "triton-server")
    text = "\n".join(lines)
    assert "1000\n1000\n/opt/tritonserver\n" in text
    assert "HOME=/home/triton-server" in lines
    assert "NVIDIA_TRITON_SERVER_VERSION=24.10" in lines
    assert "SECRET" not in text
    assert "tricompose" in lines
    assert f"{(1 << 22) // 4096}:4096" in lines
    assert "NoNewPrivs:\t1" in lines
    assert "CapBnd:\t00000000000004fb" in lines
    assert "done" in lines
    names = next(line for line in lines if "opt" in line.split() and "etc" in line.split()).split()
    assert set(names) & {"work", "root", "lost+found"} == {"root"}
    assert "processes: /proc/1" in lines or "processes: /proc/1 /proc/" in text
    assert "Permission denied" in text or "Read-only" in text


def test_users(bench: Bench) -> None:
    assert shown(bench, "")[:2] == ["0", "0"]
    assert shown(bench, "4321:99")[:2] == ["4321", "99"]
    with pytest.raises(Unplannable, match="'nobody-here'"):
        shown(bench, "nobody-here")
    with pytest.raises(Unplannable, match="group 'nothing-here'"):
        shown(bench, "0:nothing-here")


def test_the_ports_that_are_wanted(bench: Bench) -> None:
    ports = free_ports()
    image = bench.image(ADD, "--http-port=1")
    with RootfsRunner().start(image, bench.store, Run(), emit=ignore, ports=ports) as running:
        assert running.http == f"http://127.0.0.1:{ports['http']}"
        assert proved(running, validation(SUM), "add").ok
        with (
            pytest.raises(Unplannable, match=f"port {ports['http']}, wanted for http"),
            RootfsRunner().start(image, bench.store, Run(), emit=ignore, ports=ports),
        ):
            pytest.fail("two servers on one port")


def test_ports_of_a_command() -> None:
    words = ["tritonserver", "--http-port=1", "--grpc-port", "2", "--http-port=3"]
    assert listened(words) == {"http": 3, "grpc": 2, "metrics": 8002}


def test_a_gpu_is_not_promised(bench: Bench) -> None:
    events: list[Event] = []
    with RootfsRunner().start(bench.image(ADD), bench.store, Run(gpus="all"), emit=events.append):
        pass
    warned = [event for event in events if isinstance(event, Warned)]
    assert [event.hint for event in warned] == ["--runner docker"]


SCRIPT = """
import json, sys, time
from pathlib import Path
from composer.checks import Terms, prove
from composer.events import ignore
from composer.recipe import Run, parse_recipe
from composer.runners.rootfs import RootfsRunner
from tests.triton.images import read_image
from tests.triton.test_rootfs import SUM, validation

image, store = read_image(sys.argv[1])
runner = RootfsRunner()
assert runner.refusal() is None, runner.refusal()
with runner.start(image, store, Run(), emit=ignore) as running:
    report = prove(running, Terms(validation=validation(SUM), models=["add"], base=Path()), emit=ignore)
    print(json.dumps(report.to_json()), flush=True)
    if len(sys.argv) > 2:
        time.sleep(600)
"""


def test_without_root(bench: Bench) -> None:
    _tagged(bench, "add")
    argv = [*AS_USER, sys.executable, "-c", SCRIPT, f"oci:{bench.store.path}:add"]
    ran = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert json.loads(ran.stdout)["ok"] is True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_server_never_outlives_us(bench: Bench, scratch: Path, number: signal.Signals) -> None:
    _tagged(bench, "add")
    argv = [sys.executable, "-c", SCRIPT, f"oci:{bench.store.path}:add", "stay"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout
            assert json.loads(process.stdout.readline())["ok"] is True
            assert _servers(scratch)
            process.send_signal(number)
            process.wait(30)
        finally:
            process.kill()
    deadline = time.monotonic() + 10
    while _servers(scratch) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _servers(scratch)
    if number == signal.SIGKILL:  # nobody was left to clear up but us
        for folder in scratch.iterdir():
            shutil.rmtree(folder)


def test_a_folder_that_keeps_even_us_out_goes_too() -> None:
    script = """
import os
from composer.runners.rootfs import _workspace
with _workspace() as folder:
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/file").write_text("x")
    (folder / "a/link").symlink_to("/nowhere")
    os.chmod(folder / "a/b", 0)
    os.chmod(folder / "a", 0o400)
assert not folder.exists()
"""
    subprocess.run([*AS_USER, sys.executable, "-c", script], check=True)


def _tagged(bench: Bench, tag: str) -> None:
    manifest = bench.image(ADD).manifest
    bench.store.publish(manifest.raw, manifest.media_type, tag)


def test_where_the_kernel_says_no() -> None:
    """Inside a container that forbids namespaces the runner says so, and `auto` says what to do."""
    script = """
from composer.errors import Unplannable
from composer.runners import pick
from composer.runners.rootfs import RootfsRunner
print(RootfsRunner().refusal())
try:
    pick("rootfs")
except Unplannable as error:
    print(error.message, error.hint)
"""
    closed = "echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all"
    argv = ["unshare", "--user", "--map-root-user", "sh", "-c", f'{closed} "$@"', "sh", sys.executable, "-c", script]
    ran = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert "unshare: " in ran.stdout
    assert "--no-validate" in ran.stdout


def test_auto_takes_what_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing")
    assert pick("auto").name == "rootfs"
    with pytest.raises(Unplannable, match="docker: "):
        pick("docker")
