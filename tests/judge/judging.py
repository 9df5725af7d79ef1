"""One repository, one server, one verdict."""

from __future__ import annotations

import http.client
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from .asking import Answer, Client, Config
from .processes import Stillness, end
from .server import Server
from .words import decisive

Outcome: TypeAlias = Literal["served", "refused", "hung", "crashed", "failing"]
Requests: TypeAlias = Mapping[str, Mapping[str, Any]]
STILL = 4.0
"""Seconds without anything running after which a server waits for ever. None of those seen that went on was still for
more than one: what they wait for themselves has shorter deadlines."""
DEADLINE = 120.0
"""Seconds for a server to be ready, whatever it does. Only what works without end comes to it."""
ATTEMPTS = 3
"""Requests to a model, at most: one that is answered with an error may have been the first by chance."""
REFUSALS = ("error: creating server", "failed to load", "Poll failed for model", "failed to poll model")
FATAL = ("error: creating server", "failed to load all models")
_counter = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a server made of a repository.

    `served`: ready, and every model answered a request. `failing`: ready, but a model fails every request, does not
    answer it, or takes the server down. `hung`: neither ready nor ended. `configs`: those of the models that were
    ready, as `GET /v2/models/m/config` says them.
    """

    outcome: Outcome
    words: tuple[str, ...]
    judge: str
    seconds: float = 0.0
    configs: Mapping[str, Config] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return self.outcome == "served"


def judge(
    repositories: Path | Sequence[Path],
    server: Server,
    *,
    requests: Requests | None = None,
    flags: Sequence[str] = (),
    user: int | None = None,
) -> Verdict:
    """Start a server on these repositories, ask every model that is ready, end it. Takes from 0.3 s to two minutes.

    `requests`: for each model that is not to be asked with zeros, the JSON of its request. `user`: who the server runs
    as, by number; else it runs as this process does.
    """
    paths = [repositories] if isinstance(repositories, Path) else list(repositories)
    with tempfile.TemporaryDirectory(prefix="judged-") as name:
        work = Path(name)
        os.chmod(work, 0o755)
        prefix = f"triton_judge{os.getpid()}_{next(_counter)}_"
        try:
            return _Trial(server, paths, work, prefix, requests or {}, flags, user).verdict()
        finally:
            for left in Path("/dev/shm").glob(f"{prefix}*"):
                left.unlink(missing_ok=True)


@dataclass(slots=True)
class _Trial:
    """One start of a server. `log` is all that it and what it starts write."""

    server: Server
    repositories: Sequence[Path]
    work: Path
    prefix: str
    requests: Requests
    flags: Sequence[str]
    user: int | None
    configs: dict[str, Config] = field(default_factory=dict)

    def verdict(self) -> Verdict:
        started = time.monotonic()
        client = Client(port=_free_port(), grpc_port=_free_port())
        argv = [*self.server.command(self.repositories, client.port, client.grpc_port, self.prefix), *self.flags]
        with (self.work / "log").open("wb") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.work,
                env=self.server.environment(),
                start_new_session=True,
                user=self.user,
            )
        try:
            outcome, said = self._watched(process, client)
            status = process.poll()
        finally:
            end(process)
        if status is not None and status < 0:
            said = (*said, f"ended by signal {-status}")
        return Verdict(
            outcome=outcome,
            words=(*self._words(outcome), *said),
            judge=self.server.backend,
            seconds=round(time.monotonic() - started, 2),
            configs=self.configs,
        )

    def _watched(self, process: subprocess.Popen[bytes], client: Client) -> tuple[Outcome, tuple[str, ...]]:
        if outcome := self._started(process, client):
            return outcome, ()
        try:
            known = client.index()
        except (OSError, http.client.HTTPException, ValueError) as error:
            return "failing", (type(error).__name__,)
        failures = self._asked(process, client, [row for row in known if row.get("state") == "READY"])
        if failures:
            return "failing", tuple(failures)
        if unready := [_row(row) for row in known if self._is_missed(row)]:
            return "refused", tuple(self._normal(words) for words in unready)
        return "served", ()

    def _is_missed(self, row: Mapping[str, str]) -> bool:
        """Whether a model should be ready and is not: with the default flags no server comes so far."""
        if row.get("state") == "READY" or row.get("reason") == "unloaded":
            return False
        return "version" in row or "--model-control-mode=explicit" not in self.flags

    def _started(self, process: subprocess.Popen[bytes], client: Client) -> Outcome | None:
        """How the start ended, or None once the server listens: it does so last."""
        still = Stillness(process.pid)
        deadline = time.monotonic() + DEADLINE
        looked = 0.0
        while True:
            log = self._log()
            if any(words in log for words in FATAL) and "--exit-on-error=false" not in self.flags:
                return "refused"  # what comes after, while it ends, is chance
            if "Signal (" in log or process.poll() is not None:
                return self._ended(process)
            if "Started HTTPService" in log and client.listened():
                return None
            if time.monotonic() - looked > 0.25:
                looked = time.monotonic()
                if still.seconds() > STILL or looked > deadline:
                    return "hung"
            time.sleep(0.02)

    def _ended(self, process: subprocess.Popen[bytes]) -> Outcome:
        """How it ended. One that crashes while it stops, because models did not load, refused them."""
        log = self._log()
        if process.poll() in {0, 1} or any(words in log for words in REFUSALS):
            return "refused"
        return "crashed"

    def _asked(self, process: subprocess.Popen[bytes], client: Client, index: Sequence[Mapping[str, str]]) -> list[str]:
        """The models that answered no request as they should, and what came instead."""
        answers: dict[str, list[Answer]] = {}
        for row in index:
            if process.poll() is not None or "Signal (" in self._log():
                break
            answers.setdefault(row["name"], []).append(self._answer(process, client, row["name"], row["version"]))
        failures = [
            f"{model}: {given[0].status} {given[0].words}"
            for model, given in answers.items()
            if all(answer.failed for answer in given)
        ]
        return [self._normal(words) for words in failures]

    def _answer(self, process: subprocess.Popen[bytes], client: Client, model: str, version: str) -> Answer:
        def ask() -> Answer:
            config = client.config(model, version)
            self.configs[model] = config
            for _ in range(ATTEMPTS):
                answer = self._asked_once(client, model, version, config)
                if not answer.failed or answer.status == 0:
                    break
            return answer

        return _within_patience(ask, Stillness(process.pid))

    def _asked_once(self, client: Client, model: str, version: str, config: Config) -> Answer:
        if model in self.requests:
            return client.given(model, version, self.requests[model])
        return client.infer(model, version, config)

    def _log(self) -> str:
        return (self.work / "log").read_bytes().decode(errors="backslashreplace")

    def _words(self, outcome: Outcome) -> tuple[str, ...]:
        """Errors; with warnings, if all is well; and all that was said last, if it said nothing more."""
        if outcome == "hung":
            return decisive(self._log(), "EFWI", self._places())[-3:]
        return decisive(self._log(), "EFW" if outcome == "served" else "EF", self._places())

    def _places(self) -> dict[str, str]:
        names = {str(path): f"/models{number or ''}" for number, path in enumerate(self.repositories)}
        root = self.server.program.parents[1]
        return {
            **dict(sorted(names.items(), key=lambda item: -len(item[0]))),
            str(root): "/opt/tritonserver",
            str(self.server.folder): "/opt/tritonserver",
            str(self.server.python): "/usr",
            str(self.work): "/work",
            self.prefix: "triton_",
        }

    def _normal(self, words: str) -> str:
        for place, name in self._places().items():
            words = words.replace(place, name)
        return words.encode("ascii", "backslashreplace").decode()[:400]


def _within_patience(ask: Callable[[], Answer], still: Stillness) -> Answer:
    """The answer, or none once the server has been still for long: a request that nobody works on is never answered."""
    answers: list[Answer] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # noqa: BLE001 - whatever breaks is the server's doing
            answers.append(Answer(status=0, words=type(error).__name__))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.25)
        if thread.is_alive() and still.seconds() > STILL:
            return Answer(status=0, words="no answer")
    return answers[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _row(row: Mapping[str, str]) -> str:
    return f"{row['name']} {row.get('version', '')}: {row.get('state', 'not loaded')} {row.get('reason', '')}"


def clear(folder: Path) -> None:
    """Remove a repository, whatever its modes are."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)
