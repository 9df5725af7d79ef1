"""Each sickness of a network told apart from all others, on real servers; and a healthy one found healthy."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from composer.cli import main
from composer.console import checkup as words
from composer.doctor import Questions, examine
from composer.doctor.finding import Checkup, Finding
from composer.events import ignore
from composer.oci.credentials import Credentials
from composer.pipeline import Workplace
from composer.recipe import parse_recipe
from tests.command import environment, tricompose
from tests.images import picture, put
from tests.services.dns import name_server
from tests.services.forward import forward_proxy
from tests.services.namespaces import machine
from tests.services.proxy import Answer, Hold, IgnoreRange, Proxy, Slow
from tests.services.registry import PASSWORD, USERNAME, Registry, free_port, login, running_registry, store_at
from tests.services.sick import authority, odd_name_server, saying, server, swallowing
from tests.services.tokens import TokenService

pytestmark = pytest.mark.registry

IMAGE = picture(filler=3_000_000, seed=612)


@pytest.fixture(autouse=True)
def nobodys_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxies and no logins of whoever runs this."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "nobody"))


def look(
    tmp_path: Path,
    recipe: str | None,
    *,
    logins: Credentials | None = None,
    timeout: float = 25,
    dns: tuple[str, ...] = (),
    mirrors: tuple[str, ...] = (),
) -> Checkup:
    """What the doctor finds for a recipe, in this process."""
    config = logins.files[0].parent if logins else tmp_path / "nobody"
    environ = {"DOCKER_CONFIG": str(config), "HOME": str(tmp_path)}
    loaded = parse_recipe(recipe, path=tmp_path / "recipe.yaml", environ={}) if recipe else None
    place = Workplace.from_environment(environ, home=tmp_path, recipe=loaded, cache=tmp_path / "cache")
    questions = Questions(timeout=timeout, dns=dns, mirrors=mirrors)
    return examine([(loaded, place)], questions, home=tmp_path, emit=ignore)


def ids(checkup: Checkup, group: str) -> dict[str, Finding]:
    """What was found of a host, by id."""
    found = [one for one in checkup.groups if one.name == group]
    assert len(found) == 1, f"{group} is not among {[one.name for one in checkup.groups]}"
    return {one.id: one for one in found[0].findings}


def bad(checkup: Checkup, group: str) -> set[str]:
    """The ids of all that is not well there."""
    return {name for name, one in ids(checkup, group).items() if one.level != "ok"}


def image_recipe(host: str, repository: str, network: str = "{}", output: str = "") -> str:
    return f"""
upstream: {{full: "docker://{host}/{repository}:1", min: "docker://{host}/{repository}:1"}}
backends: [python]
network: {network}
outputs: [{output}]
"""


def donors_recipe(repository: str, hosts: list[str]) -> str:
    """A recipe that takes something of an image on each of these hosts."""
    donors = [f"  - {{name: b{n}, image: 'docker://{host}/{repository}:1'}}" for n, host in enumerate(hosts)]
    return 'upstream: "oci:nothing"\nbackends: [python]\ncustom_backends:\n' + "\n".join(donors) + "\n"


def web_recipe(ports: dict[str, int], network: str = "") -> str:
    """A recipe with a model on each of these hosts, all of which are this machine."""
    models = [
        f"  - {{name: m{n}, source: 'https://{name}.test:{port}/m'}}" for n, (name, port) in enumerate(ports.items())
    ]
    hosts = ", ".join(f"{name}.test: 127.0.0.1" for name in ports)
    start = 'upstream: "oci:nothing"\nbackends: [python]\nmodels:\n'
    return start + "\n".join(models) + f"\nnetwork: {{hosts: {{{hosts}}}{', ' if network else ''}{network}}}\n"


# -- well ---------------------------------------------------------------------------------------------------------


def test_where_all_is_well_nothing_is_found_and_nothing_is_left(
    guarded: Registry, repository: str, tmp_path: Path
) -> None:
    logins = login(tmp_path / "docker", guarded.host)
    put(store_at(f"{guarded.host}/{repository}", credentials=logins, ca_bundle=guarded.certificate), IMAGE, "1")
    output = f"docker://{guarded.host}/{repository}-slim:1"
    recipe = image_recipe(guarded.host, repository, f"{{ca_bundle: {guarded.certificate}}}", output)
    found = look(tmp_path, recipe, logins=logins)
    assert bad(found, guarded.host) == set()
    expected = {"connect.ok", "tls.ok", "clock.ok", "registry.ok", "login.ok", "pull.ok", "push.ok", "mount.ok"}
    assert {*expected, "range.ok", "speed.ok"} == set(ids(found, guarded.host))
    size = sum(layer.size for layer in IMAGE.manifest.layers)
    assert ids(found, guarded.host)["pull.ok"].facts["missing"] == size
    assert guarded.sessions(f"{repository}-slim") == []
    said = json.dumps(words.checkup_json(found, None)) + "".join(map(str, words.checkup_text(found, None)))
    assert PASSWORD not in said
    assert USERNAME not in said
    assert found.network == {}


# -- names --------------------------------------------------------------------------------------------------------


def test_a_broken_name_is_mended_by_what_another_server_says(
    registry: Registry, repository: str, tmp_path: Path
) -> None:
    """From the message to a pull: the lines that are written are all that is needed."""
    put(store_at(f"{registry.host}/{repository}"), IMAGE, "1")
    place = f"harbor.test:{registry.port}"
    (tmp_path / "recipe.yaml").write_text(image_recipe(place, repository, f"{{insecure: ['{place}']}}"))
    env = environment(tmp_path)
    with machine(tmp_path / "far") as far, far.door(("127.0.0.1", registry.port), ("127.0.0.1", registry.port)):
        sick = far.run(*_doctor(), "recipe.yaml", "--json", cwd=tmp_path, env=env)
        assert sick.returncode == 16
        assert _problems(sick.stdout) == {"name.unknown"}
        with far.within():
            better = name_server("127.0.0.54", {"harbor.test": "127.0.0.1"})
        with far.within():
            better.__enter__()
        told = far.run(*_doctor(), "recipe.yaml", "--dns", "127.0.0.54", "--write", "n.yaml", cwd=tmp_path, env=env)
        better.__exit__(None, None, None)
        assert told.returncode == 16
        assert "hosts:\n    harbor.test: [127.0.0.1]" in told.stdout
        well = far.run(*_doctor(), "recipe.yaml", "--network", "n.yaml", "--json", cwd=tmp_path, env=env)
    assert well.returncode == 0, well.stdout + well.stderr
    assert _problems(well.stdout) == set()


def _doctor() -> tuple[str, str]:
    from tests.command import COMMAND

    return COMMAND, "doctor"


def _problems(output: str) -> set[str]:
    groups = json.loads(output)["doctor"]["groups"]
    return {one["id"] for group in groups for one in group["findings"] if one["level"] == "problem"}


def test_name_servers_that_do_not_answer_are_told_though_another_does(
    registry: Registry, repository: str, tmp_path: Path
) -> None:
    put(store_at(f"{registry.host}/{repository}"), IMAGE, "1")
    place = f"harbor.test:{registry.port}"
    with odd_name_server(2) as failing, name_server("127.0.0.1", {"harbor.test": "127.0.0.1"}, port=free_port()) as _:
        recipe = image_recipe(place, repository, f"{{dns: ['{failing}'], insecure: ['{place}']}}")
        found = look(tmp_path, recipe)
    # .test is nobody's: the system says that it does not exist, the server that it cannot find out.
    assert "name.unknown" in bad(found, place)
    assert failing in ids(found, place)["name.unknown"].saw
    assert "SERVFAIL" in ids(found, place)["name.unknown"].saw


def test_a_filter_that_answers_with_nobodys_address(tmp_path: Path) -> None:
    port = free_port()
    with name_server("127.0.0.1", {"harbor.test": "0.0.0.0"}, port=port):
        found = look(tmp_path, image_recipe("harbor.test", "a/b", f"{{dns: ['127.0.0.1:{port}']}}"))
    assert "name.sinkhole" in bad(found, "harbor.test")


# -- connections and TLS ------------------------------------------------------------------------------------------


def test_each_trouble_on_the_way_has_a_name_of_its_own(tmp_path: Path) -> None:
    ours, theirs = authority(tmp_path / "ours"), authority(tmp_path / "theirs", "Intercepting Proxy CA")
    day = timedelta(days=1)

    def signed(name: str, begins: timedelta = -day, ends: timedelta = 30 * day) -> Path:
        return ours.sign(tmp_path / "certificates", f"{name}.test", begins=begins, ends=ends)

    with ExitStack() as stack:
        open_ = stack.enter_context
        ports = {
            "well": open_(server(signed("well"))),
            "untrusted": open_(server(theirs.sign(tmp_path / "certificates", "untrusted.test"))),
            "wrong-name": open_(server(signed("somebody-else"))),
            "expired": open_(server(signed("expired", -3 * day, -day))),
            "not-yet-valid": open_(server(signed("not-yet-valid", day, 3 * day))),
            "clock": open_(server(signed("clock", day, 3 * day), clock=2 * day)),
            "skewed": open_(server(signed("skewed"), clock=timedelta(hours=3, seconds=30))),
            "expires-soon": open_(server(signed("expires-soon", -day, 3 * day))),
            "plain": open_(server()),
            "old": open_(server(signed("old"), newest=ssl.TLSVersion.TLSv1_1)),
            "client": open_(server(signed("client"), clients=ours.file)),
            "missing": open_(server(signed("missing"), status=404)),
            "denied": open_(server(signed("denied"), status=403)),
            "failing": open_(server(signed("failing"), status=500)),
            "whole": open_(server(signed("whole"), headers=[("Accept-Ranges", "none")])),
            "refused": free_port(),
            "swallowed": open_(swallowing()),
            "garbage": open_(saying(b"SSH-2.0-OpenSSH_9.2\r\n")),
        }
        found = look(tmp_path, web_recipe(ports, f"ca_bundle: {ours.file}"))
    told = {name: bad(found, f"{name}.test:{port}") for name, port in ports.items()}
    assert told == {
        "well": set(),
        "untrusted": {"tls.untrusted"},
        "wrong-name": {"tls.wrong-name"},
        "expired": {"tls.expired"},
        "not-yet-valid": {"tls.not-yet-valid"},
        "clock": {"clock.wrong"},
        "skewed": {"clock.wrong"},
        "expires-soon": {"tls.expires-soon"},
        "plain": {"tls.none"},
        "old": {"tls.old"},
        "client": {"tls.client"},
        "missing": {"web.missing"},
        "denied": {"web.denied"},
        "failing": {"web.failing"},
        "whole": {"range.ignored"},
        "refused": {"connect.refused"},
        "swallowed": {"connect.silent"},
        "garbage": {"tls.none"},
    }
    assert "CN=Intercepting Proxy CA" in ids(found, f"untrusted.test:{ports['untrusted']}")["tls.untrusted"].fix
    assert "3 h 00 min ahead of ours" in ids(found, f"skewed.test:{ports['skewed']}")["clock.wrong"].saw


def test_nobody_waits_longer_than_he_was_told(registry: Registry, repository: str, tmp_path: Path) -> None:
    with Proxy(registry.port, [Hold(method="GET", path="/v2/")]) as hanging:
        host = f"127.0.0.1:{hanging.port}"
        short = look(tmp_path, image_recipe(host, repository), timeout=2)
    assert bad(short, host) == {"time.out"}
    assert short.seconds < 7


# -- proxies ------------------------------------------------------------------------------------------------------


def test_what_a_proxy_says(guarded: Registry, repository: str, tmp_path: Path) -> None:
    put(
        store_at(f"{guarded.host}/{repository}", credentials=login(tmp_path / "l", guarded.host),
                 ca_bundle=guarded.certificate), IMAGE, "1",
    )  # fmt: skip
    names = {"127.0.0.1": ("127.0.0.1", guarded.port)}

    def through(proxy: str, host: str = guarded.host) -> Checkup:
        network = f"{{ca_bundle: {guarded.certificate}, proxy: {{https: '{proxy}'}}}}"
        return look(tmp_path, image_recipe(host, repository, network), logins=login(tmp_path / "d", guarded.host))

    with forward_proxy(names, login="me:swordfish-of-the-proxy") as proxy, saying(b"HTTP/1.1 403 No\r\n\r\n") as no:
        well = through(proxy.url)
        wrong = through(f"http://me:wrong-one@127.0.0.1:{proxy.port}")
        none = through(f"http://127.0.0.1:{proxy.port}")
        lost = through(proxy.url, "elsewhere.test")
        refused = through(f"http://127.0.0.1:{no}")
        gone = through(f"http://127.0.0.1:{free_port()}")
    with saying(b"SSH-2.0-OpenSSH_9.2\r\n") as other:
        broken = through(f"http://127.0.0.1:{other}")
    assert bad(well, guarded.host) == set()
    assert "proxy.ok" in ids(well, guarded.host)
    assert bad(wrong, guarded.host) == bad(none, guarded.host) == {"proxy.login"}
    assert ids(wrong, guarded.host)["proxy.login"].why != ids(none, guarded.host)["proxy.login"].why
    assert bad(lost, "elsewhere.test") == {"proxy.lost"}
    assert bad(refused, guarded.host) == {"proxy.forbidden"}
    assert bad(gone, guarded.host) == {"proxy.refused"}
    assert bad(broken, guarded.host) == {"proxy.broken"}
    said = "".join(json.dumps(words.checkup_json(one, None)) for one in (well, wrong, none))
    assert "swordfish" not in said
    assert "wrong-one" not in said


# -- registries ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, TokenService]]:
    users = {f"{USERNAME}:{PASSWORD}": frozenset({"pull", "push"}), "reader:reading": frozenset({"pull"})}
    folder = tmp_path_factory.mktemp("doctored")
    with (
        TokenService(folder / "tokens", {**users, "outsider:nothing": frozenset()}) as tokens,
        running_registry(folder / "registry", token=tokens.certificate, realm=tokens.realm) as running,
    ):
        yield running, tokens


def test_who_may_do_what(tokened: tuple[Registry, TokenService], repository: str, tmp_path: Path) -> None:
    registry, _ = tokened
    put(store_at(f"{registry.host}/{repository}", credentials=login(tmp_path / "w", registry.host)), IMAGE, "1")
    output = f"docker://{registry.host}/{repository}-slim:1"
    recipe = image_recipe(registry.host, repository, output=output)

    def as_user(name: str, password: str) -> set[str]:
        logins = login(tmp_path / name, registry.host, username=name, password=password)
        return bad(look(tmp_path, recipe, logins=logins), registry.host)

    assert as_user(USERNAME, PASSWORD) == set()
    assert as_user("reader", "reading") == {"push.denied"}
    assert as_user("outsider", "nothing") == {"pull.denied", "push.denied"}
    assert as_user("stranger", "strange") == {"login.refused"}
    assert bad(look(tmp_path, recipe), registry.host) == {"login.needed"}
    missing = recipe.replace(f"{repository}:1", f"{repository}:2")
    logins = login(tmp_path / "again", registry.host)
    assert bad(look(tmp_path, missing, logins=logins), registry.host) == {"pull.missing"}


def test_a_token_service_that_cannot_be_reached(tmp_path: Path, repository: str) -> None:
    """What is wrong on the way to it is told as of any host, with the lines that would mend it."""
    challenge = 'Bearer realm="https://auth.invalid/token",service="tests"'
    nameserver = free_port()
    with (
        server(status=401, headers=[("WWW-Authenticate", challenge)]) as port,
        name_server("127.0.0.1", {"auth.invalid": "10.0.0.9"}, port=nameserver),
    ):
        found = look(tmp_path, image_recipe(f"127.0.0.1:{port}", repository), dns=(f"127.0.0.1:{nameserver}",))
    assert bad(found, f"127.0.0.1:{port}") == {"token.unreachable", "name.unknown"}
    assert found.network == {"hosts": {"auth.invalid": ["10.0.0.9"]}}


def test_a_registry_that_is_blocked_is_not_asked(registry: Registry, repository: str, tmp_path: Path) -> None:
    put(store_at(f"{registry.host}/cache/{repository}"), IMAGE, "1")
    with Proxy(registry.port) as blocked:
        host = f"127.0.0.1:{blocked.port}"
        network = f"{{mirrors: {{'{host}': ['{registry.host}/cache']}}, blocked: ['{host}']}}"
        found = look(tmp_path, image_recipe(host, repository, network), mirrors=(f"{registry.host}/other",))
        assert blocked.requests == []
    assert host not in [one.name for one in found.groups]
    assert "pull.ok" in ids(found, registry.host)


def test_manners_of_registries(registry: Registry, repository: str, tmp_path: Path) -> None:
    put(store_at(f"{registry.host}/{repository}"), IMAGE, "1")
    blobs = "/blobs/sha256:"
    with ExitStack() as stack:
        sick = {
            "range.ignored": Proxy(registry.port, [IgnoreRange()]),
            "speed.slow": Proxy(registry.port, [Slow(path=blobs, rate=300_000)]),
            "registry.busy": Proxy(registry.port, [Answer(method="GET", path="/v2/$", status=429, retry_after=9)]),
            "http.silent": Proxy(registry.port, [Hold(method="GET", path="/v2/$")]),
            "registry.none": Proxy(registry.port, [Answer(method="GET", path="/v2/$", status=404)]),
            "pull.failing": Proxy(registry.port, [Answer(method=".*", path="/manifests/", status=500)]),
            "blob.failing": Proxy(registry.port, [Answer(method="GET", path=blobs, status=500)]),
        }
        hosts = {kind: f"127.0.0.1:{stack.enter_context(proxy).port}" for kind, proxy in sick.items()}
        portal = stack.enter_context(server(headers=[("Content-Type", "text/html")]))
        hosts["registry.page"] = f"127.0.0.1:{portal}"
        found = look(tmp_path, donors_recipe(repository, list(hosts.values())))
    told = {kind: bad(found, host) for kind, host in hosts.items()}
    assert told == {**{kind: {kind} for kind in sick}, "registry.page": {"registry.none"}}


# -- mirrors ------------------------------------------------------------------------------------------------------


def test_what_a_mirror_has_is_no_problem_and_one_that_would_have_it_is_written(
    registry: Registry, repository: str, tmp_path: Path
) -> None:
    put(store_at(f"{registry.host}/cache/{repository}"), IMAGE, "1")
    mirror = f"{registry.host}/cache"
    gone = f"127.0.0.1:{free_port()}"
    used = look(tmp_path, image_recipe(gone, repository, f"{{mirrors: {{'{gone}': ['{mirror}']}}}}"))
    assert {one.level for one in ids(used, gone).values() if one.level != "ok"} == {"warning"}
    assert "connect.refused" in bad(used, gone)
    spare = look(tmp_path, image_recipe(gone, repository), mirrors=(mirror,))
    assert ids(spare, gone)["connect.refused"].level == "problem"
    assert spare.network == {"mirrors": {gone: [mirror]}}
    nothing = look(tmp_path, image_recipe(gone, repository), mirrors=(f"127.0.0.1:{free_port()}/cache",))
    assert nothing.network == {}


def test_rules_of_other_programs_are_tried_and_told(registry: Registry, repository: str, tmp_path: Path) -> None:
    put(store_at(f"{registry.host}/cache/{repository}"), IMAGE, "1")
    gone = f"127.0.0.1:{free_port()}"
    own = tmp_path / ".config/containers/registries.conf"
    own.parent.mkdir(parents=True)
    own.write_text(f'[[registry]]\nlocation = "{gone}"\n[[registry.mirror]]\nlocation = "{registry.host}/cache"\n')
    found = look(tmp_path, image_recipe(gone, repository))
    assert ids(found, "this machine")["rules.unread"].fix.startswith(f"tricompose build --network {own}")
    assert found.network == {"mirrors": {gone: [f"{registry.host}/cache"]}}


def test_the_command_says_it_and_exits(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(image_recipe(f"127.0.0.1:{free_port()}", "a/b"))
    said = tricompose("doctor", "recipe.yaml", cwd=tmp_path)
    assert said.returncode == 16
    assert "[connect.refused]" in said.stdout
    assert "do this: " in said.stdout
    assert "\x1b[" not in said.stdout
    assert main(["doctor", "--dns", "one.one"]) == 2
