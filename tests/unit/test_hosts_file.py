"""The block in /etc/hosts: there or not, the rest of the file is what it was, to the byte."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.cli import main
from composer.doctor import hosts_file
from composer.doctor.hosts_file import BACKUP, apply, block_in, of_routes, revert, show, with_block, without_block
from composer.errors import NotFound, Unplannable
from composer.network.routes import Routes
from tests.command import COMMAND, environment

FILE = Path("/etc/hosts")
USUAL = b"127.0.0.1\tlocalhost\n::1 localhost ip6-localhost\n# a comment\n10.0.0.1 gateway.example gw\n"
ONE = {"nvcr.io": ("10.0.0.7",)}

labels = st.text("abcxyz019_", min_size=1, max_size=6)
names = st.lists(labels, min_size=1, max_size=3).map(lambda made: ".".join([*made, "test"]))
addresses = st.ip_addresses().map(str)
entries = st.dictionaries(
    names, st.lists(addresses, min_size=1, max_size=2, unique=True).map(tuple), min_size=1, max_size=3
)
lines = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=30)
files = st.one_of(
    st.binary(max_size=200),
    st.tuples(st.lists(lines, max_size=8), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans()).map(
        lambda made: (made[1].join(made[0]) + (made[1] if made[2] else "")).encode()
    ),
).filter(lambda data: b"tricompose hosts" not in data)
"""Files of others: Hypothesis knows our marks from our source, and draws them too."""


@given(files, entries)
def test_what_is_put_in_is_there_and_taken_out_leaves_no_trace(data: bytes, wanted: dict[str, tuple[str, ...]]) -> None:
    made = with_block(data, wanted, FILE)
    assert block_in(made, FILE) == wanted
    assert without_block(made, FILE) == data
    assert made.endswith(data)


@given(files, entries, entries)
def test_a_second_block_takes_the_place_of_the_first(
    data: bytes, first: dict[str, tuple[str, ...]], second: dict[str, tuple[str, ...]]
) -> None:
    made = with_block(with_block(data, first, FILE), second, FILE)
    assert made == with_block(data, second, FILE)
    assert with_block(made, second, FILE) == made


@given(files, files, entries, entries)
def test_what_others_write_around_it_stays(
    before: bytes, after: bytes, first: dict[str, tuple[str, ...]], second: dict[str, tuple[str, ...]]
) -> None:
    if before and not before.endswith((b"\n", b"\r")):
        before += b"\n"
    block = with_block(b"", first, FILE)
    made = with_block(before + block + after, second, FILE)
    assert made.startswith(before)
    assert made.endswith(after)
    assert without_block(made, FILE) == before + after


def test_line_ends_are_those_of_the_file() -> None:
    made = with_block(USUAL.replace(b"\n", b"\r\n"), ONE, FILE)
    assert made.count(b"\n") == made.count(b"\r\n")
    assert b"\r" not in with_block(USUAL, ONE, FILE)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"a\n# >>> tricompose hosts >>>\n1.2.3.4 x\n", 2),
        (b"a\n\n# <<< tricompose hosts <<<\n", 3),
        (with_block(with_block(b"", ONE, FILE), ONE, FILE) * 2, 5),
        (with_block(b"", ONE, FILE) + b"# <<< tricompose hosts <<<\n", 5),
    ],
    ids=["no end", "no beginning", "two blocks", "two ends"],
)
def test_marks_that_are_not_one_of_each_are_refused_with_their_line(data: bytes, line: int, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(data)
    for act in (lambda: apply(path, ONE), lambda: revert(path), lambda: show(path)):
        with pytest.raises(Unplannable, match=rf"hosts:{line}: ") as caught:
            act()
        assert str(path) in (caught.value.hint or "")
    assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["hosts"]


@pytest.mark.parametrize(
    "name", ["", "a b", "-a", "a-", "a..b", "a" * 64, "10.0.0.1", "x\n10.0.0.1 y", "a/b", "a:1", "#a"]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(NotFound, match="no host's name"):
        with_block(b"", {name: ("10.0.0.1",)}, FILE)


@pytest.mark.parametrize("address", ["", "nvcr.io", "10.0.0.1:5000", "10.0.0", "1.2.3.4\n5.6.7.8 x", "10.0.0.1 x"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(NotFound, match="is no address"):
        with_block(b"", {"nvcr.io": (address,)}, FILE)


def test_mode_owner_and_attributes_stay_and_a_copy_is_kept_once(tmp_path: Path) -> None:
    path, copy = tmp_path / "hosts", tmp_path / f"hosts{BACKUP}"
    path.write_bytes(USUAL)
    path.chmod(0o640)
    os.chown(path, 12, 34)
    os.setxattr(path, "user.kept", b"yes")
    change = apply(path, ONE)
    assert (change.changed, change.before, change.after, change.backup) == (True, {}, ONE, copy)
    apply(path, {"other.example": ("10.0.0.8", "2001:db8::8")})
    for file in (path, copy):
        about = file.stat()
        assert (stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid) == (0o640, 12, 34)
        assert os.getxattr(file, "user.kept") == b"yes"
    assert copy.read_bytes() == USUAL
    assert show(path).after == {"other.example": ("10.0.0.8", "2001:db8::8")}
    assert not apply(path, {"OTHER.example.": ("10.0.0.8", "2001:db8:0::8")}).changed
    assert revert(path).changed
    assert path.read_bytes() == USUAL
    assert os.listdir(tmp_path) == ["hosts"]
    assert not revert(path).changed


def test_what_others_wrote_meanwhile_stays_and_so_does_the_copy(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(USUAL)
    apply(path, ONE)
    with path.open("ab") as file:
        file.write(b"10.0.0.9 nvcr.io\n")
    assert show(path).beside == ("9: 10.0.0.9 nvcr.io",)
    revert(path)
    assert path.read_bytes() == USUAL + b"10.0.0.9 nvcr.io\n"
    assert (tmp_path / f"hosts{BACKUP}").read_bytes() == USUAL
    apply(path, ONE)
    assert (tmp_path / f"hosts{BACKUP}").read_bytes() == USUAL + b"10.0.0.9 nvcr.io\n"


def test_links_stay_links(tmp_path: Path) -> None:
    real, soft, hard = tmp_path / "real" / "hosts", tmp_path / "soft", tmp_path / "hard"
    real.parent.mkdir()
    real.write_bytes(USUAL)
    soft.symlink_to(real)
    os.link(real, hard)
    apply(soft, ONE)
    assert soft.is_symlink()
    assert hard.read_bytes() == real.read_bytes() == with_block(USUAL, ONE, FILE)


def test_what_a_killed_one_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_bytes(USUAL)
    (tmp_path / ".tricompose-hosts-abc").write_bytes(b"half")
    revert(tmp_path / "hosts")
    assert os.listdir(tmp_path) == ["hosts"]


def test_many_at_once_leave_one_of_them(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(USUAL)
    wanted = [{f"host-{number}.example": (f"10.0.0.{number}",)} for number in range(12)]
    threads = [threading.Thread(target=apply, args=(path, one)) for one in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert show(path).after in wanted
    revert(path)
    assert path.read_bytes() == USUAL
    assert os.listdir(tmp_path) == ["hosts"]


def test_a_hosts_file_says_no_ports() -> None:
    hosts = {"a.example:443": ("10.0.0.1",), "b.example": ("10.0.0.2:8443", "10.0.0.3"), "c.example": ("host-gateway",)}
    entries, warnings = of_routes(Routes(hosts=hosts))
    assert entries == {"a.example": ("10.0.0.1",), "b.example": ("10.0.0.3",), "c.example": ("127.0.0.1",)}
    assert ["b.example" in one.message for one in warnings] == [True]


def test_no_such_file_is_told(tmp_path: Path) -> None:
    for act in (lambda: apply(tmp_path / "none", ONE), lambda: show(tmp_path / "none" / "deep")):
        with pytest.raises(NotFound):
            act()
    assert os.listdir(tmp_path) == []


def test_the_command_by_recipe_file_and_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts, network, recipe = tmp_path / "hosts", tmp_path / "network.yaml", tmp_path / "recipe.yaml"
    monkeypatch.chdir(tmp_path)
    hosts.write_bytes(USUAL)
    network.write_text("network:\n  hosts: {a.example: 10.0.0.1}\n")
    recipe.write_text("upstream: oci:x\nbackends: [python]\nnetwork: {hosts: {b.example: [10.0.0.2, 10.0.0.3]}}\n")
    words = ["recipe.yaml", "c.example=10.0.0.4", "--network", "network.yaml", "--file", "hosts"]
    assert main(["hosts", "apply", *words]) == 0
    expected = {"a.example": ("10.0.0.1",), "b.example": ("10.0.0.2", "10.0.0.3"), "c.example": ("10.0.0.4",)}
    assert block_in(hosts.read_bytes(), hosts) == expected
    assert "10.0.0.4        c.example" in capsys.readouterr().out
    assert main(["hosts", "revert", "--file", "hosts"]) == 0
    assert hosts.read_bytes() == USUAL
    assert main(["hosts", "apply", "--file", "hosts"]) == 2
    assert "HOST=ADDRESS" in capsys.readouterr().err


def test_without_root_the_same_command_is_told_with_it(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:  # those of the tests are for root alone
        path = Path(folder) / "hosts"
        path.write_bytes(USUAL)
        Path(folder).chmod(0o755)
        line = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", COMMAND]
        line += ["hosts", "apply", "nvcr.io=10.0.0.7", "--file", str(path)]
        said = subprocess.run(line, capture_output=True, text=True, cwd="/", env=environment(tmp_path), check=False)
        assert said.returncode == 8, said.stderr
        assert f"hosts apply nvcr.io=10.0.0.7 --file {path}" in said.stderr
        assert "hint: sudo " in said.stderr
        assert os.listdir(folder) == ["hosts"]


def test_a_file_that_is_a_mount_of_its_own_is_written_in_place(tmp_path: Path) -> None:
    """As in a container, where /etc/hosts cannot be replaced."""
    path, mounted = tmp_path / "etc" / "hosts", tmp_path / "mounted"
    path.parent.mkdir()
    path.write_bytes(b"below\n")
    mounted.write_bytes(USUAL)
    act = f"{COMMAND} hosts apply nvcr.io=10.0.0.7 --file {path} && cp {path} {tmp_path}/seen"
    script = f"mount --bind {mounted} {path}; {act} && {COMMAND} hosts revert --file {path}"
    line = ["unshare", "--mount", "--propagation=private", "sh", "-ec", script]
    said = subprocess.run(line, capture_output=True, text=True, env=environment(tmp_path), check=False)
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "seen").read_bytes() == with_block(USUAL, ONE, path)
    assert mounted.read_bytes() == USUAL
    assert path.read_bytes() == b"below\n"
    assert os.listdir(path.parent) == ["hosts"]


def test_killed_in_the_middle_it_is_the_old_file_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(USUAL)
    real = Path.replace

    def dies(self: Path, target: Path) -> Path:
        if target == path:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(hosts_file.Path, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        apply(path, ONE)
    assert path.read_bytes() == USUAL
    monkeypatch.undo()
    apply(path, ONE)
    assert block_in(path.read_bytes(), path) == ONE
    assert sorted(os.listdir(tmp_path)) == ["hosts", f"hosts{BACKUP}"]


def test_killed_at_any_moment_it_is_the_old_file_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(USUAL)
    new = with_block(USUAL, ONE, path)
    chance = random.Random(6)
    for _ in range(60):
        child = os.fork()
        if child == 0:
            try:
                while True:
                    apply(path, ONE)
                    revert(path)
            finally:
                os._exit(1)
        time.sleep(chance.random() / 100)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert path.read_bytes() in (USUAL, new)
    apply(path, ONE)
    assert path.read_bytes() == new
    revert(path)
    assert path.read_bytes() == USUAL
    assert os.listdir(tmp_path) == ["hosts"]
