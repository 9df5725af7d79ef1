"""The commands of `tricompose models`: check model repositories, list them, write what they lack."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from composer.command import Desk, Usage, command

if TYPE_CHECKING:
    from composer.models.lint import Case, Finding
    from composer.models.repository import ModelRepository


@click.group("models")
def models() -> None:
    """Check model repositories as the server would, list them, write config.pbtxt.

    \b
    Examples:
      tricompose models lint ./model_repository
      tricompose models ls ./model_repository
    """


@command("lint", models, reach="none")
@click.argument("paths", metavar="DIR|RECIPE...", nargs=-1, type=click.Path(path_type=Path, readable=False))
@click.option(
    "--release", metavar="RELEASE", help="The Triton release that it is for.  [default: the recipe's, or the latest]"
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "sarif", "junit", "github"]),
    default="text",
    show_default=True,
    help="How findings are written to stdout.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning", "info"]),
    default="error",
    show_default=True,
    help="The least finding that makes the exit status 1.",
)
@click.option("--fix", is_flag=True, help="Mend what can be mended safely, then check again.")
@click.option(
    "--ignore", "ignored", multiple=True, metavar="ID=REASON", help="Pass over a rule, and say why. Repeatable."
)
@click.option("--explain", metavar="ID", help="Say what a rule is about, and look at nothing.")
@click.pass_obj
def _lint(
    desk: Desk,
    /,
    paths: Sequence[Path],
    release: str | None,
    form: str,
    fail_on: str,
    fix: bool,
    ignored: Sequence[str],
    explain: str | None,
) -> None:
    """Check model repositories as the server would, before it does.

    Nothing is started and no model is run: files are read, and judged by rules that were compared with real servers.
    A recipe says what the models are to run with: the release, backends, server flags, shared memory, GPUs.
    In config.pbtxt, `# tricompose: ignore[ID] reason` passes over what the line, or the line below, would give.

    \b
    Examples:
      tricompose models lint ./model_repository
      tricompose models lint ./model_repository --release 24.09 --fix
      tricompose models lint recipe.yaml --fail-on warning
      tricompose models lint ./model_repository --format sarif > models.sarif
      tricompose models lint --explain ENS020
    """
    if explain:
        _explain(desk, explain)
        return
    if not paths:
        raise Usage("there is nothing to check", hint="tricompose models lint ./model_repository")
    reasons = _reasons(ignored)
    found, repositories, case = _checked(paths, release, reasons)
    if fix:
        found = _mended(desk, found, paths, release, reasons)
    _report(desk, found, repositories, case, form)
    _tell_unseen(desk, paths)
    _end(found, fail_on, paths)


def _explain(desk: Desk, name: str) -> None:
    from composer.console import findings
    from composer.errors import NotFound
    from composer.models.lint import RULES

    rule = RULES.get(name.upper())
    if rule is None:
        import difflib

        near = difflib.get_close_matches(name.upper(), RULES, 3, 0.5)
        raise NotFound(f"there is no rule {name}", hint=f"near to it: {', '.join(near) or ', '.join(list(RULES)[:5])}")
    desk.console.result("rule", findings.rule_json(rule), *findings.rule_text(rule))


def _reasons(ignored: Sequence[str]) -> Mapping[str, str]:
    from composer.models.lint import RULES

    found = {}
    for text in ignored:
        name, _, reason = text.partition("=")
        if name not in RULES or not reason.strip():
            raise Usage(f"--ignore {text}: a rule and a reason are wanted", hint='--ignore "ONX003=it was tested"')
        found[name] = reason.strip()
    return found


def _checked(
    paths: Sequence[Path], release: str | None, reasons: Mapping[str, str]
) -> tuple[tuple[Finding, ...], tuple[ModelRepository, ...], Case]:
    from composer.models.lint import lint

    repositories, case, more = _given(paths, release)
    return lint(repositories, case, ignored={**more, **reasons}), repositories, case


def _given(paths: Sequence[Path], release: str | None) -> tuple[tuple[ModelRepository, ...], Case, Mapping[str, str]]:
    """The repositories that are named, or that a recipe names; what they are to run with; what is passed over."""
    from dataclasses import replace

    from composer.models.lint.case import case_for, case_of, ignored_by, repositories_of
    from composer.models.repository import read_repository
    from composer.recipe import load_recipe

    recipes = [path for path in paths if path.suffix in _RECIPES]
    if recipes and len(paths) > 1:
        hint = f"{click.get_current_context().command_path} {recipes[0]}"
        raise Usage("a recipe stands alone: it names its repositories", hint=hint)
    known = case_for(_known(release)) if release or not recipes else None
    if not recipes:
        assert known
        return tuple(read_repository(path) for path in paths), known, {}
    recipe = load_recipe(recipes[0], environ=os.environ)
    case = case_of(recipe)
    case = replace(case, release=known.release) if known else case
    return repositories_of(recipe), case, ignored_by(recipe)


def _known(release: str | None) -> str | None:
    from composer import releases

    return releases.release(release).name if release else None


def _mended(
    desk: Desk, found: tuple[Finding, ...], paths: Sequence[Path], release: str | None, reasons: Mapping[str, str]
) -> tuple[Finding, ...]:
    """Mend, and check again, until there is nothing more to mend. What is left over."""
    from composer.events import Logged
    from composer.models.lint.fixes import fix

    for _ in range(_ROUNDS):
        mended = fix(found)
        for one in mended:
            desk.console.emit(Logged(text=f"mended {one.path}: {one.message}", source="fix"))
        if not mended:
            break
        found, _, _ = _checked(paths, release, reasons)
    return found


_ROUNDS: Final = 10
"""A file that is wrong in more ways than this is looked at by someone first."""


def _report(
    desk: Desk, found: Sequence[Finding], repositories: Sequence[ModelRepository], case: Case, form: str
) -> None:
    from importlib.metadata import version

    from composer import words
    from composer.console import findings

    names = [model.name for one in repositories for model in one.models]
    document = [findings.finding_json(one) for one in found]
    written = {
        "sarif": lambda: findings.sarif(found, version=version("tricompose")),
        "junit": lambda: findings.junit(found, names),
        "github": lambda: findings.github(found),
    }
    desk.console.result("release", case.release.name if case.release else None)
    desk.console.result("models", names)
    if form in written:
        desk.console.text(written[form]())
        desk.console.result("findings", document)
    elif form == "json":
        import json

        desk.console.text(json.dumps({"schema": 1, "models": names, "findings": document}, indent=2) + "\n")
        desk.console.result("findings", document)
    else:
        told = f"{words.count(len(names), 'model')}, Triton {case.release.name if case.release else 'of any release'}"
        summary = f"{told}: {findings.count_of(found)}"
        desk.console.result("findings", document, *findings.findings_text(found), summary)


def _tell_unseen(desk: Desk, paths: Sequence[Path]) -> None:
    """Say which models of a recipe are not here yet, so that nobody takes them for checked."""
    from composer.events import Logged
    from composer.recipe import load_recipe

    for path in paths:
        recipe = load_recipe(path, environ=os.environ) if path.suffix in _RECIPES else None
        for model in recipe.models if recipe else ():
            if model.path is None:
                when = "fetched" if model.source else "converted"
                desk.console.emit(
                    Logged(text=f"{model.name} is checked once it is {when}: by plan and build", source="lint")
                )


_RECIPES: Final = (".yaml", ".yml")


def _end(found: Sequence[Finding], fail_on: str, paths: Sequence[Path]) -> None:
    from composer.errors import ModelsRefused

    counted = {"error": ("error",), "warning": ("error", "warning"), "info": ("error", "warning", "info")}[fail_on]
    bad = [one for one in found if one.severity in counted and not one.suppressed]
    if not bad:
        return
    fixable = sum(one.edit is not None for one in bad)
    named = " ".join(str(path) for path in paths)
    hint = f"tricompose models lint {named} --fix   (mends {fixable} of them)" if fixable else None
    number = len(bad)
    raise ModelsRefused(
        f"{number} finding{'s' if number > 1 else ''}: the server would not serve these models as they are"
        if any(one.severity == "error" for one in bad)
        else f"{number} finding{'s' if number > 1 else ''} of the kind that --fail-on names",
        hint=hint or f"tricompose models lint --explain {bad[0].rule.id}",
    )


@command("ls", models, reach="none")
@click.argument(
    "paths", metavar="DIR|RECIPE...", nargs=-1, required=True, type=click.Path(path_type=Path, readable=False)
)
@click.pass_obj
def _ls(desk: Desk, /, paths: Sequence[Path]) -> None:
    """List the models of repositories: backends, versions, sizes.

    \b
    Examples:
      tricompose models ls ./model_repository
      tricompose models ls recipe.yaml --json | jq -r '.models[].backend'
    """
    from composer.console import findings
    from composer.errors import NotFound

    repositories, _, _ = _given(paths, None)
    if lost := next((one.path for one in repositories if one.fault), None):
        raise NotFound(f"there is no model repository {lost} that can be read", hint=f"ls -ld {lost}")
    all_models = [model for one in repositories for model in one.models]
    desk.console.result("models", [findings.model_json(one) for one in all_models], findings.models_text(all_models))


@command("rules", models, reach="none")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.pass_obj
def _rules(desk: Desk, /, ids: Sequence[str]) -> None:
    """List the rules that models are checked by. All, or those whose id begins so.

    \b
    Examples:
      tricompose models rules
      tricompose models rules LAY ENS
      tricompose models rules --json | jq -r '.rules[] | select(.triton) | .id'
    """
    from composer.console import findings
    from composer.errors import NotFound
    from composer.models.lint import RULES

    wanted = tuple(one.upper() for one in ids) or ("",)
    found = [rule for name, rule in sorted(RULES.items()) if name.startswith(wanted)]
    if not found:
        raise NotFound(f"there is no rule whose id begins with {' or '.join(wanted)}", hint="tricompose models rules")
    desk.console.result("rules", [findings.rule_json(one) for one in found], findings.rules_text(found))


@command("config", models, reach="none")
@click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))
@click.option("--release", metavar="RELEASE", help="The Triton release that it is for.  [default: the latest]")
@click.option("--write", is_flag=True, help="Put it into the model's folder, where there is none yet.")
@click.option("--check", is_flag=True, help="Say where the config.pbtxt that is there disagrees with the model's file.")
@click.pass_obj
def _config(desk: Desk, /, model: Path, release: str | None, write: bool, check: bool) -> None:
    """Write a model's config.pbtxt, as the server would complete it.

    What it cannot know stands there as commented choices. MODEL is a model's folder, or the file itself: ONNX,
    TorchScript or a TensorRT plan. For ONNX all is known; lines that someone must fill in say so.

    \b
    Examples:
      tricompose models config ./model_repository/densenet
      tricompose models config ./model_repository/densenet --write
      tricompose models config ./model_repository/densenet --check --release 24.09
      tricompose models config densenet.onnx > config.pbtxt
    """
    from composer.models.autoconfig import to_fill_in
    from composer.models.model_files import config_for, put_config

    model = model.resolve() if model.name in ("", "..") else model  # the folder's name is the model's
    if write and check:
        raise Usage("--write and --check exclude each other", hint="tricompose models config --check first")
    if (write or check) and model.is_file():
        hint = "tricompose models config REPOSITORY/NAME   (the folder that the versions are in)"
        raise Usage(f"{model} is no model's folder", hint=hint)
    if check:
        _compare(desk, model, release)
        return
    text = config_for(model, release=_known(release))
    lines = list(to_fill_in(text))
    if write:
        path = put_config(model, text)
        left = f"; fill in line {', '.join(map(str, lines))}" if lines else ""
        desk.console.result("config", {"path": str(path), "to_fill_in": lines}, f"{path} is written{left}")
        return
    desk.console.result("config", {"text": text, "to_fill_in": lines})
    desk.console.text(text)


def _compare(desk: Desk, folder: Path, release: str | None) -> None:
    from composer.models.lint import lint
    from composer.models.lint.case import case_for
    from composer.models.model_files import AGREEMENT, alone

    repository = alone(folder)
    case = case_for(_known(release))
    found = lint([repository], case, only=AGREEMENT)
    _report(desk, found, [repository], case, "text")
    _end(found, "warning", [repository.path])


@command("convert", models)
@click.argument("recipe", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--only", "names", metavar="NAME", multiple=True, help="Convert this model, and others that are named.")
@click.pass_obj
def _convert(desk: Desk, /, recipe: Path, names: Sequence[str]) -> None:
    """Make the TensorRT plans of a recipe, where the GPU is.

    A plan runs on GPUs like the one that it was made on. Runs trtexec in NVIDIA's tensorrt container of the same
    release, by Docker. What was made before is not made again. A plan goes where the recipe's `plan:` says, with a
    record of what it was made of beside it: both can be carried to machines without such a GPU, where builds take them
    from there.

    \b
    Examples:
      tricompose models convert recipe.yaml
      tricompose models convert recipe.yaml --only resnet50_fp16
    """
    from composer import pipeline
    from composer.console import plans
    from composer.recipe import load_recipe

    loaded = load_recipe(recipe, environ=os.environ)
    made = pipeline.convert(loaded, desk.place(loaded), only=names)
    desk.console.result("plans", [plans.plan_json(one) for one in made], *plans.plans_text(made))
