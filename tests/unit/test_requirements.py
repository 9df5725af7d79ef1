"""`packages.pip`: what is read from it, and what is refused, each with its place and a way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from composer.errors import Problem, RecipeError
from composer.oci.image import canonical_json
from composer.recipe import Recipe, parse_recipe
from composer.wheels import Requirements, read_requirements
from tests.services.wheels import wheel_bytes

HASH = "a" * 64


def recipe(folder: Path, *lines: str) -> Recipe:
    pip = "".join(f"    - {canonical_json(line).decode()}\n" for line in lines)
    text = f'triton: "24.10"\nbackends: [python]\npackages:\n  pip:\n{pip}'
    return parse_recipe(text, path=folder / "recipe.yaml", environ={})


def read(folder: Path, *lines: str) -> Requirements:
    return read_requirements(recipe(folder, *lines))


def problems(folder: Path, *lines: str) -> tuple[Problem, ...]:
    with pytest.raises(RecipeError) as caught:
        read(folder, *lines)
    assert all(problem.hint for problem in caught.value.problems)
    return caught.value.problems


def test_requirements_as_pip_writes_them(tmp_path: Path) -> None:
    found = read(tmp_path, "Transformers==4.44.0", "requests[socks]>=2.0,<3 ; python_version < '3.11'", "a==1.*")
    assert [(one.name, one.text, one.pinned) for one in found.wanted] == [
        ("transformers", "Transformers==4.44.0", True),
        ("requests", "requests[socks]>=2.0,<3 ; python_version < '3.11'", False),
        ("a", "a==1.*", False),
    ]
    assert found.wanted[0].where == f"{tmp_path}/recipe.yaml:5:7"
    assert not found.hashed


def test_hashes_stand_behind_a_requirement(tmp_path: Path) -> None:
    other = "b" * 64
    found = read(tmp_path, f"a==1 --hash=sha256:{HASH} --hash sha256:{other}", "b==1")
    assert found.wanted[0].text == "a==1"
    assert found.hashes("a") == {HASH, other}
    assert found.hashed
    assert not found.hashes("b")


def test_a_file_of_requirements_is_read_as_pip_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "requirements.txt").write_text(
        "# what we need\n"
        "\n"
        "a==1.0 \\\n"
        f"    --hash=sha256:{HASH}   # the wheel\n"
        "b>=2 # not #1\n"
        "-r more.txt\n"
        "-c limits.txt\n"
        "d==1 \\\n"
    )
    (folder / "more.txt").write_text("c==3\n")
    (folder / "limits.txt").write_text("e<5\n")
    found = read(tmp_path, "-r lists/requirements.txt", "--requirement=lists/more.txt", "-rlists/more.txt")
    assert [(one.text, one.where) for one in found.wanted] == [
        ("a==1.0", f"{folder}/requirements.txt:3:1"),
        ("b>=2", f"{folder}/requirements.txt:5:1"),
        ("c==3", f"{folder}/more.txt:1:1"),
        ("d==1", f"{folder}/requirements.txt:8:1"),
        ("c==3", f"{folder}/more.txt:1:1"),
        ("c==3", f"{folder}/more.txt:1:1"),
    ]
    assert [one.text for one in found.constraints] == ["e<5"]
    assert found.hashes("a") == {HASH}


def test_wheels_by_their_place(tmp_path: Path) -> None:
    wheel = tmp_path / "my wheels" / "mine-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(wheel_bytes("mine", "1.0"))
    url = "https://example.com/theirs-2.0-py3-none-any.whl"
    found = read(
        tmp_path,
        "./my wheels/mine-1.0-py3-none-any.whl",
        f"mine[extra] @ {wheel.as_uri()} ; python_version > '3'",
        f"{url}#sha256={HASH}",
    )
    here = wheel.as_uri()
    assert [(one.name, one.text, one.file) for one in found.wanted] == [
        ("mine", f"mine @ {here}", wheel),
        ("mine", f'mine[extra] @ {here} ; python_version > "3"', wheel),
        ("theirs", f"theirs @ {url}", None),
    ]
    assert found.hashes("theirs") == {HASH}
    assert all(Requirement(one.text).name == one.name for one in found.wanted)


REFUSED = {
    "-e ./lib": ("an editable install is a link to sources, and an image has none", "pip wheel --no-deps ./lib"),
    "--index-url https://x/simple": ("named for the whole recipe", "network: {pip_index: https://x/simple}"),
    "--extra-index-url=https://x/simple": ("named for the whole recipe", "network: {pip_index: https://x/simple}"),
    "--trusted-host x": ("named for the whole recipe", "network: {insecure: [x]}"),
    "--find-links ./w": ("where packages are found", "pip_index"),
    "--pre": ("only -r, -c and --hash are known here", "remove it"),
    "a==1 --config-settings=x": ("only -r, -c and --hash are known here", "remove it"),
    "a==1 --hash=md5:1234": ("only SHA-256 is known here", "--hash=sha256:"),
    "git+https://github.com/x/y": ("only wheels are taken", "pip wheel --no-deps git+https://github.com/x/y"),
    "y @ git+https://github.com/x/y": ("only wheels are taken", "pip wheel --no-deps git+https://github.com/x/y"),
    "./lib": ("only wheels are taken", "pip wheel --no-deps ./lib"),
    ".": ("only wheels are taken", "pip wheel --no-deps ."),
    "./x-1.0.tar.gz": ("only wheels are taken", "then name the .whl"),
    "https://example.com/x-1.0.tar.gz": ("only wheels are taken", "then name the .whl"),
    "./gone-1.0-py3-none-any.whl": ("there is no wheel", "ls "),
    "https://example.com/strange.whl": ("strange.whl is no name of a wheel", "NAME-VERSION-"),
    "x @ https://example.com/y-1.0-py3-none-any.whl": ("a wheel of y, not of x", "y @ https://"),
    "https://example.com/y-1.0-py3-none-any.whl ; nonsense": ("is no requirement", "transformers"),
    "two words": ("'two words' is no requirement", "transformers==4.44.0"),
    "a==": ("'a==' is no requirement", "transformers"),
    "-r gone.txt": ("gone.txt: No such file or directory", "ls -l"),
    '-r "gone.txt': ("names no file", "-r requirements.txt"),
    "-r": ("this option lacks its file", "-r requirements.txt"),
    "-r self.txt": ("include each other without end", "remove one"),
    "-r latin.txt": ("is not UTF-8", "iconv"),
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "self.txt").write_text("-r self.txt\n")
    (tmp_path / "latin.txt").write_bytes("# größer\n".encode("latin-1"))
    (problem,) = problems(tmp_path, line)
    message, hint = REFUSED[line]
    assert message in problem.message
    assert hint in str(problem.hint)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("fine==1\n-e .\n\n--pre\n")
    found = problems(tmp_path, "./gone-1.0-py3-none-any.whl", "fine", "-r r.txt", "a b")
    assert [problem.where for problem in found] == [
        f"{tmp_path}/recipe.yaml:5:7",
        f"{tmp_path}/r.txt:2:1",
        f"{tmp_path}/r.txt:4:1",
        f"{tmp_path}/recipe.yaml:8:7",
    ]


@given(
    st.lists(st.sampled_from([*"ab1=<>;@#-[]'\"\\. \t\r", "\n", "--", "https://x/", ".whl", "-r ", "é"]), max_size=12)
)
def test_no_line_becomes_more_than_one_requirement(parts: list[str]) -> None:
    """What a resolver is given is one line each, whatever stands in the recipe."""
    try:
        found = read(Path("/nowhere"), "".join(parts) or "a")
    except RecipeError:
        return
    for one in found.wanted:
        assert len(one.text.splitlines()) == 1
        assert not one.text.startswith("-")
        assert Requirement(one.text)
