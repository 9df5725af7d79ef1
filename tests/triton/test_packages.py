"""`packages.pip` with the direct engine: what was installed is found and run by the image's own Python."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import tricompose
from tests.parity.image import unpack
from tests.quickstart import Quickstart
from tests.services.web import Web, web
from tests.services.wheels import PipIndex

pytestmark = pytest.mark.triton


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Web]:
    """An index with a package that needs another one, whose script says what it finds; and a NumPy too new."""
    packages = PipIndex(folder=tmp_path / "index")
    script = b"import helped, numpy\ndef main(): print(helped.WORD, numpy.__version__.split('.')[0])\n"
    packages.add(
        "greet",
        "1.0",
        {"greet.py": script},
        requires=["helped>=1", "numpy", "never; python_version < '3.11'"],
        scripts={"greet": "greet:main"},
    )
    packages.add("helped", "1.2", {"helped.py": b"WORD = 'hello'\n"})
    packages.add("numpy", "2.3.0", {"numpy/__init__.py": b"__version__ = '2.3.0'\n"})
    with web(packages.folder) as site:
        yield site


def build(quickstart: Quickstart, name: str, packages: str, index: Web) -> tuple[int, str, str]:
    """A recipe with `packages`, built and not proved. Exit status, layers and what was said."""

    def change(text: str) -> str:
        text = text.replace("oci:../build/slim:24.10-py3-slim", f"oci:../build/{name}:1")
        return text + f'packages: {{pip: [{packages}]}}\nnetwork: {{pip_index: "{index.url}/simple"}}\n'

    recipe = quickstart.recipe(change, name)
    said = tricompose("build", recipe, "--no-validate", "--cache", "cache", "--json", cwd=quickstart.folder)
    return said.returncode, said.stdout, said.stderr


def test_what_was_installed_runs_in_the_image(quickstart: Quickstart, index: Web, tmp_path: Path) -> None:
    status, stdout, stderr = build(quickstart, "packaged", "greet==1.0", index)
    assert status == 0, stderr
    root = unpack(quickstart.folder / "build/packaged", "1", tmp_path / "packaged")
    ran = subprocess.run(["chroot", str(root), "greet"], capture_output=True, text=True, check=False)
    assert ran.stdout == "hello 1\n", ran.stderr
    first = json.loads(stdout)["builds"][0]["digest"]
    again = build(quickstart, "packaged-again", "greet==1.0", index)
    assert json.loads(again[1])["builds"][0]["digest"] == first


def test_a_package_that_would_hide_the_images_own_is_refused(quickstart: Quickstart, index: Web) -> None:
    status, _, stderr = build(quickstart, "hiding", "'numpy>=2'", index)
    assert status == 3, stderr
    assert "numpy" in stderr
    assert "hint:" in stderr
    assert not (quickstart.folder / "build/hiding").exists()
