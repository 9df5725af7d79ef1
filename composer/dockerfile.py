"""The Dockerfile of a recipe: what is decided for `engine: dockerfile`, and for what only RUN can do. Pure.

It is compose.py's way with three changes that all else follows from: what has to be run is run in a stage of its own,
and only what it changed is copied; by default what compose.py would fetch is taken out of the full image; every value
is quoted. All differences are in templates/README.md.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from composer.config import healthcheck
from composer.docker_syntax import (
    CONFIGURING,
    RUNNING,
    Instruction,
    comment,
    copy_form,
    json_form,
    legible,
    pair,
    parse_fragment,
    quoted,
    word,
)
from composer.errors import NotFound, Problem, RecipeError, UnknownRelease, Unplannable
from composer.inventory import HOME, KINDS, Component
from composer.lock import references
from composer.models.repository import ModelRepository
from composer.network.routes import Routes
from composer.oci.image import Image, Platform
from composer.oci.names import Reference, is_docker_name
from composer.plan import model_root, wished
from composer.recipe import CPU, CustomBackend, Recipe
from composer.releases import LATEST, RELEASES, Dcgm, Release, Requirements, Variable, absent, requirements
from composer.rendering import render as render_template
from composer.server import server_command

SCRIPTS: Final = ("shell.sh", "list.sh", "before.sh", "collect.sh", "purge.sh", "closure.sh")
FOLDER: Final = "tricompose"
"""The folder of the context, and of the side stage, that all of our own lies in."""

AMD64: Final = Platform(os="linux", architecture="amd64")

_SHELL: Final = ("/bin/sh", f"/{FOLDER}/shell.sh")
_AND: Final = " \\\n && "


@dataclass(frozen=True, slots=True, kw_only=True)
class Originals:
    """The images that a Dockerfile starts from, looked up: what FROM calls them, and what they are.

    `donors` are the names of those that custom backends come from, in the recipe's order.
    """

    full_name: str
    full: Image
    base_name: str
    base: Image
    donors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """An instruction of the side stage, and why it is there."""

    because: str
    instruction: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """The side stage: what it starts from (`full` or `base`), its ENV, what it runs, what is not copied (for find)."""

    stage: str
    settings: tuple[str, ...]
    steps: tuple[Step, ...]
    apart: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A COPY: its options, its paths in JSON form, and why, where it is the first of its kind."""

    options: str
    paths: str
    because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Donor:
    """Another image that something is copied from."""

    image: str
    stage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dockerfile:
    """All that the template says, in its order; every value is spelled as a Dockerfile has it.

    `settings` are the words of ENV, `labels` those of LABEL, `closing` whole instructions. `user` is the user that
    the image runs as. `assumed` are warnings: what was taken for granted of a release that is not listed.
    """

    heading: tuple[str, ...]
    base: str
    full: str | None = None
    donors: tuple[Donor, ...] = ()
    prepared: Preparation | None = None
    settings: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    copies: tuple[Copy, ...] = ()
    user: str | None = None
    closing: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()


def render(dockerfile: Dockerfile) -> str:
    """The text of a Dockerfile: classic syntax, as Docker 20.10 without BuildKit builds it. Raises `Unplannable`."""
    return legible(render_template("Dockerfile.j2", "d", dockerfile))


def blueprint(
    recipe: Recipe,
    originals: Originals | None = None,
    *,
    platform: Platform = AMD64,
    repositories: Sequence[ModelRepository] = (),
    own: Sequence[Component] = (),
    placed: bool = False,
) -> Dockerfile:
    """Decide. Without `originals` nothing was looked up: what they are is what is known of the release.

    `own` are the backends that the recipe brings from this machine; `placed` says whether the context has files to be
    put into their places (`files:`, wheels). Raises `NotFound` for a backend that the release lacks, `UnknownRelease`,
    `RecipeError`, `Unplannable`.
    """
    if recipe.variant == CPU and recipe.dockerfile.source == "network":
        raise Unplannable(
            f"{CPU} cannot be made from the network alone: its libraries come out of the full image",
            hint="dockerfile: {source: upstream}",
        )
    facts, assumed = _facts(recipe, originals)
    chosen = {kind: tuple(dict.fromkeys(names)) for kind, names in wished(recipe, repositories, own).items()}
    _refuse_absent(recipe, facts, chosen)
    needs = requirements(
        RELEASES.get(facts.name, RELEASES[LATEST]),
        backends=chosen["backends"],
        gpu=recipe.variant != CPU,
        architecture=platform.architecture,
        extras=recipe.dockerfile.extras,
    )
    full, base = _names(recipe, originals)
    settings = _environment(recipe, needs, originals)
    return Dockerfile(
        heading=_heading(recipe, facts, platform),
        full=full,
        base=base,
        donors=tuple(_donors(recipe, originals)),
        prepared=_preparation(recipe, needs, chosen, placed, settings),
        settings=tuple(_setting(one) for one in settings),
        labels=tuple(pair(name, value) for name, value in _labels(recipe, needs, originals).items()),
        copies=tuple(_copies(recipe, needs, chosen, repositories)),
        user=recipe.user or _inherited(originals),
        closing=tuple(_closing(recipe, needs, originals)),
        assumed=assumed,
    )


def on_top(recipe: Recipe, base: str, image: Image | None = None) -> Dockerfile:
    """What only RUN can do (`packages.apt`, `steps:`), on top of a composed image that the engine calls `base`.

    Without `image` it is not known whom that runs as. Raises `RecipeError` for steps that are none, `Unplannable`.
    """
    user = _user(image) if image else None
    closing = tuple(_configuring(recipe))
    own = (f"USER {word(user)}",) if user else ()
    return Dockerfile(
        heading=(f"{comment(recipe.name)}: what has to be run, on top of the composed image",),
        base=base,
        prepared=Preparation(stage="base", settings=(), steps=(*_wanted_packages(recipe), *_wanted_steps(recipe))),
        user=user,
        # A fragment may say whom the image runs as, but `user` of the recipe is the last word.
        closing=(*closing, *own) if recipe.user else (*own, *closing),
    )


def runs_something(recipe: Recipe) -> bool:
    """Whether a recipe asks for what only RUN can do."""
    return bool(recipe.packages.apt or recipe.steps)


def asks_network(recipe: Recipe) -> bool:
    """Whether anything that is run may ask the network: only what the recipe says is to come from there."""
    return runs_something(recipe) or (recipe.engine == "dockerfile" and recipe.dockerfile.source == "network")


# -- what it starts from ------------------------------------------------------------------------------------------


def _facts(recipe: Recipe, originals: Originals | None) -> tuple[Release, tuple[str, ...]]:
    """The release. One that is not listed has the facts of the latest under its own name, and what that assumes."""
    name = recipe.triton or (_variables(originals.full).get("NVIDIA_TRITON_SERVER_VERSION") if originals else None)
    if name is None:
        raise UnknownRelease("nothing says of which release the upstream is", hint='triton: "24.10"')
    facts = RELEASES.get(name)
    if facts and facts.composed:
        return facts, ()
    if facts:
        raise UnknownRelease(f"release {name} is older than compose.py", hint="engine: direct")
    if name < LATEST:
        raise UnknownRelease(f"there was no release {name}", hint="tricompose releases")
    if originals is None:
        raise UnknownRelease(
            f"release {name} is not listed, and its image was not looked at",
            hint="tricompose plan recipe.yaml --dockerfile DIR --pin",
        )
    assumed = f"release {name} is not listed: environment, labels and entrypoint are taken from its image; "
    assumed += f"packages, owner of files and paths are assumed to be as in {LATEST}"
    triton = _variables(originals.full).get("TRITON_SERVER_VERSION", "of an unknown version")
    return replace(RELEASES[LATEST], name=name, triton=triton), (assumed,)


def _refuse_absent(recipe: Recipe, facts: Release, chosen: Mapping[str, Sequence[str]]) -> None:
    """All names that a listed release does not have, at once."""
    if facts.name not in RELEASES:
        return
    own = {custom.name for custom in recipe.custom_backends}
    problems = [
        Problem(
            where=_where(recipe, kind, name), message=f"Triton {facts.name} has no {_ONE[kind]} {name!r}", hint=hint
        )
        for kind, names in chosen.items()
        for name in names
        if not (kind == "backends" and name in own) and (hint := absent(facts, kind, name))
    ]
    if problems:
        raise NotFound("\n".join(f"{one.where}: {one.message}" for one in problems), hint=problems[0].hint)


_ONE: Final = {"backends": "backend", "repoagents": "repository agent", "caches": "cache"}


def _where(recipe: Recipe, kind: str, name: str) -> str:
    written = getattr(recipe, kind)
    return recipe.where(kind, written.index(name)) if name in written else recipe.where("models")


def _names(recipe: Recipe, originals: Originals | None) -> tuple[str, str]:
    """What FROM calls the full image and the base."""
    if originals:
        return originals.full_name, originals.base_name
    full, least = (_mirror(recipe, one) if one else None for one in references(recipe))
    if full is None:
        raise UnknownRelease("the recipe names no upstream", hint='triton: "24.10"')
    if least is None:
        raise Unplannable(
            "the dockerfile engine builds on the -min image, and the recipe names none",
            hint="upstream: {full: ..., min: ...}",
        )
    return named_from(full), named_from(least)


def named_from(reference: Reference) -> str:
    """What FROM calls an image of a registry. Raises `Unplannable` for other places."""
    if reference.transport != "docker":
        raise Unplannable(
            f"a Dockerfile cannot start from {reference}",
            hint="tricompose build hands it to Docker by itself; to write a Dockerfile, name a registry's image",
        )
    name = str(reference).removeprefix("docker://")
    # The recipe's mirrors are any text.
    if name.startswith("-") or not is_docker_name(name.partition("@")[0]):
        raise Unplannable(
            f"a Dockerfile cannot start from {name!r}: that is no name of an image",
            hint="network: {mirrors: {nvcr.io: [harbor.example.com/nvcr]}}",
        )
    return name


def _heading(recipe: Recipe, facts: Release, platform: Platform) -> tuple[str, ...]:
    return (
        f"{comment(recipe.name)}: Triton Inference Server {facts.triton}, release {facts.name}, for {platform}.",
        f"Written by tricompose. To build it in this folder:  sh {FOLDER}/build.sh NAME:TAG",
    )


def _donors(recipe: Recipe, originals: Originals | None) -> Iterator[Donor]:
    images = [(number, one.image) for number, one in enumerate(recipe.custom_backends, 1) if one.image]
    names = originals.donors if originals else [named_from(_mirror(recipe, image)) for _, image in images]
    for (number, _), name in zip(images, names, strict=True):
        yield Donor(image=name, stage=f"donor{number}")


def _mirror(recipe: Recipe, reference: Reference) -> Reference:
    """The first mirror: the one that a Dockerfile names, as it knows of no second."""
    said = recipe.network
    places = Routes(mirrors=said.mirrors, blocked=frozenset(said.blocked)).places(reference)
    if not places:
        hint = f"network: {{mirrors: {{{reference.host}: [mirror.example.com]}}}}"
        raise Unplannable(f"{reference.host} may not be asked, and has no mirror", hint=hint)
    return places[0]


# -- the side stage -----------------------------------------------------------------------------------------------


def _preparation(
    recipe: Recipe,
    needs: Requirements,
    chosen: Mapping[str, Sequence[str]],
    placed: bool,
    settings: Sequence[Variable],
) -> Preparation:
    from_upstream = recipe.dockerfile.source == "upstream"
    server = _from_upstream(recipe, needs, chosen) if from_upstream else _from_network(needs)
    steps = (*server, *_wanted_packages(recipe), *(_placing() if placed else ()), *_wanted_steps(recipe))
    apart = tuple(f"./{HOME}/{kind}/*" for kind in KINDS) if from_upstream else ()
    return Preparation(
        stage="full" if from_upstream else "base",
        # The full image has the rest already.
        settings=tuple(_setting(one) for one in settings if one.name in recipe.env or not from_upstream),
        steps=steps,
        apart=tuple(json_form([one])[1:-1] for one in apart),
    )


def _from_upstream(recipe: Recipe, needs: Requirements, chosen: Mapping[str, Sequence[str]]) -> Iterator[Step]:
    if packages := [glob for globs in needs.unneeded.values() for glob in globs]:
        yield Step(
            because="What the full image has and no server needs (dockerfile.extras of the recipe keeps it).",
            instruction=_run(" ".join([f"sh /{FOLDER}/purge.sh", *map(shlex.quote, packages)])),
        )
    if files := [glob for globs in needs.unneeded_files.values() for glob in globs]:
        because = "The same of files: they have no package of their own."
        yield Step(because=because, instruction=_run(f"rm -rf {' '.join(files)}"))
    if recipe.variant == CPU:
        parts = [f"/{HOME}/{kind}/{name}" for kind, names in chosen.items() for name in names]
        yield Step(
            because="Without CUDA: only the libraries that the server and its backends are linked to.",
            instruction=_run(" ".join([f"sh /{FOLDER}/closure.sh", *map(shlex.quote, parts)])),
        )


def _from_network(needs: Requirements) -> Iterator[Step]:
    yield _account(needs)
    for apt in needs.apt:
        yield Step(
            because=f"Ubuntu's packages for {comment(apt.because)}.",
            instruction=_apt(apt.packages, recommends=apt.recommends),
        )
    if needs.dcgm:
        yield from _dcgm(needs.dcgm)
    if needs.cuda_compat:
        yield Step(because="CUDA's libraries for older drivers come first.", instruction=_run(*_COMPAT))
    for file, line in needs.linker_paths:
        yield Step(
            because="Libraries that are found nowhere else.",
            instruction=_run(f"echo {shlex.quote(line)} > {shlex.quote(f'/etc/ld.so.conf.d/{file}')}", "ldconfig"),
        )
    for pip in needs.pip:
        yield Step(
            because=f"Python's packages: {comment(pip.because)}.",
            instruction=_pip(pip.requirements, upgrade=pip.upgrade),
        )
    yield Step(because="The server of the base makes way for the full image's.", instruction=_run(*_emptied(needs)))


_COMPAT: Final = (
    "ln -sf ${_CUDA_COMPAT_PATH:?}/lib.real ${_CUDA_COMPAT_PATH}/lib",
    "echo ${_CUDA_COMPAT_PATH}/lib > /etc/ld.so.conf.d/00-cuda-compat.conf",
    "ldconfig",
    "rm -f ${_CUDA_COMPAT_PATH:?}/lib",
)


def _account(needs: Requirements) -> Step:
    removed = [f"{{ userdel {name} > /dev/null 2>&1 || true; }}" for name in needs.removed_users]
    made = f"{{ id -u {needs.user} > /dev/null 2>&1 || useradd {needs.user}; }}"
    checked = f'[ "$(id -u {needs.user}):$(id -g {needs.user})" = 1000:1000 ]'
    return Step(
        because="A user to run the server as, with the ID 1000 that its files belong to.",
        instruction=_run(*removed, made, checked),
    )


def _emptied(needs: Requirements) -> Iterator[str]:
    yield f"rm -rf /{HOME}/*"
    if needs.owner:
        user, _, group = needs.owner.partition(":")
        folders = " ".join(f"/{HOME}/{kind}" for kind in KINDS)
        yield f"install -d -o {user} -g {group} {folders}"


def _dcgm(dcgm: Dcgm) -> Iterator[Step]:
    """NVIDIA's repository, then DCGM out of it: two steps, so that the second sees the sources of the first."""
    because = "DCGM, which the server's GPU metrics come from, out of NVIDIA's own repository."
    place = dcgm.repository.rpartition("/cuda/repos/")[2].strip("/")
    repository = f"${{CUDA_REPOS}}/{place}"
    if dcgm.keyring:
        fetch: tuple[str, ...] = (
            f"curl -fsSL -o /tmp/keyring.deb {repository}/{dcgm.keyring}",
            "dpkg -i /tmp/keyring.deb",
            "rm /tmp/keyring.deb",
        )
    else:
        listed = f"deb [signed-by=/usr/share/keyrings/cuda.asc] {dcgm.repository}/ /"
        fetch = (
            f"curl -fsSL -o /usr/share/keyrings/cuda.asc {repository}/{dcgm.key}",
            f"echo '{listed}' > /etc/apt/sources.list.d/cuda.list",
        )
    yield Step(because=because, instruction=_run(*fetch))
    yield Step(because="", instruction=_apt(dcgm.packages, recommends=dcgm.recommends))


def _wanted_packages(recipe: Recipe) -> Iterator[Step]:
    if recipe.packages.apt:
        yield Step(because="packages.apt of the recipe.", instruction=_apt(recipe.packages.apt, recommends=False))


def _placing() -> Iterator[Step]:
    yield Step(
        because="Files and Python packages of the recipe, into folders as the image has them.",
        instruction=_run(
            f"tar -C /{FOLDER}/rootfs -cf - . | tar -C / --no-overwrite-dir --keep-directory-symlink -xpf -"
        ),
    )


def _wanted_steps(recipe: Recipe) -> Iterator[Step]:
    if isinstance(recipe.steps, str):
        for one in _fragment(recipe):
            yield Step(because=f"steps of the recipe, line {one.line}.", instruction=one.text)
        return
    for number, command in enumerate(recipe.steps, 1):
        words = [*_SHELL, f"set -e\n{command}"]
        yield Step(because=f"Step {number} of the recipe.", instruction=f"RUN {json_form(words)}")


def _fragment(recipe: Recipe) -> tuple[Instruction, ...]:
    """The instructions of a fragment. Raises `RecipeError` for those that cannot stand in a side stage."""
    found = parse_fragment(str(recipe.steps))
    where = recipe.where("steps")
    problems = [
        Problem(
            where=where, message=f"line {one.line}: {one.keyword} cannot stand in steps", hint=_instead(one.keyword)
        )
        for one in found
        if one.keyword not in CONFIGURING | RUNNING
    ]
    if problems:
        raise RecipeError(problems)
    return found


def _instead(keyword: str) -> str:
    """What to write in place of an instruction that steps do not take."""
    if keyword in ("COPY", "ADD"):
        return "files: [{source: ..., target: ...}]"
    return "steps takes RUN, ARG, and what configures an image: ENV, LABEL, USER, WORKDIR, CMD, ..."


def _configuring(recipe: Recipe) -> Iterator[str]:
    """What a fragment says of the image itself, which its own stage would not hand on."""
    if isinstance(recipe.steps, str):
        yield from (one.text for one in _fragment(recipe) if one.keyword in CONFIGURING - {"SHELL"})


def _apt(packages: Iterable[str], *, recommends: bool) -> str:
    options = "-y" if recommends else "-y --no-install-recommends"
    names = " \\\n      ".join(packages)
    return _run("apt-get update", f"DEBIAN_FRONTEND=noninteractive apt-get install {options} \\\n      {names}")


def _pip(requirements_: Iterable[str], *, upgrade: bool) -> str:
    names = " ".join(f"'{one}'" for one in requirements_)
    return _run(f"pip3 install --no-cache-dir {'--upgrade ' if upgrade else ''}{names}")


def _run(*commands: str) -> str:
    return f"RUN {_AND.join(commands)}"


# -- the image itself ---------------------------------------------------------------------------------------------


def _variables(image: Image) -> dict[str, str]:
    lines = (image.config.get("config") or {}).get("Env") or []
    return {name: value for name, _, value in (str(line).partition("=") for line in lines)}


def _user(image: Image) -> str | None:
    """Whom an image runs as, None where it does not say."""
    return (image.config.get("config") or {}).get("User") or None


def _environment(recipe: Recipe, needs: Requirements, originals: Originals | None) -> list[Variable]:
    """What the full image has beyond its base; where it was not looked up, what the release is known to have."""
    found: Iterable[Variable] = needs.environment
    if originals:
        above, below = _variables(originals.full), _variables(originals.base)
        said = {name: value for name, value in above.items() if below.get(name) != value}
        if recipe.variant == CPU:
            # Where things lie is as in the full image; what is said of CUDA, its versions and its driver is not so.
            known = {one.name: above.get(one.name, one.value) for one in found if not one.prepend}
            paths = {name: value for name, value in said.items() if name in ("PATH", "LD_LIBRARY_PATH")}
            said = paths | known | {"TRITON_SERVER_GPU_ENABLED": "0"}
        found = [Variable(name=name, value=value, prepend=False) for name, value in said.items()]
    kept = [one for one in found if one.name not in recipe.env]
    return kept + [Variable(name=name, value=value, prepend=False) for name, value in recipe.env.items()]


def _setting(variable: Variable) -> str:
    if variable.prepend:
        return f'{variable.name}={quoted(variable.value)[:-1]}:${{{variable.name}}}"'
    return pair(variable.name, variable.value)


def _labels(recipe: Recipe, needs: Requirements, originals: Originals | None) -> dict[str, str]:
    found = dict(needs.labels)
    if originals:
        below = (originals.base.config.get("config") or {}).get("Labels") or {}
        above = (originals.full.config.get("config") or {}).get("Labels") or {}
        found = {name: value for name, value in above.items() if below.get(name) != value}
    return found | dict(recipe.labels)


def _copies(
    recipe: Recipe,
    needs: Requirements,
    chosen: Mapping[str, Sequence[str]],
    repositories: Sequence[ModelRepository],
) -> Iterator[Copy]:
    owned = f"--chown={needs.owner} " if needs.owner else ""
    if recipe.dockerfile.source == "network":
        yield from _core(needs, owned)
    customs = {custom.name: (number, custom) for number, custom in enumerate(recipe.custom_backends, 1)}
    for kind, names in chosen.items():
        for name in names:
            if kind != "backends" or name not in customs:
                path = f"/{HOME}/{kind}/{name}"
                yield Copy(options=f"--from=full {owned}", paths=copy_form([path, path]))
    for number, custom in customs.values():
        yield _custom(custom, number, owned)
    if repositories:
        root = f"/{model_root(recipe)}/"
        yield Copy(options="", paths=copy_form(["models/", root]), because="The models.")


def _core(needs: Requirements, owned: str) -> Iterator[Copy]:
    because = "The server, then each part that was asked for."
    for name in needs.core:
        path = f"/{HOME}/{name}"
        yield Copy(options=f"--from=full {owned}", paths=copy_form([path, path]), because=because)
        because = ""
    if "nvidia_entrypoint.sh" not in needs.core:
        folder = "/opt/nvidia/entrypoint.d/"
        yield Copy(options="--from=full ", paths=copy_form([folder, folder]))
    yield Copy(options=f"--from=full {owned}", paths=copy_form(["/usr/bin/serve", "/usr/bin/serve"]))


def _custom(custom: CustomBackend, number: int, owned: str) -> Copy:
    path = f"/{HOME}/backends/{custom.name}"
    if custom.image:
        return Copy(options=f"--from=donor{number} {owned}", paths=copy_form([path, path]))
    return Copy(options=owned, paths=copy_form([f"backends/{custom.name}/", f"{path}/"]))


def _closing(recipe: Recipe, needs: Requirements, originals: Originals | None) -> Iterator[str]:
    yield f"WORKDIR /{HOME}"
    entrypoint = needs.entrypoint if not originals or recipe.variant == CPU else _own_entrypoint(originals)
    if entrypoint:
        yield f"ENTRYPOINT {json_form(entrypoint)}"
    if recipe.server or recipe.models:
        yield f"CMD {json_form(server_command(recipe.server, release=recipe.triton))}"
    if recipe.healthcheck:
        yield f"HEALTHCHECK {_health(healthcheck(recipe))}"
    if recipe.variant == CPU:
        yield "RUN ldconfig"
    if not recipe.user and (user := _inherited(originals)):
        yield f"USER {word(user)}"
    yield from _configuring(recipe)
    if recipe.user:
        yield f"USER {word(recipe.user)}"


def _inherited(originals: Originals | None) -> str | None:
    """Whom the full image runs as. NVIDIA's say nothing."""
    return _user(originals.full) if originals else None


def _own_entrypoint(originals: Originals) -> Sequence[str] | None:
    """The full image's, where its base has another."""
    above, below = ((image.config.get("config") or {}).get("Entrypoint") for image in (originals.full, originals.base))
    return above if above and above != below else None


def _health(check: Mapping[str, Any]) -> str:
    second = 1_000_000_000
    times = {"interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod"}
    options = " ".join(f"--{option}={check[key] // second}s" for option, key in times.items())
    return f"{options} --retries={check['Retries']} CMD {json_form(check['Test'][1:])}"
