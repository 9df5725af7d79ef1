"""Images that a real Docker Engine builds, by the classic builder and by BuildKit."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from composer.errors import BuildFailed, Denied, NotFound, Unreachable
from composer.events import BuildStep, Event, Logged, Transferred
from composer.oci.building import build, pull_image
from composer.oci.daemon import Engine
from composer.oci.image import Platform
from tests.docker.test_daemon import forwarded
from tests.images import AMD64, layer_tar
from tests.services.dockerd import Dockerd, running_dockerd
from tests.services.registry import login, running_registry

pytestmark = pytest.mark.docker

MB = 1_000_000
TOOLS = ("/bin/sh", "/bin/cat", "/bin/sleep", "/bin/ls", "/usr/bin/seq", "/usr/bin/stat")
BOTH = pytest.mark.parametrize("classic", [True, False], ids=["classic", "buildkit"])


def system(*, shell: bytes | None = None) -> bytes:
    """A root file system with a shell, made of this machine's files; or with a shell of other bytes."""
    wanted = set(TOOLS)
    for tool in TOOLS:
        listed = subprocess.run(["ldd", tool], capture_output=True, text=True, check=True).stdout
        wanted |= set(re.findall(r"(/\S+) \(0x", listed))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as tar:
        for folder in ("tmp", "etc"):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
        for file in sorted(wanted - ({"/bin/sh"} if shell else set())):
            tar.add(file, file.lstrip("/"))
        if shell:
            member = tarfile.TarInfo("bin/sh")
            member.size, member.mode = len(shell), 0o755
            tar.addfile(member, io.BytesIO(shell))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def offering() -> Iterator[Dockerd]:
    """An engine that offers BuildKit, and has the image `base:1`."""
    with running_dockerd(buildkit=True) as running:
        running.docker("import", "-", "base:1", stdin=system())
        yield running


@pytest.fixture
def dockerd(offering: Dockerd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dockerd]:
    monkeypatch.setenv("DOCKER_HOST", offering.host)
    yield offering
    assert offering.docker("ps", "--all", "--quiet") == "", "a container is left"


@pytest.fixture
def engine(dockerd: Dockerd) -> Iterator[Engine]:
    with closing(Engine()) as made:
        yield made


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    return folder


def made(engine: Engine, context: Path, text: str, **how: Any) -> str:
    usual: dict[str, Any] = {"platform": AMD64, "hosts": {}, "arguments": {}, "tag": None, "network": None}
    usual |= {"use_cache": True, "pull": False, "classic": False, "credentials": None, "emit": lambda _: None}
    (context / "Dockerfile").write_text(text)
    return build(engine, context, **{**usual, **how})


def printed(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Logged)]


def ends(events: list[Event]) -> list[tuple[str, str]]:
    """How each step ended, in order."""
    steps = [event for event in events if isinstance(event, BuildStep) and event.state != "begun"]
    return [(event.text, event.state) for event in steps]


def images(engine: Engine) -> set[str]:
    return {image["Id"] for image in engine._client.api.images(all=True)}


def unpacked(dockerd: Dockerd, image: str) -> dict[str, tarfile.TarInfo]:
    """What a container of it would see."""
    container = dockerd.docker("create", image, "/bin/sh").strip()
    try:
        client = dockerd.client()
        with closing(client):
            data = b"".join(client.api.export(container))
    finally:
        dockerd.docker("rm", container)
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as tar:
        return {member.name: member for member in tar}


# -- what is built --------------------------------------------------------------------------------


@BOTH
def test_an_image_is_built_and_told_of(dockerd: Dockerd, engine: Engine, context: Path, classic: bool) -> None:
    (context / "data").write_bytes(bytes(2 * MB))
    events: list[Event] = []
    text = "FROM base:1\nARG WHO\nRUN echo hello $WHO; cat /etc/hosts\nCOPY data /data\nENV A=b\n"
    image = made(
        engine,
        context,
        text,
        classic=classic,
        arguments={"WHO": "Zoë"},
        hosts={"mirror.example": "192.0.2.7"},
        tag="built:1",
        emit=events.append,
    )
    assert dockerd.docker("image", "inspect", "--format", "{{.Id}} {{.Config.Env}}", "built:1").split()[0] == image
    assert "hello Zoë" in printed(events)
    assert any(re.fullmatch(r"192\.0\.2\.7\s+mirror\.example", line) for line in printed(events))
    told = [event for event in events if isinstance(event, BuildStep)]
    begun = [(event.stage, event.number) for event in told if event.state == "begun"]
    over = [(event.stage, event.number) for event in told if event.state != "begun"]
    assert sorted(begun) == sorted(over)
    assert {event.total for event in told} == {5 if classic else 3}
    run = next(event for event in told if event.text.startswith("RUN") and event.state == "done")
    assert 0 < run.took < 60
    sent = [event for event in events if isinstance(event, Transferred)]
    assert sent[-1].done == sent[-1].total == 2 * MB + len(text)
    assert unpacked(dockerd, image)["data"].size == 2 * MB


@BOTH
def test_the_second_time_it_comes_from_the_cache(engine: Engine, context: Path, classic: bool) -> None:
    (context / "data").write_text("data")
    text = f"FROM base:1\nRUN echo it runs {classic}\nCOPY data /data\n"
    states = []
    for use_cache in (True, True, False):
        events: list[Event] = []
        # A file that is as it was, but was written again.
        os.utime(context / "data", (len(states), len(states)))
        made(engine, context, text, classic=classic, use_cache=use_cache, emit=events.append)
        states.append([state for text, state in ends(events) if not text.startswith("FROM")])
        assert (f"it runs {classic}" in printed(events)) == (len(states) != 2)
    assert states == [["done", "done"], ["cached", "cached"], ["done", "done"]]


@BOTH
def test_a_context_arrives_as_it_is(dockerd: Dockerd, engine: Engine, context: Path, classic: bool) -> None:
    long = "/".join(["a name of many letters, again and again"] * 8)
    (context / "in" / long).mkdir(parents=True)
    (context / "in" / long / "file").write_text("deep")
    (context / "in" / "äöü €").write_text("unicode")
    (context / "in" / os.fsdecode(b"\xff\xfe")).write_text("no unicode")
    (context / "in" / "tool").write_text("#!/bin/sh\n")
    (context / "in" / "tool").chmod(0o751)
    (context / "in" / "link").symlink_to("tool")
    (context / "in" / "nowhere").symlink_to("/no/such/file")
    (context / "in" / "empty").mkdir(mode=0o700)
    there = unpacked(dockerd, made(engine, context, "FROM base:1\nCOPY in /in\n", classic=classic))
    assert there[f"in/{long}/file"].size == 4
    assert there["in/äöü €"].size == 7
    assert there[os.fsdecode(b"in/\xff\xfe")].size == 10
    assert (there["in/tool"].mode & 0o7777, there["in/tool"].uid, there["in/tool"].gid) == (0o751, 0, 0)
    assert there["in/link"].linkname == "tool"
    assert there["in/nowhere"].linkname == "/no/such/file"
    assert (there["in/empty"].isdir(), there["in/empty"].mode & 0o7777) == (True, 0o700)


@BOTH
def test_output_is_lines_of_any_language(engine: Engine, context: Path, classic: bool) -> None:
    events: list[Event] = []
    script = r"printf 'Grüße 世界 \360\237\220\263\n10%%\r50%%\r100%%\n\033[1mbold\033[0m\n\n'; printf 'no end'"
    made(engine, context, f"FROM base:1\nRUN {script}\nRUN printf '\\377\\376 bytes\\n'\n", classic=classic,
         use_cache=False, emit=events.append)  # fmt: skip
    lines = printed(events)
    assert [line for line in lines if "Warning" not in line][:4] == ["Grüße 世界 🐳", "100%", "bold", "no end"]
    assert any(line.endswith(" bytes") for line in lines)


def test_output_that_looks_like_the_builders_own_words_is_output(engine: Engine, context: Path) -> None:
    events: list[Event] = []
    text = "FROM base:1\nRUN echo 'Step 9/9 : RUN rm -rf /'; sleep 0.3; echo ' ---> Using cache'\nENV A=b\n"
    made(engine, context, text, classic=True, use_cache=False, emit=events.append)
    assert "Step 9/9 : RUN rm -rf /" in printed(events)
    assert [state for _, state in ends(events)] == ["done", "done", "done"]


@BOTH
def test_a_network_may_be_chosen(engine: Engine, context: Path, classic: bool) -> None:
    events: list[Event] = []
    text = "FROM base:1\nRUN ls /sys/class/net\n"
    for network in ("none", "host"):
        made(engine, context, text, classic=classic, network=network, use_cache=False, emit=events.append)
    lines = [line for line in printed(events) if "Warning" not in line]
    assert lines[0] == "lo"
    assert set(os.listdir("/sys/class/net")) & set(lines[1:]) > {"lo"}


def test_an_engine_without_buildkit_builds_too(
    docker_engine: Dockerd, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_engine.host)
    docker_engine.docker("import", "-", "base:1", stdin=system())
    events: list[Event] = []
    with closing(Engine()) as engine:
        assert not engine.offers_buildkit()
        made(engine, context, "FROM base:1\nRUN echo hello\n", emit=events.append)
        assert "hello" in printed(events)
        engine.forget("base:1")
        engine.forget("base:1")


def test_last_names_that_are_taken_away_at_once(engine: Engine, dockerd: Dockerd) -> None:
    """The engine tells one of two that it does not know the image, as the other has removed it meanwhile."""
    for turn in range(15):
        image = dockerd.docker("import", "-", stdin=layer_tar({"file": bytes([turn])})).strip()
        names = [f"named:{number}" for number in range(3)]
        for name in names:
            dockerd.docker("tag", image, name)
        with ThreadPoolExecutor(3) as crew:
            list(crew.map(engine.forget, names))
        assert image not in images(engine)


@BOTH
def test_an_engine_elsewhere_builds_too(
    dockerd: Dockerd, context: Path, classic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (context / "data").write_bytes(bytes(5 * MB))
    with forwarded(dockerd) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        with closing(Engine()) as engine:
            image = made(engine, context, "FROM base:1\nCOPY data /elsewhere\n", classic=classic)
    assert unpacked(dockerd, image)["elsewhere"].size == 5 * MB


MEASURED = """
import sys
from pathlib import Path
from composer.events import ignore
from composer.oci.building import build
from composer.oci.daemon import Engine
from composer.oci.image import Platform

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024

before = peak()
print(build(Engine(), Path(sys.argv[1]), platform=Platform.parse("linux/amd64"), hosts={}, arguments={}, tag=None,
            network=None, use_cache=True, pull=False, classic=True, credentials=None, emit=ignore))
print(peak() - before)
"""
ROOT = Path(__file__).parents[2]


def test_a_large_context_is_sent_in_little_memory(dockerd: Dockerd, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM base:1\nCOPY Dockerfile /\n")
    with (context / "large").open("wb") as file:
        file.truncate(800 * MB)
    argv = [sys.executable, "-c", MEASURED, str(context)]
    ran = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT)
    image, grown = ran.stdout.split()
    assert image.startswith("sha256:")
    assert int(grown) < 40 * MB


# -- what is not ----------------------------------------------------------------------------------


@BOTH
def test_a_step_that_fails_is_named_with_its_last_lines(engine: Engine, context: Path, classic: bool) -> None:
    events: list[Event] = []
    text = "FROM base:1 AS first\nRUN echo fine\nRUN seq 1 40; echo 'that was ÄÖÜ' >&2; \\\n    exit 42\n"
    with pytest.raises(BuildFailed) as caught:
        made(engine, context, text, classic=classic, use_cache=False, emit=events.append)
    instruction = "RUN seq 1 40; echo 'that was ÄÖÜ' >&2; exit 42"
    assert caught.value.message == f"step 3 of 3 ended with 42: {instruction}"
    assert len(caught.value.detail) == 15
    assert set(caught.value.detail) <= {*map(str, range(27, 41)), "that was ÄÖÜ", "26"}
    assert "fine" not in caught.value.detail
    assert caught.value.hint == "tricompose plan RECIPE --dockerfile DIR && docker build DIR"
    assert ends(events)[-1] == (instruction, "failed")


@BOTH
def test_of_steps_at_once_the_one_that_failed_is_named(engine: Engine, context: Path, classic: bool) -> None:
    text = (
        "FROM base:1 AS slow\nRUN echo slow; sleep 5\nFROM base:1 AS bad\nRUN sleep 1; echo no; exit 3\n"
        "FROM base:1\nCOPY --from=slow /bin/sh /a\nCOPY --from=bad /bin/sh /b\n"
    )
    place = "step 4 of 7" if classic else "step 2 of 2 of stage bad"
    events: list[Event] = []
    with pytest.raises(BuildFailed, match=rf"^{place} ended with 3: RUN sleep 1; echo no; exit 3$") as caught:
        made(engine, context, text, classic=classic, use_cache=False, emit=events.append)
    assert dict(ends(events))["RUN echo slow; sleep 5"] == ("done" if classic else "stopped")
    assert caught.value.detail == ("no",)


@BOTH
@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("FROM base:1\nRUNN x\n", BuildFailed, r"(?i)^the Docker Engine cannot build this: dockerfile parse.*RUNN"),
        ("FROM base:1\nCOPY nosuch /x\n", BuildFailed, r"^step 2 of 2 failed: COPY nosuch /x: .*not found"),
        ("FROM 127.0.0.1:1/no/such:1\n", Unreachable, r"127\.0\.0\.1:1/no/such:1 cannot be pulled: .*refused"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_said(
    engine: Engine, context: Path, classic: bool, text: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        made(engine, context, text, classic=classic)
    assert "\n" not in str(caught.value)


def test_a_shell_of_another_machine_says_what_helps(dockerd: Dockerd, engine: Engine, context: Path) -> None:
    dockerd.docker("import", "-", "foreign:1", stdin=system(shell=b"\x7fELF of another machine"))
    for classic in (True, False):
        with pytest.raises(BuildFailed, match="step 2 of 2 ended with") as caught:
            made(engine, context, "FROM foreign:1\nRUN echo x\n", classic=classic)
        assert "engine: direct" in str(caught.value.hint)


def test_what_needs_buildkit_says_so(engine: Engine, context: Path) -> None:
    text = "FROM base:1\nRUN --mount=type=cache,target=/c echo x\n"
    made(engine, context, text)
    with pytest.raises(BuildFailed) as caught:
        made(engine, context, text, classic=True)
    assert "features" in str(caught.value.hint)


def test_a_dockerfile_that_is_not_there(engine: Engine, context: Path) -> None:
    with pytest.raises(NotFound, match="Other"):
        made(engine, context, "FROM base:1\n", dockerfile="Other")


@BOTH
def test_a_file_that_goes_away_while_it_is_sent(engine: Engine, context: Path, classic: bool) -> None:
    for name in "abc":
        (context / name).write_bytes(bytes(3 * MB))
    before = images(engine)

    def meddle(event: Event) -> None:
        if isinstance(event, Transferred):
            (context / "c").unlink(missing_ok=True)

    started = time.monotonic()
    with pytest.raises(NotFound, match="went away") as caught:
        made(engine, context, "FROM base:1\nCOPY . /x\n", classic=classic, emit=meddle)
    assert caught.value.message.startswith(str(context / "c"))
    assert time.monotonic() - started < 10
    assert images(engine) == before
    made(engine, context, "FROM base:1\nCOPY . /x\n", classic=classic)


# -- interrupted ----------------------------------------------------------------------------------

INTERRUPTED = """
import sys, time
from pathlib import Path
from composer.events import Logged, Transferred
from composer.oci.building import build
from composer.oci.daemon import Engine
from composer.oci.image import Platform

def emit(event):
    if sys.argv[2] == "sending" and isinstance(event, Transferred):
        print("now", flush=True)
        time.sleep(0.5)
    if sys.argv[2] == "running" and getattr(event, "text", "") == "waiting":
        print("now", flush=True)

build(Engine(), Path(sys.argv[1]), platform=Platform.parse("linux/amd64"), hosts={}, arguments={}, tag="never:1",
      network=None, use_cache=False, pull=False, classic=sys.argv[3] == "True", credentials=None, emit=emit)
"""


def processes(words: str) -> list[int]:
    """Processes of this machine, in containers too, with these words in their command lines."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words in line and "composer" not in line:
            found.append(int(folder.name))
    return found


def until(true: Callable[[], bool], seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.1)
    return False


@BOTH
@pytest.mark.parametrize("when", ["sending", "running"])
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_stops_in_the_engine(
    dockerd: Dockerd, context: Path, classic: bool, when: str, sign: signal.Signals
) -> None:
    mark = f"31337.{os.getpid()}{sign:02}{classic:d}"
    (context / "Dockerfile").write_text(f"FROM base:1\nRUN echo waiting; sleep {mark}\n")
    (context / "large").write_bytes(bytes(20 * MB))
    argv = [sys.executable, "-c", INTERRUPTED, str(context), when, str(classic)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        assert when == "sending" or until(lambda: bool(processes(f"sleep {mark}")))
        os.kill(process.pid, sign)
        started = time.monotonic()
        _, errors = process.communicate(timeout=30)
    assert time.monotonic() - started < 5
    if sign == signal.SIGINT:
        assert errors.rstrip().endswith("KeyboardInterrupt")
    assert until(lambda: not processes(f"sleep {mark}")), "what a RUN started still runs"
    assert until(lambda: dockerd.docker("ps", "--all", "--quiet") == ""), "a container is left"
    assert dockerd.docker("images", "--quiet", "never:1") == ""


# -- what it is FROM ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(offering: Dockerd, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a registry that has `private/base:1` and `private/other:1`."""
    folder = tmp_path_factory.mktemp("registry")
    with running_registry(folder) as registry:
        for repository in ("base", "other"):
            name = f"{registry.host}/private/{repository}:1"
            offering.docker("tag", "base:1", name)
            offering.docker("push", name)
            offering.docker("rmi", name)
    return folder


@BOTH
def test_an_image_of_a_private_registry_is_pulled_with_its_credentials(
    dockerd: Dockerd, engine: Engine, context: Path, stored: Path, tmp_path: Path, classic: bool
) -> None:
    with running_registry(stored, basic=True) as registry:
        name = f"{registry.host}/private/base:1"
        text = f"FROM scratch AS none\nFROM {name} AS one\nRUN echo here\n"
        with pytest.raises(Denied, match="private/base:1 cannot be pulled"):
            made(engine, context, text, classic=classic)
        known = login(tmp_path, registry.host)
        # The engine must not have its layers, or nothing would move.
        dockerd.remove_everything()
        events: list[Event] = []
        made(engine, context, text, classic=classic, credentials=known, emit=events.append)
        assert f"pulling {name}" in printed(events)
        assert "here" in printed(events)
        # Of a layer that is there at once the engine may tell nothing: its progress comes at intervals.
        moved = [event for event in events if isinstance(event, Transferred) and event.title == "layer"]
        assert all(0 <= event.done <= event.total for event in moved)
        assert all(event.done == event.total for event in moved[-1:])
        events.clear()
        made(engine, context, text, classic=classic, credentials=known, emit=events.append)
        assert f"pulling {name}" not in printed(events)
        made(engine, context, text, classic=classic, credentials=known, pull=True, emit=events.append)
        assert f"pulling {name}" in printed(events)
    dockerd.docker("import", "-", "base:1", stdin=system())


def test_what_buildkit_cannot_ask_us_is_built_without_it(
    engine: Engine, context: Path, stored: Path, tmp_path: Path
) -> None:
    """A name with a variable is pulled by the builder itself, which needs a login."""
    with running_registry(stored, basic=True) as registry:
        text = f"""ARG NAME
            FROM {registry.host}/private/${{NAME}}
            COPY --from={registry.host}/private/other:1 /bin/sh /x
            RUN echo here
        """
        events: list[Event] = []
        known = login(tmp_path, registry.host)
        made(engine, context, text, arguments={"NAME": "base:1"}, credentials=known, emit=events.append)
        lines = printed(events)
        assert any("building without it" in line for line in lines)
        assert "here" in lines
        assert f"pulling {registry.host}/private/base:1" not in lines


def test_an_image_that_a_registry_does_not_have(engine: Engine, stored: Path) -> None:
    with running_registry(stored) as registry:
        arm = Platform(os="linux", architecture="arm64")
        for name in (f"{registry.host}/private/base:2", f"{registry.host}/no/such:1"):
            with pytest.raises(NotFound, match=f"^{name} cannot be pulled"):
                pull_image(engine, name, platform=arm, credentials=None, emit=lambda _: None)
