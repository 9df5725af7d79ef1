"""What the doctor makes of what it sees: names, certificates, drivers, distributions; and how it says it."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console as Terminal

from composer import doctor
from composer.checks.gpu.nvml import Gpu, Look
from composer.console.checkup import checkup_json, checkup_text, network_text
from composer.doctor import Questions, mirror_lines, spare_places
from composer.doctor.certificate import read_certificate
from composer.doctor.engine import docker
from composer.doctor.finding import Checkup, Finding, Group, together, worst
from composer.doctor.gpus import judge_driver, toolkit
from composer.doctor.machine import disk, memory
from composer.doctor.needs import hosts_of
from composer.doctor.reaching import skew_of, try_all
from composer.doctor.remedies import Remedies, family_of
from composer.doctor.resolving import Answer, Names, ask_server, ask_system, judge_names, look_up
from composer.doctor.rules import Rules, rules_of_this_machine
from composer.doctor.subject import Subject
from composer.doctor.within import within
from composer.network.routes import Routes
from composer.network.writing import network_text as rules_text
from composer.pipeline import Workplace
from composer.recipe import parse_recipe
from tests.services.dns import name_server
from tests.services.registry import free_port
from tests.services.sick import authority, odd_name_server

NAME = "nvcr.test"
DEBIAN = Remedies(family="debian")


def ids(names: Names) -> list[tuple[str, str]]:
    return [(one.id, one.level) for one in judge_names(names)]


def subject(tmp_path: Path, recipe: str = "", **environ: str) -> Subject:
    loaded = [parse_recipe(recipe, path=tmp_path / "recipe.yaml", environ={})] if recipe else []
    place = Workplace.from_environment(
        environ, home=tmp_path, recipe=loaded[0] if loaded else None, cache=tmp_path / "cache"
    )
    return Subject(recipes=loaded, place=place, remedies=DEBIAN)


# -- names --------------------------------------------------------------------------------------------------------


def test_what_a_name_server_says_is_told_apart() -> None:
    port = free_port()
    with name_server("127.0.0.1", {NAME: "10.0.0.7"}, port=port):
        assert ask_server(f"127.0.0.1:{port}", NAME).addresses == ("10.0.0.7",)
        assert ask_server(f"127.0.0.1:{port}", "other.test").fault == "unknown"
    for code, fault in ((3, "unknown"), (2, "failing"), (5, "refused"), (0, "empty"), (None, "silent")):
        with odd_name_server(code) as server:
            assert (ask_server(server, NAME).fault, code) == (fault, code)


def test_where_the_system_fails_its_servers_are_asked_why(tmp_path: Path) -> None:
    """.invalid is a name that no resolver knows, by RFC 6761."""
    conf = tmp_path / "resolv.conf"
    for code, fault in ((2, "failing"), (5, "refused"), (3, "unknown")):
        with odd_name_server(code) as server:
            conf.write_text(f"# ours\nnameserver {server}\noptions ndots:0\n")
            assert ask_system("nobody.invalid", conf).fault == fault
    assert ask_system("nobody.invalid", tmp_path / "none").fault in ("unknown", "silent")
    assert "127.0.0.1" in ask_system("localhost", conf).addresses


def test_each_way_not_to_know_a_name_has_its_own_finding() -> None:
    for fault in ("unknown", "silent", "failing", "refused", "empty"):
        lost = Names(name=NAME, asked=[Answer(server="10.0.0.53", fault=fault), Answer(fault="silent")])
        assert ids(lost) == [(f"name.{fault}", "problem")]
        found = next(judge_names(lost))
        assert "10.0.0.53" in found.saw
        assert found.why
        assert "--dns" in found.fix
        assert not found.network


def test_whoever_knows_better_stands_in_the_lines() -> None:
    lost = Names(
        name=NAME,
        asked=[Answer(fault="unknown")],
        others=[Answer(server="10.9.9.9", fault="silent"), Answer(server="1.1.1.1", addresses=("52.0.218.102",))],
    )
    found = next(judge_names(lost))
    assert found.network == {"hosts": {NAME: ["52.0.218.102"]}}
    assert "name server 1.1.1.1 says 52.0.218.102" in found.saw


def test_names_that_are_found_and_yet_not_right() -> None:
    here = Answer(addresses=("10.1.2.3",))
    there = Answer(server="1.1.1.1", addresses=("52.0.218.102",))
    elsewhere = Answer(addresses=("52.0.218.103",))
    hole = Answer(addresses=("0.0.0.0", "::"))
    assert ids(Names(name=NAME, asked=[here])) == [("name.ok", "ok")]
    assert ids(Names(name=NAME, asked=[here], others=[there])) == [("name.ok", "ok"), ("name.differs", "warning")]
    assert ids(Names(name=NAME, asked=[elsewhere], others=[there])) == [("name.ok", "ok")]
    dead = Answer(server="10.0.0.9", fault="silent")
    assert ids(Names(name=NAME, asked=[dead, there])) == [("name.ok", "ok"), ("name.server", "warning")]
    sunk = Names(name=NAME, asked=[hole], others=[there])
    assert ids(sunk) == [("name.sinkhole", "problem")]
    assert next(judge_names(sunk)).network == {"hosts": {NAME: ["52.0.218.102"]}}
    assert ids(Names(name=NAME, fixed=("10.0.0.1",), asked=[hole])) == [("name.fixed", "ok")]
    assert ids(Names(name="10.0.0.1", fixed=("10.0.0.1",))) == []


def test_what_is_fixed_holds_by_port_first() -> None:
    routes = Routes(hosts={NAME: ("10.0.0.1",), f"{NAME}:5000": ("10.0.0.2",)})
    with odd_name_server(3) as server:
        routes = routes.then(Routes(dns=(server,)))
        assert look_up(NAME, 5000, routes).addresses == ("10.0.0.2",)
        assert look_up(NAME, 443, routes).addresses == ("10.0.0.1",)
    assert look_up("10.0.0.3", 443, routes).addresses == ("10.0.0.3",)
    assert look_up("NVCR.test.", 443, Routes(hosts={NAME: ("10.0.0.1",)})).addresses == ("10.0.0.1",)
    here = look_up("localhost", 443, Routes(dns=("10.0.0.53",)))
    assert [one.server for one in here.asked] == [""]


# -- steps --------------------------------------------------------------------------------------------------------


def test_what_does_not_end_is_left_behind() -> None:
    begun = time.monotonic()
    assert within(1, [lambda: 1, lambda: time.sleep(5) or 2, lambda: 3]) == [1, None, 3]
    assert time.monotonic() - begun < 4
    with pytest.raises(ZeroDivisionError):
        within(5, [lambda: 1 / 0])


def test_an_address_that_takes_connections_and_one_that_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        good, bad = try_all([listener.getsockname(), ("127.0.0.1", free_port())])
    assert (good.fault, bad.fault) == ("", "refused")
    assert good.seconds < 5


def test_clocks() -> None:
    assert skew_of("nonsense") is None
    assert skew_of("Wed, 21 Oct 2015 07:28:00 GMT") is not None
    assert (skew_of("Wed, 21 Oct 2015 07:28:00 GMT") or 0) < -3e8


@pytest.mark.parametrize("name", ["registry.example.com", "127.0.0.1", "2001:db8::7", "ünicode.example"])
def test_certificates_say_what_another_reader_reads(tmp_path: Path, name: str) -> None:
    spelt = name.encode("idna").decode() if "ü" in name else name
    file = authority(tmp_path).sign(tmp_path, spelt, begins=timedelta(days=-3), ends=timedelta(days=9))
    theirs = x509.load_pem_x509_certificate(file.read_bytes())
    ours = read_certificate(theirs.public_bytes(Encoding.DER))
    assert (ours.begins, ours.ends) == (theirs.not_valid_before_utc, theirs.not_valid_after_utc)
    assert (ours.subject, ours.issuer, ours.names) == (f"CN={spelt}", "CN=Corp Root", (spelt,))
    assert not ours.self_signed


def test_a_certificate_that_signed_itself(tmp_path: Path) -> None:
    root = authority(tmp_path)
    assert read_certificate(root.certificate.public_bytes(Encoding.DER)).self_signed


@given(st.binary(max_size=300))
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"certificate|unpack|time data|out of range"):
        read_certificate(data)


@given(st.data())
def test_a_certificate_with_changed_bytes_is_read_or_refused(data: st.DataObject) -> None:
    made = bytearray(_CERTIFICATE)
    for _ in range(data.draw(st.integers(1, 4))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_certificate(bytes(made))
    except ValueError:
        return
    assert found.subject.isprintable()


def _certificate() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return authority(Path(folder)).certificate.public_bytes(Encoding.DER)


_CERTIFICATE = _certificate()


# -- whom a recipe needs ------------------------------------------------------------------------------------------

RECIPE = """
triton: "24.10"
backends: [python]
engine: dockerfile
dockerfile: {source: network}
packages: {pip: [requests]}
custom_backends: [{name: mine, image: "docker://harbor.test/mine/backend:1"}]
models:
  - {name: a, source: "https://me:secret@files.test/a.onnx?token=secret"}
  - {name: b, source: "s3://bucket/b/"}
  - {name: c, source: "gs://bucket/c/"}
  - {name: d, source: "hf://owner/repo/d.onnx"}
network:
  mirrors: {nvcr.io: [harbor.test/nvcr]}
  pip_index: https://pypi.test/simple
  apt_mirror: http://apt.test/ubuntu
outputs: ["docker://harbor.test/tools/slim:1", "oci:out"]
"""


def test_every_host_that_a_recipe_needs(tmp_path: Path) -> None:
    about = subject(tmp_path, RECIPE, AWS_ENDPOINT_URL="http://minio.test:9000")
    found = {one.authority: one for one in hosts_of(about.recipes[0], about.place, Routes())}
    assert set(found) == {
        *("nvcr.io", "harbor.test", "files.test", "minio.test:9000", "storage.googleapis.com", "huggingface.co"),
        *("pypi.test", "apt.test", "developer.download.nvidia.com"),
    }
    harbor = found["harbor.test"]
    assert [str(one.place) for one in harbor.pulls] == [
        "docker://harbor.test/nvcr/nvidia/tritonserver:24.10-py3",
        "docker://harbor.test/nvcr/nvidia/tritonserver:24.10-py3-min",
        "docker://harbor.test/mine/backend:1",
    ]
    assert [one.optional for one in harbor.pulls] == [False, True, False]
    assert [one.repository for one in harbor.pushes] == ["tools/slim"]
    assert (found["minio.test:9000"].scheme, found["minio.test:9000"].port) == ("http", 9000)
    assert found["files.test"].url == "https://files.test/a.onnx"
    assert "secret" not in str([one.uses for one in found.values()])


def test_without_a_recipe_it_is_nvidias_registry_and_the_mirrors_asked_about(tmp_path: Path) -> None:
    spare = spare_places(Questions(mirrors=("harbor.test/nvcr",)), Rules())
    found = hosts_of(None, subject(tmp_path).place, spare)
    assert [one.authority for one in found] == ["harbor.test", "nvcr.io"]


def test_docker_hub_is_asked_at_its_real_name(tmp_path: Path) -> None:
    about = subject(tmp_path, "upstream: docker://docker.io/me/server:1\nbackends: [python]\n")
    assert [one.authority for one in hosts_of(about.recipes[0], about.place, Routes())] == ["registry-1.docker.io"]


def test_rules_of_other_programs_are_found(tmp_path: Path) -> None:
    path = tmp_path / ".config/containers/registries.conf"
    path.parent.mkdir(parents=True)
    path.write_text('[[registry]]\nlocation = "docker.io"\n[[registry.mirror]]\nlocation = "mirror.test/hub"\n')
    assert rules_of_this_machine(tmp_path).mirrors["docker.io"] == ("mirror.test/hub",)
    path.write_text("[[registry")
    found = rules_of_this_machine(tmp_path)
    assert path in found.broken
    assert path not in found.files


def test_lines_of_mirrors_are_as_short_as_they_can_be() -> None:
    assert mirror_lines("nvcr.io/nvidia/x", "harbor.test/nvcr/nvidia/x") == {
        "mirrors": {"nvcr.io": ["harbor.test/nvcr"]}
    }
    assert mirror_lines("nvcr.io/nvidia/x", "harbor.test/other") == {
        "mirrors": {"nvcr.io/nvidia/x": ["harbor.test/other"]}
    }
    assert mirror_lines("docker.io/a", "mirror.test/a") == {"mirrors": {"docker.io": ["mirror.test"]}}


# -- this machine -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "like", "family"),
    [
        *(("debian", "", "debian"), ("ubuntu", "debian", "debian"), ("linuxmint", "ubuntu debian", "debian")),
        *(("rocky", "rhel centos fedora", "fedora"), ("rhel", "fedora", "fedora"), ("amzn", "centos rhel", "fedora")),
        *(("opensuse-leap", "suse opensuse", "suse"), ("sles", "suse", "suse"), ("manjaro", "arch", "arch")),
        *(("alpine", "", "alpine"), ("slackware", "", "any"), ("", "", "any")),
    ],
)
def test_the_family_of_a_distribution(name: str, like: str, family: str) -> None:
    assert family_of(name, like) == family


def test_every_family_has_every_command() -> None:
    for family in ("debian", "fedora", "suse", "arch", "alpine", "any"):
        remedies = Remedies(family=family)
        for package in ("docker", "nvidia-driver", "nvidia-container-toolkit"):
            assert "{" not in remedies.install(package)
        for name in ("start-docker", "restart-docker", "join-docker", "set-clock", "toolkit-runtime"):
            assert "{" not in remedies.command(name)
        assert "corp.pem" in remedies.command("trust", file="corp.pem", stem="corp")
    assert Remedies(family="alpine").install("docker") == "sudo apk add docker"
    assert Remedies(family="debian").install("docker").endswith("apt-get install -y docker.io")


def judged(driver: str, capability: str, tmp_path: Path, release: str = "24.10") -> list[str]:
    here = Look(gpus=(Gpu(index=0, uuid="GPU-1", name="A GPU", compute_capability=capability),), driver=driver)
    return [one.id for one in judge_driver(release, here, subject(tmp_path))]


def test_a_driver_against_a_release(tmp_path: Path) -> None:
    assert judged("470.1", "8.0", tmp_path) == ["driver.old"]
    assert judged("530.30.02", "8.0", tmp_path) == ["driver.older"]
    assert judged("580.65.06", "8.0", tmp_path) == ["driver.ok"]
    assert judged("580.65.06", "5.2", tmp_path) == ["driver.ok", "gpu.old"]
    assert judged("580.65.06", "9.0", tmp_path, "99.99")[0] in ("driver.ok", "driver.older", "driver.old")


def test_shared_memory_that_is_too_small(tmp_path: Path) -> None:
    huge = "upstream: oci:x\nbackends: [python]\nrun: {shm_size: 4096g}\n"
    assert {"shm.beyond", "shm.small"} <= {one.id for one in memory(subject(tmp_path, huge))}
    assert {"shm.small"} >= {one.id for one in memory(subject(tmp_path)) if one.level != "ok"}


def test_a_disk_that_may_not_be_written_or_is_not_known(tmp_path: Path) -> None:
    assert [one.id for one in disk(subject(tmp_path))] == ["disk.unknown"]
    assert [one.level for one in disk(subject(tmp_path))] == ["ok"]
    recipe = "upstream: docker://nowhere.invalid/x:1\nbackends: [python]\n"
    assert [one.level for one in disk(subject(tmp_path, recipe))] == ["unknown"]


NEEDS_DOCKER = 'triton: "24.10"\nbackends: [python]\nengine: dockerfile\n'


def test_an_engine_that_does_not_run_is_a_problem_only_where_it_is_needed(tmp_path: Path) -> None:
    gone, dead = tmp_path / "gone.sock", tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    for path, kinds in ((gone, {"docker.stopped", "docker.absent"}), (dead, {"docker.stopped"})):
        found = next(docker(subject(tmp_path, NEEDS_DOCKER, DOCKER_HOST=f"unix://{path}")))
        assert found.id in kinds
        assert (found.level, found.fix[:4]) == ("problem", "sudo")
        assert next(docker(subject(tmp_path, DOCKER_HOST=f"unix://{path}"))).level == "ok"


def test_a_socket_that_is_not_for_us(tmp_path: Path) -> None:
    """As nobody, in a process of its own."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom composer.doctor.engine import _shut\n"
        "from tests.unit.test_doctor import subject\n"
        "found = _shut(subject(Path('/tmp')), 'unix://' + sys.argv[1])\nprint(found.id, found.fix)\n"
    )
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder) / "docker.sock"
        listener.bind(str(path))
        listener.listen()
        Path(folder).chmod(0o755)
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        line = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", script, str(path)]
        said = subprocess.run(line, capture_output=True, text=True, cwd=Path.cwd(), check=False)
    assert said.stdout.startswith("docker.denied sudo usermod -aG docker"), said.stderr


def test_no_gpu_is_said_and_is_no_problem_unless_one_is_required(tmp_path: Path) -> None:
    from composer.doctor.gpus import _none, has_hardware

    required = "upstream: oci:x\nbackends: [python]\nvalidate: {gpu: required}\n"
    nothing = Look(trouble="this machine has no NVIDIA driver: there is no libnvidia-ml.so.1")
    assert _none(subject(tmp_path), nothing).level == "unknown"
    assert _none(subject(tmp_path, required), nothing).level == "problem"
    for number, (vendor, kind) in enumerate([("0x8086", "0x030000"), ("0x10de", "0x040300"), ("0x10de", "0x030200")]):
        assert not has_hardware(tmp_path)
        device = tmp_path / f"0000:0{number}:00.0"
        device.mkdir()
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    assert has_hardware(tmp_path)


def test_a_container_toolkit_that_is_not_there_and_one_that_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = subject(tmp_path, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    monkeypatch.setenv("PATH", str(tmp_path))
    absent = next(toolkit(nobody))
    assert (absent.id, absent.level) == ("toolkit.absent", "warning")
    assert "apt-get install -y nvidia-container-toolkit" in absent.fix
    tool = tmp_path / "nvidia-ctk"
    tool.write_text("#!/bin/sh\necho NVIDIA Container Toolkit CLI version 1.17.4\n")
    tool.chmod(0o755)
    there = next(toolkit(nobody))
    assert (there.id, there.facts["nvidia-ctk"]) == ("toolkit.ok", "1.17.4")


# -- how it is said -----------------------------------------------------------------------------------------------

CHECKUP = Checkup(
    groups=[
        Group(
            name="nvcr.test",
            uses=["pull a/b:1"],
            findings=[
                Finding(id="connect.ok", level="ok", saw="takes connections"),
                Finding(
                    id="tls.untrusted",
                    level="problem",
                    saw="a certificate of http://me:secret@proxy:1 \x1b[31mred\x1b[0m",
                    why="because",
                    fix="do that",
                ),
            ],
        ),
        Group(name="GPU", findings=[Finding(id="gpu.none", level="unknown", saw="there is none")]),
    ],
    network={
        "hosts": {"nvcr.test": ["10.0.0.1", "2001:db8::1"]},
        "mirrors": {"*": ["harbor.test/x"]},
        "dns": ["1.1.1.1"],
    },
    seconds=1.5,
)


def drawn(written: str | None = None) -> str:
    with open(os.devnull, "w") as nothing:
        terminal = Terminal(file=nothing, width=200, record=True, markup=False, highlight=False)
        for line in checkup_text(CHECKUP, written):
            terminal.print(line, soft_wrap=True)
        return terminal.export_text()


def test_what_people_read() -> None:
    said = drawn()
    assert "nvcr.test  pull a/b:1\n  ok       takes connections\n" in said
    assert "  problem  a certificate of http://***@proxy:1 red  [tls.untrusted]\n" in said
    assert "           why:     because\n           do this: do that\n" in said
    assert "1 problem, 1 unknown, 1 well; it took 1.5 s" in said
    assert "n.yaml is written: --network n.yaml goes by it" in drawn("n.yaml")


def test_what_programs_read() -> None:
    document = checkup_json(CHECKUP, None)
    assert (document["level"], document["count"]) == ("problem", {"problem": 1, "warning": 0, "unknown": 1, "ok": 1})
    assert document["groups"][0]["findings"][1]["id"] == "tls.untrusted"
    assert "secret" not in str(document)


def test_the_lines_are_yaml_that_a_recipe_takes(tmp_path: Path) -> None:
    text = network_text(CHECKUP.network)
    loaded = parse_recipe(f"upstream: oci:x\nbackends: [python]\n{text}", path=tmp_path / "r.yaml", environ={})
    assert loaded.network.hosts["nvcr.test"] in (("10.0.0.1", "2001:db8::1"), ["10.0.0.1", "2001:db8::1"])
    assert dict(loaded.network.mirrors) == {"*": ("harbor.test/x",)}
    assert (
        rules_text(Routes(mirrors={"a.test": ("b.test",)})).splitlines()[1:]
        == network_text({"mirrors": {"a.test": ["b.test"]}}).splitlines()
    )


def test_lines_of_several_findings_go_together() -> None:
    merged = together(
        [{"hosts": {"a": ["1"]}}, {"hosts": {"a": ["2"], "b": ["3"]}}, {"dns": ["x"]}, {"dns": ["x", "y"]}]
    )
    assert merged == {"hosts": {"a": ["1"], "b": ["3"]}, "dns": ["x", "y"]}


def test_the_worst_of_several() -> None:
    assert worst([]) == "ok"
    assert CHECKUP.groups[0].level == "problem"


def test_every_finding_stands_in_the_docs() -> None:
    sources = "".join(path.read_text() for path in Path(doctor.__file__).parent.glob("*.py"))
    told = set(re.findall(r"`([a-z]+\.[a-z-]+)`", (Path(__file__).parents[2] / "docs/doctor.md").read_text()))
    kinds = "|".join({name.partition(".")[0] for name in told})
    written = set(re.findall(rf'"((?:{kinds})\.[a-z-]+)"', sources))
    well = {name for name in written if name.endswith(".ok")} | {"name.fixed", "login.none", "docker.room"}
    assert written - well - told == set()
    assert {"tls.expired", "name.unknown", "proxy.forbidden", "rules.unread"} <= told
