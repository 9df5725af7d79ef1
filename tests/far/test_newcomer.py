"""Somebody new, at a machine whose DNS is broken: from the error messages alone to an image in a private registry."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.far.conftest import ADDRESSES, HARBOR, NGC
from tests.far.pages import Person
from tests.services.dns import name_server
from tests.services.namespaces import machine
from tests.services.registry import Registry, login

pytestmark = [pytest.mark.registry]

DNS = "10.0.0.53"

RECIPE = f"""\
triton: "24.10"
backends: [onnxruntime, python]
models: [{{path: ./model_repository}}]
outputs: [docker://{HARBOR}/team/tritonserver:24.10-slim]
"""


@pytest.fixture
def newcomer(
    small_ngc: Registry, harbor: Registry, tmp_path: Path, person: Callable[..., Person], stack: ExitStack
) -> Person:
    """At a machine whose name server knows nothing: the registries are there, for those who know their addresses."""
    there = stack.enter_context(machine(tmp_path / "broken", addresses=(ADDRESSES[NGC], ADDRESSES[HARBOR], DNS)))
    for name, registry in ((NGC, small_ngc), (HARBOR, harbor)):
        stack.enter_context(there.door((ADDRESSES[name], 443), ("127.0.0.1", registry.port)))
    made = person(there, "newcomer", small_ngc, harbor, at="another.example.com")
    (made.folder / "recipe.yaml").write_text(RECIPE)
    return made


def test_from_the_messages_alone(newcomer: Person, harbor: Registry) -> None:
    """Every hint is done as it stands; what stands for an address or a file is what a colleague would tell."""
    heeded: list[str] = []
    while len(heeded) < 8:
        done = newcomer.machine.run("tricompose", "build", "recipe.yaml", cwd=newcomer.folder, env=newcomer.environ)
        if done.returncode == 0:
            break
        heeded.append(_heed(newcomer, done.stderr.splitlines()[-1]))
    assert heeded == [
        f"where {HARBOR} is",
        "whom to trust",
        f"who we are to {HARBOR}",
        f"where {NGC} is",
    ]
    assert list(harbor.storage.glob("docker/registry/v2/repositories/team/tritonserver/_manifests/tags/24.10-slim"))


def test_from_what_the_doctor_writes(newcomer: Person, harbor: Registry, stack: ExitStack) -> None:
    """A name server that works is known: the doctor finds out that it helps, and writes it down."""
    with newcomer.machine.within():
        stack.enter_context(name_server(DNS, ADDRESSES))
    login(Path(newcomer.environ["HOME"]) / ".docker", HARBOR)
    doctor = "tricompose doctor recipe.yaml --ca-bundle corp-ca.pem"
    status, said = newcomer.fails(f"{doctor} --dns {DNS} --write mended.yaml")
    assert status == 16, said
    assert f"{NGC}: [{ADDRESSES[NGC]}]" in said, "the lines to paste"
    newcomer.does(f"{doctor} --network mended.yaml")
    newcomer.does("tricompose build recipe.yaml --ca-bundle corp-ca.pem --network mended.yaml")
    assert list(harbor.storage.glob("docker/registry/v2/repositories/team/tritonserver/_manifests/tags/24.10-slim"))


def _heed(newcomer: Person, hint: str) -> str:
    """Do what a hint says; what that was, in a word."""
    recipe = newcomer.folder / "recipe.yaml"
    if found := re.search(r"network: \{hosts: \{(\S+): ADDRESS\}\}", hint):
        line = found[0].replace("ADDRESS", ADDRESSES[found[1]])
        text = recipe.read_text()
        if "network:" in text:
            text = text.replace("}}", f", {found[1]}: {ADDRESSES[found[1]]}}}}}")
        else:
            text += f"{line}\n"
        recipe.write_text(text)
        return f"where {found[1]} is"
    if "ca_bundle" in hint:
        recipe.write_text(recipe.read_text().replace("network: {", "network: {ca_bundle: ./corp-ca.pem, "))
        return "whom to trust"
    if found := re.search(r"docker login (\S+)", hint):
        login(Path(newcomer.environ["HOME"]) / ".docker", found[1])
        return f"who we are to {found[1]}"
    pytest.fail(f"this hint helps nobody: {hint}")
