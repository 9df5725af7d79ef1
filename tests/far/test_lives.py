"""The lives of the manual, lived: behind a mirror, a proxy, an air gap. Each page is done as it stands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.far.conftest import ADDRESSES, HARBOR, NGC, PLANT, PROXY
from tests.far.pages import Person
from tests.services.forward import forward_proxy
from tests.services.namespaces import Machine, machine
from tests.services.registry import Registry, running_registry

pytestmark = [pytest.mark.registry, pytest.mark.triton]

Sits = Callable[..., Person]


def opened(folder: Path, stack: ExitStack, reaches: dict[str, Registry]) -> Machine:
    """A machine that knows and reaches these alone, each at its port 443."""
    made = stack.enter_context(machine(folder, names={name: ADDRESSES[name] for name in reaches}))
    for name, registry in reaches.items():
        stack.enter_context(made.door((ADDRESSES[name], 443), ("127.0.0.1", registry.port)))
    return made


def test_behind_a_mirror(small_ngc: Registry, harbor: Registry, tmp_path: Path, person: Sits, stack: ExitStack) -> None:
    page = "behind-a-mirror.md"
    admin = person(opened(tmp_path / "near", stack, {NGC: small_ngc, HARBOR: harbor}), "admin", small_ngc, harbor)
    admin.follows(page, "The recipe")
    admin.follows(page, "On the machine that reaches both")
    images = json.loads((admin.folder / "mirrored.json").read_text())["mirrored"]["images"]
    assert [one["action"] for one in images] == ["unchanged", "unchanged"]

    behind = opened(tmp_path / "behind", stack, {HARBOR: harbor})
    assert not behind.reaches((ADDRESSES[NGC], 443))
    user = person(behind, "user", harbor)
    user.follows(page, "The recipe")
    status, said = user.fails("tricompose build recipe.yaml")
    assert status == 9
    assert "the name of nvcr.io could not be resolved" in said
    shutil.copytree(admin.folder / "mirror-rules", user.folder / "mirror-rules")
    user.follows(page, "What is in the way")
    behind.asked.clear()
    said = user.follows(page, "Behind the firewall")
    assert f"delivered  docker://{HARBOR}/team/tritonserver:24.10-slim" in said
    assert set(behind.asked) <= {HARBOR}, "the upstream's own host is not needed, and nobody looks for it"


def test_behind_a_proxy(small_ngc: Registry, harbor: Registry, tmp_path: Path, person: Sits, stack: ExitStack) -> None:
    page = "behind-a-proxy.md"
    there = stack.enter_context(machine(tmp_path / "behind", names={name: ADDRESSES[name] for name in (HARBOR, PROXY)}))
    way = stack.enter_context(forward_proxy({NGC: ("127.0.0.1", small_ngc.port)}, login="jane:pa@ss"))
    stack.enter_context(there.door((ADDRESSES[PROXY], 3128), ("127.0.0.1", way.port)))
    stack.enter_context(there.door((ADDRESSES[HARBOR], 443), ("127.0.0.1", harbor.port)))
    user = person(there, "user", small_ngc, harbor)
    user.follows(page, "The recipe")
    status, said = user.fails("tricompose build recipe.yaml")
    assert status == 9
    assert "the name of nvcr.io could not be resolved" in said
    there.asked.clear()
    user.follows(page, "By the environment")
    user.follows(page, "By the recipe")
    assert set(way.passed) == {f"CONNECT {NGC}:443"}
    assert way.refused == 0
    user.follows(page, "When it does not work")
    assert way.refused > 0
    assert NGC not in there.asked, "the proxy finds it, or nobody"


def test_across_an_air_gap(ngc: Registry, tmp_path: Path, person: Sits, stack: ExitStack) -> None:
    page = "air-gap.md"
    disk = tmp_path / "disk"
    disk.mkdir()
    near = stack.enter_context(machine(tmp_path / "near", names={NGC: ADDRESSES[NGC]}, mounts={"/mnt": disk}))
    stack.enter_context(near.door((ADDRESSES[NGC], 443), ("127.0.0.1", ngc.port)))
    sender = person(near, "sender", ngc)
    sender = replace(sender, environ={**sender.environ, "SSL_CERT_FILE": str(ngc.certificate)})
    assert_proved(sender.follows(page, "On the near side"))
    shutil.rmtree(sender.folder)

    far = stack.enter_context(machine(tmp_path / "far", names={PLANT: "127.0.0.1"}, mounts={"/mnt": disk}))
    plant = stack.enter_context(running_registry(tmp_path / "plant", basic=True, tls=True, name=PLANT, on=far))
    outside = [(ADDRESSES[NGC], 443), ("127.0.0.1", ngc.port), ("198.51.100.1", 443)]
    assert not any(far.reaches(address) for address in outside), "nobody is to be reached from the far side"
    receiver = person(far, "receiver", plant, at=PLANT)
    shutil.rmtree(receiver.folder / "model_repository")
    receiver.follows(page, "On the far side")
    before = plant.blobs()
    said = receiver.follows(page, "Composing again there")
    assert_proved(said)
    assert "backends/identity" in said
    assert len(plant.blobs() - before) < 6, "what the registry has already is not sent again"
    receiver.follows(page, "The next time")
    assert set(far.asked) == {PLANT}, "no other name is looked up"


def assert_proved(said: str) -> None:
    """The image was started there, and both of its models served."""
    assert "ready, and no others: add_sub, linear_onnx" in said, said
