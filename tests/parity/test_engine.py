"""The law at full length: a recipe over an upstream image, through the whole pipeline, judged by umoci."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from composer.errors import Corrupt, NotFound, TricomposeError, Unplannable
from tests.parity.image import Raw, digest
from tests.parity.place import BASE, HOME, Place, file, folder, link, packed, server
from tests.repositories import put_model


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_plain_upstream(place: Place) -> None:
    place.upstream(BASE, packed(server("onnxruntime", "python", "tensorrt")), base=1)
    place.build("backends: [onnxruntime, python]")
    place.law("backends/tensorrt")
    assert BASE.diff_id not in place.read()


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda data: zstandard.compress(data),
    "plain": lambda data: data,
    "members": lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]) + bytes(512),
}


@pytest.mark.parametrize("kind", COMPRESSIONS)
def test_every_compression_on_the_way_in(place: Place, kind: str) -> None:
    place.upstream(BASE, packed(server("onnxruntime", "tensorrt"), COMPRESSIONS[kind]), base=1)
    place.build("backends: [onnxruntime]")
    place.law("backends/tensorrt")


LINKS = {
    "dropped holds the content": ["a_drop", "b_keep"],
    "kept holds the content": ["a_keep", "b_drop"],
    "both kept": ["a_keep", "b_keep", "c_drop"],
}


@pytest.mark.parametrize("names", LINKS.values(), ids=LINKS)
def test_hard_links_across_components(place: Place, names: list[str]) -> None:
    first = f"{HOME}/backends/{names[0]}/libtriton_{names[0]}.so"
    extra = [link(f"{HOME}/backends/{names[1]}/shared-{number}.so", first) for number in (1, 2)]
    extra.append(link(f"{HOME}/bin/shared.so", first))
    place.upstream(BASE, packed(server(*names, extra=extra)), base=1)
    keep = [name for name in names if "keep" in name]
    place.build(f"backends: [{', '.join(keep)}]")
    place.law(*(f"backends/{name}" for name in names if "drop" in name))


def test_parts_of_a_backend_in_several_layers_with_whiteouts_between(place: Place) -> None:
    more = [
        folder("opt"),
        folder(HOME),
        folder(f"{HOME}/backends", 0o755, 1_650_000_000),
        file(f"{HOME}/backends/.wh.python", b""),
        folder(f"{HOME}/backends/tensorrt"),
        file(f"{HOME}/backends/tensorrt/more.so"),
        folder(f"{HOME}/backends/onnxruntime"),
        file(f"{HOME}/backends/onnxruntime/new.so"),
        file(f"{HOME}/backends/onnxruntime/.wh..wh..opq", b""),
    ]
    again = [
        folder("opt"),
        folder(HOME),
        folder(f"{HOME}/backends", 0o700, 1_660_000_000),
        folder(f"{HOME}/backends/python", 0o711),
        file(f"{HOME}/backends/python/model.txt"),
        file(f"{HOME}/backends/.wh.fil", b""),
    ]
    place.upstream(
        BASE, packed(server("onnxruntime", "python", "tensorrt", "fil")), packed(more), packed(again), base=1
    )
    place.build("backends: [onnxruntime, python]")
    place.law("backends/tensorrt")


def test_paths_through_links_and_folders_without_entries_need_the_base(place: Place) -> None:
    odd = [
        *server("onnxruntime", "tensorrt"),
        file("lib/odd.so", b"through a link of the base"),
        file("lib/.wh.old.so", b""),
        folder("usr"),
        folder("usr/lib"),
        file("etc/extra", b"in a folder that only the base describes"),
    ]
    place.upstream(
        packed(
            [
                *(folder("usr"), folder("usr/lib", 0o751), file("usr/lib/old.so")),
                *(folder("etc", 0o700), link("lib", "usr/lib", tarfile.SYMTYPE)),
            ]
        ),
        packed(odd),
        base=1,
    )
    place.build("backends: [onnxruntime]")
    place.law("backends/tensorrt")


def test_models_files_and_settings_are_added(place: Place) -> None:
    place.upstream(BASE, packed(server("onnxruntime", "python", "tensorrt")), base=1)
    for name, kind in (("one", "python"), ("two", "onnxruntime")):
        put_model(place.path / "models" / name, kind)
    (place.path / "ca.pem").write_text("pem")
    outcome = place.build(
        "backends: auto\nmodels: [{path: ./models}]\n"
        "files: [{source: ./ca.pem, target: /etc/ssl/corp.pem, mode: '0640'}]\n"
        "server: {log-verbose: 1}\nenv: {MINE: '1'}\nlabels: {team: ml}\nuser: triton-server\nhealthcheck: true"
    )
    added = ["models", "etc/ssl", "etc/ssl/corp.pem"]
    added += [f"models/{name}{rest}" for name in ("one", "two") for rest in ("", "/1", "/config.pbtxt")]
    added += ["models/one/1/model.py", "models/two/1/model.onnx"]
    place.law("backends/tensorrt", added=added)
    assert place.result()["etc/ssl/corp.pem"].mode == 0o640
    config = outcome.plans[0].config
    assert config["Cmd"] == ["tritonserver", "--model-repository=/models", "--log-verbose=1"]
    assert (config["User"], config["Env"], config["Labels"]["team"]) == ("triton-server", ["MINE=1"], "ml")
    assert config["Healthcheck"]["Test"][0] == "CMD"


def test_a_layer_above_max_layer_size_is_split_by_file(place: Place) -> None:
    big = [file(f"{HOME}/backends/onnxruntime/{number}.so", os.urandom(300_000)) for number in range(5)]
    big.append(link(f"{HOME}/backends/onnxruntime/first.so", f"{HOME}/backends/onnxruntime/0.so"))
    place.upstream(BASE, packed(server("onnxruntime", "tensorrt", extra=big)), base=1)
    outcome = place.build("backends: [onnxruntime]\nmax_layer_size: 500KiB")
    place.law("backends/tensorrt")
    layers = place.manifest()["layers"]
    assert isinstance(layers, list)
    assert len(layers) == 7, "base, core, and five parts of one backend"
    assert outcome.root.digest == place.build("backends: [onnxruntime]\nmax_layer_size: 500KiB").root.digest


def test_a_second_build_reads_nothing_and_gives_the_same(place: Place) -> None:
    place.upstream(BASE, packed(server("onnxruntime", "python", "tensorrt")), base=1)
    first = place.build("backends: [onnxruntime, python]")
    assert len(place.read()) == 1
    assert place.build("backends: [onnxruntime, python]", jobs=1).root.digest == first.root.digest
    assert place.read() == []
    other = place.build("backends: [python]")
    assert place.read() == [], "a smaller set of known components is manifests alone"
    assert other.root.digest != first.root.digest
    assert place.build("backends: [onnxruntime, python]", cache="fresh", jobs=2).root.digest == first.root.digest


def test_all_components_can_be_cut_at_the_first_read(place: Place) -> None:
    """Then any other set of backends is manifests alone, and the same as if it had been cut by itself."""
    place.upstream(BASE, packed(server("onnxruntime", "python", "tensorrt")), base=1)
    place.build("backends: [python]", cut_all=True)
    assert len(place.read()) == 1
    other = place.build("backends: [onnxruntime, tensorrt]")
    assert place.read() == []
    place.law("backends/python")
    assert place.build("backends: [onnxruntime, tensorrt]", cache="fresh").root.digest == other.root.digest
    place.read()
    place.build("backends: [python]", cache="fresh", cut_all=True)
    assert len(place.read()) == 1, "a component that was not cut before costs a read of its layer"


def test_a_pruned_cache_gives_the_same_again(place: Place) -> None:
    """What is known but gone is cut again, and must come out as it was known."""
    place.upstream(BASE, packed(server("onnxruntime", "tensorrt")), base=1)
    first = place.build("backends: [onnxruntime]")
    place.read()
    subprocess.run(["rm", "-rf", str(place.path / "result")], check=True)
    for step in first.plans[0].steps:
        for one in getattr(step, "slices", ()):
            for part in one.parts:
                (place.path / "cache" / "blobs" / part.blob.digest.replace(":", "/")).unlink()
    assert place.build("backends: [onnxruntime]").root.digest == first.root.digest
    assert len(place.read()) == 1
    place.law("backends/tensorrt")


def test_created_is_the_upstreams_or_the_epoch_and_never_now(place: Place) -> None:
    place.upstream(BASE, packed(server("onnxruntime", "tensorrt")), base=1)
    assert place.build("backends: [onnxruntime]").plans[0].created == "1970-01-01T00:00:00Z"
    assert place.build("backends: [onnxruntime]", epoch=1_700_000_000).plans[0].created == "2023-11-14T22:13:20Z"


def test_history_layers_and_diff_ids_agree_in_number(place: Place) -> None:
    place.upstream(BASE, packed(server("onnxruntime", "python", "tensorrt")), packed([file("note")]), base=1)
    place.build("backends: [onnxruntime, python]")
    manifest = place.manifest()
    config = json.loads((place.path / "result" / "blobs" / manifest["config"]["digest"].replace(":", "/")).read_text())  # type: ignore[index]
    told = [entry for entry in config["history"] if not entry.get("empty_layer")]
    assert len(told) == len(config["rootfs"]["diff_ids"]) == len(manifest["layers"])  # type: ignore[arg-type]
    assert [entry["created_by"] for entry in told][1:4] == [
        "tricompose core",
        "tricompose backends/onnxruntime",
        "tricompose backends/python",
    ]


REFUSALS: list[tuple[str, type[TricomposeError], str, str]] = [
    ("backends: [onnxruntim]", NotFound, "no backend 'onnxruntim'", 'did you mean "onnxruntime"?'),
    ("backends: [nothing_like_it]", NotFound, "no backend", "it has: onnxruntime, python, vllm"),
    ("backends: [vllm]", Unplannable, "only beside the python backend", "backends: [vllm, python]"),
    ("backends: [python]\ncaches: [redis]", NotFound, "no cache 'redis'", "it has: none"),
    ("backends: [python]\nplatforms: [linux/arm64]", NotFound, "not linux/arm64", "linux/amd64"),
]


@pytest.mark.parametrize(("text", "kind", "message", "hint"), REFUSALS)
def test_what_cannot_be_is_refused_and_nothing_is_left(
    place: Place, text: str, kind: type[TricomposeError], message: str, hint: str
) -> None:
    vllm = [folder(f"{HOME}/backends/vllm"), file(f"{HOME}/backends/vllm/model.py")]
    place.upstream(BASE, packed(server("onnxruntime", "python", extra=vllm)), base=1)
    with pytest.raises(kind) as caught:
        place.build(text)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    assert not (place.path / "result").exists()


def test_a_layer_that_is_not_what_its_digest_says(place: Place) -> None:
    place.upstream(BASE, packed(server("onnxruntime", "tensorrt")), base=1)
    blob = max((place.path / "upstream" / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    with pytest.raises(Corrupt):
        place.build("backends: [onnxruntime]")
    assert not (place.path / "result").exists()
    assert list((place.path / "cache" / "ingest").iterdir()) == []


def test_a_path_out_of_the_image_is_refused(place: Place) -> None:
    place.upstream(BASE, packed(server("onnxruntime", "tensorrt", extra=[file("../../etc/passwd")])), base=1)
    with pytest.raises(Corrupt, match="leads out of the image"):
        place.build("backends: [onnxruntime]")


def test_a_hundred_and_twenty_layers(place: Place) -> None:
    layers = [packed([file(f"note-{number}")]) for number in range(118)]
    place.upstream(BASE, *layers, packed(server("onnxruntime", "tensorrt")), base=100)
    place.build("backends: [onnxruntime]")
    place.law("backends/tensorrt")


def test_more_layers_than_docker_mounts_are_refused(place: Place) -> None:
    layers = [packed([file(f"note-{number}")]) for number in range(120)]
    place.upstream(BASE, *layers, packed(server(*"abcdefgh", "z")), base=100)
    with pytest.raises(Unplannable, match="Docker takes at most 125"):
        place.build(f"backends: [{', '.join('abcdefgh')}]")


def test_twenty_thousand_small_files(place: Place) -> None:
    many = [file(f"{HOME}/backends/onnxruntime/{number:05}.txt", b"%d" % number) for number in range(20_000)]
    place.upstream(
        BASE, packed(server("onnxruntime", "tensorrt", extra=many), lambda data: gzip.compress(data, 1)), base=1
    )
    place.build("backends: [onnxruntime]")
    place.law("backends/tensorrt")


MEASURE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.parity.place import Place
Place(Path(sys.argv[1])).build("backends: [onnxruntime]")
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_a_layer_of_several_hundred_megabytes_in_bounded_memory(place: Place) -> None:
    """600 MB of which two thirds are kept, in less than 128 MB of memory."""
    chunk = os.urandom(1 << 20) + bytes(1 << 20)
    names = {"onnxruntime": 200, "tensorrt": 100}
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in server(*names):
            archive.addfile(member, io.BytesIO(content))
        for name, count in names.items():
            archive.addfile(*_large(f"{HOME}/backends/{name}/large.so", chunk * count))
    plain = data.getvalue()
    place.upstream(BASE, Raw(gzip.compress(plain, 1), digest(plain)), base=1)
    command = [sys.executable, "-c", MEASURE, str(place.path), str(Path(__file__).parents[2])]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert peak * 1024 <= 128_000_000, f"{peak} KiB"
    place.law("backends/tensorrt")


def _large(path: str, content: bytes) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info, _ = file(path, content)
    return info, io.BytesIO(content)


def test_nothing_is_left_open(place: Place) -> None:
    """Building does not eat file descriptors: a process may build many images."""
    place.upstream(BASE, packed(server("onnxruntime", "tensorrt")), base=1)
    place.build("backends: [onnxruntime]")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        place.build("backends: [onnxruntime]")
    assert len(os.listdir("/proc/self/fd")) <= before
