"""Where mirrored images go, and which are named: nothing is asked of anybody."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.errors import NotFound, RecipeError, Unplannable
from composer.mirroring import Destination, is_list, read_list
from composer.oci.names import parse_reference

DIGEST = "sha256:" + "ab" * 32
TO = Destination.parse("docker://harbor.example.com/mirror")


@pytest.mark.parametrize(
    ("image", "place"),
    [
        ("docker://nvcr.io/nvidia/tritonserver:24.10-py3", "nvcr.io/nvidia/tritonserver:24.10-py3"),
        ("docker://localhost:5000/a", "localhost_5000/a:latest"),
        ("docker://Registry.Example.COM/a:1", "registry.example.com/a:1"),
        ("docker://docker.io/ubuntu:22.04", "docker.io/library/ubuntu:22.04"),
        ("docker://docker.io/library/ubuntu:22.04", "docker.io/library/ubuntu:22.04"),
        ("docker://index.docker.io/library/ubuntu:22.04", "docker.io/library/ubuntu:22.04"),
        (f"docker://nvcr.io/a@{DIGEST}", "nvcr.io/a:digest-abababababab"),
        (f"docker://nvcr.io/a:1@{DIGEST}", "nvcr.io/a:1"),
        ("oci:some/Where it is:1", "local/where-it-is:1"),
        ("oci-archive:/tmp/triton.tar", "local/triton:latest"),
        ("docker-archive:a.tar", "local/a:latest"),
        ("docker-archive:a.tar:h.io:5000/a:1", "h.io_5000/a:1"),
        ("docker-archive:a.tar:h.io:5000/a", "h.io_5000/a:latest"),
        ("docker-daemon:triton:slim", "local/triton:slim"),
        ("docker-daemon:nvcr.io/nvidia/tritonserver:1", "nvcr.io/nvidia/tritonserver:1"),
        (f"docker-daemon:{DIGEST}", "local/image:digest-abababababab"),
    ],
)
def test_one_rule_says_where_an_image_goes(image: str, place: str) -> None:
    assert str(TO.target(parse_reference(image))) == f"docker://harbor.example.com/mirror/{place}"


def test_a_registry_without_a_path_will_do() -> None:
    for text in ("docker://localhost:5000", "docker://localhost:5000/"):
        to = Destination.parse(text)
        assert str(to.target(parse_reference("docker://nvcr.io/a:1"))) == "docker://localhost:5000/nvcr.io/a:1"
        assert str(to) == "docker://localhost:5000"


@pytest.mark.parametrize("text", ["harbor.example.com/mirror", "docker://harbor/UPPER", "docker:harbor", ""])
def test_what_names_no_registry_is_not_found(text: str) -> None:
    with pytest.raises(NotFound) as caught:
        Destination.parse(text)
    assert caught.value.hint


def test_other_places_than_registries_are_refused() -> None:
    with pytest.raises(Unplannable, match="is no registry"):
        Destination.parse("oci:folder")


def test_an_address_in_brackets_has_no_name_in_a_repository() -> None:
    with pytest.raises(Unplannable, match="brackets"):
        TO.target(parse_reference("docker://[::1]:5000/a:1"))


def test_a_list_has_a_name_in_each_line() -> None:
    text = "# ours\n\n  nvcr.io/nvidia/tritonserver:24.10-py3  # the server\ndocker://localhost/a:1\noci:dir:1\n"
    assert [str(one) for one in read_list(text + text, "images.txt")] == [
        "docker://nvcr.io/nvidia/tritonserver:24.10-py3",
        "docker://localhost/a:1",
        "oci:dir:1",
    ]


def test_a_list_may_be_yaml() -> None:
    assert [str(one) for one in read_list("images:\n  - h.io/a:1\n  - oci:x:2\n", "i.yaml")] == [
        "docker://h.io/a:1",
        "oci:x:2",
    ]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("h.io/a:1\n ubuntu:22.04\nh.io/B\n", ["list:2:2", "list:3:1"]),
        ("images:\n  - h.io/a:1\n  - ubuntu\n", ["list:3:5"]),
        ("images: h.io/a:1\n", ["list:1:1"]),
        ("images: [\n", ["list:2:1"]),
        ("images: [1]\n", ["list:1:1"]),
    ],
)
def test_every_name_that_is_none_is_told_with_its_place(text: str, places: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        read_list(text, "list")
    assert [problem.where for problem in caught.value.problems] == places
    assert all(problem.message for problem in caught.value.problems)


def test_recipes_are_no_lists(tmp_path: Path) -> None:
    texts = {
        "images.txt": ("", True),
        "a.yaml": ("images: [h.io/a:1]", True),
        "b.yaml": ('"images":\n- h.io/a:1', True),
        "recipe.yaml": ('triton: "24.10"\nmodels: []\n', False),
    }
    for name, (text, expected) in texts.items():
        (tmp_path / name).write_text(text)
        assert is_list(tmp_path / name) is expected
    assert not is_list(tmp_path / "absent.yaml")
