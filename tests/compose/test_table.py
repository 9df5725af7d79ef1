"""The table of docs/releases.md: every release, with every set of backends that people ask for, and each backend alone.

Each Dockerfile is written without Docker, network or checkout, and whatever the host is: all of these are taken away.
`python -m tests.compose.test_table` writes the table anew.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import distro
import pytest

from composer.dockerfile import blueprint, render
from composer.errors import NotFound, TricomposeError
from composer.lock import CPU
from composer.recipe import DockerfileChoices, Recipe
from composer.releases import RELEASES, Release

PAGE: Final = Path(__file__).parents[2] / "docs/releases.md"
COMPOSED: Final = [release for release in RELEASES.values() if release.composed]
COMMON: Final = ("onnxruntime", "python", "tensorrt")

Case = tuple[str, tuple[str, ...], str]
"""What a column is called, the backends, the variant."""


def common_cases() -> Iterator[Case]:
    yield "the three", COMMON, "py3"
    yield "and pytorch", (*COMMON, "pytorch"), "py3"
    yield "CPU", ("onnxruntime", "python", "pytorch"), CPU


def cases(release: Release) -> Iterator[Case]:
    yield from common_cases()
    yield from ((name, (name,), "py3") for name in release.backends or ())


def write(release: Release, backends: tuple[str, ...], variant: str, source: str) -> str:
    choices = DockerfileChoices.model_validate({"source": source})
    recipe = Recipe(triton=release.name, engine="dockerfile", variant=variant, backends=backends, dockerfile=choices)
    return render(blueprint(recipe))


@pytest.fixture
def nothing_to_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, no Docker, no checkout, no distribution that anybody knows."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("id", "like", "version", "name", "linux_distribution"):
        monkeypatch.setattr(distro, name, refuse, raising=False)
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("nothing_to_ask")
@pytest.mark.parametrize("release", COMPOSED, ids=lambda release: release.name)
def test_every_dockerfile_is_written_in_under_a_second(release: Release) -> None:
    for _, backends, variant in cases(release):
        for source in ("upstream", "network") if variant != CPU else ("upstream",):
            began = time.perf_counter()
            if release.name == "21.08" and "tensorrt" in backends:
                with pytest.raises(NotFound):
                    write(release, backends, variant, source)
                continue
            text = write(release, backends, variant, source)
            assert time.perf_counter() - began < 1
            for name in backends:
                assert re.search(rf"^COPY --from=full .*/opt/tritonserver/backends/{name} ", text, re.MULTILINE)


@pytest.mark.usefixtures("nothing_to_ask")
@pytest.mark.parametrize(
    ("release", "name", "hint"),
    [
        ("22.02", "openvino", "openvino_2021_2"),
        ("22.05", "openvino", "openvino_2021_4"),
        ("24.09", "openvino_2021_4", "openvino"),
        ("22.12", "tensorflow", "tensorflow1"),
        ("23.05", "tensorflow1", "tensorflow"),
        ("25.03", "tensorflow", "25.02"),
        ("24.09", "vllm", "variant: vllm-python-py3"),
        ("21.08", "tensorrt", "server"),
        ("24.09", "onnx", "onnxruntime"),
        ("24.09", "pytroch", "pytorch"),
    ],
)
def test_a_name_that_a_release_lacks_is_refused_with_the_one_it_had(release: str, name: str, hint: str) -> None:
    with pytest.raises(NotFound) as caught:
        write(RELEASES[release], ("python", name), "py3", "upstream")
    assert name in str(caught.value)
    assert hint in str(caught.value.hint)


def test_all_wrong_names_are_told_at_once() -> None:
    with pytest.raises(NotFound) as caught:
        write(RELEASES["24.09"], ("onnx", "tensorflow1"), "py3", "upstream")
    assert "'onnx'" in str(caught.value)
    assert "'tensorflow1'" in str(caught.value)


# -- the page -----------------------------------------------------------------------------------------------------


def table() -> str:
    rows = ["| release | Triton | Ubuntu | Python | DCGM | the three | and pytorch | CPU | each of |", "|---" * 9 + "|"]
    rows += [_row(release) for release in reversed(COMPOSED)]
    return "\n".join(rows) + "\n"


def _row(release: Release) -> str:
    found = [_outcome(release, case) for case in common_cases()]
    alone = [name for name in release.backends or () if _outcome(release, (name, (name,), "py3")) == "yes"]
    facts = (release.name, release.triton, release.ubuntu, release.python, release.dcgm)
    return f"| {' | '.join(str(fact or '?') for fact in facts)} | {' | '.join(found)} | {', '.join(alone)} |"


def _outcome(release: Release, case: Case) -> str:
    _, backends, variant = case
    try:
        write(release, backends, variant, "upstream")
    except TricomposeError as error:
        return f"refused: {error.hint}"
    return "yes"


def _page() -> tuple[str, str, str]:
    head, begin, rest = PAGE.read_text().partition("<!-- releases -->\n")
    _, end, tail = rest.partition("<!-- /releases -->")
    return head + begin, rest.removesuffix(end + tail), end + tail


def test_the_page_says_so() -> None:
    assert _page()[1] == table(), "run: python -m tests.compose.test_table"


if __name__ == "__main__":
    head, _, tail = _page()
    PAGE.write_text(head + table() + tail)
