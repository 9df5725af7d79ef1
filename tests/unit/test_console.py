"""What people and programs see while a command is at work, and when it is done."""

from __future__ import annotations

import errno
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console as Terminal
from rich.text import Text

from composer import errors, words
from composer.checks import About, Report, Result
from composer.console import Console
from composer.console.failures import Failure, explain
from composer.console.progress import JsonLines, Lively, Plain, Silent, Stage
from composer.console.proofs import report_text
from composer.events import BuildStep, Event, Logged, StageFinished, StageStarted, Transferred, Warned
from tests import proofs

MB = 1_000_000


class Clock:
    """Time that passes when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def terminal(**how: Any) -> Terminal:
    return Terminal(file=io.StringIO(), width=100, markup=False, highlight=False, emoji=False, **how)


def text_of(terminal_: Terminal) -> str:
    assert isinstance(terminal_.file, io.StringIO)
    return terminal_.file.getvalue()


def moved(number: int, done: int, total: int = 100 * MB, action: str = "copied", title: str = "layer") -> Transferred:
    return Transferred(digest=f"sha256:{number:064x}", title=title, action=action, done=done, total=total)


# -- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1024, "1.02 kB"),
        (9_999, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (43_083_564, "43.1 MB"),
        (343_000_000, "343 MB"),
        (12_345_678_901, "12.3 GB"),
        (5_000_000_000_000_000, "5000 TB"),
    ],
)
def test_sizes_are_decimal(count: int, text: str) -> None:
    assert words.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3725, "1 h 02 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@host/x", "https://***@host/x"),
        ("docker://me:se%20cret@host:1/x and //you:other@there", "docker://***@host:1/x and //***@there"),
        ("oci:a@sha256:00, docker://host:5000/a@sha256:00", "oci:a@sha256:00, docker://host:5000/a@sha256:00"),
    ],
)
def test_logins_are_masked(text: str, shown: str) -> None:
    assert words.masked(text) == shown


# -- what has moved -----------------------------------------------------------------------------------------------


def test_totals_never_fall(clock: Clock) -> None:
    stage = Stage(name="copy", detail="", begun=clock.now)
    seen = []
    steps = [(1, 50, 100), (2, 10, 40), (1, 80, 100), (1, 5, 100), (1, 100, 100), (2, 40, 30), (3, 7, 0)]
    for number, done, total in steps:
        clock.now += 1
        stage.move(moved(number, done, total), clock.now)
        seen.append((stage.done, stage.total))
    assert seen == sorted(seen)
    assert [total for _, total in seen] == sorted(total for _, total in seen)
    assert seen[-1] == (147, 147)


def test_what_moved_is_told_apart_from_what_was_there(clock: Clock) -> None:
    stage = Stage(name="deliver", detail="", begun=clock.now)
    stage.move(moved(1, 500 * MB, 500 * MB, "mounted"), clock.now)
    stage.move(moved(2, 300 * MB, 300 * MB, "skipped"), clock.now)
    stage.move(moved(3, 61 * MB, 61 * MB), clock.now)
    stage.move(moved(4, 7000, 7000, title="config"), clock.now)
    assert stage.summary() == "2 layers reused, 1 copied, 61 MB sent"
    assert (stage.moved, stage.done) == (61 * MB + 7000, 861 * MB + 7000)


def test_rate_and_remaining_time_are_of_the_last_seconds(clock: Clock) -> None:
    stage = Stage(name="copy", detail="", begun=clock.now)
    for second in range(31):
        slow, fast = min(second, 15), max(0, second - 15)
        stage.move(moved(1, (slow + 20 * fast) * MB, 1000 * MB), clock.now + second)
    assert stage.rate(clock.now + 30) == pytest.approx(20 * MB, rel=0.01)
    assert stage.line(clock.now + 30) == "315 MB of 1 GB, 20 MB/s, 34 s left"


# -- plain --------------------------------------------------------------------------------------------------------


def test_plain_says_something_every_five_seconds(clock: Clock) -> None:
    out = terminal()
    plain = Plain(out, clock=clock)
    plain.handle(StageStarted(stage="deliver", detail="docker://host/a:1"))
    for tenth in range(121):
        clock.now = 100 + tenth / 10
        plain.handle(moved(tenth % 2, tenth // 2 * MB))
    plain.handle(StageFinished(stage="deliver", detail="it is sha256:00"))
    lines = text_of(out).splitlines()
    assert lines[0] == "deliver: docker://host/a:1"
    assert lines[1:3] == [
        "deliver: 49 MB of 200 MB, 9.8 MB/s, 15 s left",
        "deliver: 99 MB of 200 MB, 9.9 MB/s, 10 s left",
    ]
    assert lines[3] == "deliver: done: it is sha256:00  (0 layers reused, 2 copied, 119 MB sent, 12 s)"
    assert len(lines) == 4


def test_plain_tells_warnings_and_what_others_say(clock: Clock) -> None:
    out = terminal()
    plain = Plain(out, clock=clock)
    plain.handle(Warned(message="[red]no colour[/red] " + "long " * 40, hint="do this"))
    plain.handle(Logged(text="trying again in 5 s", source="nvcr.io"))
    first, *rest = text_of(out).splitlines()
    assert first == "warning: [red]no colour[/red] " + "long " * 40
    assert rest == ["hint: do this", "nvcr.io: trying again in 5 s"]


def stepped(state: str, took: float = 0.0, *, number: int = 3, stage: str = "") -> BuildStep:
    return BuildStep(number=number, total=12, stage=stage, text="RUN [x] apt-get update", state=state, took=took)


def test_plain_tells_of_the_steps_of_a_dockerfile(clock: Clock) -> None:
    out = terminal()
    plain = Plain(out, clock=clock)
    plain.handle(stepped("begun"))
    plain.handle(StageStarted(stage="build", detail="x"))
    for state, took in (
        ("begun", 0.0),
        ("done", 0.9),
        ("cached", 0.0),
        ("done", 65.0),
        ("failed", 4.2),
        ("stopped", 9),
    ):
        plain.handle(stepped(state, took, stage="prepared"))
    plain.handle(StageFinished(stage="build", detail="y"))
    assert text_of(out).splitlines() == [
        "step 3/12: RUN [x] apt-get update",
        "build: x",
        "build: step 3/12 of prepared: RUN [x] apt-get update",
        "build: step 3/12 of prepared: cached",
        "build: step 3/12 of prepared: done (1 min 5 s)",
        "build: step 3/12 of prepared: failed after 4.2 s",
        "build: done: y  (5 steps, 1 of them cached, 0.0 s)",
    ]


def test_plain_says_where_it_stopped(clock: Clock) -> None:
    out = terminal()
    plain = Plain(out, clock=clock)
    plain.handle(StageStarted(stage="read", detail="abc"))
    clock.now += 3
    plain.close(failed=True)
    plain.handle(moved(1, 5))
    assert text_of(out) == "read: abc\nread: not finished after 3.0 s\n"


def test_silence_is_broken_by_warnings_only() -> None:
    out = terminal()
    silent = Silent(out)
    for event in (StageStarted(stage="a"), moved(1, 1), Logged(text="x"), StageFinished(stage="a")):
        silent.handle(event)
    assert text_of(out) == ""
    silent.handle(Warned(message="mind this"))
    assert text_of(out) == "warning: mind this\n"


# -- JSON ---------------------------------------------------------------------------------------------------------


def test_json_lines_are_whole_and_few(clock: Clock) -> None:
    out = io.StringIO()
    lines = JsonLines(out, clock=clock)
    lines.handle(StageStarted(stage="copy", detail="a to b"))
    for hundredth in range(101):
        clock.now = 100 + hundredth / 100
        lines.handle(moved(1, hundredth * MB))
    lines.handle(Warned(message="mind"))
    documents = [json.loads(line) for line in out.getvalue().splitlines()]
    assert documents[0] == {"event": "stage-started", "seconds": 0.0, "stage": "copy", "detail": "a to b"}
    moves = [one for one in documents if one["event"] == "transferred"]
    assert [one["done"] for one in moves] == [0, 50 * MB, 100 * MB]
    assert documents[-1] == {"event": "warned", "seconds": 1.0, "message": "mind", "hint": None}


def test_json_lines_tell_of_the_steps_of_a_dockerfile(clock: Clock) -> None:
    out = io.StringIO()
    lines = JsonLines(out, clock=clock)
    clock.now += 2
    lines.handle(stepped("done", 1.5, stage="a"))
    assert json.loads(out.getvalue()) == {
        "event": "build-step",
        "seconds": 2.0,
        "number": 3,
        "total": 12,
        "stage": "a",
        "text": "RUN [x] apt-get update",
        "state": "done",
        "took": 1.5,
    }


# -- the live display ---------------------------------------------------------------------------------------------


@pytest.fixture
def lively(clock: Clock) -> Iterator[Callable[..., tuple[Lively, Terminal]]]:
    made: list[Lively] = []

    def make(**how: Any) -> tuple[Lively, Terminal]:
        out = terminal(force_terminal=True, **how)
        made.append(Lively(out, verbose=False, clock=clock))
        return made[-1], out

    yield make
    for one in made:
        one.close(failed=False)


def test_the_display_shows_what_moves_and_goes_away(
    lively: Callable[..., tuple[Lively, Terminal]], clock: Clock
) -> None:
    display, out = lively(_environ={})
    display.handle(StageStarted(stage="deliver", detail="docker://host/a:1"))
    for number in range(8):
        display.handle(moved(number, number * MB))
    display.handle(moved(9, 5 * MB, 5 * MB, "mounted"))
    clock.now += 2
    assert display._live is not None
    display._live.refresh()
    shown = text_of(out)
    assert "layer 000000000000" in shown
    assert "7 MB of 100 MB" not in shown, "only six bars are drawn"
    assert "and 2 more" in shown
    assert "total 33 MB of 805 MB" in shown
    display.handle(StageFinished(stage="deliver", detail="done"))
    assert display._live is None
    last = text_of(out).rpartition("\x1b[?25h")
    assert last[1], "the cursor is shown again"
    assert "✓" in shown + last[0] + last[2]


def test_the_display_shows_the_steps_that_run_and_how_long(
    lively: Callable[..., tuple[Lively, Terminal]], clock: Clock
) -> None:
    display, out = lively(_environ={})
    display.handle(StageStarted(stage="build", detail="x"))
    display.handle(stepped("begun", number=1))
    display.handle(stepped("cached", number=1))
    display.handle(stepped("begun", number=2))
    display.handle(stepped("begun", number=5, stage="other"))
    display.handle(Logged(text="Hit:1 http://x", source="docker"))
    clock.now += 65
    assert display._live is not None
    display._live.refresh()
    shown = text_of(out)
    assert "step 2/12  1 min 5 s  RUN [x] apt-get update" in shown
    assert "step 5/12 of other  1 min 5 s  RUN" in shown
    assert "docker: Hit:1 http://x" in shown
    assert "step 1/12  1 min" not in shown
    display.handle(stepped("done", 65, number=2))
    display.handle(stepped("done", 65, number=5, stage="other"))
    display.handle(StageFinished(stage="build", detail="y"))
    assert "y  (3 steps, 1 of them cached, 1 min 5 s)" in text_of(out)


def test_results_can_be_printed_between_stages(lively: Callable[..., tuple[Lively, Terminal]]) -> None:
    display, _ = lively()
    display.handle(StageStarted(stage="one"))
    display.handle(StageStarted(stage="two"))
    display.handle(StageFinished(stage="two"))
    assert display._live is not None
    display.handle(StageFinished(stage="one"))
    assert display._live is None


def test_a_stage_that_did_not_end_is_marked(lively: Callable[..., tuple[Lively, Terminal]], clock: Clock) -> None:
    display, out = lively()
    display.handle(StageStarted(stage="read", detail="abc"))
    clock.now += 61
    display.close(failed=True)
    assert "✗ " in text_of(out)
    assert "abc  (stopped after 1 min 1 s)" in text_of(out)
    display.handle(moved(1, 5))


def test_no_colour(lively: Callable[..., tuple[Lively, Terminal]]) -> None:
    display, out = lively(_environ={"NO_COLOR": "1", "TERM": "xterm-256color"})
    display.handle(StageStarted(stage="read", detail="abc"))
    display.handle(moved(1, 5 * MB))
    display.handle(Warned(message="mind"))
    display.handle(StageFinished(stage="read"))
    assert "\x1b[3" not in text_of(out).replace("\x1b[3m", "")
    assert "✓ read" in text_of(out).replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_a_terminal_without_unicode(clock: Clock) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    out = Terminal(file=stream, width=80, force_terminal=True)
    display = Lively(out, verbose=False, clock=clock)
    display.handle(StageStarted(stage="read"))
    display.handle(moved(1, MB))
    display.handle(StageFinished(stage="read", detail="it"))
    display.handle(StageStarted(stage="fail"))
    display.close(failed=True)
    stream.flush()
    assert b"ok " in raw.getvalue()
    assert b"FAILED " in raw.getvalue()


@pytest.mark.parametrize("kind", ["rich", "plain", "json"])
def test_events_come_from_many_threads(kind: str) -> None:
    """Ten threads tell of blobs while the display draws and stages come and go: nothing hangs, nothing is mangled."""
    out = terminal(force_terminal=kind == "rich")
    displays = {
        "rich": lambda: Lively(out, verbose=True),
        "plain": lambda: Plain(out),
        "json": lambda: JsonLines(out.file),  # type: ignore[arg-type]
    }
    display = displays[kind]()
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(200):
                display.handle(moved(number, step * MB, 200 * MB))
                if step % 50 == 0:
                    display.handle(StageStarted(stage=f"stage {number}"))
                    display.handle(Logged(text=f"line {number}/{step}", source="x"))
                    display.handle(StageFinished(stage=f"stage {number}"))
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a deadlock"
    display.close(failed=False)
    assert not failures
    if kind == "json":
        assert all(json.loads(line) for line in text_of(out).splitlines())
    else:
        for number in range(10):
            assert f"line {number}/150" in text_of(out)


# -- failures -----------------------------------------------------------------------------------------------------

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "status")]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_its_status(kind: Any) -> None:
    problem = errors.Problem(where="a:1:2", message="//me:secret@host", hint="//me:secret@host")
    error = kind([problem]) if kind is errors.RecipeError else kind("//me:secret@host", hint="//me:secret@host")
    failure = explain(error)
    assert (failure.status, failure.code) == (kind.status, kind.code)
    assert "secret" not in json.dumps(failure.to_json())
    assert ("problems" in failure.to_json()) == (kind is errors.RecipeError)


def test_statuses_and_codes_are_told_apart() -> None:
    assert len({kind.status for kind in KINDS}) == len({kind.code for kind in KINDS}) == len(KINDS) == 14


@pytest.mark.parametrize(
    ("error", "words_"),
    [
        (MemoryError(), "no memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/cache/x"), "no space is left for /cache/x"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left on a disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no space is left"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), "/root/x: Permission denied"),
    ],
)
def test_what_no_program_can_help_is_no_bug(error: BaseException, words_: str) -> None:
    failure = explain(error)
    assert (failure.status, failure.code) == (errors.NoRoom.status, errors.NoRoom.code)
    assert words_ in failure.message
    assert failure.hint


def test_the_last_lines_of_what_failed_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    error = errors.BuildFailed("step 7 of 12 ended with 2", hint="do", detail=["E: [no]", "//me:secret@host"])
    for json_output in (True, False):
        console(json_output=json_output).fail(explain(error))
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["detail"] == ["E: [no]", "//***@host"]
    expected = "error: step 7 of 12 ended with 2\n  E: [no]\n  //***@host\nhint: do\n"
    assert err == expected * 2


def test_interruption_is_no_bug() -> None:
    assert (explain(KeyboardInterrupt()).status, explain(BrokenPipeError()).status) == (130, 141)


# -- the console --------------------------------------------------------------------------------------------------


def console(**how: Any) -> Console:
    return Console(**{"json_output": False, "progress": "none", "verbose": False, "quiet": False, **how})


def test_json_is_written_once_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with console(json_output=True, progress="plain") as made:
        made.emit(StageStarted(stage="copy"))
        made.result("one", {"a": 1}, "for people")
        made.add_result("many", 1, "for people")
        made.add_result("many", 2, "for people")
        made.text("for people")
    out, err = capsys.readouterr()
    assert json.loads(out) == {"schema": 1, "one": {"a": 1}, "many": [1, 2]}
    assert err == "copy: \n"


def test_json_of_a_failure_keeps_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    made = console(json_output=True)
    made.result("report", {"ok": False})
    made.fail(Failure(status=12, code="check-failed", message="no", hint="look"))
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "schema": 1,
        "report": {"ok": False},
        "error": {"code": "check-failed", "message": "no", "hint": "look"},
    }
    assert err == "error: no\nhint: look\n"


def test_a_result_that_was_written_is_not_written_again(capsys: pytest.CaptureFixture[str]) -> None:
    made = console(json_output=True)
    made.result("server", {"http": "x"})
    made.flush()
    made.fail(Failure(status=12, code="check-failed", message="it ended"))
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "server": {"http": "x"}}


def test_json_progress_tells_of_the_failure_too(capsys: pytest.CaptureFixture[str]) -> None:
    made = console(progress="json")
    made.fail(Failure(status=5, code="not-found", message="no"))
    line = json.loads(capsys.readouterr().err)
    assert line == {"event": "failed", "code": "not-found", "message": "no", "hint": None}


def test_auto_is_plain_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with console(progress="auto") as made:
        made.emit(StageStarted(stage="copy", detail="a"))
    assert capsys.readouterr().err == "copy: a\n"


def test_a_report_says_every_outcome_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(
        results=[
            Result(id="ready", kind="health", outcome="passed", message="it is", seconds=1.234),
            Result(id="sum", kind="health", outcome="failed", message="3 is not 4"),
            Result(id="odd", kind="health", outcome="error", message="no such file"),
            Result(id="gpu", kind="gpu", outcome="unverified", message="no GPU here"),
            Result(id="after", kind="load", outcome="skipped", message="nothing to do"),
        ],
        about=About(server="triton 2.51.0"),
    )
    with console() as made:
        made.result("report", {}, *report_text(report))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["passed", "ready", "1.23", "it", "is"]
    assert [line.split()[0] for line in lines[1:9]] == [
        "Health",
        "passed",
        "failed",
        "error",
        "GPU",
        "unverified",
        "Load",
        "skipped",
    ]
    assert "Failed: 1 passed, 1 failed, 1 error, 1 unverified, 1 skipped, by triton 2.51.0" in lines
    assert any(line.startswith("unverified: it could not be seen on this machine") for line in lines)


def test_the_log_of_a_server_that_failed_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    ready = Result(id="ready", kind="health", outcome="failed", message="it ended")
    report = Report(results=[ready], log=["first", "[last]"])
    with console() as made:
        made.result("report", {}, *report_text(report))
    assert "the last lines of the server:\n  first\n  [last]\n" in capsys.readouterr().out


@pytest.mark.parametrize("width", [10, 20, 40, 71, 72, 100, 200])
@pytest.mark.parametrize("name", proofs.ALL)
def test_a_report_fits_any_terminal_and_tells_it_nothing(name: str, width: int) -> None:
    out = Terminal(file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False)
    for one in report_text(proofs.ALL[name]()):
        out.print(one, soft_wrap=isinstance(one, str | Text))
    text = text_of(out)
    assert all(each.isprintable() or each == "\n" for each in text)
    letters = "".join(text.split())
    # On a narrow one nothing stands beside a message.
    for result in proofs.ALL[name]().results if width < 72 else ():
        assert "".join(words.plain(result.message).split()) in letters


def test_no_color_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal(file=io.StringIO(), width=100, force_terminal=True, markup=False, highlight=False)
    for one in report_text(proofs.failing()):
        out.print(one)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", text_of(out))


EVENTS: list[Event] = [
    StageStarted(stage="a", detail="x"),
    moved(1, 5),
    stepped("begun"),
    StageFinished(stage="a", detail="y"),
]


@pytest.mark.parametrize("progress", ["rich", "plain", "json", "none"])
def test_progress_never_goes_to_stdout(progress: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with console(progress=progress, verbose=True) as made:
        for event in EVENTS:
            made.emit(event)
    out, err = capsys.readouterr()
    assert out == ""
    assert bool(err) == (progress != "none")


def test_a_line_to_paste_is_never_broken(capsys: pytest.CaptureFixture[str]) -> None:
    command = f"tricompose copy oci:{'long/' * 80}cache docker://registry/repository:tag"
    with Console(json_output=False, progress="none", verbose=False, quiet=False) as console:
        console.result("images", [], command)
    assert capsys.readouterr().out == f"{command}\n"


def test_evidence_that_is_no_number_is_still_json(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(json_output=True, progress="none", verbose=False, quiet=False) as made:
        made.result("report", {"max_abs": float("nan"), "shape": (1, 2)})
    answer = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert answer == {"schema": 1, "report": {"max_abs": "NaN", "shape": [1, 2]}}
