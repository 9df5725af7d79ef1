"""The whole proof, and health, against servers that are made by hand: what real ones do wrong, in so many words."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from composer.checks import About, Report, Result, Terms, prove
from composer.checks.diagnosing import unstarted
from composer.errors import BuildFailed, NotFound
from composer.events import Event, Logged
from composer.reports.document import json_text
from tests.fakes import CHECK, ILL, READY, STRANGER, proved, replies, result, serving, validation

# -- the whole ---------------------------------------------------------------------------------


def test_a_server_that_serves() -> None:
    events: list[Event] = []
    with serving(replies()) as server:
        report = prove(
            server,
            Terms(validation=validation(more="  after: [health, golden]\n"), models=["m"], base=Path()),
            emit=events.append,
        )
    outcomes = {one.id: one.outcome for one in report.results}
    assert outcomes == {
        "ready": "passed",
        "models": "passed",
        "model:m": "passed",
        "golden": "passed",
        "gpu:visible": "unverified",
        "after:ready": "passed",
        "after:models": "passed",
        "after:model:m": "passed",
        "after:golden": "passed",
    }
    assert report.ok
    assert report.about.server == "triton 2.51.0"
    assert len([event for event in events if isinstance(event, Logged)]) == len(outcomes)
    document = json.loads(json.dumps(report.to_json()))
    assert document["ok"] is True
    assert [one["id"] for one in document["results"]] == list(outcomes)
    assert {one["kind"] for one in document["results"]} == {"health", "inference", "gpu"}


def test_nothing_passes_by_default() -> None:
    assert not Report(results=()).ok
    assert not Report(results=(Result(id="a", kind="health", outcome="skipped", message=""),)).ok
    passed = Result(id="a", kind="health", outcome="passed", message="")
    assert Report(results=(passed, Result(id="b", kind="health", outcome="unverified", message=""))).ok
    for outcome in ("failed", "error"):
        assert not Report(results=(passed, Result(id="b", kind="health", outcome=outcome, message=""))).ok  # type: ignore[arg-type]


def test_no_proxy_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    with serving(replies()) as server:
        assert proved(server).ok


# -- health ------------------------------------------------------------------------------------


def test_a_server_that_ends() -> None:
    with serving({}) as server:
        server.code, server.log = 1, "loading\nerror: creating server: Internal - failed to load all models\n"
        report = proved(server)
    ready = result(report, "ready")
    assert ready.outcome == "failed"
    assert ready.message == (
        "the server ended with status 1: error: creating server: Internal - failed to load all models"
    )
    assert ready.evidence["log"][0] == "loading"
    assert ready.seconds < 1
    assert {one.outcome for one in report.results[1:]} == {"skipped"}
    assert {"inference", "gpu", "after"} <= {one.id for one in report.results}


def test_a_server_that_ends_because_of_its_models() -> None:
    with serving({}) as server:
        server.code = 1
        server.log = (
            "E1121 01:00:00.1 7 model_lifecycle.cc:641] \"failed to load 'a' version 1: Internal: no module x\"\n"
            "E1121 01:00:00.1 7 model_repository_manager.cc:1] \"Poll failed for model directory 'b': bad name\"\n"
            "error: creating server: Internal - failed to load all models\n"
        )
        message = result(proved(server), "ready").message
    assert message == "the server ended with status 1; a: Internal: no module x; b: bad name"


def test_a_server_that_a_signal_ends() -> None:
    with serving({}) as server:
        server.code, server.log = 139, ""
        assert result(proved(server), "ready").message == "the server ended by SIGSEGV and wrote nothing"


def test_a_server_that_nobody_can_reach() -> None:
    with serving({}) as server:
        server.log, server.http = "", "http://127.0.0.1:9"
        report = proved(server)
    ready = result(report, "ready")
    assert ready.message.startswith("the server made no progress for 1 s; it wrote nothing, and of http://127.0.0.1:9/")
    assert "refuses connections" in ready.message
    assert ready.hint == "curl -i http://127.0.0.1:9/v2/health/ready"
    assert report.diagnoses == []


def test_what_the_entry_script_says_is_not_a_models_last_word() -> None:
    with serving({}) as server:
        server.log = "WARNING: no driver\nI1121 00:00:00.1 7 server.cc:1] starting\n"
        assert result(proved(server), "ready").message == "the server made no progress for 1 s; its last line: starting"


def test_of_many_models_that_failed_the_message_has_three() -> None:
    with serving({}) as server:
        server.code = 1
        server.log = "".join(
            "E1121 01:00:00.1 7 model_lifecycle.cc:641] "
            + json.dumps(f"failed to load '{name}' version 1: Internal: oh no\n\nAt:\n  /models/x(6): <module>")
            + "\n"
            for name in "abcde"
        )
        message = result(proved(server), "ready").message
    reasons = "; ".join(f"{name}: Internal: oh no" for name in "abc")
    assert message == f"the server ended with status 1; {reasons}; and 2 more"


def test_a_server_that_talks_for_ever() -> None:
    def talk(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        server.log += 'I1121 01:00:00.1 7 server.cc:1] "still at it"\n'
        handler.send_error(503)

    with serving({"/v2/health/ready": talk}) as server:
        ready = result(proved(server), "ready")
    assert ready.message == "the server was not ready within 2 s; its last line: still at it"
    assert 2 <= ready.seconds < 4


def test_a_server_whose_models_come_one_by_one_makes_progress() -> None:
    begun = time.monotonic()

    def index(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        loaded = int((time.monotonic() - begun) / 0.5)
        if loaded >= 3:
            server.replies = replies()
        rows = json.dumps([{"name": str(one), "state": "READY"} for one in range(loaded)]).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(rows)))
        handler.end_headers()
        handler.wfile.write(rows)

    with serving({"/v2/repository/index": index}) as server:
        ready = result(proved(server, validation(startup="{deadline: 10s, stall: 900ms}")), "ready")
    assert ready.outcome == "passed"
    assert ready.seconds > 1


def test_alive_is_asked_as_well() -> None:
    with serving(replies(**{"/v2/health/live": (400, b"")})) as server:
        assert result(proved(server), "ready").message == "the server does not answer /v2/health/live with 200"


POLL_FAILED = "E1121 01:00:00.1 7 x.cc:1] Poll failed for model directory 'm': unexpected name"


@pytest.mark.parametrize(
    ("index", "log", "words"),
    [
        ([], "", "m is not in the server's repository"),
        ([{"name": "m"}], "", "m is not ready: it was not loaded, and the log does not say why"),
        ([{"name": "m"}], POLL_FAILED, "m is not ready: unexpected name"),
        ([{"name": "m", "version": "1", "state": "LOADING"}], "", "m is not ready: LOADING"),
        ([*READY, ILL], "", "m is not ready: Internal: x"),
        ([*READY, STRANGER], "", "n is served, and is not expected"),
    ],
)  # fmt: skip
def test_models_that_are_not_as_expected(index: list[object], log: str, words: str) -> None:
    with serving(replies(**{"/v2/repository/index": (200, json.dumps(index).encode())})) as server:
        server.log += log
        found = result(proved(server), "models")
    assert (found.outcome, found.message) == ("failed", words)
    assert found.evidence == {"index": index, "expected": ["m"]}


def test_versions_that_the_policy_put_aside_and_models_that_nobody_loads_are_in_order() -> None:
    aside = {"name": "m", "version": "2", "state": "UNAVAILABLE", "reason": "unloaded"}
    with serving(
        replies(**{"/v2/repository/index": (200, json.dumps([*READY, aside, {"name": "n"}]).encode())})
    ) as server:
        assert result(proved(server), "models").outcome == "passed"


def test_no_models_prove_nothing() -> None:
    with serving(replies(**{"/v2/repository/index": (200, b"[]")})) as server:
        assert result(proved(server, validation(""), ()), "models").outcome == "unverified"


def test_what_an_index_has_no_business_to_say_is_in_no_report() -> None:
    deep = "[" * 600 + "]" * 600
    row = f'[{{"name": "m", "version": "1", "state": "READY", "more": {deep}, "reason": {deep}}}]'
    with serving(replies(**{"/v2/repository/index": (200, row.encode())})) as server:
        report = proved(server)
    assert result(report, "models").evidence["index"] == [{"name": "m", "version": "1", "state": "READY"}]
    assert json.loads(json_text([report]))["ok"]


def test_what_a_server_says_at_length_is_cut() -> None:
    words = json.dumps({"error": "x" * 1_000_000}).encode()
    index = json.dumps({"y": "x" * 1_000_000}).encode()
    with serving(replies((400, words), **{"/v2/repository/index": (200, index)})) as server:
        report = proved(server)
    assert len(json_text([report])) < 500_000
    for name in ("golden", "models"):
        found = result(report, name)
        assert not found.ok
        assert len(found.message) < 5000


def test_an_index_that_is_none() -> None:
    with serving(replies(**{"/v2/repository/index": (200, b'{"x": 1}')})) as server:
        found = result(proved(server), "models")
    assert found.outcome == "error"
    assert "makes no sense" in found.message


# -- diagnoses ---------------------------------------------------------------------------------


def _diagnosed(report: Report) -> list[tuple[str, str]]:
    return [(one["id"], one["model"]) for one in report.diagnoses]


def test_a_server_that_was_killed_for_memory_is_diagnosed_so() -> None:
    for oom, named in ((True, "killed-for-memory"), (False, "killed")):
        with serving(replies()) as server:
            server.code, server.oom = 137, oom
            assert _diagnosed(proved(server)) == [(named, "")]


def test_one_cause_is_told_once_of_all_its_models() -> None:
    reason = "Unable to initialize shared memory key 'x' to requested size (1048576 bytes). Use '--shm-size' flag"
    line = "E1121 00:00:00.1 7 model_lifecycle.cc:642] \"failed to load '{}' version 1: Internal: {}\"\n"
    with serving(replies()) as server:
        server.code, server.log = 1, "".join(line.format(name, reason) for name in ("one", "two"))
        assert _diagnosed(proved(server)) == [("shared-memory", "one, two")]


def test_what_a_check_was_refused_is_diagnosed() -> None:
    words = b'{"error":"Stub process \'m_0_0\' is not healthy."}'
    with serving(replies((500, words))) as server:
        assert _diagnosed(proved(server)) == [("stub-killed-at-request", "m")]


def test_what_an_ensemble_passes_on_is_diagnosed_of_the_model_that_said_it() -> None:
    words = b"{\"error\":\"in ensemble 'm', Stub process 'other_0_0' is not healthy.\"}"
    with serving(replies((500, words))) as server:
        assert _diagnosed(proved(server)) == [("stub-killed-at-request", "other")]


def test_a_refusal_that_is_expected_is_not_diagnosed() -> None:
    refused = (400, b"{\"error\":\"unexpected shape for input 'X' for model 'm'. Expected [2], got [3].\"}")
    wanted = "{allclose: {values: [[2, 4]]}}"
    checks = CHECK.replace(f"{{outputs: {{Y: {wanted}}}}}", "{status: {error: {code: 400}}}")
    assert checks != CHECK
    with serving(replies(refused)) as server:
        report = proved(server, validation(checks), models=("m", "n"))
    assert (result(report, "golden").outcome, result(report, "models").outcome) == ("passed", "failed")
    assert _diagnosed(report) == []
    with serving(replies(refused)) as server:
        other = proved(server, validation(checks.replace("code: 400", "code: 404")))
        assert (result(other, "golden").outcome, _diagnosed(other)) == ("failed", [])
        assert _diagnosed(proved(server)) == [("request-shape", "m")]


def test_a_request_that_is_counted_and_not_answered_is_diagnosed() -> None:
    def stats(count: int) -> tuple[int, bytes]:
        return 200, json.dumps({"model_stats": [{"inference_stats": {"success": {"count": count}}}]}).encode()

    def swallow(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        server.replies["/v2/models/m/stats"] = stats(1)
        time.sleep(1)
        handler.close_connection = True

    with serving(replies(swallow, **{"/v2/models/m/stats": stats(0)})) as server:
        assert _diagnosed(proved(server)) == [("request-unanswered", "m")]


def test_what_could_not_be_started_for_a_reason_of_ours_needs_no_diagnosis() -> None:
    terms = Terms(validation=validation(), models=["m"], base=Path())
    ours = unstarted(NotFound("/x, to be mounted at /y, is not there", hint="mkdir /x"), terms, About())
    assert (ours.results[0].hint, ours.diagnoses) == ("mkdir /x", [])
    engine = unstarted(BuildFailed("driver failed: port is already allocated, or so"), terms, About())
    assert [one["id"] for one in engine.diagnoses]
