"""Whether a backend of other origin can run in an image: every rule, from both sides."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import pytest

from composer.compatibility import (
    Candidate,
    Host,
    Misfit,
    host,
    judge_build,
    judge_libraries,
    judge_packages,
    judge_release,
)
from composer.elf import Binary
from composer.oci.image import Image, Platform, parse_image, parse_manifest
from composer.oci.names import parse_reference
from composer.oci.tar import DIRECTORY, FILE, Entry
from composer.oci.tree import Tree

MAIN = "libtriton_mine.so"
ENV = {
    "CUDA_VERSION": "12.6.2.004",
    "TRT_VERSION": "10.5.0.18",
    "CUDNN_VERSION": "9.5.0.50",
    "NVIDIA_TRITON_SERVER_VERSION": "24.10",
}


def binary(*needed: str, machine: str = "amd64", search: Iterable[str] = (), **versions: tuple[int, ...]) -> Binary:
    return Binary(machine=machine, needed=needed, search=tuple(search), versions=versions)


def candidate(binaries: Mapping[str, Binary], *more: str) -> Candidate:
    return Candidate(name="mine", where="recipe.yaml:3:5", files={*binaries, *more}, binaries=binaries)


def there(
    *libraries: str,
    ubuntu: str | None = "22.04",
    certain: bool = True,
    env: Mapping[str, str] = ENV,
    arch: str = "amd64",
) -> Host:
    platform = Platform(os="linux", architecture=arch)
    return Host(platform=platform, env=env, ubuntu=ubuntu, certain=certain, libraries={*libraries})


def told(misfits: Iterable[Misfit]) -> list[tuple[bool, str]]:
    return [(one.fatal, one.problem.message.removeprefix("the backend mine: ")) for one in misfits]


def judged(one: Candidate, image: Host) -> list[tuple[bool, str]]:
    return told([*judge_build(one, image), *judge_libraries(one, image)])


def test_what_fits_is_not_spoken_of() -> None:
    one = candidate(
        {
            MAIN: binary(
                *("libc.so.6", "libstdc++.so.6", "ld-linux-x86-64.so.2", "libcuda.so.1", "libnvidia-ml.so.1"),
                *("libcudart.so.12", "libcublasLt.so.12", "libnvinfer.so.10", "libcudnn.so.9", "libtritonserver.so"),
                "libours.so.1",
                search=["$ORIGIN"],
                GLIBC=(2, 35),
                GLIBCXX=(3, 4, 30),
            ),
            "libours.so.1": binary("libm.so.6", GLIBC=(2, 2, 5)),
        }
    )
    assert judged(one, there("libtritonserver.so")) == []


# -- how it was built ---------------------------------------------------------------------------------------------


def test_another_machine() -> None:
    wrong = binary(machine="arm64")
    assert judged(candidate({MAIN: wrong}), there()) == [(True, f"{MAIN} is for arm64, and the image for amd64")]
    spare = candidate({MAIN: binary(), "plugins/p.so": wrong})
    assert judged(spare, there()) == [(False, "plugins/p.so is for arm64, and the image for amd64")]
    assert judged(candidate({MAIN: wrong}), there(arch="arm64")) == []


@pytest.mark.parametrize(
    ("ubuntu", "certain", "fatal", "message"),
    [
        ("20.04", True, True, "the image has Ubuntu 20.04's, which ends with GLIBC_2.31"),
        ("22.04", True, True, "the image has Ubuntu 22.04's, which ends with GLIBC_2.35"),
        ("22.04", False, False, "the image is taken to have Ubuntu 22.04's, which ends with GLIBC_2.35"),
        (None, False, False, "what the image has is not known"),
        ("24.04", True, None, ""),
    ],
)
def test_a_newer_c_library(ubuntu: str | None, certain: bool, fatal: bool | None, message: str) -> None:
    one = candidate({MAIN: binary("libdeep.so", search=["$ORIGIN"]), "libdeep.so": binary(GLIBC=(2, 38))})
    found = judged(one, there(ubuntu=ubuntu, certain=certain))
    assert [is_fatal for is_fatal, _ in found] == ([] if fatal is None else [fatal])
    assert all(text.startswith("libdeep.so needs libc.so.6 with GLIBC_2.38") for _, text in found)
    assert all(text.endswith(message) for _, text in found)


def test_a_newer_cpp_library_unless_it_brings_one() -> None:
    one = {MAIN: binary(GLIBCXX=(3, 4, 32))}
    assert judged(candidate(one), there())[0][0]
    assert judged(candidate(one, "lib/libstdc++.so.6"), there()) == []


def test_what_is_not_loaded_by_its_library_is_only_a_warning() -> None:
    """A backend in Python loads what it imports, and only then; tools beside a library are no part of it."""
    assert judged(candidate({"_C.so": binary(GLIBC=(2, 39))}, "model.py"), there())[0][0] is False
    assert judged(candidate({MAIN: binary(), "tool": binary(GLIBC=(2, 39))}), there()) == []


# -- what it needs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "says"),
    [
        ("libcudart.so.11.0", "CUDA 12.6.2.004"),
        ("libcublas.so.13", "CUDA 12.6.2.004"),
        ("libnvinfer.so.8", "TensorRT 10.5.0.18"),
        ("libcudnn.so.8", "CUDNN 9.5.0.50"),
    ],
)
def test_another_cuda(library: str, says: str) -> None:
    one = candidate({MAIN: binary(library)})
    assert judged(one, there()) == [(True, f"{MAIN} needs {library}, and the image has {says}")]
    assert judged(one, there(library)) == [], "the image has both"
    assert judged(candidate({MAIN: binary(library, search=["$ORIGIN"])}, library), there()) == [], "it brings its own"
    nowhere = f"it needs {library}, not seen in it, nor in what was read of the image"
    assert judged(one, there(env={})) == [(False, nowhere)]


def test_libraries_that_were_seen_nowhere() -> None:
    one = candidate({MAIN: binary("liba.so.1", "libc.so.6"), "x/p.so": binary("libb.so.2", "liba.so.1")})
    message = "it needs liba.so.1, libb.so.2, not seen in it, nor in what was read of the image"
    assert judged(one, there()) == [(False, message)]
    assert judged(one, there("liba.so.1", "libb.so.2")) == []
    many = candidate({MAIN: binary(*(f"lib{number}.so" for number in range(20)))})
    assert judged(many, there())[0][1].startswith("it needs lib0.so, lib1.so, lib2.so, ")
    assert "lib7.so and 12 more" in judged(many, there())[0][1]


@pytest.mark.parametrize(
    ("search", "env", "led"),
    [
        ((), {}, False),
        (("/usr/lib",), {}, False),
        (("$ORIGIN",), {}, True),
        (("/x", "${ORIGIN}/"), {}, True),
        (("/opt/tritonserver/backends/mine",), {}, True),
        ((), {"LD_LIBRARY_PATH": "/usr/lib:/opt/tritonserver/backends/mine"}, True),
    ],
)
def test_libraries_beside_it_that_nothing_leads_to(search: tuple[str, ...], env: dict[str, str], led: bool) -> None:
    one = candidate({MAIN: binary("liba.so", search=search), "liba.so": binary()})
    found = list(judge_libraries(one, there(env=env)))
    assert told(found) == ([] if led else [(False, f"liba.so lies beside {MAIN}, which does not look there")])
    assert all(one.problem.hint == f"patchelf --set-rpath '$ORIGIN' {MAIN}" for one in found)


# -- images -------------------------------------------------------------------------------------------------------


def image(*env: str, labels: Mapping[str, str] | None = None) -> Image:
    config = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Env": list(env), "Labels": dict(labels or {})},
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    raw = json.dumps(config).encode()
    digest = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:" + "0" * 64, "size": len(raw)}
    kind = "application/vnd.oci.image.manifest.v1+json"
    document = {"schemaVersion": 2, "mediaType": kind, "config": digest, "layers": []}
    manifest = parse_manifest(json.dumps(document).encode(), kind)
    return parse_image(manifest, raw)  # type: ignore[arg-type]


UBUNTU_LABELS = {"org.opencontainers.image.ref.name": "ubuntu", "org.opencontainers.image.version": "24.04"}


@pytest.mark.parametrize(
    ("labels", "release", "official", "expected"),
    [
        (UBUNTU_LABELS, None, False, ("24.04", True)),
        (UBUNTU_LABELS, "22.04", True, ("24.04", True)),
        ({}, "22.04", True, ("22.04", True)),
        ({}, "22.04", False, ("22.04", False)),
        ({}, None, True, (None, False)),
        ({}, "99.04", True, (None, False)),
        ({**UBUNTU_LABELS, "org.opencontainers.image.version": "1.2.3"}, None, True, (None, False)),
        ({**UBUNTU_LABELS, "org.opencontainers.image.ref.name": "debian"}, None, True, (None, False)),
    ],
)
def test_which_ubuntu_an_image_is_on(
    labels: dict[str, str], release: str | None, official: bool, expected: tuple[str | None, bool]
) -> None:
    found = host(image(labels=labels), Tree(), (), release, official=official)
    assert (found.ubuntu, found.certain) == expected


def tree(*paths: str) -> Tree:
    made = Tree()
    made.apply([Entry(path.rstrip("/"), DIRECTORY if path[-1] == "/" else FILE, 0o644, 0, 0, 1, 0) for path in paths])
    return made


def test_libraries_of_an_image_without_what_is_dropped() -> None:
    seen = tree("usr/lib/liba.so.1", "opt/x/libb.so", "opt/tritonserver/backends/gone/libc.so.9", "etc/passwd")
    found = host(image("A=b=c"), seen, ["opt/tritonserver/backends/gone"], None, official=False)
    assert found.libraries == {"liba.so.1", "libb.so"}
    assert found.env == {"A": "b=c"}


def test_images_of_one_release() -> None:
    source = parse_reference("docker://nvcr.io/nvidia/tritonserver:24.09-vllm-python-py3")
    ours, theirs = image("NVIDIA_TRITON_SERVER_VERSION=24.10"), image("NVIDIA_TRITON_SERVER_VERSION=24.09")
    (found,) = judge_release("vllm", "recipe.yaml:3:5", source, theirs, ours)
    assert found.fatal
    assert "was built for Triton 24.09, and the upstream is 24.10" in found.problem.message
    assert found.problem.hint == (
        'image: docker://nvcr.io/nvidia/tritonserver:24.10-vllm-python-py3   (or: triton: "24.09")'
    )
    for donor, upstream in ((ours, ours), (image(), ours), (theirs, image())):
        assert list(judge_release("vllm", "", source, donor, upstream)) == []


def test_python_packages_that_stay_behind() -> None:
    site = "usr/local/lib/python3.10/dist-packages"
    upstream = tree(f"{site}/numpy/", f"{site}/numpy/__init__.py", f"{site}/numpy-1.26.dist-info/")
    donor = tree(
        f"{site}/numpy/",
        f"{site}/vllm/",
        f"{site}/vllm/__init__.py",
        f"{site}/vllm/deep/",
        f"{site}/vllm-0.5.dist-info/",
        f"{site}/single.py",
        f"{site}/__pycache__/",
        f"{site}/torch.libs/",
        "usr/lib/python3/dist-packages/apt/",
    )
    source = parse_reference("docker://nvcr.io/nvidia/tritonserver:24.10-vllm-python-py3")
    (found,) = judge_packages("vllm", "recipe.yaml:3:5", source, donor, upstream)
    assert not found.fatal
    assert found.problem.message.endswith("which lie elsewhere in that image: apt, single, vllm")
    assert "upstream: {full: docker://nvcr.io/nvidia/tritonserver:24.10-vllm-python-py3}" in (found.problem.hint or "")
    assert list(judge_packages("vllm", "", source, upstream, donor)) == []
