"""The part of the story where a server is started: to prove an image, or for people to use it."""

from __future__ import annotations

import platform as host
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

from composer.checks import About, Report, Result, Terms, announced, prove
from composer.checks.diagnosing import unstarted
from composer.checks.gpu import proved as gpu_proved
from composer.checks.image import check_image
from composer.checks.inference.goldens import Recorder, model_digests
from composer.checks.subject import ending
from composer.config import VALIDATION_LABEL, sizes_by_part
from composer.diagnosis import UNCLASSIFIED
from composer.engines.direct import Built
from composer.errors import CheckFailed, TricomposeError, Unplannable, Unverified
from composer.events import Emit, Logged, StageFinished, StageStarted
from composer.knowledge import Knowledge
from composer.models.lint.case import ignored_by, repositories_of
from composer.models.repository import ModelRepository
from composer.oci.copy import Held, Stack
from composer.oci.image import Descriptor, Image, Platform, canonical_json, make_manifest, parse_image
from composer.oci.store import Store
from composer.protocol.http import Client
from composer.protocol.messages import NoAnswer
from composer.recipe import Recipe, Run, Validate
from composer.runners import Running, pick
from composer.runners.remote import PREFIX as REMOTE
from composer.runners.remote import parse_remote

UNPROVED: Final = "not validated"
PROVED: Final = "passed; gpu unverified"
"""What the label says of an image that is to be proved here, before it is known what will be seen of a GPU."""

_POLL: Final = 0.25
_LONG_LOG: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Proving:
    """How to prove, as opposed to what: the runner's name, and options of the command line.

    With `strict` a check that asserts nothing fails. With `record` goldens are written where all else passed, with
    `allow_stale` those count that were recorded of other models. With `static` nothing is started; with `complete`
    what could not be seen here keeps an image from being delivered.
    """

    runner: str = "auto"
    strict: bool = False
    record: bool = False
    allow_stale: bool = False
    static: bool = False
    complete: bool = False


class Unproved(CheckFailed):
    """Some checks failed: `reports` holds all of them, by platform."""

    def __init__(self, message: str, *, hint: str, reports: Mapping[str, Report]) -> None:
        super().__init__(message, hint=hint)
        self.reports = reports


class Unseen(Unverified):
    """Nothing failed, and something could not be seen: `reports` holds all checks, by platform."""

    def __init__(self, message: str, *, hint: str, reports: Mapping[str, Report]) -> None:
        super().__init__(message, hint=hint)
        self.reports = reports


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An image that is to be proved as a recipe says: its name, and the models that it must serve (None: not known).

    `repositories` are its models as they lie here, as far as they do. `upstream_size` is what it was made of, in
    compressed bytes, 0 where nobody knows; `dropped` are libraries that were left out, with the component of each. What
    is learned of its layers is kept in `knowledge`.
    """

    name: str
    image: Image
    store: Store
    recipe: Recipe
    models: Sequence[str] | None
    knowledge: Knowledge
    repositories: Sequence[ModelRepository] = ()
    upstream_size: int = 0
    dropped: Mapping[str, str] = field(default_factory=dict)


def is_remote(how: Proving) -> bool:
    """Whether a server is proved that runs already."""
    return how.runner.startswith(REMOTE)


def runs_here(platform: Platform) -> bool:
    """Whether images of that platform can be started on this machine."""
    return platform.architecture == architecture()


def architecture() -> str:
    """This machine's, as images call it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(host.machine(), host.machine())


# -- prove --------------------------------------------------------------------------------------------------------


def refuse_unprovable(recipe: Recipe, how: Proving) -> None:
    """Raise what `pick` raises, and `Unplannable` for a proof that the runner cannot give, before a layer moves."""
    if how.static:
        return
    runner = pick(how.runner)
    if runner.name == "rootfs" and recipe.validation and recipe.validation.gpu.mode == "required":
        raise Unplannable(
            f"{recipe.where('validate', 'gpu')}: a GPU is required, and the rootfs runner gives a server none",
            hint="install Docker and the NVIDIA Container Toolkit, then: --runner docker",
        )


def prove_all(candidates: Sequence[Candidate], how: Proving, emit: Emit) -> Mapping[str, Report]:
    """The reports by platform. What does not run on this machine is unverified. Raises `Unproved`, `Unseen`."""
    reports: dict[str, Report] = {}
    for one in candidates:
        platform = one.image.platform
        if runs_here(platform):
            reports[str(platform)] = prove_image(one, how, emit)
            continue
        message = f"{platform} does not run on this machine"
        elsewhere = Result(id="platform", kind="health", outcome="unverified", message=message)
        reports[str(platform)] = Report(results=[elsewhere], about=_about(one))
    path = candidates[0].recipe.where().rsplit(":", 2)[0]
    look = f"tricompose build --no-validate -o oci:look {path} && tricompose run oci:look"
    require(reports, complete=how.complete, hint=f"nothing was delivered. To look at the image: {look}")
    return reports


def prove_image(one: Candidate, how: Proving, emit: Emit) -> Report:
    """Look at an image, start it, check what the recipe says, and make a report of it. Raises what `pick` raises."""
    refuse_unprovable(one.recipe, how)
    terms = _terms(one.recipe, one.models, one.repositories, one.image, how)
    about = replace(_about(one), models=terms.digests)
    report = _reported(about, lambda: _looked_and_started(one, terms, how, emit), emit)
    return _recorded(report, terms, emit)


def prove_remote(recipe: Recipe, models: Sequence[str] | None, how: Proving, emit: Emit) -> Report:
    """The same of a server that runs already, which has no image that we could look at. Raises `NotFound`."""
    running = parse_remote(how.runner)
    about = About(tool=_tool(), name=recipe.name, image=how.runner, release=recipe.triton or "", runner="remote")
    terms = _terms(recipe, models, repositories_of(recipe), None, how)
    return _recorded(_reported(about, lambda: prove(running, terms, emit=emit), emit), terms, emit)


def _reported(about: About, checked: Callable[[], Report], emit: Emit) -> Report:
    """The report with all that is known of what was checked, and when."""
    begun, started = time.monotonic(), datetime.now(UTC)
    emit(StageStarted(stage="validate", detail=about.image))
    report = checked()
    found = report.about
    whole = replace(
        about,
        server=found.server,
        runner=found.runner or about.runner,
        engine=found.engine,
        started=started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        seconds=time.monotonic() - begun,
    )
    passed = sum(result.outcome == "passed" for result in report.results)
    emit(StageFinished(stage="validate", detail=f"{passed} of {len(report.results)} checks passed"))
    return replace(report, about=whole)


def _looked_and_started(one: Candidate, terms: Terms, how: Proving, emit: Emit) -> Report:
    """What is seen without starting it, then the rest."""
    found = list(announced(_look(one, emit), emit))
    if how.static:
        return Report(results=found)
    report = _started(one, _knowing(terms, found), how, emit)
    return replace(report, results=[*found, *report.results])


def _knowing(terms: Terms, looks: Sequence[Result]) -> Terms:
    """With what was learned by looking."""
    seen = {name: value for result in looks for name, value in result.evidence.items()}
    return replace(terms, backends=seen.get("backends", ()), numpy=seen.get("numpy") or "")


def _look(one: Candidate, emit: Emit) -> Iterator[Result]:
    proof = one.recipe.validation or Validate()
    return check_image(
        one.image,
        one.store,
        proof.expect.image,
        knowledge=one.knowledge,
        models=one.models or (),
        emit=emit,
        env=one.recipe.run.env,
        gpu=one.recipe.run.gpus != "none" and proof.gpu.mode != "off",
        dropped=one.dropped,
    )


def _started(one: Candidate, terms: Terms, how: Proving, emit: Emit) -> Report:
    runner = pick(how.runner)
    try:
        with runner.start(one.image, one.store, _options(one.recipe), emit=emit, base=one.recipe.base) as running:
            report = prove(running, terms, emit=emit)
    except TricomposeError as error:
        return unstarted(error, terms, About(runner=runner.name))
    return replace(report, about=replace(report.about, runner=runner.name, engine=running.engine))


def _options(recipe: Recipe) -> Run:
    """How it is started: where a GPU is required, `auto` means that there must be one."""
    required = recipe.validation is not None and recipe.validation.gpu.mode == "required"
    return recipe.run.model_copy(update={"gpus": "all"}) if required and recipe.run.gpus == "auto" else recipe.run


def _terms(
    recipe: Recipe,
    models: Sequence[str] | None,
    repositories: Sequence[ModelRepository],
    image: Image | None,
    how: Proving,
) -> Terms:
    validation = recipe.validation or Validate()
    return Terms(
        validation=validation,
        models=models,
        base=recipe.base,
        release=recipe.triton,
        repositories=repositories,
        digests=model_digests(repositories),
        env={**_env(image), **recipe.run.env},
        shm=recipe.run.shm_size,
        off=[name for name in ("http", "grpc") if recipe.server.get(f"allow-{name}") is False],
        strict=how.strict,
        allow_stale=how.allow_stale,
        ignored=ignored_by(recipe),
        recorder=Recorder() if how.record else None,
    )


def _env(image: Image | None) -> Mapping[str, str]:
    settings = (image.config.get("config") or {}) if image else {}
    return dict(line.split("=", 1) for line in settings.get("Env") or () if "=" in line)


def _recorded(report: Report, terms: Terms, emit: Emit) -> Report:
    """The report, once the goldens that it brought are written; where they cannot be, it says so."""
    if not (terms.recorder and report.ok):
        return report
    try:
        for path in terms.recorder.write(terms.base, report):
            emit(Logged(text=f"recorded {path}", source="check"))
    except TricomposeError as error:
        lost = Result(id="record", kind="inference", outcome="error", message=error.message, hint=error.hint or "")
        return replace(report, results=[*report.results, lost])
    return report


def _tool() -> str:
    return f"tricompose {version('tricompose')}"


def _about(one: Candidate) -> About:
    return About(
        tool=_tool(),
        name=one.recipe.name,
        image=one.name,
        digest=one.image.manifest.descriptor.digest,
        size=sum(layer.size for layer in one.image.layers),
        upstream_size=one.upstream_size,
        parts=sizes_by_part(one.image),
        platform=str(one.image.platform),
        release=one.recipe.triton or "",
    )


def require(reports: Mapping[str, Report], *, complete: bool, hint: str) -> None:
    """Raise `Unproved` with all `reports` if something failed or nothing passed; with `complete`, `Unseen` if something
    could not be seen here."""
    if message := _first(reports, lambda result: not result.ok):
        raise Unproved(message, hint=hint, reports=reports)
    if not all(report.ok or _elsewhere(report) for report in reports.values()):
        raise Unproved("nothing was proved: no check passed", hint=hint, reports=reports)
    if complete and (message := _first(reports, lambda result: result.outcome == "unverified")):
        raise Unseen(message, hint="prove it where that can be seen, or leave out --require-verified", reports=reports)


def remedy(report: Report) -> str:
    """What to do first, as what failed first or a diagnosis says it. Empty where neither does."""
    hints = [result.hint for result in report.results if not result.ok][:1]
    fixes = [str(one["fix"]) for one in report.diagnoses if one["id"] != UNCLASSIFIED]
    return next((words for words in [*hints, *fixes] if words), "")


def _first(reports: Mapping[str, Report], holds: Callable[[Result], bool]) -> str:
    """The first result that is so, in words, and how many more there are. Empty where there is none."""
    found = [(platform, result) for platform, report in reports.items() for result in report.results if holds(result)]
    if not found:
        return ""
    platform, first = found[0]
    where = f"{platform}: " if len(reports) > 1 else ""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{where}{first.id}: {first.message}{more}"


def _elsewhere(report: Report) -> bool:
    """Whether it is of a platform that does not run here."""
    return [result.id for result in report.results] == ["platform"]


def labelled(built: Built, report: Report | None) -> Built:
    """The image with a label that says what was seen: the one that it was built with is older than the proof."""
    if report is None or not report.ok:
        return built
    said = f"passed; gpu {gpu_proved(report.results)}"
    settings = built.image.config.get("config") or {}
    labels = settings.get("Labels") or {}
    if labels.get(VALIDATION_LABEL) in (None, said):
        return built
    labels = {**labels, VALIDATION_LABEL: said}
    raw = canonical_json({**built.image.config, "config": {**settings, "Labels": labels}})
    before = built.image.manifest
    config = Descriptor.of(raw, before.config.media_type)
    manifest = make_manifest(before.media_type, config, before.layers, annotations=before.annotations)
    held = Held({config.digest: raw, manifest.descriptor.digest: manifest.raw})
    return Built(image=parse_image(manifest, raw), store=Stack(held, built.store))


# -- run ----------------------------------------------------------------------------------------------------------


def serve(
    image: Image, store: Store, recipe: Recipe, *, runner: str, emit: Emit, ready: Callable[[Running], None]
) -> None:
    """Start an image as `recipe` has it, and tell `ready` of it once it is. Its log is emitted as it comes.

    Returns when the server ends by itself in good order; raises `CheckFailed` where it ends otherwise. What ends the
    wait from outside, such as Ctrl-C, stops the server.
    """
    run = recipe.run
    ports = {"http": run.ports.http, "grpc": run.ports.grpc, "metrics": run.ports.metrics}
    with pick(runner).start(image, store, run, emit=emit, ports=ports, base=recipe.base) as running:
        try:
            _watch(running, emit, ready)
        except KeyboardInterrupt:
            emit(Logged(text="stopping: the server unloads its models", source="server"))
            raise


def _watch(running: Running, emit: Emit, ready: Callable[[Running], None]) -> None:
    told, up = 0, False
    client = Client(running.http)
    try:
        while (code := running.exit_code()) is None:
            told = _pass_on(running.logs(), told, emit)
            if not up and _is_ready(client):
                up = True
                emit(StageFinished(stage="start", detail=f"{running.http} is ready"))
                ready(running)
            # Logs can only be had whole: long ones are asked for less often.
            time.sleep(_POLL if told < _LONG_LOG else 10 * _POLL)
    finally:
        client.close()
    _pass_on(running.logs() + "\n", told, emit)
    if code:
        raise CheckFailed(f"the server ended {ending(code)}", hint="its log is above")


def _is_ready(client: Client) -> bool:
    try:
        return client.get("/v2/health/ready", timeout=1.0).status == 200
    except NoAnswer:
        return False


def _pass_on(log: str, told: int, emit: Emit) -> int:
    """Emit the whole lines of a log from a position on. Returns the position after them."""
    end = log.rfind("\n") + 1
    for line in log[told:end].splitlines():
        emit(Logged(text=line, source="server"))
    return max(end, told)
