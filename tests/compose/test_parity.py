"""Our Dockerfiles do what those of every release's own compose.py do, but for the differences that are listed.

What compose.py writes was recorded by running it: see record.py. Three things are compared with it: what a release is
said to need, a Dockerfile that takes its packages from the network, and one that takes them from the full image.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Literal

import pytest

from composer.dockerfile import blueprint, render
from composer.oci.image import Platform
from composer.recipe import Recipe, load_recipe
from composer.recipe_schema import DockerfileChoices
from composer.releases import EXTRAS, RELEASES, requirements
from tests.compose.differences import DIFFERENCES, Difference, case_of, lines, needed, unexplained
from tests.compose.ours import read_ours
from tests.compose.record import recorded, versions

RELEASES_COMPOSED = [name for name, release in RELEASES.items() if release.composed]
README = Path(__file__).parents[2] / "templates" / "README.md"

ELSEWHERE = ("base ", "stage ", "part ", "other ", "copied ", "owned ", "entrypoint ")
"""Facts that do not come from what a release needs."""

PACKAGES = (
    "package ",
    "recommended ",
    "pip ",
    "repository ",
    "key ",
    "keyring ",
    "linker ",
    "cuda_compat",
    "user ",
    "id ",
)
"""Facts that are not in a Dockerfile that takes everything from the full image."""


def compared(release: str, how: str) -> Iterator[tuple[str, list[str], set[Difference]]]:
    """For each case of a release, the facts that nothing explains, and the differences that explain others."""
    for case, facts in recorded()[release].items():
        theirs = lines(release, dict(facts))
        if how == "needs":
            yield case, *unexplained(release, case, _without(theirs, ELSEWHERE), needs(release, case))
        elif case == "tensorrtllm":
            continue  # it comes from an image of its own, and so into no Dockerfile by its name alone
        elif how == "network" and case_of(case).gpu:  # without CUDA everything comes out of the full image
            yield case, *unexplained(release, case, theirs, written(release, case, source="network"))
        else:
            left = (*PACKAGES, "core ", "other ", "copied full ", "copied context ", "owned ")
            ours = _without(written(release, case, source="upstream"), left)
            yield case, *unexplained(release, case, _without(theirs, left), ours)


def _without(facts: set[str], kinds: tuple[str, ...]) -> set[str]:
    return {fact for fact in facts if not fact.startswith(kinds)}


def needs(release: str, case: str) -> set[str]:
    """What the release needs, with all that compose.py brings."""
    asked = case_of(case)
    found = requirements(
        RELEASES[release],
        backends=asked.backends,
        gpu=asked.gpu,
        architecture=asked.architecture,
        extras=EXTRAS,
    )
    return needed(found)


@cache
def written(release: str, case: str, *, source: Literal["network", "upstream"]) -> set[str]:
    """What our Dockerfile for the same thing does."""
    asked = case_of(case)
    platform = Platform(os="linux", architecture=asked.architecture)
    return lines(release, asdict(read_ours(render(blueprint(recipe(release, case, source), platform=platform)))))


def recipe(release: str, case: str, source: Literal["network", "upstream"]) -> Recipe:
    asked = case_of(case)
    backends = tuple(name for name in asked.backends if name in (RELEASES[release].backends or ()))
    return Recipe(
        triton=release,
        engine="dockerfile",
        variant="py3" if asked.gpu else "cpu-only-py3",
        backends=backends,
        dockerfile=DockerfileChoices(source=source, extras=EXTRAS),
    )


@pytest.mark.parametrize("how", ["needs", "network", "upstream"])
@pytest.mark.parametrize("release", RELEASES_COMPOSED)
def test_every_difference_is_listed(release: str, how: str) -> None:
    wrong = {case: facts for case, facts, _ in compared(release, how) if facts}
    assert not wrong


@pytest.mark.parametrize("release", RELEASES_COMPOSED)
def test_variables_are_in_the_same_order(release: str) -> None:
    for case, facts in recorded()[release].items():
        asked = case_of(case)
        found = requirements(
            RELEASES[release], backends=asked.backends, gpu=asked.gpu, architecture=asked.architecture, extras=()
        )
        # Where one is prepended to twice, the place of the first counts. Of these two one is the image's own, and the
        # other stands somewhere else in two releases.
        apart = ("NVIDIA_BUILD_ID", "PIP_BREAK_SYSTEM_PACKAGES")
        theirs = dict.fromkeys(name for name, _ in facts["environment"] if name not in apart)
        assert [one.name for one in found.environment if one.name not in apart] == list(theirs), case


def test_every_listed_difference_is_there() -> None:
    used = {one for release in RELEASES_COMPOSED for _, _, by in compared(release, "network") for one in by}
    used |= {one for release in RELEASES_COMPOSED for _, _, by in compared(release, "needs") for one in by}
    assert [one for one in DIFFERENCES if one not in used] == []


def test_the_page_has_a_reason_for_each() -> None:
    told = re.findall(r"^\| `([\w-]+)` \|", README.read_text(), flags=re.MULTILINE)
    assert set(told) >= {one.id for one in DIFFERENCES}
    assert len(told) == len(set(told))


def test_a_wrong_fact_is_found() -> None:
    theirs = lines("24.09", dict(recorded()["24.09"]["python"]))
    ours = theirs - {"package libarchive-dev"} | {"package libarchive13", "env PATH /usr/bin"}
    wrong, _ = unexplained("24.09", "python", theirs, ours)
    assert wrong == ["- package libarchive-dev", "+ env PATH /usr/bin", "+ package libarchive13"]


@pytest.mark.parametrize("release", RELEASES_COMPOSED)
def test_the_versions_are_those_that_it_builds(release: str) -> None:
    theirs, ours = versions()[release], RELEASES[release]
    assert (ours.triton, ours.name, ours.onnxruntime, ours.dcgm) == tuple(
        theirs[key] for key in ("triton", "release", "onnxruntime", "dcgm")
    )
    # Where several OpenVINO are built, the first of each is the version.
    found = theirs["openvino"]
    several = [found] if isinstance(found, str) else dict.fromkeys(one for one, _ in found if one[0].isdecimal())
    assert ours.openvino == ", ".join(several)


@pytest.mark.parametrize("release", [name for name in RELEASES_COMPOSED if "backends" in versions()[name]])
def test_the_parts_are_those_that_it_builds(release: str) -> None:
    theirs, ours = versions()[release], RELEASES[release]
    plain = {re.sub(r"_20\d\d_\d", "", name) for name in ours.backends or ()}
    assert {*plain, "ensemble"} == set(theirs["backends"])
    assert list(ours.repoagents or ()) == theirs["repoagents"]
    assert list(ours.caches or ()) == theirs.get("caches", [])


@pytest.mark.parametrize("source", ["network", "upstream"])
def test_each_is_written_in_no_time(source: Literal["network", "upstream"]) -> None:
    for release in RELEASES_COMPOSED:
        start = time.perf_counter()
        text = render(blueprint(recipe(release, "onnxruntime+python", source)))
        assert time.perf_counter() - start < 1
        assert f"tritonserver:{release}-py3-min" in text


def test_cases_have_names_that_say_all() -> None:
    names = {name for records in recorded().values() for name in records}
    assert all(case_of(name).name == name for name in names)
    assert len(names) > 20


def test_a_recipe_file_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text('triton: "24.09"\nengine: dockerfile\nbackends: [onnxruntime, python, tensorrt]\n')
    assert "24.09-py3-min" in render(blueprint(load_recipe(path, environ={})))
