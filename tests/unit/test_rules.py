"""Rules of mirrors in other programs' files: read as they mean them, written so that they come back the same."""

from __future__ import annotations

import json
import string
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from composer.errors import NotFound, RecipeError, Unplannable
from composer.network.routes import Routes
from composer.network.rules import Found, read, read_daemon, read_hosts, read_registries
from composer.network.writing import MARK, network_json, network_text, require_ours, write, written
from composer.oci.names import parse_reference

# -- reading ------------------------------------------------------------------------------------------------------


def registries(text: str) -> Found:
    return read_registries(text, "registries.conf")


def places(found: Found, name: str) -> list[str]:
    return [one.place for one in found.routes.places(parse_reference(f"docker://{name}"))]


MANUAL = """
unqualified-search-registries = ["example.com"]
short-name-mode = "enforcing"

[aliases]
"fedora" = "registry.fedoraproject.org/fedora"

[[registry]]
prefix = "example.com/foo"
insecure = false
blocked = false
location = "internal-registry-for-example.com/bar"

[[registry.mirror]]
location = "example-mirror-0.local/mirror-for-foo"

[[registry.mirror]]
location = "example-mirror-1.local/mirrors/foo"
insecure = true

[[registry]]
location = "registry.com"

[[registry.mirror]]
location = "mirror.registry.com"
"""
"""A file of the shape that containers-registries.conf(5) explains."""


def test_mirrors_of_a_prefix_go_first_and_its_location_stands_for_it() -> None:
    found = registries(MANUAL)
    assert places(found, "example.com/foo/image:1") == [
        "example-mirror-0.local/mirror-for-foo/image",
        "example-mirror-1.local/mirrors/foo/image",
        "internal-registry-for-example.com/bar/image",
    ]
    assert places(found, "registry.com/image:1") == ["mirror.registry.com/image", "registry.com/image"]
    assert places(found, "example.com/other/image:1") == ["example.com/other/image"]
    assert found.routes.insecure == {"example-mirror-1.local"}
    assert found.passed_over == ()


def test_a_blocked_registry_is_not_asked_but_its_mirrors_are() -> None:
    """Where skopeo refuses at once, which is of no use behind an air gap."""
    text = '[[registry]]\nlocation = "nvcr.io"\nblocked = true\n[[registry.mirror]]\nlocation = "harbor/nvcr"\n'
    assert places(registries(text), "nvcr.io/nvidia/tritonserver:1") == ["harbor/nvcr/nvidia/tritonserver"]
    assert places(registries('[[registry]]\nlocation = "nvcr.io"\nblocked = true'), "nvcr.io/x:1") == []


def test_of_several_prefixes_the_longest_counts_alone() -> None:
    text = '[[registry]]\nprefix = "h.io"\nlocation = "m.local/all"\n[[registry]]\nlocation = "h.io/own"'
    assert places(registries(text), "h.io/x:1") == ["m.local/all/x"]
    assert places(registries(text), "h.io/own/x:1") == ["h.io/own/x"]


def test_a_mirror_of_one_repository_must_be_a_repository() -> None:
    text = '[[registry]]\nlocation = "h.io/x"\n[[registry.mirror]]\nlocation = "m.local"'
    assert places(registries(text), "h.io/x:1") == ["h.io/x"]
    assert places(registries(text), "h.io/x/y:1") == ["m.local/y", "h.io/x/y"]


def test_subdomains_are_meant_by_a_star() -> None:
    found = registries('[[registry]]\nprefix = "*.example.com"\n[[registry.mirror]]\nlocation = "m.local/all"')
    assert places(found, "a.b.example.com/x:1") == ["m.local/all/x", "a.b.example.com/x"]
    assert places(found, "example.com/x:1") == ["example.com/x"]


@pytest.mark.parametrize("rule", ['pull-from-mirror = "digest-only"', ""])
def test_a_mirror_that_may_not_be_asked_for_tags_is_not_asked_at_all(rule: str) -> None:
    top = "" if rule else "mirror-by-digest-only = true\n"
    found = registries(f'[[registry]]\nlocation = "nvcr.io"\n{top}[[registry.mirror]]\nlocation = "m.local"\n{rule}')
    assert places(found, "nvcr.io/x:1") == ["nvcr.io/x"]
    assert found.passed_over == (
        "registries.conf: the mirror m.local of nvcr.io may be asked for digests only, and we ask for tags too",
    )


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("[[registry]\n", "registries.conf:1:", "not TOML"),
        ('[[registry]]\nlocation = "nvcr.io"\nx = \n', "registries.conf:3:", "not TOML"),
        ("x = [", "registries.conf:1:", "not TOML"),
        ('\n[registries.search]\nregistries = ["a.b"]', "registries.conf:2:1", "version 1"),
        ("[[registry]]\nblocked = true", "registries.conf: [[registry]] number 1", "None names no place"),
        ('[[registry]]\nlocation = "http://x.y"', "registries.conf: [[registry]] number 1", "names no place"),
        ('[[registry]]\nlocation = "x.y/Upper"', "registries.conf: [[registry]] number 1", "names no place"),
        ('[[registry]]\nlocation = "x.y"\ninsecure = "no"', "registries.conf: [[registry]] number 1", "true or false"),
        ('[[registry]]\nlocation = "x.y"\n[[registry]]\nlocation = "x.y"', "number 2", "stands there twice"),
        ('[registry]\nlocation = "x.y"', "registries.conf", "list of tables"),
        ('[[registry]]\nlocation = "x.y"\nmirror = ["m.n"]', "number 1", "list of tables"),
    ],
)
def test_what_is_wrong_in_a_registries_conf_is_told_with_its_place(text: str, where: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        registries(text)
    problem = caught.value.problems[0]
    assert where in problem.where
    assert message in problem.message


def hosts(text: str, folder: str = "docker.io") -> Found:
    return read_hosts(text, folder, f"{folder}/hosts.toml")


def test_hosts_of_a_registry_are_asked_in_order_and_the_server_last() -> None:
    found = hosts("""
server = "https://registry-1.docker.io"
[host."https://public-mirror.example.com"]
  capabilities = ["pull"]
[host."https://docker-mirror.internal"]
  capabilities = ["pull", "resolve"]
  ca = "docker-mirror.crt"
[host."http://10.0.0.7:5000/v2/hub"]
  override_path = true
[host."https://push.example.com"]
  capabilities = ["push"]
[host."https://other.example.com/api/docker"]
""")
    assert places(found, "docker.io/library/debian:12") == [
        "docker-mirror.internal/library/debian",
        "10.0.0.7:5000/hub/library/debian",
        "docker.io/library/debian",
    ]
    assert found.routes.insecure == {"10.0.0.7:5000"}
    assert [line.partition(": ")[2].partition(" ")[0] for line in found.passed_over] == [
        "https://public-mirror.example.com",
        "ca",
        "https://other.example.com/api/docker",
    ]


def test_another_server_stands_for_the_registry() -> None:
    found = hosts('server = "https://only.example.com"\nskip_verify = true', "nvcr.io")
    assert places(found, "nvcr.io/x:1") == ["only.example.com/x"]
    assert found.routes.insecure == {"only.example.com"}


@pytest.mark.parametrize(
    ("folder", "name"), [("r.io_5000_", "r.io:5000"), ("r.io:5000", "r.io:5000"), ("_default", "any.thing:80")]
)
def test_the_folder_names_the_registry(folder: str, name: str) -> None:
    found = hosts('[host."https://m.local"]', folder)
    assert places(found, f"{name}/x:1") == ["m.local/x", f"{name}/x"]


def test_the_folder_that_mirror_wrote_is_not_the_rules_themselves(tmp_path: Path) -> None:
    (tmp_path / "network.yaml").write_text("network: {}\n")
    with pytest.raises(NotFound, match="holds no") as caught:
        read(tmp_path)
    assert caught.value.hint == f"--network {tmp_path / 'network.yaml'}"


def test_a_default_holds_for_those_that_have_no_folder(tmp_path: Path) -> None:
    for folder, text in (("_default", 'server = "https://m.local"'), ("nvcr.io", 'server = "https://nvcr.io"')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "hosts.toml").write_text(text)
    found = read(tmp_path)
    assert places(found, "other.io/x:1") == ["m.local/x"]
    assert places(found, "nvcr.io/x:1") == ["nvcr.io/x"]
    assert found.routes.certs == (tmp_path,)


@pytest.mark.parametrize(
    ("text", "folder", "where"),
    [
        ('server = "https://x y"', "nvcr.io", "nvcr.io/hosts.toml:1:1"),
        ('\n\n[host."ftp://m.local"]', "nvcr.io", "nvcr.io/hosts.toml:3:1"),
        ('host = "https://m.local"', "nvcr.io", "nvcr.io/hosts.toml:1:1"),
        ("server = 5", "nvcr.io", "nvcr.io/hosts.toml:1:1"),
        ("", "not a host", "not a host/hosts.toml"),
    ],
)
def test_what_is_wrong_in_a_hosts_toml_is_told_with_its_place(text: str, folder: str, where: str) -> None:
    with pytest.raises(RecipeError) as caught:
        hosts(text, folder)
    assert caught.value.problems[0].where == where


def test_docker_has_mirrors_of_its_hub_alone() -> None:
    text = '{"registry-mirrors": ["https://hub.local", "http://10.0.0.1:5000/"], "debug": true,\n'
    found = read_daemon(text + ' "insecure-registries": ["r.local:80", "10.0.0.0/8"]}', "daemon.json")
    expected = ["hub.local/library/debian", "10.0.0.1:5000/library/debian", "docker.io/library/debian"]
    assert places(found, "docker.io/library/debian:1") == expected
    assert found.routes.insecure == {"r.local:80", "10.0.0.1:5000"}
    assert found.passed_over == ("daemon.json: 10.0.0.0/8 is insecure: name each such host with --insecure",)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("{\n nonsense", "daemon.json:2:2"),
        ("[]", "daemon.json:1:1"),
        ('{\n"registry-mirrors": "x"}', "daemon.json:2:1"),
    ],
)
def test_what_is_wrong_in_a_daemon_json_is_told_with_its_place(text: str, where: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_daemon(text, "daemon.json")
    assert caught.value.problems[0].where == where


def test_images_of_docker_hub_with_names_of_one_part_are_below_library_in_mirrors_too() -> None:
    found = hosts('[host."https://m.local/v2/hub"]\noverride_path = true')
    assert places(found, "docker.io/debian:12") == ["m.local/hub/library/debian", "docker.io/debian"]


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "registries.conf"):
        with pytest.raises(NotFound):
            read(path)


# -- there and back -----------------------------------------------------------------------------------------------

LABEL = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=6)
NAME = st.lists(LABEL, min_size=2, max_size=3).map(".".join).filter(lambda name: "docker.io" not in name)
HOST = st.tuples(NAME, st.sampled_from(["", ":5000", ":80"])).map("".join)
PATH = st.lists(LABEL, max_size=2).map(lambda parts: "".join(f"/{part}" for part in parts))
PLACE = st.tuples(HOST, PATH).map("".join)
PLACES = st.lists(PLACE, min_size=1, max_size=3, unique=True).map(tuple)


def routes(keys: st.SearchStrategy[str]) -> st.SearchStrategy[Routes]:
    """Mirrors for such keys, of which some are blocked, and some hosts of mirrors are insecure."""

    def completed(mirrors: dict[str, tuple[str, ...]]) -> st.SearchStrategy[Routes]:
        of_mirrors = sorted({place.partition("/")[0] for places in mirrors.values() for place in places})
        return st.builds(
            lambda insecure, blocked: Routes(mirrors=mirrors, insecure=insecure, blocked=blocked),
            insecure=st.frozensets(st.sampled_from(of_mirrors)),
            blocked=st.frozensets(st.sampled_from(sorted(mirrors))),
        )

    return st.dictionaries(keys, PLACES, min_size=1, max_size=3).filter(_apart).flatmap(completed)


def _apart(mirrors: dict[str, tuple[str, ...]]) -> bool:
    """No registry is its own mirror: the files cannot say so, and nobody would."""
    return all(key not in places for key, places in mirrors.items())


STARRED = st.one_of(PLACE, NAME.map(lambda name: f"*.{name}"))
WHOLE = st.one_of(HOST, st.just("*"), st.just("docker.io"))


@given(routes(STARRED))
def test_registries_conf_comes_back_as_it_was(given_: Routes) -> None:
    made = written(given_)
    blocked = {key for key in given_.mirrors if given_.is_blocked(*key.split("/", 1))}
    assert registries(made.files["registries.conf"]).routes == replace(given_, blocked=frozenset(blocked))
    tomllib.loads(made.files["registries.conf"])


@given(routes(WHOLE))
def test_hosts_toml_comes_back_as_it_was(given_: Routes) -> None:
    back = Routes()
    for name, text in written(given_).files.items():
        if name.endswith("hosts.toml"):
            found = read_hosts(text, name.split("/")[1], name)
            assert found.passed_over == ()
            back = back.then(found.routes)
    assert dict(back.mirrors) == dict(given_.mirrors)
    assert (back.insecure, back.blocked) == (given_.insecure, given_.blocked)


@given(st.lists(HOST, min_size=1, unique=True).map(tuple), st.frozensets(HOST))
def test_daemon_json_comes_back_as_it_was(mirrors: tuple[str, ...], insecure: frozenset[str]) -> None:
    given_ = Routes(mirrors={"docker.io": mirrors}, insecure=insecure)
    assert read_daemon(written(given_).files["daemon.json"], "daemon.json").routes == given_


@given(routes(st.one_of(STARRED, WHOLE, st.sampled_from(["10", "1.5", "on.off/yes", "[::1]:5000"]))))
def test_a_network_mapping_means_what_its_values_say(given_: Routes) -> None:
    said: Any = YAML(typ="safe").load(network_text(given_))
    assert (said["network"] or {}) == network_json(given_)


# -- writing ------------------------------------------------------------------------------------------------------

MIRROR = Routes(mirrors={"nvcr.io": ("harbor.example.com/mirror/nvcr.io",), "docker.io": ("harbor.example.com",)})


def test_what_a_program_cannot_be_told_is_said() -> None:
    made = written(replace(MIRROR, mirrors={**MIRROR.mirrors, "*": ("a.b",), "x.y/z": ("a.b/c",)}, blocked={"q.r"}))  # type: ignore[arg-type]
    assert [line.split(":")[0] for line in made.lacking] == [
        "registries.conf cannot say *",
        "hosts.toml cannot say x.y/z",
        "hosts.toml cannot say that q.r is not asked",
        "daemon.json cannot say where nvcr.io, *, x.y/z is found",
    ]
    assert json.loads(made.files["daemon.json"]) == {"registry-mirrors": ["https://harbor.example.com"]}


def test_rules_replace_earlier_ones_of_ours(tmp_path: Path) -> None:
    write(tmp_path, written(Routes(mirrors={"nvcr.io": ("old.example.com",)}, insecure=frozenset({"old.example.com"}))))
    files = write(tmp_path, written(MIRROR))
    assert sorted(str(file.relative_to(tmp_path)) for file in files) == [
        "certs.d/docker.io/hosts.toml",
        "certs.d/nvcr.io/hosts.toml",
        "daemon.json",
        "network.yaml",
        "registries.conf",
    ]
    assert not list(tmp_path.rglob(".*"))
    assert all("old.example.com" not in path.read_text() for path in files)
    assert read(tmp_path / "registries.conf").routes == MIRROR


@pytest.mark.parametrize("name", ["registries.conf", "daemon.json", "certs.d/nvcr.io/hosts.toml", "network.yaml"])
def test_a_file_of_somebody_else_stays(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    for act in (require_ours, write):
        do: Callable[..., object] = act
        with pytest.raises(Unplannable, match="was not written by tricompose"):
            do(tmp_path, written(MIRROR))
    assert path.read_text() == "{}"
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == [path]


def test_every_file_that_may_have_comments_says_whose_it_is() -> None:
    files = written(MIRROR).files
    assert all(text.startswith(MARK) for name, text in files.items() if not name.endswith(".json"))
