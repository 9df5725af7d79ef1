"""What is said of the way out, put together: mirrors, proxies, addresses, logins. Nothing is asked of anybody."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from composer.errors import NotFound, RecipeError, Unreachable
from composer.folder import build_options
from composer.network.proxies import address_for, from_environment, login_header, parse_proxy
from composer.network.routes import Routes
from composer.oci.credentials import Credentials
from composer.oci.names import parse_reference
from composer.recipe import Recipe, parse_recipe
from composer.routing import NGC_USER, Wanted, find_logins, find_routes, overlaid

MIRRORS = Routes(
    mirrors={
        "nvcr.io": ("harbor.corp/nvcr", "other.corp:5000"),
        "nvcr.io/nvidia": ("near.corp/n/",),
        "docker.io": ("hub.corp",),
        "*.internal": ("in.corp",),
        "*": ("any.corp/all",),
    },
    blocked=frozenset({"nvcr.io/nvidia", "quay.io"}),
)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("nvcr.io/team/x:1", ["harbor.corp/nvcr/team/x:1", "other.corp:5000/team/x:1", "nvcr.io/team/x:1"]),
        ("nvcr.io/nvidia/server:1", ["near.corp/n/server:1"]),
        ("nvcr.io/nvidiax/server:1", ["harbor.corp/nvcr/nvidiax/server:1", "other.corp:5000/nvidiax/server:1",
                                      "nvcr.io/nvidiax/server:1"]),
        ("docker.io/library/ubuntu:22.04", ["hub.corp/library/ubuntu:22.04", "docker.io/library/ubuntu:22.04"]),
        ("index.docker.io/a/b:1", ["hub.corp/a/b:1", "index.docker.io/a/b:1"]),
        ("a.internal:5000/x/y:1", ["in.corp/x/y:1", "a.internal:5000/x/y:1"]),
        ("quay.io/a/b:1", ["any.corp/all/a/b:1"]),
        ("nvcr.io:443/a/b:1", ["any.corp/all/a/b:1", "nvcr.io:443/a/b:1"]),
    ],
)  # fmt: skip
def test_the_longest_prefix_wins_and_the_place_itself_is_last(name: str, places: list[str]) -> None:
    found = MIRRORS.places(parse_reference(f"docker://{name}"))
    assert [str(one) for one in found] == [f"docker://{place}" for place in places]


def test_what_has_no_mirror_is_where_it_is() -> None:
    for text in ("docker://nvcr.io/a/b:1", "oci:folder:tag", "docker-archive:a.tar"):
        reference = parse_reference(text)
        assert Routes().places(reference) == (reference,)
    digest = f"docker://nvcr.io/a/b@sha256:{'0' * 64}"
    [first, last] = Routes(mirrors={"nvcr.io": ("m.corp",)}).places(parse_reference(digest))
    assert (str(first), str(last)) == (digest.replace("nvcr.io", "m.corp"), digest)
    assert Routes(blocked=frozenset({"nvcr.io"})).places(parse_reference(digest)) == ()


def test_a_mirror_of_the_web_is_not_told_the_login() -> None:
    routes = Routes(mirrors={"files.test": ("m.corp/files",)})
    assert routes.addresses("https://me:pw@files.test/a%20b/c?d=e") == (
        "https://m.corp/files/a%20b/c?d=e",
        "https://me:pw@files.test/a%20b/c?d=e",
    )
    assert routes.addresses("http://else.test/x") == ("http://else.test/x",)


# -- proxies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("no_proxy", "url", "passes"),
    [
        ("", "https://a.test/", False),
        ("*", "https://a.test/", True),
        ("a.test", "https://a.test/", True),
        ("A.TEST.", "https://a.test./", True),
        ("a.test", "https://b.a.test/", True),
        (".a.test", "https://b.a.test/", True),
        (".a.test", "https://a.test/", True),
        ("*.a.test", "https://b.a.test/", True),
        ("a.test", "https://ba.test/", False),
        ("a.test:443", "https://a.test/", True),
        ("a.test:444", "https://a.test/", False),
        ("a.test:5000", "https://b.a.test:5000/", True),
        ("x.test, a.test", "http://a.test/", True),
        ("10.0.0.0/8", "https://10.1.2.3:5000/", True),
        ("10.0.0.0/8", "https://11.1.2.3/", False),
        ("10.0.0.0/8", "https://a.test/", False),
        ("10.1.2.3", "https://10.1.2.3/", True),
        ("2.3", "https://10.1.2.3/", False),
        ("fd00::/8", "https://[fd00::7]/", True),
        ("[fd00::7]:443", "https://[fd00::7]/", True),
        ("::1", "https://[::1]/", True),
        ("not/a/network", "https://a.test/", False),
    ],
)
def test_no_proxy(no_proxy: str, url: str, passes: bool) -> None:
    given = {"http_proxy": "http://p:1", "https_proxy": "http://p:1", "no_proxy": no_proxy}
    assert (address_for(url, given) is None) == passes


def test_which_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"http_proxy": "p:1", "all_proxy": "https://q:2"}
    assert address_for("http://a/", given) == "http://p:1"
    assert address_for("https://a/", given) == "https://q:2"
    assert address_for("https://a/", {}) is None
    environ = {"HTTP_PROXY": "http://capitals:1", "https_proxy": "http://small:1", "HTTPS_PROXY": "http://x:1"}
    assert from_environment(environ) == {"http_proxy": "http://capitals:1", "https_proxy": "http://small:1"}
    assert "http_proxy" not in from_environment(environ | {"REQUEST_METHOD": "GET"})
    for name in ("https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://env:3128")
    assert address_for("https://a/", None) == "http://env:3128"
    assert address_for("https://a/", {}) is None, "what is given stands in for the environment's"


def test_what_an_address_says_of_a_proxy() -> None:
    found = parse_proxy("https://us%40er:p%3Aw@[fd00::7]:3128")
    assert (found.host, found.port, found.secure, found.login) == ("fd00::7", 3128, True, ("us@er", "p:w"))
    assert found.shown == "https://[fd00::7]:3128"
    assert "p:w" not in found.shown
    assert login_header(found) == {"Proxy-Authorization": "Basic dXNAZXI6cDp3"}
    assert login_header(parse_proxy("http://p")) == {}
    for bad in ("socks5://me:hush@p:1", "http://", "http://p:x", "ftp://p"):
        with pytest.raises(Unreachable) as caught:
            parse_proxy(bad)
        assert caught.value.hint
        assert "hush" not in caught.value.message


# -- who says what ------------------------------------------------------------------------------------------------


def recipe(folder: Path, network: str) -> Recipe:
    text = f'triton: "24.10"\nbackends: [python]\nnetwork: {{{network}}}\n'
    return parse_recipe(text, path=folder / "recipe.yaml", environ={})


def test_the_later_beats_the_earlier_host_by_host(tmp_path: Path) -> None:
    said = recipe(
        tmp_path,
        "hosts: {a.test: 10.0.0.1, b.test: [10.0.0.2, 'fd00::2'], c.test: 10.0.0.3}, dns: [10.0.0.53],"
        " mirrors: {nvcr.io: [one.corp]}, ca_bundle: ca.pem, insecure: [x.test],"
        " proxy: {https: 'http://p:1', no_proxy: [.corp, 10.0.0.0/8, 'z.test:5000']}",
    )
    (tmp_path / "more").mkdir()
    file = tmp_path / "more" / "net.yaml"
    file.write_text(
        "triton: ${NOBODY_SET_THIS}\nnetwork:\n  hosts: {b.test: 10.1.0.2}\n  ca_bundle: other.pem\n"
        "  mirrors: {docker.io: [two.corp]}\n  insecure: [y.test]\n"
    )
    wanted = Wanted(network=file, resolve=("c.test:443:10.2.0.3:8443", "c.test:443:[fd00::3]"), insecure=("z.test",))
    found = find_routes({}, tmp_path, said, wanted)
    assert found.hosts == {
        "a.test": ("10.0.0.1",),
        "b.test": ("10.1.0.2",),
        "c.test": ("10.0.0.3",),
        "c.test:443": ("10.2.0.3:8443", "[fd00::3]"),
    }
    assert found.dns == ("10.0.0.53",)
    assert found.ca_bundle == tmp_path / "more" / "other.pem"
    assert found.mirrors == {"nvcr.io": ("one.corp",), "docker.io": ("two.corp",)}
    assert found.insecure == {"x.test", "y.test", "z.test"}
    assert found.proxies == {"https_proxy": "http://p:1", "no_proxy": ".corp,10.0.0.0/8,z.test:5000"}
    assert found.certs[-2:] == (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
    assert find_routes({}, tmp_path, None, Wanted()).proxies is None


def test_a_network_file_holds_for_docker_builds_too(tmp_path: Path) -> None:
    file = tmp_path / "net.yaml"
    file.write_text("network: {hosts: {b.test: 10.1.0.2}, pip_index: 'https://i.corp/simple', ca_bundle: c.pem}\n")
    made = overlaid(recipe(tmp_path, "hosts: {a.test: 10.0.0.1}, dns: [10.0.0.53]"), file, {})
    assert made.network.hosts == {"a.test": ("10.0.0.1",), "b.test": ("10.1.0.2",)}
    assert made.network.dns == ("10.0.0.53",)
    assert made.network.pip_index == "https://i.corp/simple"
    assert made.network.ca_bundle == tmp_path / "c.pem"
    assert made.where("network").endswith("recipe.yaml:3:10")
    assert overlaid(made, None, {}) is made


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "says nothing of a network"),
        ("backends: [python]\n", "says nothing of a network"),
        ("network: {hosts: {a: b}}\n", '"b" is not an address'),
        ("network: {host: {a: 10.0.0.1}}\n", "host"),
        ("network: {ca_bundle: '${UNSET}'}\n", "UNSET"),
        ("network: [\n", "not YAML"),
    ],
)
def test_a_network_file_that_makes_no_sense(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "net.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=words) as caught:
        find_routes({}, tmp_path, None, Wanted(network=file))
    assert caught.value.problems[0].where.startswith(f"{file}:")


@pytest.mark.parametrize(
    "text",
    ["a.test", "a.test:443", "a.test:x:10.0.0.1", "a.test:443:b.test", ":443:10.0.0.1", "*:443:10.0.0.1",
     "+a.test:443:10.0.0.1", "a b:443:10.0.0.1"],
)  # fmt: skip
def test_a_resolve_that_makes_no_sense(tmp_path: Path, text: str) -> None:
    with pytest.raises(NotFound, match="makes no sense"):
        find_routes({}, tmp_path, None, Wanted(resolve=(text,)))


def test_a_folder_of_certificates_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"certs_d: there is no folder"):
        find_routes({}, tmp_path, recipe(tmp_path, "certs_d: nowhere"), Wanted())


def test_docker_gets_the_first_address_and_none_with_a_port(tmp_path: Path) -> None:
    said = "hosts: {a: [10.0.0.1, 10.0.0.2], 'b:5000': 10.0.0.3, c: '10.0.0.4:1', d: 'fd00::1', e: host-gateway}"
    assert build_options(recipe(tmp_path, said).network, classic=False) == (
        "--add-host=a:10.0.0.1", "--add-host=d:fd00::1", "--add-host=e:host-gateway",
    )  # fmt: skip


# -- logins -------------------------------------------------------------------------------------------------------


def logins(folder: Path, network: str, environ: Mapping[str, str]) -> Credentials:
    given = find_logins(recipe(folder, network), None, environ)
    return Credentials.from_environment(environ, home=folder, given=given)


def test_a_login_of_the_recipe_beats_all_others(tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text('{"auths": {"nvcr.io": {"username": "a", "password": "b"}}}')
    environ = {"KEY": "hush", "USER_OF": "me", "PASSWORD_OF": "hush-too"}
    said = "credentials: {nvcr.io: {password: KEY}, docker.io: {username: USER_OF, password: PASSWORD_OF}}"
    found = logins(tmp_path, said, environ)
    ngc = found.find("nvcr.io", "nvidia/tritonserver")
    assert ngc
    assert (ngc.username, ngc.secret) == (NGC_USER, "hush")
    assert ngc.source == "for nvcr.io in network.credentials ($KEY)"
    assert "hush" not in repr(ngc)
    for name in ("docker.io", "registry-1.docker.io", "index.docker.io"):
        hub = found.find(name, "library/ubuntu")
        assert hub
        assert (hub.username, hub.secret) == ("me", "hush-too")
    assert found.find("quay.io", "a/b") is None


def test_variables_that_are_not_set(tmp_path: Path) -> None:
    said = "credentials: {nvcr.io: {password: NONE}, a.test: {password: KEY}}"
    with pytest.raises(RecipeError) as caught:
        logins(tmp_path, said, {"KEY": "hush"})
    told = {problem.message: problem.where for problem in caught.value.problems}
    assert set(told) == {
        "network.credentials of nvcr.io: the variable NONE is not set",
        "network.credentials of a.test: who logs in is not said",
    }
    assert all(f"{tmp_path}/recipe.yaml:3:" in where for where in told.values())
