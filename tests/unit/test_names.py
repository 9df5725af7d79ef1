from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.errors import NotFound
from composer.oci.names import TRANSPORTS, Reference, parse_reference

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "place", "tag", "digest", "name"),
    [
        (
            "docker://nvcr.io/nvidia/tritonserver:24.09-py3",
            "nvcr.io/nvidia/tritonserver",
            "24.09-py3",
            None,
            "24.09-py3",
        ),
        ("docker://127.0.0.1:5000/a", "127.0.0.1:5000/a", None, None, "latest"),
        ("docker://localhost/a/b:1", "localhost/a/b", "1", None, "1"),
        ("docker://[::1]:5000/a:1", "[::1]:5000/a", "1", None, "1"),
        (f"docker://h.io/a@{DIGEST}", "h.io/a", None, DIGEST, DIGEST),
        (f"docker://h.io/a:1@{DIGEST}", "h.io/a", "1", DIGEST, DIGEST),
        ("oci:dist/triton:24.09", "dist/triton", "24.09", None, "24.09"),
        ("oci:/var/lib/x", "/var/lib/x", None, None, ""),
        (f"oci:x@{DIGEST}", "x", None, DIGEST, DIGEST),
        ("oci:me@home/x:1", "me@home/x", "1", None, "1"),
        (f"oci:x:t@{DIGEST}", "x", "t", DIGEST, DIGEST),
        ("oci-archive:a.tar:1", "a.tar", "1", None, "1"),
        ("oci-archive:a.tar", "a.tar", None, None, ""),
        ("docker-archive:a.tar:h.io:5000/a:1", "a.tar", "h.io:5000/a:1", None, "h.io:5000/a:1"),
        ("docker-archive:a.tar", "a.tar", None, None, ""),
        ("docker-daemon:a/b:1", "a/b", "1", None, "1"),
        ("docker-daemon:h.io:5000/a", "h.io:5000/a", None, None, "latest"),
        (f"docker-daemon:{DIGEST}", "", None, DIGEST, DIGEST),
    ],
)
def test_names_are_read(text: str, place: str, tag: str | None, digest: str | None, name: str) -> None:
    reference = parse_reference(text)
    assert (reference.place, reference.tag, reference.digest, reference.name) == (place, tag, digest, name)
    assert str(reference) == text


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("nvcr.io/nvidia/tritonserver:24.09-py3", "docker://nvcr.io/nvidia/tritonserver:24.09-py3"),
        ("dist/triton.tar", "oci-archive:dist/triton.tar"),
        ("./dist", "oci:./dist"),
        ("docker:h.io/a", "docker://h.io/a"),
        ("docker://a/b", "docker://docker.io/a/b"),
        ("docker://h.io/UPPER:1", "docker://host[:port]/path/in/lower-case:tag"),
        ("docker://h.io/a@sha256:short", "name@sha256:<64 hex digits>"),
        ("docker://h.io/a:", "docker://h.io/a:<tag>"),
        ("oci:", "oci:path:tag"),
        ("oci::tag", "oci:path:tag"),
        ("docker-archive::tag", "docker-archive:path:tag"),
        ("docker-archive:a.tar:UPPER:1", "docker-archive:a.tar:name:tag"),
        ("docker-daemon:", "docker-daemon:name:tag"),
        ("oci:dir:a:b", "letters, digits, '_', '.', '-'; 128 at most"),
        ("", "one of docker://"),
        ("podman:x", "one of docker://"),
    ],
)
def test_misspelled_names_are_refused_with_the_likely_spelling(text: str, hint: str) -> None:
    with pytest.raises(NotFound) as caught:
        parse_reference(text)
    assert caught.value.hint
    assert caught.value.hint.startswith(hint)
    assert repr(text)[1:-1] in caught.value.message


@given(st.text())
def test_any_text_is_a_name_or_is_refused(text: str) -> None:
    for transport in ("", *(f"{transport}:" for transport in TRANSPORTS), "docker://"):
        try:
            reference = parse_reference(transport + text)
        except NotFound:
            continue
        assert parse_reference(str(reference)) == reference


def test_another_tag_or_digest_of_the_same_place() -> None:
    reference = Reference(transport="docker", place="h.io/a/b", tag="1")
    assert str(reference.at("2")) == "docker://h.io/a/b:2"
    assert str(reference.at(DIGEST)) == f"docker://h.io/a/b:1@{DIGEST}"
    assert str(reference.at(DIGEST).at("2")) == "docker://h.io/a/b:2"
    assert (reference.host, reference.repository) == ("h.io", "a/b")
