"""What a Dockerfile says: releases that are not listed, images that were looked up, and what does not go together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from composer.dockerfile import Originals, blueprint, on_top, render
from composer.errors import RecipeError, TricomposeError, UnknownRelease, Unplannable
from composer.oci.image import Image, parse_image
from composer.plan import model_root
from composer.recipe import Recipe, parse_recipe
from composer.releases import LATEST
from tests.images import picture


def recipe(text: str) -> Recipe:
    return parse_recipe("engine: dockerfile\n" + text, path=Path("/recipes/recipe.yaml"), environ={})


def image(config: Mapping[str, Any]) -> Image:
    made = picture()
    found = parse_image(made.manifest, made.data[made.manifest.config.digest])
    return replace(found, config={**found.config, "config": config})


BASE = {"Env": ["PATH=/bin", "CUDA_VERSION=13"], "Labels": {"a": "1"}, "Entrypoint": ["/base.sh"]}
FULL = {
    "Env": ["PATH=/opt/tritonserver/bin:/bin", "CUDA_VERSION=13", "NVIDIA_TRITON_SERVER_VERSION=27.01", "NEW=said"],
    "Labels": {"a": "1", "com.nvidia.build.id": "7"},
    "Entrypoint": ["/full.sh"],
}


def originals(full: Mapping[str, Any] = FULL, base: Mapping[str, Any] = BASE) -> Originals:
    return Originals(full_name="r/full@sha256:1", full=image(full), base_name="r/min@sha256:2", base=image(base))


def final(text: str) -> str:
    """The last stage."""
    return text.rpartition("\nFROM ")[2]


def test_a_release_that_is_not_listed_is_what_its_image_says() -> None:
    made = blueprint(recipe('triton: "27.01"\nbackends: [python, brand_new]\n'), originals())
    assert len(made.assumed) == 1
    assert f"as in {LATEST}" in made.assumed[0]
    text = final(render(made))
    assert 'NEW="said"' in text
    assert 'PATH="/opt/tritonserver/bin:/bin"' in text
    assert "CUDA_VERSION" not in text, "the base has it"
    assert re.search(r'^LABEL "?com\.nvidia\.build\.id"?="7"$', text, re.MULTILINE)
    assert 'ENTRYPOINT ["/full.sh"]' in text
    assert "backends/brand_new" in text
    assert LATEST not in text


def test_what_is_not_listed_has_to_be_looked_at() -> None:
    with pytest.raises(UnknownRelease, match="not looked at") as caught:
        blueprint(recipe('triton: "27.01"\nbackends: [python]\n'))
    assert "--pin" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ('triton: "20.04"\nbackends: [python]\n', UnknownRelease, "there was no release"),
        ('triton: "20.08"\nbackends: [python]\n', UnknownRelease, "older than compose.py"),
        ("upstream: docker://r.example.com/t:1\nbackends: [python]\n", UnknownRelease, "of which release"),
        ('triton: "24.10"\nupstream: docker://r.example.com/t:1\nbackends: [python]\n', Unplannable, "-min"),
        ('triton: "24.10"\nupstream: {full: "oci:a:b", min: "oci:a:c"}\nbackends: [python]\n', Unplannable, "oci:"),
        (
            'triton: "24.10"\nvariant: cpu-only-py3\ndockerfile: {source: network}\nbackends: [python]\n',
            Unplannable,
            "full image",
        ),
        ('triton: "24.10"\nbackends: [python]\nsteps: "COPY a b"\n', RecipeError, "COPY cannot stand in steps"),
        ('triton: "24.10"\nbackends: [python]\nsteps: "FROM scratch"\n', RecipeError, "FROM cannot stand in steps"),
        ('triton: "24.10"\nbackends: [python]\nenv: {A: "1\\n2"}\n', Unplannable, "several lines"),
    ],
)
def test_what_cannot_be_is_refused_with_a_hint(text: str, kind: type[TricomposeError], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        render(blueprint(recipe(text)))
    assert getattr(caught.value, "hint", None) or caught.value.problems[0].hint  # type: ignore[attr-defined]


def test_mirrors_are_what_images_come_from() -> None:
    mirrors = "network: {mirrors: {nvcr.io: [harbor.example.com/nvcr, other.example.com]}}\n"
    text = render(blueprint(recipe('triton: "24.09"\nbackends: [python]\n' + mirrors)))
    assert "FROM harbor.example.com/nvcr/nvidia/tritonserver:24.09-py3 AS full\n" in text
    assert "FROM harbor.example.com/nvcr/nvidia/tritonserver:24.09-py3-min AS base\n" in text


def test_an_image_without_cuda_starts_from_ubuntu_and_says_nothing_of_cuda() -> None:
    asked = recipe('triton: "24.11"\nvariant: cpu-only-py3\nbackends: [python]\n')
    assert "FROM docker.io/library/ubuntu:24.04 AS base\n" in render(blueprint(asked))
    full = {**FULL, "Env": [*FULL["Env"], "NVIDIA_REQUIRE_CUDA=cuda>=9", "LD_LIBRARY_PATH=/opt/lib"]}
    text = final(render(blueprint(asked, originals(full, {"Env": ["PATH=/bin"]}))))
    assert "CUDA" not in text
    assert 'LD_LIBRARY_PATH="/opt/lib"' in text
    assert 'TRITON_SERVER_GPU_ENABLED="0"' in text
    assert "RUN ldconfig" in text


def test_what_runs_on_top_leaves_the_users_user() -> None:
    asked = recipe('triton: "24.10"\nbackends: [python]\npackages: {apt: [libgl1]}\nsteps: [echo]\n')
    text = render(on_top(asked, "composed", image({"User": "triton-server"})))
    assert text.rstrip().endswith('USER "triton-server"') or text.rstrip().endswith("USER triton-server")
    assert "--from=full" not in text


def test_models_go_to_the_first_of_several_repositories() -> None:
    asked = recipe('triton: "24.10"\nbackends: [python]\nserver: {model-repository: [/first, /second]}\n')
    assert model_root(asked) == "first"


def test_no_package_name_takes_another_away() -> None:
    with pytest.raises(RecipeError, match="is not an Ubuntu package"):
        recipe('triton: "24.10"\nbackends: [python]\npackages: {apt: [libgl1-]}\n')
