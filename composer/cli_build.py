"""The commands that make images of recipes: `tricompose plan`, `lock`, `build`, `knowledge`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from composer.cli_serve import REPORTS, RUNNER, STRICT, VERIFIED, report_files
from composer.command import RECIPE, Desk, Usage, command

if TYPE_CHECKING:
    from composer.oci.names import Reference
    from composer.recipe import Recipe
    from composer.reports import Target
    from composer.with_server import Proving
    from composer.workplace import Workplace

commands = click.Group()
"""Holds the commands until the tool takes them."""

_LOCKED: Final = click.option(
    "--locked", is_flag=True, help="Refuse what RECIPE.lock.json does not pin. Without it such things are looked up."
)
_CUT: Final = click.option(
    "--cut",
    type=click.Choice(["wanted", "all"]),
    default="wanted",
    show_default=True,
    help="What layers are made of a layer that is read: of the recipe's components, or of all, for recipes to come.",
)
_KNOWLEDGE: Final = click.option(
    "--knowledge",
    metavar="REF",
    help="Where others have published what they know of layers: see tricompose knowledge publish.",
)


@command("plan", commands)
@click.argument("recipe", type=RECIPE)
@click.option(
    "--scan",
    type=click.Choice(["new", "all", "none"]),
    default="none",
    show_default=True,
    help="Which layers to read first: none, those above the -min image that nobody has read, or all.",
)
@click.option(
    "--dockerfile",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write what engine: dockerfile would build: a Dockerfile and all that it copies, for plain docker build.",
)
@click.option(
    "--pin",
    is_flag=True,
    help="With a Dockerfile: name images by digest, by the lock or else the registry. Without it nobody is asked.",
)
@_LOCKED
@_CUT
@_KNOWLEDGE
@click.pass_obj
def _plan(
    desk: Desk,
    /,
    recipe: Path,
    scan: str,
    folder: Path | None,
    pin: bool,
    locked: bool,
    cut: str,
    knowledge: str | None,
) -> None:
    """Show what building would reuse, split, add and drop, and why.

    No layer is read unless --scan says so: what cannot be known without is said. Nothing is built or delivered.
    Of a recipe with engine: dockerfile it shows the Dockerfile.

    \b
    Examples:
      tricompose plan recipe.yaml
      tricompose plan recipe.yaml --scan new
      tricompose plan recipe.yaml --dockerfile compose && sh compose/tricompose/build.sh tritonserver:slim
      tricompose plan recipe.yaml --json | jq '.plans[0].dropped[].name'
    """
    from composer import pipeline
    from composer.console import results

    loaded = desk.recipe(recipe)
    if folder or loaded.engine == "dockerfile":
        texts = pipeline.write_dockerfile(loaded, folder, desk.place(loaded, locked=locked), look_up=pin)
        for text in texts:
            desk.console.add_result("dockerfiles", {"folder": str(folder) if folder else None, "text": text})
            if not folder:
                desk.console.text(text)
        if folder:
            then = f"To build it, here or elsewhere:\n  sh {folder}/tricompose/build.sh NAME:TAG"
            desk.console.result("folder", str(folder), f"{folder} is written. {then}")
        return
    place = desk.place(loaded, locked=locked, knowledge=knowledge, cut=cut)
    for plan in pipeline.plan(loaded, place, scan=scan):
        desk.console.add_result("plans", results.plan_json(plan), *results.plan_text(plan, str(recipe)))


@command("lock", commands)
@click.argument("recipes", metavar="RECIPE...", nargs=-1, required=True, type=RECIPE)
@click.option("--check", is_flag=True, help="Write nothing; exit with 15 where a lock is not what it would be now.")
@click.pass_obj
def _lock(desk: Desk, /, recipes: Sequence[Path], check: bool) -> None:
    """Pin everything outside by digest: images, fetched models, Python packages.

    Looks up what the recipe's names mean now, and writes it into RECIPE.lock.json beside it. From then on plan and
    build go by that, until it is written again; what is in the cache by digest is not asked for at all. Keep it in git.

    \b
    Examples:
      tricompose lock recipe.yaml
      tricompose lock recipe.yaml --check
      tricompose build recipe.yaml --locked
    """
    from composer import pipeline
    from composer.console import locks
    from composer.errors import LockStale
    from composer.lockfile import Ledger, differences, lock_path, read_lock, write_lock

    stale = []
    for path, recipe in zip(recipes, desk.recipes(recipes), strict=True):
        place = replace(desk.place(recipe), ledger=Ledger())
        file = lock_path(path)
        before, now = read_lock(file), pipeline.lock(recipe, place)
        changes = differences(before, now)
        if not check:
            write_lock(file, now)
        elif changes:
            stale.append(path)
        desk.console.add_result("locks", locks.lock_json(file, now, changes), *locks.lock_text(file, now, changes))
    if stale:
        raise LockStale(f"the lock of {stale[0]} is not what its names mean today", hint=f"tricompose lock {stale[0]}")


@command("build", commands, reach="push")
@click.argument("recipes", metavar="RECIPE...", nargs=-1, required=True, type=RECIPE)
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    metavar="TRANSPORT",
    help="Where the image goes, in place of the recipe's outputs. Repeatable.",
)
@click.option("--no-validate", is_flag=True, help="Do not prove that it serves; the image's label will say so.")
@RUNNER
@STRICT
@VERIFIED
@REPORTS
@_LOCKED
@_CUT
@_KNOWLEDGE
@click.option("--no-cache", is_flag=True, help="In a Docker build: run every step anew.")
@click.option("--pull", is_flag=True, help="In a Docker build: ask again for images that the engine has.")
@click.option(
    "--build-network", metavar="MODE", help="In a Docker build: the network of its steps, as docker build has it."
)
@click.option("--no-buildkit", is_flag=True, help="In a Docker build: the classic builder, even if there is BuildKit.")
@click.pass_obj
def _build(
    desk: Desk,
    /,
    recipes: Sequence[Path],
    outputs: Sequence[str],
    no_validate: bool,
    runner: str,
    strict: bool,
    complete: bool,
    reports: Sequence[str],
    locked: bool,
    cut: str,
    knowledge: str | None,
    no_cache: bool,
    pull: bool,
    build_network: str | None,
    no_buildkit: bool,
) -> None:
    """Make images: plan, compose, prove, deliver.

    Several recipes are built one after another. An image is delivered only after it has passed what its recipe has
    under validate:. Without outputs it stays in the cache. With -q only the digest is shown. A Docker Engine is
    needed for recipes with engine: dockerfile, packages.apt or steps:, and for none else.

    \b
    Transports:
      docker://host/repository:tag    oci:dir:tag    oci-archive:file.tar:tag
      docker-archive:file.tar:name:tag    docker-daemon:name:tag
    \b
    Examples:
      tricompose build recipe.yaml
      tricompose build recipe.yaml -o docker-daemon:tritonserver:slim
      tricompose build recipes/*.yaml --no-validate
    """
    from composer.oci.names import parse_reference
    from composer.with_server import Proving
    from composer.workplace import DockerWay

    if outputs and len(recipes) > 1:
        raise Usage(
            f"-o with {len(recipes)} recipes would give all their images one name",
            hint=f"tricompose build {recipes[0]} -o {outputs[0]}   (one recipe, or outputs: in each of them)",
        )
    instead = [parse_reference(output) for output in outputs]
    files = report_files(reports, recipes)
    way = DockerWay(use_cache=not no_cache, pull=pull, network=build_network, classic=no_buildkit)
    how = None if no_validate else Proving(runner=runner, strict=strict, complete=complete)
    for path, recipe in zip(recipes, desk.recipes(recipes), strict=True):
        place = desk.place(recipe, locked=locked, knowledge=knowledge, cut=cut, docker=way)
        targets = instead or [recipe.place(output) for output in recipe.outputs]
        _make(desk, path, recipe, place, targets, how, files)


def _make(
    desk: Desk,
    path: Path,
    recipe: Recipe,
    place: Workplace,
    targets: Sequence[Reference],
    how: Proving | None,
    files: Sequence[Target],
) -> None:
    """Build one recipe, and tell what came of it: of an image that was not proved, the reports."""
    from composer import pipeline
    from composer.console import results
    from composer.console.proofs import report_text
    from composer.reports import write_all as write_reports
    from composer.with_server import Unproved, Unseen

    try:
        outcome = pipeline.build(recipe, place, outputs=targets, how=how)
    except (Unproved, Unseen) as error:
        for platform, report in error.reports.items():
            document = {"platform": platform, **report.to_json()}
            desk.console.add_result("reports", document, *report_text(report))
        write_reports(error.reports.values(), files)
        raise
    text = [outcome.root.digest] if desk.console.quiet else results.outcome_text(outcome, recipe.name)
    desk.console.add_result("builds", results.outcome_json(outcome, str(path), recipe.name), *text)
    # Told first: where a report cannot be written, the image is delivered all the same.
    write_reports(outcome.reports.values(), files)


@commands.group("knowledge")
def _knowledge() -> None:
    """Share what is known of layers, so that others need not read them.

    \b
    Examples:
      tricompose knowledge publish recipe.yaml docker://harbor.example.com/tools/triton-knowledge
    """


@command("publish", _knowledge)
@click.argument("recipe", type=RECIPE)
@click.argument("target", metavar="REF")
@click.pass_obj
def _publish(desk: Desk, /, recipe: Path, target: str) -> None:
    """Push what the cache knows of the upstream of a recipe.

    Machines without a cache then build from it: tricompose build --knowledge REF.

    \b
    Examples:
      tricompose knowledge publish recipe.yaml docker://harbor.example.com/tools/triton-knowledge
    """
    from composer import pipeline, words
    from composer.errors import NotFound
    from composer.oci.names import parse_reference

    loaded = desk.recipe(recipe)
    count = pipeline.publish_knowledge(loaded, parse_reference(target), desk.place(loaded))
    if not count:
        raise NotFound(
            "nothing is known of this upstream yet: its layers were never read here",
            hint=f"tricompose plan --scan new {recipe}",
        )
    document = {"target": target, "artifacts": count}
    desk.console.result("published", document, f"{words.count(count, 'artifact')} published to {target}")
