"""Ctrl-C and SIGTERM: none is lost, and none comes between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from composer.interruptions import shielded

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """SIGTERM is taken as Ctrl-C, as the command line does it; every test gives the handlers back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ours = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) is ours
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    """A signal, and time for it to act."""
    os.kill(os.getpid(), number)
    time.sleep(0)


def interrupted(act: Callable[[], None]) -> KeyboardInterrupt:
    with pytest.raises(KeyboardInterrupt) as raised:
        act()
    return raised.value


@BOTH
def test_it_is_kept_back_until_the_end(number: int) -> None:
    done = []

    def act() -> None:
        with shielded():
            send(number)
            done.append("all of it")

    interrupted(act)
    assert done == ["all of it"]


@BOTH
def test_it_acts_at_once_where_the_shield_is_lowered(number: int) -> None:
    done = []

    def act() -> None:
        with shielded() as shield:
            try:
                with shield.lowered():
                    send(number)
                    done.append("never")
            finally:
                send(number)
                done.append("cleared away")

    interrupted(act)
    assert done == ["cleared away"]


def test_it_acts_before_what_is_lowered_next() -> None:
    def act() -> None:
        with shielded() as shield:
            send(signal.SIGINT)
            with shield.lowered():
                pytest.fail("it was told before")

    interrupted(act)


def test_shields_are_nested() -> None:
    done = []

    def act() -> None:
        with shielded() as outer:
            with shielded() as inner, inner.lowered():
                send(signal.SIGINT)
                done.append("the outer one keeps it back")
            with outer.lowered():
                pytest.fail("it was told before")

    interrupted(act)
    assert done == ["the outer one keeps it back"]


def test_a_fault_within_is_not_lost() -> None:
    def act() -> None:
        with shielded():
            send(signal.SIGINT)
            raise ValueError("no")

    assert isinstance(interrupted(act).__context__, ValueError)


def test_in_another_thread_nothing_is_kept_back() -> None:
    seen: list[Any] = []

    def within() -> None:
        with shielded() as shield, shield.lowered():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=within)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


LISTENING = """
import os, signal, sys, time, weakref
from composer.interruptions import listen, settled, shielded
listen()
def send():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0)
"""


def ended(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", LISTENING + script], capture_output=True, text=True, timeout=20)


LOST = """
class Thing:
    pass
def gone(reference):
    send()
thing = Thing()
reference = weakref.ref(thing, gone)
try:
    del thing
    {wait}
except KeyboardInterrupt:
    print("told")
"""


@pytest.mark.parametrize("wait", ["time.sleep(5)", "with shielded() as shield, shield.lowered(): time.sleep(5)"])
def test_one_that_python_drops_comes_again(wait: str) -> None:
    """Raised in a callback of the garbage collection it is lost: Python only writes that it was."""
    said = ended(LOST.format(wait=wait))
    assert (said.stdout, said.stderr) == ("told\n", "")


SWALLOWED = """
try:
    {swallow}
    with shielded() as shield:
        time.sleep(0.3)
        print("kept back")
        with shield.lowered():
            time.sleep(5)
except KeyboardInterrupt:
    print("told")
"""


@pytest.mark.parametrize("swallow", ["try:\n        send()\n    except BaseException: pass", "hasattr(Sly(), 'x')"])
def test_one_that_was_swallowed_comes_again(swallow: str) -> None:
    """Wherever it was: nobody handles it any more. A shield keeps back the second as it does the first."""
    sly = "class Sly:\n    def __getattr__(self, name):\n        try: send()\n        except BaseException: pass\n"
    said = ended(sly + SWALLOWED.format(swallow=swallow))
    assert (said.stdout, said.stderr) == ("kept back\ntold\n", "")


def test_one_that_is_being_handled_does_not() -> None:
    """However long that takes, and whatever else goes wrong meanwhile."""
    script = """
from contextlib import contextmanager
@contextmanager
def thing():
    try:
        yield
    finally:
        try:
            raise ValueError
        except ValueError:
            time.sleep(0.4)
        time.sleep(0.4)
        print("cleared away")
try:
    with thing():
        send()
except KeyboardInterrupt:
    time.sleep(0.4)
    print("told")
    settled()
time.sleep(0.4)
print("over")
"""
    said = ended(script)
    assert (said.stdout, said.stderr) == ("cleared away\ntold\nover\n", "")


MISTAKEN = """
import click
from composer import command
@click.group(cls=command.Tool)
def tool():
    pass
@command.command("fails", tool)
def fails():
    try:
        send()
    except KeyboardInterrupt as error:
        raise {fault} from None
print(command.run(tool, ["fails"]))
"""


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        ("RuntimeError('the schema is broken')", 130, "interrupted\n"),
        ("__import__('composer.errors').errors.NoRoom('full')", 13, "error: full\n"),
    ],
)
def test_one_that_a_library_takes_for_something_else(fault: str, status: int, said: str) -> None:
    """Interrupted while it makes a schema, pydantic says that the schema is wrong: that is no bug of ours."""
    ran = ended(MISTAKEN.format(fault=fault))
    assert (ran.stdout, ran.stderr) == (f"{status}\n", said)


def test_there_is_one_only() -> None:
    said = ended("try:\n    send()\nexcept KeyboardInterrupt:\n    send()\n    print('cleared away')\n    settled()")
    assert (said.stdout, said.returncode) == ("cleared away\n", 0)


def test_what_else_python_drops_is_told_as_ever() -> None:
    script = "class Thing:\n    def __del__(self):\n        raise ValueError('no')\nThing()\nprint('on')"
    said = ended(script)
    assert said.stdout == "on\n"
    assert "ValueError: no" in said.stderr


def test_any_moment_at_all() -> None:
    """Whatever is made is taken away, wherever the signal comes: 300 moments, one after the other."""
    script = """
import threading
from contextlib import contextmanager
there = set()
@contextmanager
def thing(name):
    with shielded() as shield:
        there.add(name)
        try:
            with shield.lowered():
                yield
        finally:
            there.discard(name)
signal.signal(signal.SIGINT, signal.default_int_handler)
told = 0
for moment in range(300):
    timer = threading.Timer(moment / 300 * 0.003, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        end = time.monotonic() + 0.004
        while time.monotonic() < end:
            with thing("a"), thing("b"):
                pass
        timer.join()
        time.sleep(0.001)
    except KeyboardInterrupt:
        told += 1
    assert not there, there
print(told)
"""
    said = ended(script)
    assert (said.stdout, said.stderr) == ("300\n", "")
