"""Backends of other origin, through the whole pipeline, judged by umoci: what is added, and nothing but that."""

from __future__ import annotations

import dataclasses
import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from composer import pipeline
from composer.console import results
from composer.errors import Corrupt, NotFound, RecipeError, TricomposeError, Unplannable
from composer.events import Transferred, Warned
from composer.plan import Add, Plan, size_of
from tests.elves import elf
from tests.parity.image import Raw, Seen, digest, snapshot, unpack, write_layout
from tests.parity.place import BASE, HOME, Place, file, folder, link, packed, server

FULL = server("onnxruntime", "python", "tensorrt")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.upstream(BASE, packed(FULL), base=1)
    return made


def write(path: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def donor(place: Place, *layers: Raw, tag: str = "donor", env: Sequence[str] = ()) -> None:
    write_layout(place.path / "upstream", layers, tag, {"Env": list(env)})
    write_layout(place.path / "judge", [layer.for_judge() for layer in layers], tag)


def donated(place: Place, name: str, tag: str = "donor") -> dict[str, Seen]:
    """What the donor has of a backend, seen by umoci."""
    seen = snapshot(unpack(place.path / "judge", tag, place.path / "donor"))
    inside = f"{HOME}/backends/{name}"
    return {path: one for path, one in seen.items() if f"{path}/".startswith(f"{inside}/")}


def take(name: str = "mine", kept: str = "[python]", tag: str = "donor") -> str:
    return f"backends: {kept}\ncustom_backends: [{{name: {name}, image: 'oci:upstream:{tag}'}}]"


def law(place: Place, added: dict[str, Seen], *dropped: str) -> None:
    """The law of the engine, and that what is added is what the donor has: everything that can be seen of it."""
    place.law(*dropped, added=list(added))
    result = place.result()
    for path, want in added.items():
        assert result[path] == dataclasses.replace(want, twins=want.twins & set(added)), path


def under(place: Place, folder: str) -> dict[str, Seen]:
    return {path: one for path, one in place.result().items() if f"{path}/".startswith(f"{folder}/")}


def warnings(place: Place) -> list[str]:
    return [event.message for event in place.events if isinstance(event, Warned)]


# -- from a folder ------------------------------------------------------------------------------------------------


def test_a_folder_becomes_one_layer(place: Place) -> None:
    """Owner as the upstream's backends, modes as `files:` has them, a link's target once, nothing of Python's cache."""
    mine = write(
        place.path / "mine",
        {"libtriton_mine.so": b"x" * 100_000, "data/model.bin": "1", "run.sh": "#!", "__pycache__/a.pyc": "no"},
    )
    (mine / "run.sh").chmod(0o700)
    (mine / "lib.so.1").symlink_to("libtriton_mine.so")
    (mine / "more").symlink_to("data")
    outcome = place.build("backends: [python]\ncustom_backends: [{name: mine, path: ./mine}]")
    inside = f"{HOME}/backends/mine"
    names = ["libtriton_mine.so", "data", "data/model.bin", "run.sh", "lib.so.1", "more", "more/model.bin"]
    place.law("backends/onnxruntime", "backends/tensorrt", added=[inside, *(f"{inside}/{name}" for name in names)])
    result = place.result()
    assert {result[f"{inside}/{name}"].owner for name in names} == {(1000, 1000)}
    assert result[inside].mode == result[f"{inside}/run.sh"].mode == 0o755
    assert result[f"{inside}/data/model.bin"].mode == 0o644
    assert result[f"{inside}/lib.so.1"].twins == {f"{inside}/lib.so.1", f"{inside}/libtriton_mine.so"}
    assert {one.mtime for path, one in result.items() if path.startswith(inside)} == {0}, "the upstream's created"
    plan = outcome.plans[0]
    assert [step.title for step in plan.steps if hasattr(step, "title")] == ["backends/mine"]
    assert plan.config["Labels"]["io.tricompose.backends"] == "mine,python"
    assert [one.key for one in plan.kept] == ["backends/mine", "backends/python"]


def test_a_folder_gives_the_same_layer_wherever_and_whenever(place: Place) -> None:
    text = "backends: [python]\ncustom_backends: [{name: mine, path: ./mine}]"
    write(place.path / "mine", {"libtriton_mine.so": "x", "b/c": "2", "a": "1"})
    first = place.build(text)
    shutil.rmtree(place.path / "mine")
    write(place.path / "mine", {"a": "1", "b/c": "2", "libtriton_mine.so": "x"})
    os.utime(place.path / "mine" / "a", (1, 1))
    assert place.build(text, cache="fresh").root.digest == first.root.digest


def test_a_custom_backend_stands_in_for_the_upstreams(place: Place) -> None:
    write(place.path / "mine", {"libtriton_tensorrt.so": "mine"})
    place.build("backends: [python]\ncustom_backends: [{name: tensorrt, path: ./mine}]")
    inside = f"{HOME}/backends/tensorrt"
    place.law("backends/onnxruntime", "backends/tensorrt", added=[inside, f"{inside}/libtriton_tensorrt.so"])
    assert place.result()[f"{inside}/libtriton_tensorrt.so"] != place.full()[f"{inside}/libtriton_tensorrt.so"]


def test_auto_takes_what_models_and_custom_backends_need(place: Place) -> None:
    write(place.path / "mine", {"model.py": "class TritonPythonModel: pass"})
    write(place.path / "models/one", {"1/model.x": "", "config.pbtxt": 'backend: "mine"'})
    outcome = place.build("models: [{path: ./models}]\ncustom_backends: [{name: mine, path: ./mine}]")
    assert [one.key for one in outcome.plans[0].kept] == ["backends/mine", "backends/python"]
    assert len(place.read()) == 1, "what it needs is known before the upstream's layers are read"


# -- from an image ------------------------------------------------------------------------------------------------

MINE = [folder(f"{HOME}/backends/mine", 0o711), file(f"{HOME}/backends/mine/libtriton_mine.so", b"mine" * 9999, 0o755)]


def on(*members: tuple[tarfile.TarInfo, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    """A layer with the folders above backends, unlike the upstream's, and what is in them."""
    above = [folder("opt", 0o700, 5), folder(HOME, 0o700, 6), folder(f"{HOME}/backends", 0o777, 7)]
    return [*above, *members]


def test_a_backend_of_another_image(place: Place) -> None:
    """It alone comes, with its own owners, modes and times; the folders above it stay the upstream's."""
    donor(place, BASE, packed([*server("python", "other"), *MINE]))
    outcome = place.build(take())
    law(place, donated(place, "mine"), "backends/onnxruntime", "backends/tensorrt")
    assert outcome.plans[0].config["Labels"]["io.tricompose.backends"] == "mine,python"
    assert len(place.read()) == 2, "the upstream's layer and the donor's, each once; what they share is not read"
    again = place.build(take())
    assert (again.root.digest, place.read()) == (outcome.root.digest, [])
    assert place.build(take(), cache="fresh", cut_all=True).root.digest == outcome.root.digest


def test_folders_above_are_the_upstreams_though_the_donor_has_others(place: Place) -> None:
    donor(place, packed(on(*MINE)))
    place.build(take())
    law(place, donated(place, "mine"), "backends/onnxruntime", "backends/tensorrt")


def test_an_image_that_is_built_on_the_upstream(place: Place) -> None:
    """What most people have. Each layer is read once, and what both have is not taken twice."""
    donor(place, BASE, packed(FULL), packed(on(MINE[0], file(f"{HOME}/backends/mine/model.py"))))
    write(place.path / "models/one", {"1/model.x": "", "config.pbtxt": 'backend: "mine"'})
    place.events.clear()
    outcome = place.build("models: [{path: ./models}]\ncustom_backends: [{name: mine, image: 'oci:upstream:donor'}]")
    law(place, donated(place, "mine") | under(place, "models"), "backends/onnxruntime", "backends/tensorrt")
    reads = [event for event in place.events if isinstance(event, Transferred) and event.action == "read"]
    assert len([event for event in reads if event.done == event.total]) == 2
    assert [one.key for one in outcome.plans[0].kept] == ["backends/mine", "backends/python"]


LAYERS: dict[str, list[Sequence[tuple[tarfile.TarInfo, bytes]]]] = {
    "files in several layers, one replaced, one hidden": [
        on(*MINE, file(f"{HOME}/backends/mine/gone", b"1"), file(f"{HOME}/backends/mine/twice", b"1")),
        on(
            folder(f"{HOME}/backends/mine", 0o750),
            file(f"{HOME}/backends/mine/.wh.gone", b""),
            file(f"{HOME}/backends/mine/twice", b"2"),
        ),
        on(folder(f"{HOME}/backends/mine", 0o700), file(f"{HOME}/backends/mine/late", b"3")),
    ],
    "the folder is hidden and comes again": [
        on(*MINE, file(f"{HOME}/backends/mine/gone", b"1")),
        on(file(f"{HOME}/backends/.wh.mine", b"")),
        on(*MINE),
    ],
    "the folder is made opaque": [
        on(*MINE, file(f"{HOME}/backends/mine/gone", b"1")),
        on(*MINE, file(f"{HOME}/backends/mine/.wh..wh..opq", b"")),
    ],
    "a folder above is hidden and comes again": [
        on(*MINE, file(f"{HOME}/backends/mine/gone", b"1")),
        [folder("opt"), file("opt/.wh.tritonserver", b"")],
        on(*MINE),
    ],
    "a folder above is made opaque": [
        on(*MINE, file(f"{HOME}/backends/mine/gone", b"1")),
        [folder("opt"), file("opt/.wh..wh..opq", b""), *on(*MINE)[1:]],
    ],
    "everything was a file for a while": [
        on(*MINE, file(f"{HOME}/backends/mine/gone", b"1")),
        [folder("opt"), folder(HOME), file(f"{HOME}/backends", b"a file")],
        on(*MINE),
    ],
    "a folder within was a file for a while": [
        on(*MINE, folder(f"{HOME}/backends/mine/a"), file(f"{HOME}/backends/mine/a/gone", b"1")),
        on(
            folder(f"{HOME}/backends/mine"),
            file(f"{HOME}/backends/mine/a", b"a file"),
            folder(f"{HOME}/backends/mine/a"),
            file(f"{HOME}/backends/mine/a/new", b"1"),
        ),
    ],
    "links across what is taken and what is not": [
        [
            *server("other"),
            *MINE,
            link(f"{HOME}/backends/mine/from-other.so", f"{HOME}/backends/other/libtriton_other.so"),
            link(f"{HOME}/backends/mine/again.so", f"{HOME}/backends/other/libtriton_other.so"),
            link(f"{HOME}/bin/mine.so", f"{HOME}/backends/mine/libtriton_mine.so"),
            link(f"{HOME}/backends/mine/alias.so", "libtriton_mine.so", tarfile.SYMTYPE),
        ]
    ],
    "through a link above": [
        [folder("opt"), folder(HOME), folder(f"{HOME}/backends"), link("srv", HOME, tarfile.SYMTYPE)],
        [folder("srv/backends/mine"), file("srv/backends/mine/libtriton_mine.so", b"by way of a link")],
    ],
}


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_layers_are_merged_as_runtimes_merge_them(
    place: Place, layers: list[Sequence[tuple[tarfile.TarInfo, bytes]]]
) -> None:
    donor(place, BASE, *(packed(members) for members in layers))
    place.build(take())
    added = donated(place, "mine")
    assert len(added) > 1
    law(place, added, "backends/onnxruntime", "backends/tensorrt")


def test_folders_without_entries_of_their_own(place: Place) -> None:
    """Runtimes make them as they unpack; here they have the one time that is always the same."""
    donor(place, BASE, packed([folder("opt"), folder(HOME), *MINE[1:]]))
    place.build(take())
    inside = f"{HOME}/backends/mine"
    added = donated(place, "mine")
    law(
        place,
        added | {inside: dataclasses.replace(added[inside], mtime=0)},
        "backends/onnxruntime",
        "backends/tensorrt",
    )


def test_another_images_backend_stands_in_for_the_upstreams(place: Place) -> None:
    """Whatever the upstream's had is gone, also what the other has not."""
    donor(place, BASE, packed(on(folder(f"{HOME}/backends/tensorrt"), file(f"{HOME}/backends/tensorrt/model.py"))))
    place.build(take("tensorrt"))
    added = donated(place, "tensorrt")
    law(place, added, "backends/onnxruntime", "backends/tensorrt")
    assert f"{HOME}/backends/tensorrt/libtriton_tensorrt.so" not in place.result()


def test_a_large_backend_of_another_image_is_split_by_file(place: Place) -> None:
    big = [file(f"{HOME}/backends/mine/{number}.so", os.urandom(300_000)) for number in range(5)]
    donor(place, BASE, packed(on(*MINE, *big)))
    outcome = place.build(take() + "\nmax_layer_size: 500KiB")
    law(place, donated(place, "mine"), "backends/onnxruntime", "backends/tensorrt")
    assert len(outcome.images[0].layers) == 3 + 5 + 1


def test_parts_are_shared_with_recipes_that_have_the_other_image_as_their_upstream(place: Place) -> None:
    donor(place, BASE, packed([*server("python"), *MINE]))
    place.build(take())
    place.read()
    place.origin = "upstream: {full: 'oci:upstream:donor', min: 'oci:upstream:min'}"
    place.build("backends: [mine]", cut_all=True)
    assert len(place.read()) == 1, "the core was not cut before"
    parts = {part for step in place.build(take()).plans[0].steps for part in getattr(step, "slices", ())}
    assert parts


def test_two_backends_one_from_each_origin(place: Place) -> None:
    donor(place, BASE, packed(on(*MINE)))
    write(place.path / "local", {"libtriton_local.so": "x"})
    outcome = place.build(
        "backends: [python]\ncustom_backends:\n  - {name: local, path: ./local}\n"
        "  - {name: mine, image: 'oci:upstream:donor'}"
    )
    law(
        place,
        donated(place, "mine") | under(place, f"{HOME}/backends/local"),
        "backends/onnxruntime",
        "backends/tensorrt",
    )
    assert [one.key for one in outcome.plans[0].kept] == ["backends/local", "backends/mine", "backends/python"]
    assert place.result()[f"{HOME}/backends"] == place.full()[f"{HOME}/backends"]


def test_a_plan_reads_nothing_and_says_so(place: Place) -> None:
    donor(place, BASE, packed(on(*MINE)))
    (plan,) = pipeline.plan(place.recipe(take()), place.workplace(), scan="none")
    assert not plan.complete
    assert place.read() == []
    place.build(take())
    (plan,) = pipeline.plan(place.recipe(take()), place.workplace(), scan="none")
    assert plan.complete
    assert plan.to_read == 0


REFUSALS: list[tuple[str, type[TricomposeError], str, str]] = [
    (take("absent"), NotFound, "has no backend 'absent'", "it has: mine, vllm"),
    (take(kept="[python, mine]"), Unplannable, "stands in `backends` too", "backends: [python]"),
    (take("vllm", "[onnxruntime]"), Unplannable, "only beside the python backend", "backends: [onnxruntime, python]"),
    (take(tag="gone"), NotFound, "gone", ""),
    ("custom_backends: [{name: a, path: ./no}]", RecipeError, "no: No such file", "ls -ld"),
    ("custom_backends: [{name: a, path: ./mine}]", RecipeError, "neither libtriton_a.so nor", "name: mine"),
    ("custom_backends: [{name: b, path: ./deep}]", RecipeError, "neither", "path: deep/in"),
    (
        "custom_backends: [{name: mine, path: ./mine/libtriton_mine.so}]",
        RecipeError,
        "is a file: a backend is a folder",
        "path: mine",
    ),
    ("custom_backends: [{name: c, path: ./round}]", RecipeError, "leads back", "ls -ld"),
]


@pytest.mark.parametrize(("text", "kind", "message", "hint"), REFUSALS)
def test_what_cannot_be_is_refused_and_nothing_is_left(
    place: Place, text: str, kind: type[TricomposeError], message: str, hint: str
) -> None:
    vllm = [folder(f"{HOME}/backends/vllm"), file(f"{HOME}/backends/vllm/model.py")]
    donor(place, BASE, packed(on(*MINE, *vllm)))
    write(place.path, {"mine/libtriton_mine.so": "", "deep/in/libtriton_b.so": "", "round/model.py": ""})
    (place.path / "round" / "again").symlink_to(place.path / "round")
    with pytest.raises(kind) as caught:
        place.build(text)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    assert not (place.path / "result").exists()


# -- whether it can run -------------------------------------------------------------------------------------------

SETTINGS = {
    "Env": ["CUDA_VERSION=12.6.2", "NVIDIA_TRITON_SERVER_VERSION=24.10"],
    "Labels": {"org.opencontainers.image.ref.name": "ubuntu", "org.opencontainers.image.version": "22.04"},
}
LIBRARY = f"{HOME}/backends/mine/libtriton_mine.so"

MISFITS: dict[str, tuple[bytes, str]] = {
    "machine": (elf(machine="arm64"), "libtriton_mine.so is for arm64, and the image for amd64"),
    "glibc": (elf(versions={"libc.so.6": ["GLIBC_2.38"]}), "the image has Ubuntu 22.04's, which ends with GLIBC_2.35"),
    "cuda": (elf("libcudart.so.11.0"), "libtriton_mine.so needs libcudart.so.11.0, and the image has CUDA 12.6.2"),
}


@pytest.fixture
def labelled(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.upstream(BASE, packed(FULL), base=1, settings=SETTINGS)
    return made


@pytest.mark.parametrize(("content", "message"), MISFITS.values(), ids=MISFITS)
@pytest.mark.parametrize("origin", ["path", "image", "image that must be cut by a script"])
def test_what_cannot_run_is_refused(labelled: Place, content: bytes, message: str, origin: str) -> None:
    write(labelled.path / "mine", {"libtriton_mine.so": content})
    library = file(LIBRARY, content)
    linked = [file(f"{HOME}/bin/real.so", content), link(LIBRARY, f"{HOME}/bin/real.so")]
    donor(labelled, BASE, packed(on(MINE[0], library)))
    donor(labelled, BASE, packed([*server("other"), MINE[0], *linked]), tag="linked")
    local = "backends: [python]\ncustom_backends: [{name: mine, path: ./mine}]"
    text = {"path": local, "image": take()}.get(origin, take(tag="linked"))
    with pytest.raises(Unplannable) as caught:
        labelled.build(text)
    assert message in caught.value.message
    assert "recipe.yaml:3:" in caught.value.message
    assert not (labelled.path / "result").exists()
    if origin == "path" and "CUDA" not in message:
        assert labelled.read() == [], "it is refused before a layer moves"


def test_another_release_is_refused_before_a_layer_moves(labelled: Place) -> None:
    donor(labelled, BASE, packed(on(*MINE)), env=["NVIDIA_TRITON_SERVER_VERSION=24.09"])
    with pytest.raises(Unplannable, match=r"was built for Triton 24\.09, and the upstream is 24\.10"):
        labelled.build(take())
    assert labelled.read() == []


def test_what_may_not_run_is_warned_of(labelled: Place) -> None:
    """Libraries that were seen nowhere, and Python packages of the other image; what was seen is remembered."""
    site = "usr/lib/python3/dist-packages"
    members = [
        *server("python"),
        MINE[0],
        file(LIBRARY, elf("libseen.so", "libnowhere.so", "libbeside.so.1", runpath="$ORIGIN")),
        file(f"{HOME}/backends/mine/libbeside.so.1.2", elf("libother.so")),
        link(f"{HOME}/backends/mine/libbeside.so.1", "libbeside.so.1.2", tarfile.SYMTYPE),
        folder(f"{HOME}/backends/vllm"),
        file(f"{HOME}/backends/vllm/model.py"),
        *(folder(path) for path in ("usr", "usr/lib", "usr/lib/python3", site, f"{site}/torch")),
    ]
    shutil.rmtree(labelled.path / "upstream")
    shutil.rmtree(labelled.path / "judge")
    labelled.upstream(
        BASE, packed([*FULL, folder(f"{HOME}/lib"), file(f"{HOME}/lib/libseen.so")]), base=1, settings=SETTINGS
    )
    donor(labelled, BASE, packed(members))
    text = (
        "backends: [python]\ncustom_backends:\n  - {name: mine, image: 'oci:upstream:donor'}\n"
        "  - {name: vllm, image: 'oci:upstream:donor'}"
    )
    labelled.build(text)
    said = [message.partition(": the backend ")[2] for message in warnings(labelled)]
    assert said == [
        f"vllm is taken from oci:{labelled.path}/upstream:donor without its Python packages, which lie elsewhere in "
        "that image: torch",
        "mine: it needs libother.so, libnowhere.so, not seen in it, nor in what was read of the image",
    ]
    labelled.read()
    labelled.build(text)
    assert len(warnings(labelled)) == 2
    assert labelled.read() == []


def test_a_broken_library_is_refused_only_where_the_server_loads_it(place: Place) -> None:
    broken = elf()[:70]
    write(place.path / "data", {"libtriton_data.so": elf(), "weights.bin": broken})
    write(place.path / "main", {"libtriton_main.so": broken})
    place.build("backends: [python]\ncustom_backends: [{name: data, path: ./data}]")
    with pytest.raises(Corrupt, match=r"libtriton_main\.so begins as a shared object"):
        place.build("backends: [python]\ncustom_backends: [{name: main, path: ./main}]")


MEASURE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.parity.place import Place
Place(Path(sys.argv[1])).build(sys.argv[3])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_large_libraries_of_another_image_in_bounded_memory(place: Place) -> None:
    """400 MB in two libraries are looked into in less than 128 MB of memory, and nothing is left of that."""
    chunk = os.urandom(1 << 20) + bytes(1 << 20)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in on(MINE[0]):
            archive.addfile(member, io.BytesIO(content))
        for name in ("libtriton_mine.so", "libbeside.so"):
            info, content = file(f"{HOME}/backends/mine/{name}", elf("libbeside.so") + chunk * 100)
            archive.addfile(info, io.BytesIO(content))
    plain = data.getvalue()
    donor(place, BASE, Raw(gzip.compress(plain, 1), digest(plain)))
    command = [sys.executable, "-c", MEASURE, str(place.path), str(Path(__file__).parents[2]), take()]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert peak * 1024 <= 128_000_000, f"{peak} KiB"
    law(place, donated(place, "mine"), "backends/onnxruntime", "backends/tensorrt")
    assert list((place.path / "cache" / "ingest").iterdir()) == []
    assert {path.name for path in (place.path / "cache").iterdir()} <= {
        "blobs",
        "ingest",
        "index.json",
        "oci-layout",
        "index.json.lock",
    }


def test_what_a_plan_says(place: Place) -> None:
    """Of another image nobody knows yet what is taken, so it is not counted; then the one part of it is shown."""
    donor(place, BASE, packed([*server("other"), *MINE]))

    def shown(scan: str) -> tuple[Plan, str]:
        (plan,) = pipeline.plan(place.recipe(take()), place.workplace(), scan=scan)
        console = Console(file=io.StringIO(), width=200)
        console.print(*results.plan_text(plan, "recipe.yaml"), sep="\n")
        assert isinstance(console.file, io.StringIO)
        return plan, console.file.getvalue()

    plan, text = shown("none")
    assert plan.size == plan.upstream_size + sum(size_of(step) for step in plan.steps if isinstance(step, Add))
    assert "or less; and what is taken of other images" in text
    assert "never read before: backends/mine may be in it" in text
    plan, text = shown("new")
    assert "backends/mine" in text
    assert "backends/other" not in text, "what is left of another image is no part of the plan"
    (step,) = (step for step in results.plan_json(plan)["steps"] if step["step"] == "graft")
    assert [one["component"] for one in step["slices"]] == ["backends/mine"]
    assert step["image"].startswith(f"oci:{place.path}/upstream:donor@sha256:")
