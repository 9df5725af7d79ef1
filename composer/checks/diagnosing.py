"""From results to diagnoses: what was seen of a server whose checks failed, put before the classes of failures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from composer.checks.health.models import read_index
from composer.checks.report import About, Report, Result
from composer.checks.subject import Subject, Terms
from composer.diagnosis import TAIL, UNCLASSIFIED, Diagnosis, Refusal, Seen, diagnose, records
from composer.errors import TricomposeError
from composer.protocol.messages import NoAnswer

_TABLE: Final = ("|", "+-")


def diagnosed(report: Report, subject: Subject) -> Report:
    """The report with what its failures mean, and the last lines of the server; as it is where all is well."""
    if report.ok:
        return report
    log = subject.running.logs()
    seen = _seen(report.results, subject, log)
    # A server that lives has done something that a check has words for, though no class may fit it.
    unknown = bool(log.strip()) and (not seen.ready or seen.exit_code is not None)
    found = _merged(one for one in diagnose(seen) if one.id != UNCLASSIFIED or unknown)
    # The tables in which a server shows its options and models are many lines, and say nothing of why.
    lines = [line.raw for line in records(log) if not line.raw.startswith(_TABLE)][-TAIL:]
    return replace(report, diagnoses=[one.to_json() for one in found], log=lines)


def _merged(found: Iterable[Diagnosis]) -> Iterator[Diagnosis]:
    """Each cause once, with all models that it is about."""
    groups: dict[tuple[str, str, str], list[Diagnosis]] = {}
    for one in found:
        groups.setdefault((one.id, one.why, one.fix), []).append(one)
    for same in groups.values():
        yield replace(same[0], model=", ".join(dict.fromkeys(one.model for one in same if one.model)))


def unstarted(error: TricomposeError, terms: Terms, about: About) -> Report:
    """The report of a server that could not be started at all."""
    failed = Result(id="start", kind="health", outcome="error", message=error.message, hint=error.hint or "")
    seen = Seen(engine_error=error.message, release=terms.release or "", gpu_wanted=_wants_gpu(terms))
    # An error with a hint is our own, and says all that there is to say.
    found = [one for one in diagnose(seen) if one.id != UNCLASSIFIED or not error.hint]
    return Report(results=[failed], about=about, diagnoses=[one.to_json() for one in found])


def _seen(results: Sequence[Result], subject: Subject, log: str) -> Seen:
    code = subject.running.exit_code()
    ready = any(result.id == "ready" and result.ok for result in results)
    return Seen(
        log=log,
        release=subject.terms.release or "",
        exit_code=code,
        oom_killed=subject.running.oom_killed(),
        ready=ready,
        hung=not ready and code is None,
        index=_index(subject) if ready and code is None else (),
        refusals=tuple(dict.fromkeys(_refusals(results, subject))),
        unanswered=tuple(dict.fromkeys(_named(results, "unanswered"))),
        empty=tuple(dict.fromkeys(_named(results, "empty"))),
        gpu_wanted=_wants_gpu(subject.terms),
        gpus=next((result.evidence["visible"] for result in results if "visible" in result.evidence), None),
        on_cpu=tuple(dict.fromkeys(_named(results, "on_cpu"))),
        env=subject.terms.env,
        shm=subject.terms.shm,
        backends=subject.terms.backends,
        numpy=subject.terms.numpy,
    )


def _wants_gpu(terms: Terms) -> bool:
    return terms.validation.gpu.mode == "required"


def _index(subject: Subject) -> Sequence[Mapping[str, Any]]:
    try:
        return read_index(subject)
    except (NoAnswer, ValueError):
        return ()


def _refusals(results: Sequence[Result], subject: Subject) -> Iterator[Refusal]:
    """What the server refused and should not have: of checks that failed, and that expect no refusal."""
    asking = [check for check in subject.validation.checks if not any(one.status for one in check.expectations)]
    models = {name: check.model for check in asking for name in (check.id, f"after:{check.id}")}
    for result in results:
        if result.ok or result.id not in models:
            continue
        for way in result.evidence.get("ways", {}).values():
            if "refused" in way:
                yield Refusal(model=models[result.id], message=way["refused"], code=way["status"] or "")


def _named(results: Sequence[Result], key: str) -> Iterator[str]:
    return (result.evidence[key] for result in results if result.evidence.get(key))
