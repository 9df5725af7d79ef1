"""Pages of the manual whose commands are run: each section on a machine, in order, as it stands.

Blocks in `yaml` are files: the first line names one (`# recipe.yaml`). Blocks in `sh` are run by bash, which stops at
the first command that fails. A block in `text` says what the block before it shows; `...` there stands for anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.services.namespaces import Machine

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody at a machine, in a folder, with an environment of their own."""

    machine: Machine
    folder: Path
    environ: Mapping[str, str]

    def does(self, script: str, *, timeout: float = 240) -> str:
        """Run a script; all that it said. It must succeed."""
        done = self.machine.run(
            "bash", "-euo", "pipefail", "-c", f"exec 2>&1\n{script}", cwd=self.folder, env=self.environ, timeout=timeout
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}"
        return done.stdout

    def fails(self, script: str, *, timeout: float = 240) -> tuple[int, str]:
        """Run a script that fails: its exit status, and all that it said."""
        done = self.machine.run("bash", "-c", script, cwd=self.folder, env=self.environ, timeout=timeout)
        assert done.returncode != 0, done.stdout + done.stderr
        return done.returncode, done.stdout + done.stderr

    def follows(self, page: str, section: str) -> str:
        """Write what a section of a page has in files, and do what it says; all that was said, in order."""
        said = ""
        whole = []
        for language, text in blocks(page, section):
            if language == "yaml":
                name = re.match(r"# (\S+)\n", text)
                assert name, f"{page}: which file is this?\n{text}"
                (self.folder / name[1]).parent.mkdir(exist_ok=True)
                (self.folder / name[1]).write_text(text)
            elif language == "sh":
                said = self.does(text)
                whole.append(said)
            elif language == "text":
                pattern = ".*".join(re.escape(part) for part in re.split(r"\.\.\.", text.strip()))
                assert re.search(pattern, said, re.DOTALL), f"{page} promises:\n{text}\nand what is said is:\n{said}"
        return "".join(whole)


def blocks(page: str, section: str) -> Iterator[tuple[str, str]]:
    """The language and the text of each block of a section."""
    parts = re.split(r"^## (.+)$", (DOCS / page).read_text(), flags=re.MULTILINE)
    found = _BLOCK.findall(dict(zip(parts[1::2], parts[2::2], strict=True))[section])
    assert found, f"{page} has nothing to do in {section!r}"
    yield from found
