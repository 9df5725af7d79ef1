"""What is sent to a Docker Engine to build from, and what its builders' words are taken for."""

from __future__ import annotations

import base64
import io
import itertools
import os
import socket
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.errors import BuildFailed, Corrupt, NoRoom, NotFound, Unplannable
from composer.events import BuildStep, Event, Logged, Transferred
from composer.oci.building import base_images
from composer.oci.buildkit import Log, Status, Vertex, decode_trace
from composer.oci.context import context_size, stream_context
from composer.oci.daemon import host_of
from composer.oci.steps import BuildKitListener, ClassicListener, Lines, PullListener, Step, explain, shortened

# -- the context ----------------------------------------------------------------------------------


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as tar:
        return {member.name: member for member in tar}


def test_a_context_is_a_tar_that_buildkit_knows_by_its_first_1024_bytes(tmp_path: Path) -> None:
    (tmp_path / ("n" * 200)).write_text("x")
    data = b"".join(stream_context(tmp_path))
    first = tarfile.TarInfo.frombuf(data[:512], "utf-8", "strict")
    assert (first.name, first.type, first.size) == (".", tarfile.DIRTYPE, 0)
    assert data[257:265] == b"ustar  \0"
    assert b"\0x\0" not in {data[at + 155 : at + 158] for at in range(0, len(data), 512)}, "no PAX"
    assert data.endswith(bytes(1024))


def test_a_context_is_sorted_and_owned_by_root_and_otherwise_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "context"
    for name in ("b/z", "b/a", "a"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
        os.utime(folder / name, (1000, 1000))
        os.chown(folder / name, 12345 if os.geteuid() == 0 else -1, -1)
    (folder / "a").chmod(0o640)
    (folder / "c").symlink_to("b/../a")
    (tmp_path / "link").symlink_to("context")
    for named in (folder, tmp_path / "link"):
        found = members(b"".join(stream_context(named)))
        assert list(found) == [".", "a", "b", "b/a", "b/z", "c"]
        assert {(member.uid, member.gid, member.uname) for member in found.values()} == {(0, 0, "")}
        assert (found["a"].mode, found["a"].mtime) == (0o640, 1000)
        assert found["c"].linkname == "b/../a"
        assert context_size(named) == 7
    assert b"".join(stream_context(folder)) == b"".join(stream_context(folder))


NAMES = st.binary(min_size=1, max_size=120).filter(lambda name: not {0, 47} & {*name} and name not in (b".", b".."))


@given(st.dictionaries(NAMES, st.binary(max_size=1500), max_size=5), st.integers(0, 3))
def test_any_context_comes_out_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory, files: dict[bytes, bytes], depth: int
) -> None:
    root = tmp_path_factory.mktemp("context")
    folder = root.joinpath(*["x" * 90] * depth)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / os.fsdecode(name)).write_bytes(content)
    data = b"".join(stream_context(root))
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as tar:
        out = {member.name: tar.extractfile(member).read() for member in tar if member.isreg()}  # type: ignore[union-attr]
    prefix = "".join("x" * 90 + "/" for _ in range(depth))
    assert out == {prefix + os.fsdecode(name): content for name, content in files.items()}
    assert len(data) % 512 == 0


def test_a_context_is_read_in_pieces(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(10 << 20)
    assert max(map(len, stream_context(tmp_path))) <= 1 << 20


def test_what_does_not_hold_still_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(5 << 20))
    stream = stream_context(tmp_path)
    list(itertools.islice(stream, 3))
    os.truncate(tmp_path / "a", 2 << 20)
    with pytest.raises(Corrupt, match="a changed while it was read"):
        list(stream)
    stream = stream_context(tmp_path)
    next(stream)
    (tmp_path / "a").unlink()
    with pytest.raises(NotFound, match="a went away"):
        list(stream)


def test_a_context_that_cannot_be_sent(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        list(stream_context(tmp_path / "no"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        with pytest.raises(Unplannable, match="sock is neither"):
            list(stream_context(tmp_path))


# -- what a Dockerfile is FROM --------------------------------------------------------------------


def test_images_that_a_dockerfile_names() -> None:
    text = """
        # FROM comment
        ARG TAG=1
        FROM --platform=$BUILDPLATFORM tools AS tools
        from nvcr.io/nvidia/tritonserver:24.10-py3-min@sha256:00 AS Base
        RUN echo \\
            # FROM inside
            FROM nowhere
        FROM base AS more
        COPY --chown=1:2 --from=nvcr.io/full:1 /a /b
        COPY --from=base /a --from=x
        COPY --from=0 /a /b
        FROM scratch
        FROM alpine:$TAG
        RUN cat <<EOF
        FROM document
        EOF
        COPY --from=nvcr.io/full:1 /c /d
        FROM last
    """
    assert base_images(text) == ("nvcr.io/nvidia/tritonserver:24.10-py3-min@sha256:00", "nvcr.io/full:1", "last")


def test_what_looks_like_a_heredoc_or_a_line_end_hides_no_image() -> None:
    text = 'FROM a\nENV A="x\u2028FROM no" B="<<EOF"\nRUN ["sh", "-c", "cat <<END"]\nFROM b\nCOPY --from=c /x /x\n'
    assert base_images(text) == ("a", "b", "c")


@pytest.mark.parametrize(
    ("name", "host", "repository"),
    [
        ("ubuntu", "docker.io", "library/ubuntu"),
        ("ubuntu:22.04", "docker.io", "library/ubuntu"),
        ("team/x@sha256:00", "docker.io", "team/x"),
        ("nvcr.io/nvidia/tritonserver:24.10-py3", "nvcr.io", "nvidia/tritonserver"),
        ("localhost/x", "localhost", "x"),
        ("127.0.0.1:5000/a/b:1@sha256:00", "127.0.0.1:5000", "a/b"),
    ],
)
def test_registries_of_names(name: str, host: str, repository: str) -> None:
    assert host_of(name) == (host, repository)


# -- BuildKit's messages --------------------------------------------------------------------------

D = "sha256:" + "5d" * 32


def number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def whole(field: int, value: int) -> bytes:
    return number(field << 3) + number(value)


def text(field: int, value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return number(field << 3 | 2) + number(len(raw)) + raw


def stamp(field: int, seconds: int, nanos: int = 0) -> bytes:
    return text(field, whole(1, seconds) + (whole(2, nanos) if nanos else b""))


def vertex(name: str, digest: str = D, *more: bytes) -> bytes:
    return text(1, text(1, digest) + text(3, name) + b"".join(more))


def log(message: bytes, digest: str = D, stream: int = 1) -> bytes:
    return text(3, text(1, digest) + stamp(2, 5) + whole(3, stream) + text(4, message))


# What Docker Engine 20.10.24 sent of `RUN echo ü; exit 7`.
RECORDED = (
    (
        "CrsBCkdzaGEyNTY6MWMwYjQ0MjRmMDc5YTYwMThhNWM5NGJmMzJhYjJiM2Y3NTFmMGU4YTY4MWRiMzE1OTJmNjk5MWVmYTJiNThiNRJH"
        "c2hhMjU2OmNiNmVjNmE5ZmEzZDQ5ZGUwYjhkOTAzMGNlMjUwOGRhMGI5OTlhZjRjYzlkOGI3Y2U5ODE3ZWRhNGIzZjQzMDIaGVsyLzJd"
        "IFJVTiBlY2hvIMO8OyBleGl0IDcqDAiJ/IXYBhCMnN7SAw=="
    ),
    (
        "Gl0KR3NoYTI1NjoxYzBiNDQyNGYwNzlhNjAxOGE1Yzk0YmYzMmFiMmIzZjc1MWYwZThhNjgxZGIzMTU5MmY2OTkxZWZhMmI1OGI1EgsI"
        "ivyF2AYQxKSHYxgBIgPDvAo="
    ),
    (
        "CowCCkdzaGEyNTY6MWMwYjQ0MjRmMDc5YTYwMThhNWM5NGJmMzJhYjJiM2Y3NTFmMGU4YTY4MWRiMzE1OTJmNjk5MWVmYTJiNThiNRJH"
        "c2hhMjU2OmNiNmVjNmE5ZmEzZDQ5ZGUwYjhkOTAzMGNlMjUwOGRhMGI5OTlhZjRjYzlkOGI3Y2U5ODE3ZWRhNGIzZjQzMDIaGVsyLzJd"
        "IFJVTiBlY2hvIMO8OyBleGl0IDcqDAiJ/IXYBhCMnN7SAzILCIr8hdgGEKCs1XY6QmV4ZWN1dG9yIGZhaWxlZCBydW5uaW5nIFsvYmlu"
        "L3NoIC1jIGVjaG8gw7w7IGV4aXQgN106IGV4aXQgY29kZTogNw=="
    ),
)


def test_what_an_engine_sent_is_understood() -> None:
    events: list[Event] = []
    listener = BuildKitListener(events.append)
    for aux in RECORDED:
        listener.hear({"id": "moby.buildkit.trace", "aux": aux})
    assert told(events)[:2] == [":2/2 begun 0 RUN echo ü; exit 7", "> ü"]
    assert isinstance(events[-1], BuildStep)
    assert (events[-1].state, 0 < events[-1].took < 1) == ("failed", True)
    assert decode_trace(base64.b64decode(RECORDED[-1])).vertexes[0].error.endswith("exit code: 7")


def test_a_trace_is_decoded() -> None:
    times = stamp(5, 1700000000, 500_000_000) + stamp(6, 1700000002)
    raw = (
        vertex("[1/2] FROM base", D, text(2, "input"), whole(4, 1), times)
        + text(2, text(1, "sha256:00") + text(2, D) + text(3, "downloading") + whole(4, 3) + whole(5, 1 << 40))
        + log("ü".encode()[:1], stream=2)
    )  # fmt: skip
    trace = decode_trace(raw)
    assert trace.vertexes == (
        Vertex(digest=D, name="[1/2] FROM base", cached=True, started=1700000000.5, completed=1700000002.0, error=""),
    )
    assert trace.statuses == (Status(id="sha256:00", vertex=D, name="downloading", current=3, total=1 << 40),)
    assert trace.logs == (Log(vertex=D, stream=2, message=b"\xc3"),)


def test_what_newer_engines_say_besides_is_passed_over() -> None:
    later = whole(4, 7) + number(9 << 3 | 1) + bytes(8) + number(2000 << 3 | 5) + bytes(4) + text(99, b"\xff\xfe")
    raw = later + vertex("[1/1] RUN x", D, text(8, "group"), number(31 << 3 | 5) + bytes(4)) + later
    (found,) = decode_trace(raw).vertexes
    assert (found.name, found.cached, found.started, found.completed) == ("[1/1] RUN x", False, None, None)


def test_numbers_below_zero_and_fields_of_another_type_are_no_trouble() -> None:
    raw = text(2, text(1, "a") + whole(4, (1 << 64) - 1) + text(5, "no number")) + whole(1, 5)
    assert decode_trace(raw).statuses == (Status(id="a", vertex="", name="", current=-1, total=0),)


@given(st.binary(max_size=200))
def test_noise_is_decoded_or_refused(raw: bytes) -> None:
    try:
        decode_trace(raw)
    except ValueError:
        return


@given(st.integers(0, 400))
def test_a_trace_that_is_cut_is_decoded_or_refused(length: int) -> None:
    raw = vertex("[1/2] RUN x", D, stamp(5, 1, 2), stamp(6, 3)) + log(b"x" * 100) + log(b"y" * 90)
    try:
        found = decode_trace(raw[:length])
    except ValueError:
        assert length < len(raw)
    else:
        assert len(found.logs) <= 2


# -- the builders' words --------------------------------------------------------------------------


def traced(*raw: bytes) -> dict[str, str]:
    return {"id": "moby.buildkit.trace", "aux": base64.b64encode(b"".join(raw)).decode()}


def told(events: list[Event]) -> list[str]:
    """What was emitted, in words."""
    words = []
    for event in events:
        if isinstance(event, BuildStep):
            place = f"{event.stage}:{event.number}/{event.total}"
            words.append(f"{place} {event.state} {event.took:g} {event.text}")
        elif isinstance(event, Logged):
            words.append(f"> {event.text}")
    return words


def test_buildkits_steps_and_their_output() -> None:
    events: list[Event] = []
    listener = BuildKitListener(events.append)
    other = "sha256:" + "00" * 32
    begun, over = stamp(5, 100), stamp(6, 104, 500_000_000)
    euro = "€".encode()
    for message in (
        traced(vertex("[internal] load remote build context", other, begun)),
        traced(vertex("[linux/amd64 prepared  2/10] RUN one;  \\\n two")),
        traced(vertex("[linux/amd64 prepared  2/10] RUN one;  \\\n two", D, begun)),
        traced(log(b"10%\r20%\r" + euro[:1]), log(b"mixed in\n", stream=2)),
        traced(log(euro[1:] + b"\nrest")),
        traced(vertex("[linux/amd64 prepared  2/10] RUN one;  \\\n two", D, begun, over)),
        traced(vertex("[linux/amd64 prepared  2/10] RUN one;  \\\n two", D, whole(4, 1), begun, over)),
        traced(vertex("[3/3] COPY a b", other, whole(4, 1), begun, stamp(6, 100))),
        {"id": "moby.image.id", "aux": {"ID": "sha256:made"}},
    ):
        listener.hear(message)
    assert listener.image == "sha256:made"
    assert told(events) == [
        "prepared:2/10 begun 0 RUN one; \\ two",
        "> mixed in",
        "> €",
        "> rest",
        "prepared:2/10 done 4.5 RUN one; \\ two",
        ":3/3 begun 0 COPY a b",
        ":3/3 cached 0 COPY a b",
    ]


def test_the_step_that_failed_is_told_from_those_that_were_stopped() -> None:
    events: list[Event] = []
    listener = BuildKitListener(events.append)
    other, third = "sha256:" + "00" * 32, "sha256:" + "11" * 32
    begun, over = stamp(5, 100), stamp(6, 101)
    listener.hear(traced(vertex("[a 1/1] RUN a", D, begun), vertex("[b 1/1] RUN b", other, begun)))
    listener.hear(traced(vertex("[c 1/1] RUN c", third, begun), log(b"why\n", other)))
    listener.hear(traced(vertex("[a 1/1] RUN a", D, begun, over, text(7, "x: context canceled"))))
    listener.hear(traced(vertex("[b 1/1] RUN b", other, begun, over, text(7, "exit code: 2"))))
    listener.fail()
    assert told(events)[-3:] == ["a:1/1 stopped 1 RUN a", "b:1/1 failed 1 RUN b", "c:1/1 stopped 0 RUN c"]
    error = explain(listener.failing, "failed to solve: process did not complete successfully: exit code: 2")
    assert error.message == "step 1 of 1 of stage b ended with 2: RUN b"
    assert isinstance(error, BuildFailed)
    assert error.detail == ("why",)


def test_traces_that_cannot_be_read_cost_progress_alone() -> None:
    events: list[Event] = []
    listener = BuildKitListener(events.append)
    for aux in ("!", "AAAA", None, base64.b64encode(b"\xff" * 20).decode(), RECORDED[0][:100]):
        listener.hear({"id": "moby.buildkit.trace", "aux": aux})
    listener.hear({"id": "something.new", "aux": {"x": 1}})
    listener.hear({"id": "moby.image.id", "aux": {"ID": "sha256:made"}})
    assert listener.image == "sha256:made"
    assert len(events) == 1


def test_layers_that_buildkit_pulls() -> None:
    events: list[Event] = []
    layer = text(1, "sha256:aa") + text(2, D) + whole(4, 30) + whole(5, 50)
    BuildKitListener(events.append).hear(traced(text(2, layer), text(2, text(1, "resolve x") + whole(4, 1))))
    assert events == [Transferred(digest="sha256:aa", title="layer", action="copied", done=30, total=50)]


def test_the_classic_builders_steps_and_their_output() -> None:
    events: list[Event] = []
    now = itertools.count()
    listener = ClassicListener(events.append, clock=lambda: next(now))
    for piece in (
        *("Step 1/3 : FROM base AS a", "\n", " ---> db69e606d950\n"),
        *("Step 2/3 : RUN echo", "\n", " ---> [Warning] IPv4 forwarding is disabled.\n"),
        *(" ---> Running in 37fee2bc1bc9\n", "\x1b[91mred\x1b[0m", "der\n", "Step 3/3 : RUN fake\n"),
        *(" ---> Using cache\n", "no end", "Removing intermediate container 37fee2bc1bc9\n", " ---> a8692a1f5002\n"),
        *("Step 3/3 : COPY a b", "\n", " ---> Using cache\n", " ---> 33e827ebb2af\n"),
    ):
        listener.hear({"stream": piece})
    listener.hear({"aux": {"ID": "sha256:made"}})
    listener.hear({"stream": "Successfully built 33e827ebb2af\n"})
    assert listener.image == "sha256:made"
    assert told(events) == [
        ":1/3 begun 0 FROM base AS a",
        ":1/3 done 1 FROM base AS a",
        ":2/3 begun 0 RUN echo",
        "> redder",
        "> Step 3/3 : RUN fake",
        ">  ---> Using cache",
        "> no end",
        ":2/3 done 1 RUN echo",
        ":3/3 begun 0 COPY a b",
        ":3/3 cached 1 COPY a b",
    ]


def test_layers_that_an_engine_pulls() -> None:
    events: list[Event] = []
    listener = PullListener(events.append)
    for status, layer, current, total in (
        ("Pulling fs layer", "aa", 0, 0),
        ("Already exists", "bb", 0, 0),
        ("Downloading", "aa", 10, 40),
        ("Downloading", "aa", 20, -1),
        ("Download complete", "aa", 0, 0),
        ("Extracting", "cc", 5, 30),
        ("Pull complete", "aa", 0, 0),
        ("Digest: sha256:00", "", 0, 0),
    ):
        listener.hear({"status": status, "id": layer, "progressDetail": {"current": current, "total": total}})
    seen = [(event.digest, event.action, event.done, event.total) for event in events if isinstance(event, Transferred)]
    assert seen == [
        ("sha256:bb", "skipped", 0, 0),
        ("sha256:aa", "copied", 10, 40),
        ("sha256:aa", "copied", 40, 40),
        ("sha256:cc", "copied", 30, 30),
    ]


@given(st.text(alphabet="ab\n\r€\x1b[0m", max_size=60), st.integers(1, 7))
def test_lines_are_the_same_however_they_are_cut(words: str, size: int) -> None:
    def lines(*pieces: str) -> list[str]:
        found: list[str] = []
        made = Lines(found.append)
        for piece in pieces:
            made.feed(piece)
        made.end()
        return found

    assert lines(*(words[at : at + size] for at in range(0, len(words), size))) == lines(words)
    assert all("\n" not in line and "\r" not in line and line for line in lines(words))


def test_a_line_without_end_is_not_kept_whole() -> None:
    found: list[str] = []
    made = Lines(found.append)
    for _ in range(1000):
        made.feed("x" * 1000)
    made.end()
    assert [len(line) for line in found] == [4000]


# -- why it failed --------------------------------------------------------------------------------


def step(*lines: str) -> Step:
    made = Step(number=7, total=12, stage="", text="RUN apt-get update", begun=0)
    made.lines.extend(lines)
    return made


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("W: Failed to fetch http://archive.ubuntu.com/x  Temporary failure resolving 'archive.ubuntu.com'", "dns"),
        ("curl: (6) Could not resolve host: developer.download.nvidia.com", "dns"),
        ("[Errno -2] Name or service not known: /simple/numpy/", "dns"),
        ("E: Failed to fetch http://x  Could not connect to x:80, connection timed out", "apt_mirror"),
        ("E: Failed to fetch http://x  Connection refused", "apt_mirror"),
        ("E: The repository 'http://x jammy Release' does not have a Release file.", "apt_mirror"),
        ("Err:5 http://x jammy/main  404  Not Found [IP: 1.2.3.4 80]", "apt_mirror"),
        ("W: GPG error: http://x: The following signatures couldn't be verified: NO_PUBKEY A4B4", "apt_key"),
        ("E: The repository 'http://x jammy InRelease' is not signed.", "apt_key"),
        ("SSLError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "ca_bundle"),
        ("curl: (60) SSL certificate problem: unable to get local issuer certificate", "ca_bundle"),
        ("Certificate verification failed: The certificate is NOT trusted.", "ca_bundle"),
        ("WARNING: Retrying ... /simple/numpy/: Failed to establish a new connection: [Errno 111]", "pip_index"),
        ("ERROR: No matching distribution found for numpy<2", "pip_index"),
        ("E: Failed to fetch http://x  407  Proxy Authentication Required", "proxy"),
    ],
)  # fmt: skip
def test_a_network_that_fails_is_mended_by_a_key_of_the_recipe(line: str, key: str) -> None:
    error = explain(step("Get:1 fine", line, "E: Some index files failed"), "returned a non-zero code: 100")
    assert error.message == "step 7 of 12 ended with 100: RUN apt-get update"
    assert f"network.{key} " in str(error.hint)
    assert isinstance(error, BuildFailed)
    assert error.detail == ("Get:1 fine", line, "E: Some index files failed")


def test_names_that_do_not_resolve_come_before_what_follows_from_it() -> None:
    lines = ("Failed to establish a new connection: Temporary failure in name resolution", "No matching distribution")
    assert "network.dns" in str(explain(step(*lines), "exit code: 1").hint)


def test_other_reasons() -> None:
    assert isinstance(explain(step("tar: x: Cannot write: No space left on device"), "exit code: 2"), NoRoom)
    assert isinstance(explain(None, "write /var/lib/docker/x: no space left on device"), NoRoom)
    assert "engine: direct" in str(explain(step("exec /bin/sh: exec format error"), "exit code: 1").hint)
    error = explain(step(), "failed to solve with frontend dockerfile.v0: failed to create LLB definition: a:\n b")
    assert error.message == "step 7 of 12 failed: RUN apt-get update: a: b"
    assert explain(None, "failed to solve: dockerfile parse error").message.endswith(
        "build this: dockerfile parse error"
    )
    assert "docker build" in str(error.hint)


def test_only_the_last_lines_are_carried() -> None:
    error = explain(step(*map(str, range(1000))), "exit code: 1")
    assert isinstance(error, BuildFailed)
    assert error.detail == tuple(map(str, range(985, 1000)))


def test_instructions_are_shortened_to_a_line() -> None:
    assert shortened("RUN  a &&\\\n\tb") == "RUN a &&\\ b"
    assert len(shortened("RUN " + "x" * 500)) == 100
