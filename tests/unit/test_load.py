"""The load generator against peers that answer, fail, hang and lie: what is counted, measured and said of each."""

from __future__ import annotations

import math
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import numpy
import pytest
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as some

from composer.load import Closed, GrpcWire, HttpWire, Measured, Open, Wire, frames, measure
from composer.load.connection import Address
from composer.load.http1 import dechunk
from composer.load.records import Recorder, percentile

METHOD = "/inference.GRPCInferenceService/ModelInfer"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"


# -- peers --------------------------------------------------------------------------------------------------------


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """A server that gives each connection to `serve`, in a thread of its own."""
    opened: list[socket.socket] = []

    def one(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            serve(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                opened.append(connection)
                threading.Thread(target=one, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listener.getsockname()
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for connection in opened:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


def each_in_turn(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    """One connection after another."""
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                serve(connection)


class Http:
    """Answers each HTTP request with what `answer` makes of its number; None closes the connection."""

    def __init__(self, answer: Callable[[int], bytes | None]) -> None:
        self._answer = answer
        self._lock = threading.Lock()
        self.requests: list[bytes] = []
        self.connections = 0

    def __call__(self, connection: socket.socket) -> None:
        with self._lock:
            self.connections += 1
        with connection.makefile("rb") as reader:
            while request := self._read(reader):
                with self._lock:
                    self.requests.append(request)
                    number = len(self.requests)
                answer = self._answer(number)
                if answer is None:
                    return
                connection.sendall(answer)

    def _read(self, reader: Any) -> bytes:
        head = b""
        while (line := reader.readline()) not in (b"\r\n", b""):
            head += line
        size = next((int(one.split(b":")[1]) for one in head.split(b"\r\n") if one.startswith(b"Content-Length")), 0)
        return head + reader.read(size)


def http(address: tuple[str, int], body: bytes = b"question") -> HttpWire:
    return HttpWire(address=address, path="/ask", headers={"Content-Type": "text/plain"}, body=body)


def good(head: bytes, body: bytes) -> str | None:
    return None if body == b"good" else f"it says {body.decode()}"


# -- HTTP/1.1 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 5])
def test_a_closed_loop_sends_as_many_as_asked_over_as_many_connections(concurrency: int) -> None:
    peer = Http(lambda number: OK)
    with listening(peer) as address:
        found = measure(http(address), Closed(concurrency=concurrency), requests=50, warmup=7, verify=good)
    assert (found.sent, found.ok, found.errors, found.stopped) == (50, 50, {}, "")
    assert (found.verified, found.wrong) == (50, {})
    assert len(peer.requests) == 57
    assert peer.connections == concurrency + 1, "one more looks which address answers"
    assert peer.requests[0].startswith(b"POST /ask HTTP/1.1\r\nHost: 127.0.0.1:")
    assert peer.requests[0].endswith(b"question")


def test_a_closed_loop_never_has_more_under_way() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def answer(number: int) -> bytes:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.002)
        with lock:
            now -= 1
        return OK

    with listening(Http(answer)) as address:
        measure(http(address), Closed(concurrency=4), requests=100)
    assert most == 4


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=1\r\ngo\r\n2\r\nod\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ngood",
        b"HTTP/1.1 200\r\ncontent-length:4\r\n\r\ngood",
    ],
    ids=["chunked", "closed", "terse"],
)
def test_forms_of_an_answer(answer: bytes) -> None:
    with listening(Http(lambda number: answer)) as address:
        found = measure(http(address), Closed(concurrency=2), requests=20, verify=good)
    assert (found.ok, found.errors, found.verified, found.wrong) == (20, {}, 20, {})


def test_an_answer_that_ends_with_its_connection() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(9999)
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\ngo")
        connection.sendall(b"od")

    with listening(serve) as address:
        found = measure(http(address), Closed(concurrency=2), requests=10, verify=good)
    assert (found.ok, found.errors, found.wrong) == (10, {}, {})


def test_an_answer_that_comes_byte_by_byte() -> None:
    def serve(connection: socket.socket) -> None:
        while connection.recv(9999):
            for byte in OK:
                connection.sendall(bytes([byte]))
                time.sleep(0.0002)

    with listening(serve) as address:
        found = measure(http(address), Closed(concurrency=1), requests=5, verify=good)
    assert (found.ok, found.wrong) == (5, {})


def test_large_bodies_both_ways() -> None:
    back = bytes(range(256)) * 20_000
    peer = Http(lambda number: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(back) + back)
    with listening(peer) as address:
        wire = http(address, body=b"x" * 7_000_000)
        found = measure(wire, Closed(concurrency=2), requests=6, verify=lambda _, body: None if body == back else "no")
    assert (found.ok, found.errors, found.verified, found.wrong) == (6, {}, 6, {})
    assert {len(request.partition(b"text/plain\r\nContent-Length: 7000000\r\n")[2]) for request in peer.requests} == {
        7_000_000
    }


def test_failures_are_counted_by_reason() -> None:
    refusal = b'HTTP/1.1 400 Bad Request\r\nContent-Length: 16\r\n\r\n{"error": "no!"}'

    def answer(number: int) -> bytes | None:
        return {0: refusal, 1: None}.get(number % 5, OK)

    with listening(Http(answer)) as address:
        found = measure(http(address), Closed(concurrency=1), requests=50)
    assert found.errors == {
        'HTTP 400: {"error": "no!"}': 10,
        "the server closed the connection without an answer": 10,
    }
    assert (found.sent, found.ok, found.error_rate, len(found.latencies)) == (50, 30, 0.4, 30)


def test_wrong_answers_are_told_from_right_ones() -> None:
    wrong = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad"
    with listening(Http(lambda number: wrong if number % 4 == 0 else OK)) as address:
        every = measure(http(address), Closed(concurrency=1), requests=40, verify=good)
        third = measure(http(address), Closed(concurrency=1), requests=40, verify=good, verify_every=3)
    assert (every.ok, every.verified, every.wrong) == (40, 40, {"it says bad": 10})
    assert third.verified == 14
    assert 0 < sum(third.wrong.values()) < 10


def test_equal_answers_are_verified_once() -> None:
    calls = []
    with listening(Http(lambda number: OK)) as address:
        found = measure(
            http(address), Closed(concurrency=3), requests=60, verify=lambda *answer: calls.append(answer), warmup=5
        )
    assert (found.verified, len(calls)) == (60, 1)


def test_what_is_no_http_is_said() -> None:
    with listening(Http(lambda number: b"220 mail.example.com ESMTP\r\n\r\n")) as address:
        found = measure(http(address), Closed(concurrency=1), requests=3)
    assert found.errors == {"the server does not speak HTTP/1.1": 3}


def test_more_than_was_announced_is_a_failure() -> None:
    with listening(Http(lambda number: OK + b"more")) as address:
        found = measure(http(address), Closed(concurrency=1), requests=3)
    assert found.errors == {"the server sends more than it announces": 3}


@pytest.mark.parametrize("how", ["Content-Length: 300000", "Transfer-Encoding: chunked", "Connection: close"])
def test_answers_without_end_take_no_memory_without_end(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("composer.load.http1._MOST", 1 << 17)
    body = b"40000\r\n" + bytes(1 << 18)
    with listening(Http(lambda number: f"HTTP/1.1 200 OK\r\n{how}\r\n\r\n".encode() + body)) as address:
        found = measure(http(address), Closed(concurrency=1), requests=2, timeout=5)
    assert found.errors == {"the answer is larger than 256 MiB": 2}


@given(some.lists(some.binary(min_size=1, max_size=20)), some.integers(0, 30))
def test_chunks(parts: list[bytes], cut: int) -> None:
    data = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    assert dechunk(data) == b"".join(parts)
    assert dechunk(data[: -min(len(data), cut + 1)]) is None


# -- nothing hangs ------------------------------------------------------------------------------------------------


def test_a_request_that_is_never_answered_fails_in_time() -> None:
    def answer(number: int) -> bytes:
        if number % 3 == 0:
            time.sleep(5)
        return OK

    with listening(Http(answer)) as address:
        begun = time.monotonic()
        found = measure(http(address), Closed(concurrency=1), requests=6, timeout=0.3)
    assert time.monotonic() - begun < 1.5
    assert (found.ok, found.errors) == (4, {"no answer within 0.3 s": 2})
    assert max(found.latencies) < 0.3


def test_a_server_that_answers_nothing_is_given_up() -> None:
    with listening(lambda connection: time.sleep(10)) as address:
        begun = time.monotonic()
        found = measure(http(address), Closed(concurrency=2), requests=1000, timeout=0.2)
    assert 0.6 < time.monotonic() - begun < 1.5
    assert found.stopped == "nothing was answered for 0.6 s"
    assert found.errors["no answer within 0.2 s"] >= 4


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    found = measure(http(address), Closed(concurrency=2), requests=10)
    assert found == Measured(stopped="the server refuses connections")
    assert math.isnan(found.percentile(99))
    assert measure(http(("no.such.host.invalid", 1)), Closed(concurrency=1), requests=1).stopped.startswith(
        "the host no.such.host.invalid is not known"
    )


def test_a_server_that_goes_away_is_given_up() -> None:
    def serve(connection: socket.socket) -> None:
        while connection.recv(9999):
            if time.monotonic() > begun + 0.3:
                listener.close()
                return
            connection.sendall(OK)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=each_in_turn, args=(listener, serve), daemon=True).start()
        begun = time.monotonic()
        found = measure(http(listener.getsockname()), Open(rate=100), seconds=60, timeout=0.5)
    assert found.ok > 20
    assert found.stopped in ("the server refuses connections", "the server accepts no connection within 0.5 s")
    assert time.monotonic() - begun < 3


def test_a_server_that_dies_in_the_middle() -> None:
    served = 0

    def serve(connection: socket.socket) -> None:
        nonlocal served
        while connection.recv(9999):
            served += 1
            if served > 20:
                listener.close()
                return
            connection.sendall(OK)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=each_in_turn, args=(listener, serve), daemon=True).start()
        begun = time.monotonic()
        found = measure(http(listener.getsockname()), Closed(concurrency=1), seconds=60, timeout=0.5)
    assert time.monotonic() - begun < 5
    assert found.ok == 20
    assert found.errors["the server closed the connection without an answer"] >= 1
    assert found.stopped


def test_the_whole_ends_in_time() -> None:
    def answer(number: int) -> bytes:
        time.sleep(0.05)
        return OK

    with listening(Http(answer)) as address:
        begun = time.monotonic()
        found = measure(http(address), Closed(concurrency=2), requests=10_000, deadline=0.5)
    assert time.monotonic() - begun < 3
    assert found.stopped == "the time for the whole load is over"
    assert 1 <= found.ok <= 20


# -- an open loop -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [50, 400])
def test_an_open_loop_sends_by_the_clock(rate: int) -> None:
    arrived: list[float] = []

    def answer(number: int) -> bytes:
        arrived.append(time.monotonic())
        return OK

    with listening(Http(answer)) as address:
        found = measure(http(address), Open(rate=rate), seconds=0.5)
    assert (found.sent, found.ok) == (rate / 2, rate / 2)
    assert 0.45 < found.seconds < 1.5
    assert arrived[-1] - arrived[0] == pytest.approx(0.5, abs=0.3)
    assert percentile(found.late, 50) < 0.05


def test_a_halt_of_the_server_is_paid_for_by_all_that_were_due() -> None:
    """One halt of half a second in a second and a half: a closed loop sees it once, an open one a hundred times."""
    halted = threading.Event()
    lock = threading.Lock()

    def answer(number: int) -> bytes:
        with lock:
            if number == 100:
                halted.set()
                time.sleep(0.5)
        return OK

    with listening(Http(answer)) as address:
        found = measure(http(address), Open(rate=200), requests=300)
        assert halted.is_set()
    with listening(Http(answer)) as address:
        spared = measure(http(address), Closed(concurrency=1), requests=300)
    assert found.ok == spared.ok == 300
    waited = [latency for latency in found.latencies if latency > 0.02]
    assert len(waited) >= 90
    assert sum(waited) > 0.9 * 100 * 0.25, "each from when it was due"
    assert found.percentile(99) > 0.45
    assert sum(latency > 0.4 for latency in spared.latencies) == 1


def test_a_server_that_is_too_slow_for_the_rate_does_not_slow_the_rate() -> None:
    peer = Http(lambda number: time.sleep(0.1) or OK)  # type: ignore[func-returns-value]
    with listening(peer) as address:
        found = measure(http(address), Open(rate=200), seconds=0.5)
    assert found.ok == 100
    assert peer.connections > 15, "as many as it takes"
    assert found.seconds < 2, "one connection would take 10"


def test_waiting_for_room_costs_no_time_of_the_processor() -> None:
    """A server with one place: all of a second something is due, and cannot be sent."""
    with grpc_server(lambda message, context: pause(message, 0.05), ("grpc.max_concurrent_streams", 1)) as address:
        found = measure(GrpcWire(address=address, path=METHOD, message=b"x"), Open(rate=200), seconds=1, timeout=2)
    assert found.cpu_seconds < 0.5


def pause(message: bytes, seconds: float) -> bytes:
    time.sleep(seconds)
    return message


def test_what_is_not_sent_in_time_fails() -> None:
    """A server that takes one connection and no more: the others wait, and fail."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        held = []

        def accept() -> None:
            with suppress(OSError):
                held.append(listener.accept()[0])  # the one that looks which address answers
                held.append(listener.accept()[0])
                while held[1].recv(9999):
                    time.sleep(0.05)
                    held[1].sendall(OK)

        threading.Thread(target=accept, daemon=True).start()
        begun = time.monotonic()
        found = measure(http(listener.getsockname()), Open(rate=100), seconds=1, timeout=0.4)
    for connection in held:
        connection.close()
    assert time.monotonic() - begun < 3
    assert found.ok
    assert found.sent == found.ok + sum(found.errors.values()) > 40
    assert found.errors["could not be sent within 0.4 s: no connection was free"] > 20


# -- gRPC ---------------------------------------------------------------------------------------------------------


@contextmanager
def grpc_server(answer: Callable[[bytes, grpc.ServicerContext], bytes], *options: Any) -> Iterator[tuple[str, int]]:
    """The library's own server, which shares nothing with what is tested. Messages are plain bytes."""

    class Any(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            assert details.method == METHOD
            return grpc.unary_unary_rpc_method_handler(answer)

    options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), *options)
    server = grpc.server(ThreadPoolExecutor(16), options=options)
    server.add_generic_rpc_handlers([Any()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield "127.0.0.1", port
    finally:
        server.stop(None)


def call(address: tuple[str, int], message: bytes = b"question") -> GrpcWire:
    return GrpcWire(address=address, path=METHOD, message=message)


def reversed_(head: bytes, body: bytes) -> str | None:
    return None if body == b"noitseuq" else f"it says {body!r}"


@pytest.mark.parametrize("shape", [Closed(concurrency=1), Closed(concurrency=40), Open(rate=300)])
def test_grpc(shape: Closed | Open) -> None:
    with grpc_server(lambda message, context: message[::-1]) as address:
        found = measure(call(address), shape, requests=200, warmup=10, verify=reversed_)
    assert (found.sent, found.ok, found.errors, found.stopped) == (200, 200, {}, "")
    assert (found.verified, found.wrong) == (200, {})


@pytest.mark.parametrize("size", [0, 16_379, 16_380, 70_000, 5_000_000])
def test_grpc_messages_of_any_size_both_ways(size: int) -> None:
    message = bytes(range(251)) * (size // 251 + 1)
    message = message[:size]
    with grpc_server(lambda message, context: message[::-1]) as address:
        found = measure(
            call(address, message),
            Closed(concurrency=5),
            requests=30,
            verify=lambda _, body: None if body == message[::-1] else "no",
        )
    assert (found.ok, found.errors, found.verified, found.wrong) == (30, {}, 30, {})


def test_grpc_calls_that_fail_say_why() -> None:
    count = iter(range(10_000))

    def answer(message: bytes, context: grpc.ServicerContext) -> bytes:
        if next(count) % 2:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "für 100 % daneben")
        return message

    with grpc_server(answer) as address:
        found = measure(call(address), Closed(concurrency=4), requests=100)
    assert found.errors == {"INVALID_ARGUMENT: für 100 % daneben": 50}
    assert found.ok == 50


def test_grpc_calls_that_are_never_answered_fail_in_time_and_spare_the_others() -> None:
    count = iter(range(10_000))

    def answer(message: bytes, context: grpc.ServicerContext) -> bytes:
        if next(count) % 5 == 0:
            time.sleep(1)
        return message

    with grpc_server(answer) as address:
        found = measure(call(address), Closed(concurrency=4), requests=20, timeout=0.2)
    assert (found.ok, found.errors) == (16, {"no answer within 0.2 s": 4})


def test_grpc_server_that_closes_its_connections_now_and_then_loses_nothing() -> None:
    """GOAWAY: what it has not looked at is sent again, over a new connection."""
    options = (("grpc.max_connection_age_ms", 100), ("grpc.max_connection_age_grace_ms", 10_000))
    with grpc_server(lambda message, context: time.sleep(0.001) or message[::-1], *options) as address:  # type: ignore[func-returns-value]
        found = measure(call(address), Closed(concurrency=4), seconds=1.0, verify=reversed_)
    assert (found.errors, found.wrong, found.stopped) == ({}, {}, "")
    assert found.ok > 50


def test_grpc_server_with_few_streams_to_a_connection() -> None:
    with grpc_server(lambda message, context: message[::-1], ("grpc.max_concurrent_streams", 3)) as address:
        found = measure(call(address), Closed(concurrency=10), requests=300, verify=reversed_)
    assert (found.ok, found.errors) == (300, {})


def test_grpc_over_http1_is_said_to_be_none() -> None:
    with listening(Http(lambda number: OK)) as address:
        found = measure(call(address), Closed(concurrency=1), requests=3, timeout=0.3)
    assert found.stopped == "the server does not speak HTTP/2"


# -- HTTP/2, frame by frame ---------------------------------------------------------------------------------------


class Script:
    """An HTTP/2 server that answers the first call on a connection as told, and keeps what it was sent."""

    def __init__(self, *answer: bytes, settings: dict[int, int] | None = None) -> None:
        self._answer = answer
        self._settings = settings or {}
        self.frames: list[tuple[int, int, int, bytes]] = []
        self.over = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as reader:
            preface = reader.read(len(frames.PREFACE))
            if not preface:
                return
            assert preface == frames.PREFACE
            connection.sendall(frames.settings(self._settings))
            self._until(reader, lambda kind, flags: kind == frames.DATA and bool(flags & frames.END_STREAM))
            for piece in self._answer:
                connection.sendall(piece)
                time.sleep(0.005)
            self._until(reader, lambda kind, flags: False)
        self.over.set()

    def _until(self, reader: Any, enough: Callable[[int, int], bool]) -> None:
        while len(head := reader.read(9)) == 9:
            upper, lower, kind, flags, stream = frames.FRAME.unpack(head)
            self.frames.append((kind, flags, stream, reader.read(upper << 8 | lower)))
            if enough(kind, flags):
                return


def block(**headers: str) -> bytes:
    """A header block of the library's own, Huffman and all."""
    encoder = Encoder()
    encoder.header_table_size = 0
    return encoder.encode([(name.replace("_", "-"), value) for name, value in headers.items()], huffman=True)


FIRST = block(**{":status": "200", "content_type": "application/grpc"})
LAST = block(grpc_status="0", grpc_message="")
PADDED_AND_MORE = frames.END_HEADERS | frames.PADDED | frames.PRIORITY
MESSAGE = b"\x00\x00\x00\x00\x04good"
HEADERS = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, FIRST)
BODY = frames.frame(frames.DATA, 0, 1, MESSAGE)
TRAILERS = frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, LAST)


def scripted(script: Script, message: bytes = b"question") -> Measured:
    with listening(script) as address:
        found = measure(call(address, message), Closed(concurrency=1), requests=1, timeout=1, verify=good)
        assert script.over.wait(5)
        return found


@pytest.mark.parametrize(
    "answer",
    [
        [HEADERS + BODY + TRAILERS],
        [HEADERS, BODY, TRAILERS],
        [bytes([one]) for one in HEADERS + BODY + TRAILERS],
        [HEADERS, *(frames.frame(frames.DATA, 0, 1, MESSAGE[at : at + 2]) for at in range(0, 9, 2)), TRAILERS],
        [HEADERS + frames.frame(frames.DATA, frames.PADDED, 1, b"\x03" + MESSAGE + b"\0\0\0") + TRAILERS],
        [
            frames.frame(frames.HEADERS, 0, 1, FIRST[:3])
            + frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, FIRST[3:])
            + BODY
            + frames.frame(frames.HEADERS, frames.END_STREAM, 1, LAST[:1])
            + frames.frame(frames.CONTINUATION, 0, 1, LAST[1:2])
            + frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, LAST[2:])
        ],
        [
            frames.frame(frames.HEADERS, PADDED_AND_MORE, 1, b"\2\0\0\0\0\7" + FIRST + b"\0\0"),
            BODY + frames.frame(0xFA, 0, 1, b"of a kind that nobody knows") + TRAILERS,
        ],
        [frames.window_update(0, 5) + frames.settings({frames.MAX_FRAME: 20_000}) + HEADERS + BODY + TRAILERS],
    ],
    ids=["at once", "in turn", "dripped", "in parts", "padded", "continued", "prioritized", "amid others"],
)  # fmt: skip
def test_forms_of_a_grpc_answer(answer: Sequence[bytes]) -> None:
    found = scripted(Script(*answer))
    assert (found.ok, found.errors, found.verified, found.wrong) == (1, {}, 1, {})


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ([HEADERS + TRAILERS], "the answer is not one message"),
        ([HEADERS + BODY + BODY + TRAILERS], "the answer is not one message"),
        ([HEADERS, frames.frame(frames.DATA, 0, 1, b"\x01" + MESSAGE[1:]), TRAILERS], "the answer is not one message"),
        (
            [HEADERS, frames.frame(frames.DATA, frames.END_STREAM, 1, MESSAGE)],
            "the server ended the call without a status",
        ),
        (
            [frames.frame(frames.HEADERS, 5, 1, block(**{":status": "200"}, grpc_status="14", grpc_message="a%20b"))],
            "UNAVAILABLE: a b",
        ),
        ([frames.frame(frames.HEADERS, 5, 1, block(**{":status": "502"}))], "HTTP 502 instead of a gRPC answer"),
        ([frames.frame(frames.HEADERS, 5, 1, block(grpc_status="99"))], "status 99: "),
        ([frames.frame(frames.RST_STREAM, 0, 1, struct.pack(">I", 2))], "the server reset the call (HTTP/2 error 2)"),
        ([frames.frame(frames.HEADERS, 5, 1, b"\xff\xff\xff")], "the server sends headers that cannot be read"),
        ([frames.frame(frames.DATA, 0, 1, b"x" * 20_000)], "the server does not speak HTTP/2"),
        ([HEADERS], "no answer within 1 s"),
    ],
)  # fmt: skip
def test_grpc_answers_that_are_none(answer: Sequence[bytes], why: str) -> None:
    found = scripted(Script(*answer))
    assert (found.ok, found.errors) == (0, {why: 1})


def test_a_ping_is_answered() -> None:
    script = Script(frames.frame(frames.PING, 0, 0, b"12345678"), HEADERS + BODY + TRAILERS)
    assert scripted(script).ok == 1
    assert (frames.PING, frames.ACK, 0, b"12345678") in script.frames


def test_what_is_announced_and_asked() -> None:
    script = Script(HEADERS + BODY + TRAILERS)
    scripted(script)
    kinds = [frame[0] for frame in script.frames]
    assert kinds[:5] == [frames.SETTINGS, frames.WINDOW_UPDATE, frames.SETTINGS, frames.HEADERS, frames.DATA]
    assert frames.read_settings(script.frames[0][3])[frames.TABLE_SIZE] == 0
    assert frames.read_headers(script.frames[3][3])[":path"] == METHOD
    assert script.frames[4][3] == b"\x00\x00\x00\x00\x08question"


def test_flow_control_is_heeded() -> None:
    """A window of ten bytes for each stream: the message comes in parts, each as large as was allowed."""
    more = (frames.window_update(1, 7), frames.window_update(1, 100))
    script = Script(settings={frames.INITIAL_WINDOW: 10})
    sent = b"q" * 30

    def serve(connection: socket.socket) -> None:
        with connection.makefile("rb") as reader:
            reader.read(len(frames.PREFACE))
            connection.sendall(frames.settings({frames.INITIAL_WINDOW: 10}))
            for update in more:
                script._until(reader, lambda kind, flags: kind == frames.DATA)
                time.sleep(0.02)
                connection.sendall(update)
            script._until(reader, lambda kind, flags: kind == frames.DATA)
            connection.sendall(HEADERS + BODY + TRAILERS)

    with listening(serve) as address:
        found = measure(call(address, sent), Closed(concurrency=1), requests=1, timeout=2, verify=good)
    assert (found.ok, found.errors, found.wrong) == (1, {}, {})
    data = [(flags, payload) for kind, flags, _, payload in script.frames if kind == frames.DATA]
    assert [len(payload) for _, payload in data] == [10, 7, 18]
    assert [flags for flags, _ in data] == [0, 0, frames.END_STREAM]
    assert b"".join(payload for _, payload in data)[5:] == sent


def test_a_call_that_the_server_did_not_look_at_is_sent_again() -> None:
    refused = frames.frame(frames.RST_STREAM, 0, 1, struct.pack(">I", frames.REFUSED_STREAM))
    second = b"".join(one[:5] + b"\0\0\0\3" + one[9:] for one in (HEADERS, BODY, TRAILERS))
    script = Script(refused, second)
    found = scripted(script)
    assert (found.sent, found.ok, found.errors) == (1, 1, {})
    assert [stream for kind, _, stream, _ in script.frames if kind == frames.DATA] == [1, 3]


def test_a_server_that_allows_no_call_is_given_up() -> None:
    script = Script(settings={frames.MAX_STREAMS: 0})
    with listening(script) as address:
        begun = time.monotonic()
        found = measure(call(address), Closed(concurrency=3), requests=5, timeout=0.4)
    assert time.monotonic() - begun < 3
    assert (found.sent, found.stopped) == (0, "no connection takes a request")


def test_settings_come_first() -> None:
    with listening(lambda connection: time.sleep(5)) as address:
        found = measure(call(address), Closed(concurrency=1), requests=1, timeout=0.3)
    assert found.stopped.startswith("0 of 1 connections could be made: the server accepts no connection within 0.3 s")


@pytest.fixture(scope="module")
def quiet() -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        yield Address(socket.AF_INET, listener.getsockname())


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECES = some.one_of(
    some.binary(max_size=60),
    some.sampled_from([HEADERS, BODY, TRAILERS, OK, CHUNKED, b"-1\r\n", b"\r\n\r\n"]),
    some.builds(
        frames.frame,
        some.integers(0, 10),
        some.integers(0, 255),
        some.sampled_from([0, 1, 3]),
        some.binary(max_size=20),
    ),
)


@pytest.mark.parametrize("wire", [http(("h", 1)), call(("h", 1))], ids=["http", "grpc"])
@given(pieces=some.lists(PIECES, max_size=6))
def test_whatever_a_server_sends_nothing_breaks(quiet: Address, wire: HttpWire | GrpcWire, pieces: list[bytes]) -> None:
    """The request is over once, or still under way, and the end of the connection is the end."""
    connection = wire.connect(quiet)
    try:
        connection.send(1.0)
        over = [done for piece in [*pieces, b""] if not connection.broken for done in connection._take(piece)]
        assert len(over) + len(connection.pending()) == 1
        assert connection.broken
    finally:
        connection.close()


@given(
    some.dictionaries(some.text("abcdefgh-", min_size=1), some.text(some.characters(max_codepoint=255), max_size=300))
)
def test_header_blocks(headers: dict[str, str]) -> None:
    assert frames.read_headers(frames.header_block(headers.items())) == headers


def test_a_header_block_that_relies_on_others_is_refused() -> None:
    encoder = Encoder()
    first, second = (encoder.encode([("some", "header")]) for _ in range(2))
    assert frames.read_headers(b"\x20" + first) == {"some": "header"}
    with pytest.raises(ValueError, match="no header block"):
        frames.read_headers(second)


# -- figures ------------------------------------------------------------------------------------------------------


@given(some.lists(some.floats(0, 100), min_size=1), some.sampled_from([0, 50, 90, 95, 99, 99.9, 100]))
def test_percentiles_are_those_of_numpy(values: list[float], percent: float) -> None:
    assert percentile(sorted(values), percent) == numpy.percentile(values, percent, method="inverted_cdf")


def test_percentiles_of_round_numbers() -> None:
    values = [float(one) for one in range(1, 1001)]
    assert [percentile(values, percent) for percent in (50, 99, 99.9, 100)] == [500, 990, 999, 1000]


def test_what_a_recorder_makes_of_it() -> None:
    recorder = Recorder(100.0)
    recorder.sent = 5
    for ended, latency in ((100.5, 0.1), (100.9, 0.3), (103.2, 0.2)):
        recorder.ok(ended - latency, ended)
    recorder.failed("no", 103.5)
    found = recorder.measured(cpu_seconds=0.5, stopped="")
    assert (found.seconds, found.ok, found.errors) == (3.5, 3, {"no": 1})
    assert found.throughput == pytest.approx(3 / 3.5)
    assert [round(one, 6) for one in found.latencies] == [0.1, 0.2, 0.3]
    assert [(one.number, one.answers) for one in found.timeline] == [(0, 2), (1, 0), (2, 0), (3, 1)]
    assert found.timeline[0].p99 == pytest.approx(0.3)


@given(some.lists(some.floats(1e-7, 100), max_size=50))
def test_histograms_hold_everything_once(values: list[float]) -> None:
    buckets = Measured(latencies=sorted(values)).histogram()
    assert sum(count for _, count in buckets) == len(values)
    below = 0
    for upper, count in buckets:
        below += count
        assert sum(value <= upper * (1 + 1e-9) for value in values) >= below


def test_reasons_are_not_told_apart_without_end() -> None:
    recorder = Recorder(0.0)
    for number in range(100):
        recorder.failed(f"reason {number}", 1.0)
    found = recorder.measured(cpu_seconds=0, stopped="")
    assert len(found.errors) == 21
    assert found.errors["other reasons"] == 80


def test_what_the_client_uses_is_its_own_time() -> None:
    """Not that of other threads, which here are the server's."""

    def answer(number: int) -> bytes:
        end = time.thread_time() + 0.01
        while time.thread_time() < end:
            pass
        return OK

    with listening(Http(answer)) as address:
        found = measure(http(address), Closed(concurrency=1), requests=30)
    assert found.seconds > 0.3
    assert 0 < found.cpu_seconds < 0.1


def test_a_wire_says_where_it_goes() -> None:
    wires: list[Wire] = [http(("127.0.0.1", 1)), call(("127.0.0.1", 1))]
    assert [wire.places for wire in wires] == [1, 16]
