"""Proofs of real servers that are interrupted at random moments: how long until all is gone, and what is left.

`make interrupt` does it 200 times, half without Docker and half with, and writes INTERRUPTED.md. It does so on a
network and with a /dev/shm of its own, in which nothing else happens: whatever is there in the end was left behind.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.services.dockerd import Dockerd, running_dockerd
from tests.triton.images import Bench, make_bench, python_model

SECONDS = 5.0
"""What the end may take: after a signal, or after the deadline of a server that does not come up."""

KEPT = "kept:1"
DEADLINE = 4.0
SEED = 5

_RECIPE = """\
upstream: oci:nowhere
models: [{{path: ./models}}]
validate:
  startup: {{deadline: {deadline:g}s, stall: 60s}}
  checks:
    - id: same
      model: {model}
      request: {{inputs: {{X: {{dtype: FP32, shape: [2], data: [1, 2]}}}}, timeout: 2s}}
      expect: {{outputs: {{Y: {{equals: [1, 2]}}}}}}
"""
_SAME = "def execute(self, requests):\n    return [answer(Y=tensor(request, 'X')) for request in requests]"
KINDS: Mapping[str, tuple[str, int]] = {
    "healthy": (_SAME, 0),
    "slow": (f"def initialize(self, args):\n    time.sleep(2)\n{_SAME}", 0),
    "hung": ("def initialize(self, args):\n    time.sleep(600)", 12),
    "refusing": ("def initialize(self, args):\n    import not_there", 12),
    "crashing": (_SAME, 12),
    "silent": ("def execute(self, requests):\n    time.sleep(600)", 12),
}
"""How servers are ill: the methods of the model, and the status that a proof ends with if nothing comes between.

`silent` is ready and never answers; the others do not come up, or do so late.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An image and the recipe that it is to be proved by."""

    kind: str
    image: str
    recipe: Path
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How one run ended: after how many seconds as a whole, and since the signal or the deadline.

    One that is `late` had ended by itself before the signal came.
    """

    case: Case
    sent: str
    status: int
    whole: float
    after: float
    said: str
    late: bool = False


@dataclass(slots=True, kw_only=True)
class Lane:
    """One runner with all that came of it."""

    runner: str
    scratch: Path
    engine: Dockerd | None
    undisturbed: list[Ended] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def make_cases(bench: Bench, folder: Path) -> list[Case]:
    """One of each kind, in `folder`."""
    return [_case(bench, folder / kind, kind) for kind in KINDS]


def _case(bench: Bench, folder: Path, kind: str) -> Case:
    methods, status = KINDS[kind]
    model = python_model(f"is_{kind}", methods, {"X": "FP32 [2]"}, {"Y": "FP32 [2]"})
    for path, text in model.items():
        (folder / "models" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "models" / path).write_text(text)
    recipe = folder / "recipe.yaml"
    deadline = DEADLINE if kind == "hung" else 60
    recipe.write_text(_RECIPE.format(model=f"is_{kind}", deadline=deadline))
    if kind == "crashing":  # the first request is a segmentation fault
        config = f"is_{kind}/config.pbtxt"
        model[config] = model[config].replace("kind: KIND_CPU", "kind: KIND_CPU passive: true")
    digest = bench.image(model).manifest.descriptor.digest
    return Case(kind=kind, image=f"oci:{bench.store.path}@{digest}", recipe=recipe, status=status)


def start(case: Case, lane: Lane) -> subprocess.Popen[str]:
    """`tricompose validate`, with a folder for temporary files of its own."""
    line = [sys.executable, "-m", "composer", "validate", str(case.recipe), "--image", case.image]
    more = ["--runner", lane.runner, "--progress", "plain", "--cache", str(case.recipe.parent / "cache")]
    environ = {**os.environ, "TMPDIR": str(lane.scratch)} | ({"DOCKER_HOST": lane.engine.host} if lane.engine else {})
    return subprocess.Popen(
        [*line, *more], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environ, cwd=Path.cwd()
    )


def interrupted(case: Case, lane: Lane, sent: signal.Signals, moment: float) -> Ended:
    """Send a signal after so many seconds, and wait."""
    begun = time.monotonic()
    process = start(case, lane)
    with suppress(subprocess.TimeoutExpired):
        process.wait(moment)
    at, late = time.monotonic(), process.poll() is not None
    process.send_signal(sent)
    said = process.communicate(timeout=120)[1]
    end = time.monotonic()
    return Ended(
        case=case, sent=sent.name, status=process.returncode, whole=end - begun, after=end - at, said=said, late=late
    )


def undisturbed(case: Case, lane: Lane) -> Ended:
    """Let it run to its end. `after` counts from the moment at which it was clear that the server fails."""
    begun = time.monotonic()
    process = start(case, lane)
    lines, clear = [], begun
    assert process.stderr
    for line in process.stderr:
        lines.append(line)
        if "failed: " in line and clear == begun:
            clear = time.monotonic()
    process.wait(120)
    end = time.monotonic()
    return Ended(
        case=case,
        sent="",
        status=process.returncode,
        whole=end - begun,
        after=end - clear if clear != begun else 0.0,
        said="".join(lines),
    )


def faults(ended: Ended, lane: Lane, seconds: float = SECONDS) -> list[str]:
    """What is wrong with an end, what was left behind included."""
    # Python ends by -2 in place of 130 where the signal came while it compiled code: shells call both 130.
    allowed = {ended.case.status} | ({130, -signal.SIGINT, -signal.Signals[ended.sent]} if ended.sent else set())
    found = []
    if ended.status not in allowed and not _too_early(ended):
        found.append(f"it exits with {ended.status}")
    if "Traceback" in ended.said and not _too_early(ended):
        found.append("it shows a traceback")
    if ended.after > seconds:
        found.append(f"it takes {ended.after:.1f} s to end")
    return [f"{ended.case.kind} {ended.sent}: {one}" for one in (*found, *left(lane))]


def _too_early(ended: Ended) -> bool:
    """Whether Python was interrupted before it had come to us: nobody can do anything about how it says that."""
    ours = ended.said.replace("/composer/__init__.py", "")  # what Python loads before it runs us
    return "Traceback" in ended.said and "/composer/" not in ours


def left(lane: Lane) -> Iterator[str]:
    """What a run has left: files, processes, containers, images, volumes, networks."""
    for path in lane.scratch.iterdir():
        yield f"the folder {path.name} is left"
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if lane.scratch.name in (process / "mountinfo").read_text().split("\n", 1)[0]:
                yield f"a process is left: {(process / 'cmdline').read_bytes()!r}"
    if lane.engine:
        yield from _left_in(lane.engine)


def _left_in(engine: Dockerd) -> Iterator[str]:
    for what, line in {
        "container": ("ps", "--all", "--quiet"),
        "volume": ("volume", "ls", "--quiet"),
        "image": ("images", "--all", "--format", "{{.Repository}}:{{.Tag}}"),
        "network": ("network", "ls", "--filter", "type=custom", "--quiet"),
    }.items():
        for name in engine.docker(*line).split():
            if name != KEPT:
                yield f"a {what} is left: {name}"


def warm(bench: Bench, engine: Dockerd) -> None:
    """Give an engine the layers of the server, under a name that stays: the proofs are then as quick as they can be."""
    digest = bench.image({}, command=("true",)).manifest.descriptor.digest
    line = [sys.executable, "-m", "composer", "copy", f"oci:{bench.store.path}@{digest}", f"docker-daemon:{KEPT}"]
    subprocess.run(line, check=True, capture_output=True, env={**os.environ, "DOCKER_HOST": engine.host})


# -- two hundred times --------------------------------------------------------------------------------------------


def main(rounds: int) -> int:
    """Both lanes at once; prints and writes what came of it. Returns 1 if anything was wrong."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what is started in the background may be deaf to it
    with tempfile.TemporaryDirectory(prefix="interrupting-") as name, running_dockerd() as engine:
        folder = Path(name)
        bench = make_bench(folder)
        warm(bench, engine)
        lanes = [_lane("rootfs", None), _lane("docker", engine)]
        cases = make_cases(bench, folder / "cases")
        before = _listening(), _shared()
        threads = [threading.Thread(target=_go, args=(lane, cases, rounds)) for lane in lanes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = [fault for lane in lanes for fault in lane.faults]
        found += [f"port {port} is still listened on" for port in _listening() - before[0]]
        found += [f"/dev/shm/{left_over} is left" for left_over in _shared() - before[1]]
        bench.store.close()
    text = report(lanes, found)
    (Path(__file__).parent / "INTERRUPTED.md").write_text(text)
    print(text)
    return 1 if found else 0


def _lane(runner: str, engine: Dockerd | None) -> Lane:
    """With its temporary files in memory: how long a busy disk takes to remove them says nothing of us."""
    scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir="/dev/shm"))
    return Lane(runner=runner, scratch=scratch, engine=engine)


def _go(lane: Lane, cases: Sequence[Case], rounds: int) -> None:
    """Each kind once to its end, then with signals, at moments of the time that this took."""
    drawn = random.Random(SEED)
    lane.undisturbed += [_noted(undisturbed(case, lane), lane) for case in cases]
    lasts = {one.case.kind: one.whole for one in lane.undisturbed}
    while len(lane.ended) < rounds:
        number = len(lane.ended)
        case = cases[number % len(cases)]
        sent = (signal.SIGINT, signal.SIGTERM)[number // len(cases) % 2]
        ended = _noted(interrupted(case, lane, sent, drawn.uniform(0, lasts[case.kind])), lane)
        if ended.late:  # the machine was busier before: the next moment is drawn from the time that it takes now
            lasts[case.kind] = ended.whole
        else:
            lane.ended.append(ended)


def _noted(ended: Ended, lane: Lane) -> Ended:
    found = faults(ended, lane)
    lane.faults += found
    print(f"{lane.runner} {ended.case.kind} {ended.sent} {ended.status} {ended.after:.2f}", *found, flush=True)
    if found:
        print(ended.said, flush=True)
    return ended


def _listening() -> set[int]:
    """The TCP ports that somebody listens on. Source: proc_pid_net(5); state 0A."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}


def _shared() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


def report(lanes: Sequence[Lane], found: Sequence[str]) -> str:
    """INTERRUPTED.md."""
    count = sum(len(lane.ended) for lane in lanes)
    shown = [
        f"| {lane.runner} | {one.case.kind} | {one.status} | {one.after:.1f} |"
        for lane in lanes
        for one in lane.undisturbed
        if one.after
    ]
    return _TEXT.format(
        count=count,
        cores=os.cpu_count(),
        seconds=SECONDS,
        deadline=DEADLINE,
        interrupted="\n".join(_row(lane, kind) for lane in lanes for kind in KINDS),
        undisturbed="\n".join(shown),
        found="; ".join(found) or "nothing",
    )


_TEXT = """\
# Interrupted proofs

Written by `make interrupt`: {count} times `tricompose validate` of a real server (Triton 2.51.0), stopped by Ctrl-C
(SIGINT) or SIGTERM at a random moment between its start and its end. After each one it is looked at what is left:
temporary folders, processes, mounts, containers, images, volumes, networks; at the end also ports and entries of
/dev/shm. Both runners work at the same time, on a machine with {cores} cores; images are unpacked in memory.

| runner | server | interrupted | exit statuses | slowest end after the signal | left behind |
|---|---|---|---|---|---|
{interrupted}

An end may take {seconds:g} s. `slow` loads for 2 s, `hung` for ever, `refusing` has a model that fails, so that the
server ends, `crashing` dies of the first request, `silent` is ready and never answers one. Status 1, -15: the signal
came before Python was up; -2: that too, or while Python compiled code, which shells call 130 too. 0 and 12: all was
over but for the exit.

Not interrupted, the same servers, from the moment at which it is clear that they fail (for `hung` the deadline of
{deadline:g} s, for `silent` the timeout of its request) until all is gone:

| runner | server | exit status | seconds |
|---|---|---|---|
{undisturbed}

What was wrong: {found}.
"""


def _row(lane: Lane, kind: str) -> str:
    ended = [one for one in lane.ended if one.case.kind == kind]
    statuses = Counter(one.status for one in ended)
    shown = ", ".join(f"{status} ({count})" for status, count in sorted(statuses.items()))
    worst = max((one.after for one in ended), default=0.0)
    bad = sum("is left" in fault for fault in lane.faults if fault.startswith(f"{kind} "))
    return f"| {lane.runner} | {kind} | {len(ended)} | {shown} | {worst:.1f} s | {bad or 'nothing'} |"


_APART = 'mount -t tmpfs shm /dev/shm; ip link set lo up; exec "$@"'

if __name__ == "__main__":
    times, *apart = sys.argv[1:]
    if not apart:
        again = [sys.executable, "-m", "tests.triton.interrupting", times, "apart"]
        os.execvp(
            "unshare", ["unshare", "--mount", "--net", "--propagation=private", "sh", "-ec", _APART, "sh", *again]
        )
    sys.exit(main(int(times)))
