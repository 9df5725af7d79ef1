"""Who may do what: passwords, tokens and TLS, against registries that check them."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from composer.errors import Denied, NotFound, Unreachable
from composer.oci.credentials import Credentials
from composer.oci.image import OCI_LAYER, Descriptor
from tests.images import picture, put
from tests.services.proxy import Answer, Proxy, Redirect
from tests.services.registry import PASSWORD, USERNAME, Registry, login, make_certificate, running_registry, store_at
from tests.services.tokens import ANONYMOUS, TokenService

pytestmark = pytest.mark.registry

WRITER = f"{USERNAME}:{PASSWORD}"
IMAGE = picture(filler=50_000, seed=70)

CLOUDS = {
    "ecr-login": ("AWS", "eyJwYXlsb2FkIjoi"),
    "gcloud": ("_dcgcloud_token", "ya29.a0AfH6SM"),
    "acr-env": ("<token>", "passport"),
}
"""What the helpers of Amazon, Google and Azure give: a name, and a password or an identity token."""

ROBOTS = ("robot$team+ci:Harbor-12345", "$oauthtoken:nvapi-0123", "00000000-0000-0000-0000-000000000000:acr")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenService]:
    logins = (WRITER, *(f"{name}:{secret}" for name, secret in CLOUDS.values()), *ROBOTS)
    users = {ANONYMOUS: frozenset({"pull"}), **dict.fromkeys(logins, frozenset({"pull", "push"}))}
    with TokenService(tmp_path_factory.mktemp("tokens"), users, identities={"passport": WRITER}) as service:
        yield service


@pytest.fixture(scope="module")
def tokened(tmp_path_factory: pytest.TempPathFactory, tokens: TokenService) -> Iterator[Registry]:
    directory = tmp_path_factory.mktemp("tokened")
    with running_registry(directory, token=tokens.certificate, realm=tokens.realm) as running:
        yield running


def test_name_and_password_over_tls(guarded: Registry, repository: str, tmp_path: Path) -> None:
    credentials = login(tmp_path, guarded.host)
    store = store_at(f"{guarded.host}/{repository}", credentials=credentials, ca_bundle=guarded.certificate)
    put(store, IMAGE, "1")
    assert store.resolve("1") == IMAGE.root


def test_a_refusal_says_who_we_were_and_how_to_log_in(guarded: Registry, repository: str, tmp_path: Path) -> None:
    place = f"{guarded.host}/{repository}"
    with pytest.raises(Denied, match=r"to anonymous users \(401") as caught:
        store_at(place, ca_bundle=guarded.certificate).resolve("1")
    assert caught.value.hint == f"docker login {guarded.host}"
    wrong = login(tmp_path, guarded.host, username=USERNAME, password="hush-hush")
    with pytest.raises(Denied, match=rf"credentials for {guarded.host} in .*config.json \(401") as caught:
        store_at(place, credentials=wrong, ca_bundle=guarded.certificate).resolve("1")
    assert "hush" not in caught.value.message


def test_a_certificate_that_nobody_vouches_for_is_refused(guarded: Registry, repository: str, tmp_path: Path) -> None:
    place, credentials = f"{guarded.host}/{repository}", login(tmp_path, guarded.host)
    with pytest.raises(Unreachable, match=r"certificate of .* is not trusted") as caught:
        store_at(place, credentials=credentials).resolve("1")
    assert f"--insecure {guarded.host}" in (caught.value.hint or "")
    assert "ca_bundle" in (caught.value.hint or "")
    with pytest.raises(NotFound):
        store_at(place, credentials=credentials, insecure=frozenset({guarded.host})).resolve("1")


def test_the_environment_does_not_interfere(
    guarded: Registry, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """psf/requests#3829: REQUESTS_CA_BUNDLE beats `verify`; a netrc entry replaces `Authorization`."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login other password wrong\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, "/nowhere/ca.pem")
    credentials = login(tmp_path / "docker", guarded.host)
    place = f"{guarded.host}/{repository}"
    store = store_at(place, credentials=credentials, ca_bundle=guarded.certificate)
    put(store, IMAGE, "1")
    assert store.resolve("1") == IMAGE.root


def test_a_proxy_is_taken_from_the_environment(
    registry: Registry, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(Unreachable, match=r"proxy http://127\.0\.0\.1:9 on the way to registry\.test"):
        store_at("registry.test/a/b", patience=1).resolve("1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(NotFound):
        store_at(f"{registry.host}/{repository}").resolve("1")


def test_tokens_are_fetched_once_for_each_scope(tokened: Registry, tokens: TokenService, tmp_path: Path) -> None:
    tokens.asked.clear()
    store = store_at(f"{tokened.host}/a/b", credentials=login(tmp_path, tokened.host))
    put(store, IMAGE, "1")
    assert store.resolve("1") == IMAGE.root
    assert b"".join(store.read(IMAGE.manifest.config)) == IMAGE.data[IMAGE.manifest.config.digest]
    assert tokens.asked == [(USERNAME, ("repository:a/b:pull,push",)), (USERNAME, ("repository:a/b:pull",))]


def test_anonymous_readers_get_tokens_too(tokened: Registry, tmp_path: Path) -> None:
    put(store_at(f"{tokened.host}/a/c", credentials=login(tmp_path, tokened.host)), IMAGE, "1")
    store = store_at(f"{tokened.host}/a/c")
    assert store.manifest(store.resolve("1")) == IMAGE.manifest.raw
    with pytest.raises(Denied, match="to anonymous users"):
        store.write(IMAGE.manifest.config, lambda: iter([IMAGE.data[IMAGE.manifest.config.digest]]))


def test_an_identity_token_buys_tokens(tokened: Registry, tokens: TokenService, tmp_path: Path) -> None:
    credentials = login(tmp_path, tokened.host, identitytoken="passport")
    store = store_at(f"{tokened.host}/a/d", credentials=credentials)
    put(store, IMAGE, "1")
    assert store.resolve("1") == IMAGE.root
    stranger = login(tmp_path / "stranger", tokened.host, identitytoken="forged")
    with pytest.raises(Denied, match="refused a token with the credentials") as caught:
        store_at(f"{tokened.host}/a/d", credentials=stranger).resolve("1")
    assert "forged" not in caught.value.message


def test_a_wrong_password_is_told_by_the_token_service(tokened: Registry, tmp_path: Path) -> None:
    wrong = login(tmp_path, tokened.host, username=USERNAME, password="hush-hush")
    with pytest.raises(Denied, match=r"refused a token with the credentials .* \(401: DENIED: no\)"):
        store_at(f"{tokened.host}/a/b", credentials=wrong).resolve("1")


def test_a_mount_asks_for_both_repositories(tokened: Registry, tokens: TokenService, tmp_path: Path) -> None:
    credentials = login(tmp_path, tokened.host)
    source = store_at(f"{tokened.host}/a/source", credentials=credentials)
    put(source, IMAGE, "1")
    target = store_at(f"{tokened.host}/a/target", credentials=credentials)
    assert target.mount(IMAGE.manifest.config, source)
    assert target.has(IMAGE.manifest.config)
    assert (USERNAME, ("repository:a/target:pull,push", "repository:a/source:pull")) in tokens.asked


def test_a_token_that_runs_out_on_the_way_is_renewed(tokened: Registry, tokens: TokenService, tmp_path: Path) -> None:
    """Whatever the token says of its lifetime, a 401 ends it."""
    data = b"x" * 300_000
    blob = Descriptor.of(data, f"{OCI_LAYER}+gzip")
    challenge = (("WWW-Authenticate", f'Bearer realm="{tokens.realm}",service="tests"'),)
    for method in ("PATCH", "PUT", "HEAD"):
        rule = Answer(method=method, path="", times=1, status=401, headers=challenge)
        with Proxy(tokened.port, [rule]) as proxy:
            tokens.asked.clear()
            store = store_at(f"{proxy.host}/a/{method.lower()}", credentials=login(tmp_path, proxy.host))
            store.write(blob, lambda: iter([data]))
            assert store.has(blob)
            assert len(tokens.asked) == 3
            assert proxy.count(method, "") == 2


def test_a_registry_that_always_says_401_is_denied(tokened: Registry, tokens: TokenService, tmp_path: Path) -> None:
    challenge = (("WWW-Authenticate", f'Bearer realm="{tokens.realm}",service="tests"'),)
    with Proxy(tokened.port, [Answer(method="HEAD", path="", status=401, headers=challenge)]) as proxy:
        store = store_at(f"{proxy.host}/a/b", credentials=login(tmp_path, proxy.host))
        with pytest.raises(Denied):
            store.resolve("1")
        assert proxy.count("HEAD", "") == 2


def test_nobody_else_is_told_who_we_are(tokened: Registry, tmp_path: Path) -> None:
    """A blob that is kept elsewhere is fetched there, without our name."""
    with Proxy(tokened.port) as elsewhere, Proxy(tokened.port, [Redirect(port=elsewhere.port)]) as proxy:
        store = store_at(f"{proxy.host}/a/e", credentials=login(tmp_path, proxy.host), patience=1)
        put(store, IMAGE, "1")
        with pytest.raises(Unreachable, match="answers 401"):
            list(store.read(IMAGE.manifest.config))
        asked = [request for request in proxy.requests if request.method == "GET"]
        assert asked
        assert all("Authorization" in request.headers for request in asked)
        assert len(elsewhere.requests) == len(asked)
        assert all("Authorization" not in request.headers for request in elsewhere.requests)


def test_a_registry_behind_a_proxy_that_ends_tls(registry: Registry, repository: str, tmp_path: Path) -> None:
    """It takes itself for plain HTTP and says so in the locations of uploads."""
    certificate = make_certificate(tmp_path, "127.0.0.1")
    with Proxy(registry.port, certificate=certificate) as proxy:
        store = store_at(f"{proxy.host}/{repository}", ca_bundle=certificate)
        put(store, IMAGE, "1")
        assert store.manifest(store.resolve("1")) == IMAGE.manifest.raw


def test_a_helper_that_is_missing_leaves_us_anonymous(tokened: Registry, tmp_path: Path) -> None:
    put(store_at(f"{tokened.host}/a/f", credentials=login(tmp_path, tokened.host)), IMAGE, "1")
    config = tmp_path / "other.json"
    config.write_text(json.dumps({"credHelpers": {tokened.host: "does-not-exist"}}))
    warnings: list[object] = []
    credentials = Credentials(files=(config,), emit=warnings.append)
    assert store_at(f"{tokened.host}/a/f", credentials=credentials).resolve("1") == IMAGE.root
    assert len(warnings) == 1


def test_a_password_is_not_sent_in_the_clear_for_a_registry_with_tls(tmp_path: Path, tokens: TokenService) -> None:
    """A registry, or whoever answers for it, must not lead us to a token service without TLS."""
    with running_registry(tmp_path / "r", tls=True, token=tokens.certificate, realm=tokens.realm) as registry:
        tokens.asked.clear()
        store = store_at(
            f"{registry.host}/a/b", credentials=login(tmp_path, registry.host), ca_bundle=registry.certificate
        )
        with pytest.raises(Denied, match="without TLS"):
            store.resolve("1")
        assert tokens.asked == []


# -- logins as they are kept -----------------------------------------------------------------------------------


@pytest.fixture
def helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that speak the protocol of docker-credential-helpers, on the PATH; `asked` has what each was told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, (user, secret) in CLOUDS.items():
        answer = json.dumps({"ServerURL": "SERVER", "Username": user, "Secret": secret})
        program = folder / f"docker-credential-{name}"
        program.write_text(
            f"#!{sys.executable}\n"
            "import pathlib, sys\n"
            "server = sys.stdin.read().strip()\n"
            f"with open({str(tmp_path / 'asked')!r}, 'a') as file: print(sys.argv[1:], server, file=file)\n"
            "if server.startswith('unknown'):\n"
            "    print('credentials not found in native keychain'); sys.exit(1)\n"
            f"print({answer!r}.replace('SERVER', server))\n"
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return tmp_path / "asked"


@pytest.mark.parametrize("where", ["credHelpers", "credsStore"])
@pytest.mark.parametrize("name", CLOUDS)
def test_a_cloud_is_asked_for_a_login_by_its_helper(
    tokened: Registry, tokens: TokenService, helpers: Path, tmp_path: Path, name: str, where: str
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"credHelpers": {tokened.host: name}} if where == "credHelpers" else {where: name}))
    tokens.asked.clear()
    store = store_at(f"{tokened.host}/cloud/{name}", credentials=Credentials(files=(config,)))
    put(store, IMAGE, "1")
    assert store.resolve("1") == IMAGE.root
    assert {user for user, _ in tokens.asked} == {USERNAME if name == "acr-env" else CLOUDS[name][0]}
    assert helpers.read_text() == f"['get'] {tokened.host}\n"


@pytest.mark.parametrize("robot", ROBOTS)
@pytest.mark.parametrize("kept", ["auth", "fields"])
def test_names_with_signs_in_them_are_sent_as_they_are(
    tokened: Registry, tokens: TokenService, tmp_path: Path, robot: str, kept: str
) -> None:
    """Harbor's robots, NGC's `$oauthtoken`, Azure's nobody: `+` and `$` mean something in URLs and shells."""
    name, _, secret = robot.partition(":")
    encoded = {"auth": base64.b64encode(robot.encode()).decode()}
    entry = encoded if kept == "auth" else {"username": name, "password": secret}
    tokens.asked.clear()
    store = store_at(f"{tokened.host}/robots/a", credentials=login(tmp_path, tokened.host, **entry))
    put(store, IMAGE, "1")
    assert {user for user, _ in tokens.asked} == {name}


def test_the_login_of_the_longest_path_is_taken(tokened: Registry, tokens: TokenService, tmp_path: Path) -> None:
    """As Podman keeps them: for a host, for a part of it, for one repository."""
    ways = {
        tokened.host: "wrong:wrong",
        f"{tokened.host}/team": WRITER,
        f"{tokened.host}/team/robots": ROBOTS[0],
        f"{tokened.host}/team/robots/one": ROBOTS[1],
        f"{tokened.host}/te": "wrong:wrong",
    }
    auths = {place: {"auth": base64.b64encode(one.encode()).decode()} for place, one in ways.items()}
    config = tmp_path / "auth.json"
    config.write_text(json.dumps({"auths": auths}))
    credentials = Credentials(files=(config,))
    for repository, user in (("team/a", WRITER), ("team/robots/two", ROBOTS[0]), ("team/robots/one", ROBOTS[1])):
        tokens.asked.clear()
        put(store_at(f"{tokened.host}/{repository}", credentials=credentials), IMAGE, "1")
        assert {name for name, _ in tokens.asked} == {user.partition(":")[0]}
    with pytest.raises(Denied):
        store_at(f"{tokened.host}/other/a", credentials=credentials).resolve("1")


def test_a_mount_is_not_granted_to_those_who_may_not_see_the_other(
    tokened: Registry, tokens: TokenService, tmp_path: Path
) -> None:
    """The token service refuses the scope altogether: the blob is sent, by a token for the target alone."""
    credentials = login(tmp_path, tokened.host)
    source = store_at(f"{tokened.host}/hidden/a", credentials=credentials)
    put(source, IMAGE, "1")
    tokens.hidden = "hidden/a"
    try:
        target = store_at(f"{tokened.host}/seen/a", credentials=credentials)
        assert not target.mount(IMAGE.manifest.config, source)
        put(target, IMAGE, "1")
        assert target.resolve("1") == IMAGE.root
    finally:
        tokens.hidden = None
