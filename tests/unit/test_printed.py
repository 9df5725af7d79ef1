"""`tricompose run --print`: a command, a Compose file and Kubernetes objects that say what the recipe says."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from composer.config import healthcheck
from composer.errors import NotFound, Unplannable
from composer.oci.image import OCI_CONFIG, OCI_MANIFEST, Descriptor, Image, canonical_json, make_manifest, parse_image
from composer.oci.names import parse_reference
from composer.recipe import Recipe, Run, parse_recipe
from composer.runners.printed import KINDS, Printable, printed

DIGEST = f"sha256:{'a' * 64}"
COMMAND = ("tritonserver", "--model-repository=/models")
ALL = """
run:
  gpus: 2
  shm_size: 3g
  ulimits: {memlock: -1, stack: {soft: 1, hard: 2}}
  ports: {http: 9000, grpc: 9001, metrics: 9002}
  env: {QUOTED: "it's \\"$HOME\\" and $(date)", ONE: "1", EMPTY: ""}
  mounts: [{source: "a, b", target: /data/x}, {source: /srv/y, target: /y, read_only: false}]
  extra_hosts: {db: 10.0.0.1, cache: 10.0.0.1}
"""


def recipe(run: str = "") -> Recipe:
    return parse_recipe(f'triton: "24.10"\nbackends: [python]\n{run}\n', path=Path("/srv/r/recipe.yaml"), environ={})


def image(command: Sequence[str] = COMMAND, **settings: object) -> Image:
    more = {name.capitalize(): value for name, value in settings.items()}
    config = {"Entrypoint": ["/entry.sh"], "Cmd": list(command), **more}
    raw = canonical_json(
        {"os": "linux", "architecture": "amd64", "config": config, "rootfs": {"type": "layers", "diff_ids": []}}
    )
    return parse_image(make_manifest(OCI_MANIFEST, Descriptor.of(raw, OCI_CONFIG), []), raw)


def what(run: str = "", reference: str = "docker://harbor.example.com/tools/triton:slim", **more: Any) -> Printable:
    made = Printable(
        reference=parse_reference(reference),
        digest=DIGEST,
        image=image(),
        run=recipe(run).run,
        base=Path("/srv/r"),
        deadline=301,
        models=["b", "a"],
    )
    return replace(made, **more)


@pytest.mark.parametrize("kind", ["docker", "compose", "kubernetes"])
def test_no_name_of_a_model_leaves_its_comment(kind: str) -> None:
    text = printed(kind, what(models=["a\ntouch HERE #", "b\r\x1b[2Jc"]))
    assert [line for line in text.splitlines() if "touch HERE" in line and not line.lstrip().startswith("#")] == []
    assert "\x1b" not in text


# -- docker -------------------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    return shlex.split(text.replace("\\\n", ""), comments=True)


def test_a_command_with_everything() -> None:
    said = words(printed("docker", what(ALL)))
    assert said[:3] == ["docker", "run", "--rm"]
    assert said[-1] == f"harbor.example.com/tools/triton@{DIGEST}"
    flags = list(zip(said[3:-1:2], said[4:-1:2], strict=True))
    assert flags == [
        ("--gpus", "2"),
        ("--shm-size", "3g"),
        ("--stop-timeout", "45"),
        ("--ulimit", "memlock=-1:-1"),
        ("--ulimit", "stack=1:2"),
        ("--publish", "127.0.0.1:9000:8000"),
        ("--publish", "127.0.0.1:9001:8001"),
        ("--publish", "127.0.0.1:9002:8002"),
        ("--env", 'QUOTED=it\'s "$HOME" and $(date)'),
        ("--env", "ONE=1"),
        ("--env", "EMPTY="),
        ("--mount", 'type=bind,"source=/srv/r/a, b",target=/data/x,readonly'),
        ("--mount", "type=bind,source=/srv/y,target=/y"),
        ("--add-host", "db:10.0.0.1"),
        ("--add-host", "cache:10.0.0.1"),
    ]
    (row,) = csv.reader([flags[11][1]])
    assert row[1] == "source=/srv/r/a, b"


@pytest.mark.parametrize(
    ("gpus", "flag"), [("auto", "all"), ("all", "all"), ("1", "1"), ("[GPU-1, '0']", '"device=GPU-1,0"')]
)
def test_gpus_of_a_command(gpus: str, flag: str) -> None:
    said = words(printed("docker", what(f"run: {{gpus: {gpus}}}")))
    assert said[said.index("--gpus") + 1] == flag


def test_no_gpus_of_a_command() -> None:
    assert "--gpus" not in words(printed("docker", what("run: {gpus: none}")))


def test_on_the_host_s_network_the_server_is_told_where_to_listen() -> None:
    told = what("run: {gpus: none, network: host, ports: {http: 9000}}")
    said = words(printed("docker", told))
    assert "--publish" not in said
    assert said[said.index("--network") + 1] == "host"
    command = said[said.index(f"harbor.example.com/tools/triton@{DIGEST}") + 1 :]
    assert command[:2] == list(COMMAND)
    assert {"--http-port=9000", "--grpc-port=8001", "--http-address=127.0.0.1"} <= set(command)
    service = compose(told)
    assert service["command"] == command
    assert service["network_mode"] == "host"
    assert "ports" not in service
    assert "127.0.0.1/9000" in service["healthcheck"]["test"][3]


def test_how_long_it_may_take_to_end() -> None:
    slow = image([*COMMAND, "--exit-timeout-secs=120"])
    assert "--stop-timeout 135" in printed("docker", what(image=slow))
    assert compose(what(image=slow))["stop_grace_period"] == "135s"
    assert pod(what(image=slow))["terminationGracePeriodSeconds"] == 135


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("docker-daemon:triton:slim", "triton:slim"),
        (f"docker-daemon:{DIGEST}", DIGEST),
        (f"docker://h.example.com/t@{DIGEST}", f"h.example.com/t@{DIGEST}"),
    ],
)
def test_what_docker_calls_it(reference: str, name: str) -> None:
    assert words(printed("docker", what(reference=reference)))[-1] == name
    assert compose(what(reference=reference))["image"] == name


def test_a_tag_where_the_digest_is_not_known() -> None:
    assert words(printed("docker", what(digest="")))[-1] == "harbor.example.com/tools/triton:slim"


@pytest.mark.parametrize("kind", ["docker", "compose"])
@pytest.mark.parametrize("reference", ["oci:build/slim:24.10", "oci-archive:x.tar", "docker-archive:x.tar"])
def test_what_docker_could_not_have(kind: str, reference: str) -> None:
    with pytest.raises(Unplannable, match="neither in a registry nor in Docker") as raised:
        printed(kind, what(reference=reference))
    hint = raised.value.hint or ""
    assert words(hint)[:4] == ["tricompose", "copy", str(parse_reference(reference)), words(hint)[3]]
    assert words(hint)[3].startswith("docker-daemon:")


# -- compose ------------------------------------------------------------------------------------------------------


def compose(given: Printable) -> Any:
    (service,) = yaml.safe_load(printed("compose", given))["services"].values()
    return service


def test_compose_with_everything() -> None:
    service = compose(what(ALL))
    health = service.pop("healthcheck")
    assert service == {
        "image": f"harbor.example.com/tools/triton@{DIGEST}",
        "shm_size": "3g",
        "stop_grace_period": "45s",
        "ulimits": {"memlock": {"soft": -1, "hard": -1}, "stack": {"soft": 1, "hard": 2}},
        "ports": ["127.0.0.1:9000:8000", "127.0.0.1:9001:8001", "127.0.0.1:9002:8002"],
        "environment": {"QUOTED": 'it\'s "$$HOME" and $$(date)', "ONE": "1", "EMPTY": ""},
        "volumes": [
            {"type": "bind", "source": "/srv/r/a, b", "target": "/data/x", "read_only": True},
            {"type": "bind", "source": "/srv/y", "target": "/y", "read_only": False},
        ],
        "extra_hosts": ["db:10.0.0.1", "cache:10.0.0.1"],
        "deploy": {
            "resources": {"reservations": {"devices": [{"driver": "nvidia", "count": 2, "capabilities": ["gpu"]}]}}
        },
    }
    assert health["start_period"] == "301s"


def test_compose_asks_as_the_healthcheck_of_an_image_does() -> None:
    asked = compose(what())["healthcheck"]["test"]
    assert [word.replace("$$", "$") for word in asked] == healthcheck(recipe())["Test"]


def test_compose_leaves_the_health_to_an_image_that_has_a_check() -> None:
    assert "healthcheck" not in compose(what(image=image(healthcheck={"Test": ["CMD", "true"]})))


def test_compose_with_certain_gpus_and_a_network() -> None:
    document = yaml.safe_load(printed("compose", what("run: {gpus: [GPU-1, GPU-2], network: back}")))
    (service,) = document["services"].values()
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["device_ids"] == ["GPU-1", "GPU-2"]
    assert "count" not in device
    assert service["networks"] == ["back"]
    assert document["networks"] == {"back": {"external": True}}
    assert "deploy" not in compose(what("run: {gpus: none}"))


# -- kubernetes ---------------------------------------------------------------------------------------------------

VERSION = "1.31"


def objects(given: Printable) -> list[Any]:
    """The objects, each valid by Kubernetes' own schema, with no key that this does not know."""
    found = list(yaml.safe_load_all(printed("kubernetes", given)))
    for one in found:
        kubernetes_validate.validate(one, VERSION, strict=True)
    return found


def pod(given: Printable) -> Any:
    return objects(given)[0]["spec"]["template"]["spec"]


def container(given: Printable) -> Any:
    (found,) = pod(given)["containers"]
    return found


def test_kubernetes_with_everything() -> None:
    deployment, service = objects(what(ALL))
    labels = {"app.kubernetes.io/name": "triton"}
    assert (deployment["kind"], service["kind"]) == ("Deployment", "Service")
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert deployment["spec"]["template"]["metadata"]["labels"] == labels
    assert service["spec"]["selector"] == labels
    assert service["spec"]["ports"] == [
        {"name": "http", "port": 9000, "targetPort": "http"},
        {"name": "grpc", "port": 9001, "targetPort": "grpc"},
        {"name": "metrics", "port": 9002, "targetPort": "metrics"},
    ]
    spec = deployment["spec"]["template"]["spec"]
    assert "hostNetwork" not in spec
    assert spec["terminationGracePeriodSeconds"] == 45
    assert spec["hostAliases"] == [{"ip": "10.0.0.1", "hostnames": ["db", "cache"]}]
    assert spec["volumes"] == [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "3Gi"}},
        {"name": "mount-1", "hostPath": {"path": "/srv/r/a, b"}},
        {"name": "mount-2", "hostPath": {"path": "/srv/y"}},
    ]
    (triton,) = spec["containers"]
    assert triton["image"] == f"harbor.example.com/tools/triton@{DIGEST}"
    assert triton["ports"] == [
        {"name": "http", "containerPort": 8000},
        {"name": "grpc", "containerPort": 8001},
        {"name": "metrics", "containerPort": 8002},
    ]
    assert triton["env"] == [
        {"name": "QUOTED", "value": 'it\'s "$HOME" and $$(date)'},
        {"name": "ONE", "value": "1"},
        {"name": "EMPTY", "value": ""},
    ]
    assert triton["volumeMounts"] == [
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "mount-1", "mountPath": "/data/x", "readOnly": True},
        {"name": "mount-2", "mountPath": "/y", "readOnly": False},
    ]
    assert "ulimits memlock, stack" in printed("kubernetes", what(ALL))


def test_the_probes_give_a_server_the_time_that_the_recipe_gives_it() -> None:
    triton = container(what())
    startup = triton["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 301
    assert startup["periodSeconds"] * (startup["failureThreshold"] - 1) < 301
    paths = {name: triton[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {
        "startupProbe": {"path": "/v2/health/ready", "port": "http"},
        "livenessProbe": {"path": "/v2/health/live", "port": "http"},
        "readinessProbe": {"path": "/v2/health/ready", "port": "http"},
    }


@pytest.mark.parametrize(("gpus", "count"), [("auto", 1), ("all", 1), ("4", 4), ("[GPU-1, GPU-2]", 2), ("none", None)])
def test_gpus_of_a_pod(gpus: str, count: int | None) -> None:
    triton = container(what(f"run: {{gpus: {gpus}}}"))
    assert triton.get("resources") == (None if count is None else {"limits": {"nvidia.com/gpu": count}})


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", {}),
        ("0", {}),
        ("root", {}),
        ("1000", {"runAsUser": 1000}),
        ("1000:2000", {"runAsUser": 1000, "runAsGroup": 2000}),
        ("triton-server", {"runAsUser": 1000}),
        ("somebody", {}),
    ],
)
def test_users(user: str, expected: Mapping[str, int]) -> None:
    given = what(image=image(user=user))
    context = container(given)["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    found = {name: value for name, value in context.items() if name.startswith("runAs")}
    assert found == ({"runAsNonRoot": True, **expected} if expected else {})
    assert ("starts as somebody" in printed("kubernetes", given)) == (user == "somebody")


def test_ports_of_the_image() -> None:
    triton = container(what(image=image([*COMMAND, "--http-port=80", "--metrics-port", "81"])))
    assert [port["containerPort"] for port in triton["ports"]] == [80, 8001, 81]


@pytest.mark.parametrize("reference", ["oci:build/slim:24.10", "oci-archive:x.tar", "docker-daemon:triton:slim"])
def test_what_kubernetes_could_not_pull(reference: str) -> None:
    with pytest.raises(Unplannable, match="it pulls from registries") as raised:
        printed("kubernetes", what(reference=reference))
    assert "docker://registry.example.com/" in (raised.value.hint or "")


def test_a_server_that_no_probe_can_ask() -> None:
    with pytest.raises(Unplannable, match="no probe can ask it"):
        printed("kubernetes", what(image=image([*COMMAND, "--allow-http=false"])))


def test_hosts_that_a_pod_cannot_have() -> None:
    given = what("run: {extra_hosts: {db: host-gateway, cache: 10.0.0.2}}")
    assert pod(given)["hostAliases"] == [{"ip": "10.0.0.2", "hostnames": ["cache"]}]
    assert "not carried over, a pod knows addresses only: host db" in printed("kubernetes", given)


# -- all ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "name"), [("h.example.com/a/My_Triton.Server", "my-triton-server"), ("h.example.com/2410", "triton-2410")]
)
def test_names(place: str, name: str) -> None:
    reference = replace(parse_reference("docker://h.example.com/x"), place=place)
    deployment, service = objects(replace(what(), reference=reference))
    assert deployment["metadata"]["name"] == service["metadata"]["name"] == name


@pytest.mark.parametrize("text", ["a: b", "- x", "{}", "# no", "\t", "é ☃ 𝄞", "\x7f", "yes", "null", "1e3", '"', "'"])
def test_whatever_a_variable_holds(text: str) -> None:
    run = recipe().run.model_copy(update={"env": {"TEXT": text}})
    given = replace(what(), run=run)
    assert words(printed("docker", given)).count(f"TEXT={text}") == 1
    assert compose(given)["environment"] == {"TEXT": text}
    assert container(given)["env"] == [{"name": "TEXT", "value": text}]


def test_a_kind_that_there_is_not() -> None:
    with pytest.raises(NotFound, match="'helm'") as raised:
        printed("helm", what())
    assert raised.value.hint == "one of: docker, compose, kubernetes"


@pytest.mark.parametrize("kind", KINDS)
def test_everything_ends_with_one_newline(kind: str) -> None:
    text = printed(kind, what(ALL))
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_a_run_as_it_comes() -> None:
    assert pod(replace(what(), run=Run()))["volumes"][0]["emptyDir"]["sizeLimit"] == "1Gi"
