"""A whole build, proof and delivery with a password: where it could leak to besides the screen, it does not.

What the screen shows is in test_secrets.py.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import environment
from tests.conftest import require
from tests.quickstart import Quickstart
from tests.services.registry import PASSWORD, USERNAME, Registry, login

pytestmark = [pytest.mark.registry, pytest.mark.triton]

SPIED = """
import json, sys
from pathlib import Path

def hook(event, arguments):
    if event in ("subprocess.Popen", "os.posix_spawn", "os.exec", "os.system"):
        with Path(sys.argv[1]).open("a") as file:
            file.write(json.dumps([event, repr(arguments)]) + "\\n")

sys.addaudithook(hook)
from composer.cli import main
sys.exit(main(sys.argv[2:]))
"""
"""The command, and a record of every process that it starts: arguments and environment."""

HELPER = f"""#!/bin/sh
[ "$1" = get ] && echo '{{"Username": "{USERNAME}", "Secret": "{PASSWORD}"}}'
"""
FORMS = (PASSWORD.encode(), base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()))


def leaks(data: bytes) -> bool:
    return any(form in data for form in FORMS)


@pytest.mark.parametrize("kept", ["in the file", "by a helper"])
def test_a_password_stays_between_us_and_the_registry(
    quickstart: Quickstart, guarded: Registry, repository: str, tmp_path: Path, kept: str
) -> None:
    require("skopeo")
    home, programs = tmp_path / "home", tmp_path / "programs"
    programs.mkdir()
    login(home / ".docker", guarded.host)
    if kept == "by a helper":
        (home / ".docker/config.json").write_text(json.dumps({"credsStore": "test"}))
        (programs / "docker-credential-test").write_text(HELPER)
        (programs / "docker-credential-test").chmod(0o755)
    env = environment(home)
    env["PATH"] = f"{programs}:{env['PATH']}"
    target, record = f"docker://{guarded.host}/{repository}:1", tmp_path / "processes"
    argv = [sys.executable, "-c", SPIED, str(record), "build", "recipes/quickstart.yaml", "--runner", "rootfs"]
    argv += ["--verbose", "--cache", str(quickstart.cache), "-o", target, "--ca-bundle", str(guarded.certificate)]
    said = subprocess.run(argv, capture_output=True, cwd=quickstart.folder, env=env, timeout=120, check=False)
    assert said.returncode == 0, said.stderr.decode()
    assert not leaks(said.stdout + said.stderr)

    processes = record.read_bytes()
    assert b"inside.py" in processes, "the proof starts processes, so that there is something to see"
    assert (b"docker-credential-test" in processes) == (kept == "by a helper")
    assert not leaks(processes)

    copied = tmp_path / "copied"
    trust = ["--src-tls-verify=false", f"--src-creds={USERNAME}:{PASSWORD}"]
    subprocess.run(["skopeo", "copy", "-q", *trust, target, f"dir:{copied}"], check=True)
    manifest = json.loads((copied / "manifest.json").read_bytes())
    config = (copied / manifest["config"]["digest"].partition(":")[2]).read_bytes()
    assert json.loads(config)["history"]
    assert not leaks(config + (copied / "manifest.json").read_bytes())
    assert [path for path in kept_files(quickstart.cache) if leaks(path.read_bytes())] == []


def kept_files(cache: Path) -> list[Path]:
    found = [path for path in cache.rglob("*") if path.is_file()]
    assert found
    return found
