"""What is known of releases: that it hangs together, what it says of names that are not there, what it comes to."""

from __future__ import annotations

import itertools
import json
import re
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from composer import command
from composer.cli import tricompose
from composer.errors import UnknownRelease
from composer.releases import (
    EXTRAS,
    KINDS,
    LATEST,
    RELEASES,
    Release,
    Requirements,
    absent,
    book,
    changes,
    release,
    requirements,
)

ROOT = Path(__file__).parents[2]
COMPOSED = [one for one in RELEASES.values() if one.composed]


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


# -- the table ----------------------------------------------------------------------------------------------------


def test_all_releases_are_there() -> None:
    assert (next(iter(RELEASES)), LATEST, len(RELEASES), len(COMPOSED)) == ("18.11", "26.08", 92, 61)
    assert COMPOSED[0].name == "21.08"
    assert list(RELEASES) == sorted(RELEASES)
    assert (release("24.09").triton, release("25.07").triton) == ("2.50.0", "2.59.1")


def test_triton_only_goes_up() -> None:
    versions = [numbers(one.triton) for one in RELEASES.values()]
    assert all(before < after for before, after in itertools.pairwise(versions))


@pytest.mark.parametrize("key", ["ubuntu", "python", "dcgm", "onnxruntime"])
def test_versions_that_hold_only_go_up(key: str) -> None:
    held = [getattr(one, key) for one in RELEASES.values() if getattr(one, key)]
    versions = [numbers(one.replace("-", ".")) for one in held]
    assert versions == sorted(versions)


def test_what_a_dockerfile_needs_is_known_for_each_that_had_compose() -> None:
    for one in COMPOSED:
        assert one.ubuntu
        assert one.dcgm
        assert all(getattr(one, kind) is not None for kind in KINDS)
        assert not set(one.backends or ()) & set(book.entries()[one.name].lists["inside"])


def test_packages_are_told_of_by_both_tables_or_by_none() -> None:
    installed = {
        (one.ubuntu, package)
        for one in COMPOSED
        for key in ("apt", "apt_nvidia", "pip")
        for names in book.entries()[one.name].under(key).values()
        for package in names
    }
    replaced = {(ubuntu, name) for ubuntu, names in book.needs()["runtime"].items() for name in names}
    assert {(ubuntu, name) for ubuntu, name in installed if name.endswith("-dev")} == replaced
    dcgm = {name for one in COMPOSED for name in book.entries()[one.name].lists["dcgm_packages"]}
    tools = {name for names in book.needs()["tools"].values() for name in names}
    assert tools <= {name for _, name in installed} | dcgm


def test_every_variable_has_its_place() -> None:
    found = {
        text.partition("=")[0]
        for one in COMPOSED
        for names in book.entries()[one.name].under("env").values()
        for text in names
    }
    assert found == set(book.needs()["environment"])


def test_it_is_read_in_no_time() -> None:
    def once() -> float:
        start = time.perf_counter()
        book.fold(tomllib.loads(book.read("releases.toml")))
        tomllib.loads(book.read("needs.toml"))
        return time.perf_counter() - start

    assert min(once() for _ in range(5)) < 0.1


def test_the_wheel_has_it() -> None:
    include = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "include"
    ]
    data = [path for path in (ROOT / "composer").rglob("*") if path.suffix in (".toml", ".typed")]
    assert len(data) == 12
    assert all(any(fnmatch(str(path.relative_to(ROOT)), pattern) for pattern in include) for path in data)


WRONG: Sequence[tuple[Mapping[str, Any], str]] = [
    ({"24.01": {"triton": "1"}, "23.12": {"triton": "2"}}, "not in their order"),
    ({"24.01": {"tritn": "1"}}, "24.01: there is no key tritn"),
    ({"24.01": {"bckends": ["+a"]}}, "there is no list bckends"),
    ({"24.01": {"apt": ["+a"]}}, "there is no list apt"),
    ({"24.01": {"backends": ["+a"]}, "24.02": {"backends": ["+a"]}}, r"24.02: backends: \+a cannot be, with a before"),
    ({"24.01": {"backends": ["-a"]}}, "-a cannot be, with nothing before"),
    ({"24.01": {"backends": ["a"]}}, "24.01: backends"),
    ({"24.01": {"apt": {"server": ["-a"]}}}, "24.01: apt.server: -a cannot be"),
]


@pytest.mark.parametrize(("table", "message"), WRONG)
def test_what_contradicts_itself_is_refused(table: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        book.fold(table)


def test_what_holds_and_what_does_not() -> None:
    table = {"24.01": {"cuda": "12.3", "dcgm": "3", "apt": {"x": ["+a", "+b"]}}, "24.02": {"apt": {"x": ["-a", "+c"]}}}
    folded = book.fold(table)
    assert (folded["24.02"].text("cuda"), folded["24.02"].text("dcgm")) == (None, "3")
    assert folded["24.01"].under("apt") == {"x": ("a", "b")}
    assert folded["24.02"].under("apt") == {"x": ("b", "c")}


# -- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("20.04", 'triton: "20.05"'),
        ("17.01", 'triton: "18.11"'),
        ("31.01", "upstream: docker://nvcr.io/nvidia/tritonserver:31.01-py3"),
    ],
)
def test_a_release_that_is_not_known(name: str, hint: str) -> None:
    with pytest.raises(UnknownRelease, match=name) as raised:
        release(name)
    assert raised.value.hint == hint
    assert LATEST in raised.value.message


@pytest.mark.parametrize(
    ("name", "kind", "wanted", "hint"),
    [
        ("24.09", "backends", "tensorflow1", "24.09 calls it tensorflow"),
        ("24.09", "backends", "openvino_2021_4", "24.09 calls it openvino"),
        ("22.05", "backends", "tensorflow", "22.05 calls it tensorflow1 and tensorflow2"),
        ("22.05", "backends", "openvino", "22.05 calls it openvino_2021_4"),
        ("25.03", "backends", "tensorflow", "removed in 25.03: the last with it is 25.02"),
        ("26.08", "backends", "tensorflow2", "removed in 25.03: the last with it is 25.02"),
        ("21.08", "backends", "tensorrt", "in 21.08 tensorrt is part of the server itself: leave it out"),
        ("24.09", "backends", "ensemble", "in 24.09 ensemble is part of the server itself: leave it out"),
        ("24.09", "backends", "vllm", "vllm: only in the image 24.09-vllm-python-py3: variant: vllm-python-py3"),
        (
            "24.09",
            "backends",
            "tensorrtllm",
            "tensorrtllm: only in the image 24.09-trtllm-python-py3: variant: trtllm-python-py3",
        ),
        ("23.01", "backends", "vllm", "vllm: only in images of its own, which are known since 24.04"),
        ("24.09", "backends", "onnx", 'did you mean "onnxruntime"?'),
        ("24.09", "backends", "libtorch", 'did you mean "pytorch"?'),
        ("24.09", "backends", "ONNXRuntime", 'did you mean "onnxruntime"?'),
        ("22.12", "caches", "local", "local came with 23.03"),
        ("23.03", "caches", "redis", "redis came with 23.06"),
        ("24.09", "caches", "remote", "24.09 has local, redis"),
        ("22.12", "caches", "remote", "22.12 has none"),
        ("24.09", "repoagents", "checksums", 'did you mean "checksum"?'),
    ],
)
def test_why_a_name_is_not_there(name: str, kind: str, wanted: str, hint: str) -> None:
    assert absent(release(name), kind, wanted) == hint


def test_what_is_there_and_what_is_not_known_is_not_absent() -> None:
    for one in RELEASES.values():
        for kind in KINDS:
            names = getattr(one, kind)
            assert all(absent(one, kind, name) is None for name in names or ())
            assert (absent(one, kind, "nothing") is None) == (names is None)


def test_every_name_of_any_release_has_its_reason_in_every_other() -> None:
    for kind in KINDS:
        names = {name for one in RELEASES.values() for name in getattr(one, kind) or ()}
        for one, name in itertools.product(COMPOSED, names):
            reason = absent(one, kind, name)
            assert name in getattr(one, kind) or (
                reason and re.match(r"\d\d\.\d\d calls|.* came with|removed|in ", reason)
            )


# -- needs --------------------------------------------------------------------------------------------------------


def asked(one: Release, **more: Any) -> Requirements:
    how: dict[str, Any] = {"backends": one.backends or (), "gpu": True, "architecture": "amd64", "extras": (), **more}
    return requirements(one, **how)


def packages(needs: Requirements) -> Iterator[str]:
    yield from (name for apt in needs.apt for name in apt.packages)
    yield from (name for pip in needs.pip for name in pip.requirements)
    yield from needs.dcgm.packages if needs.dcgm else ()


@pytest.mark.parametrize("one", COMPOSED, ids=lambda one: one.name)
def test_needs_of_every_release(one: Release) -> None:
    sizes = [range(len(EXTRAS) + 1)]
    extras = [chosen for size in sizes[0] for chosen in itertools.combinations(EXTRAS, size)]
    for gpu, architecture, more in itertools.product((True, False), ("amd64", "arm64"), extras):
        needs = asked(one, gpu=gpu, architecture=architecture, extras=more)
        assert "{" not in re.sub(r"\$\{\w+\}", "", repr(needs).replace("={", "").replace(", {", ""))
        names = list(packages(needs))
        assert len(names) == len(set(names))
        assert ("clang" in needs.unneeded) == ("clang" not in more)
        assert (needs.dcgm is not None) == needs.cuda_compat == gpu
        assert len({variable.name for variable in needs.environment}) == len(needs.environment)
        if "dev-packages" not in more:
            assert not [name for name in names if re.search(r"-dev(=|$)", name)]


def test_without_extras_only_what_they_name_is_left_out() -> None:
    left, instead = book.needs()["tools"], book.needs()["runtime"]
    tools = {name for names in left.values() for name in names}
    for one in COMPOSED:
        whole = {name.partition("=1:")[0] for name in packages(asked(one, extras=EXTRAS))}
        slim = {name.partition("=1:")[0] for name in packages(asked(one))}
        assert slim == {instead[one.ubuntu].get(name, name) for name in whole - tools}


def test_one_variable_that_several_backends_prepend_to() -> None:
    needs = asked(release("24.01"), backends=("pytorch", "onnxruntime"))
    (path,) = [one for one in needs.environment if one.name == "LD_LIBRARY_PATH"]
    assert path.value == "/opt/hpcx/ucc/lib/:/opt/hpcx/ucx/lib/:/opt/tritonserver/backends/onnxruntime"
    assert path.prepend


def test_needs_of_one_release_word_for_word() -> None:
    needs = asked(release("25.10"), backends=("python",), architecture="arm64")
    assert needs.dcgm
    assert needs.dcgm.packages == ("datacenter-gpu-manager-4-core=1:4.4.0-1", "libnvshmem3-cuda-13")
    assert needs.dcgm.repository == "https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2404/sbsa"
    assert needs.linker_paths == (("libnvshmem3-cuda-13.conf", "/usr/lib/aarch64-linux-gnu/nvshmem/13"),)
    assert [apt.because for apt in needs.apt] == ["the server", "the python backend"]
    assert needs.apt[1].packages == (
        "python3",
        "libarchive13t64",
        "libpython3.12t64",
        "python3-wheel",
        "python3-setuptools",
    )
    assert needs.removed_users == ("tensorrt-server", "ubuntu")
    assert (needs.owner, needs.entrypoint, asked(release("26.06")).owner) == ("1000:1000", None, None)


def test_a_release_without_compose_has_no_needs() -> None:
    with pytest.raises(UnknownRelease, match=r"20\.03.*21\.08"):
        asked(release("20.03"))


# -- the command --------------------------------------------------------------------------------------------------


def said(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capfd.readouterr()
    status = command.run(tricompose, ("releases", *arguments))
    captured = capfd.readouterr()
    return status, captured.out, captured.err


def test_the_command_shows_all(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capfd)
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in lines[1 : len(RELEASES) + 1]] == list(RELEASES)
    assert "+tensorflow -tensorflow1 -tensorflow2" in next(line for line in lines if line.startswith("23.04"))


def test_the_command_shows_one_and_what_changed(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capfd, "24.11")
    assert status == 0
    assert re.search(r"^Ubuntu +24\.04$", out, re.MULTILINE)
    assert re.search(r"^Ubuntu +22\.04 +24\.04$", out, re.MULTILINE)
    assert re.search(r"^CUDA +\?$", out, re.MULTILINE)
    assert ("apt.server", "libre2-9", "") in changes("24.11")
    assert changes("18.11") == ()


def test_the_command_in_json(capfd: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(capfd, "--json")
    document = json.loads(out)
    assert (document["schema"], len(document["releases"])) == (1, len(RELEASES))
    _, out, _ = said(capfd, "25.03", "--json")
    document = json.loads(out)
    assert (document["release"]["triton"], document["release"]["cuda"]) == ("2.56.0", "12.8.1.012")
    assert {"what": "backends", "before": "tensorflow", "now": None} in document["release"]["changed"]


def test_the_command_for_a_release_that_is_not_known(capfd: pytest.CaptureFixture[str]) -> None:
    status, _, err = said(capfd, "20.04")
    assert status == 4
    assert 'triton: "20.05"' in err
