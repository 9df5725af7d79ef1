"""tricompose's side: recipes, and the commands that build them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.process import Command

TRICOMPOSE = str(Path(sys.executable).with_name("tricompose"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Direct:
    """A place to build in: recipes, a cache and the log are in `folder`. `full` and `least` are the upstream."""

    folder: Path
    full: str
    least: str

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def build(self, backends: Sequence[str], output: str, *, knowledge: str | None = None) -> Command:
        """Build and push, without validation. `knowledge` is a repository that what is known is fetched from."""
        more = () if knowledge is None else ("--knowledge", knowledge)
        recipe = self._recipe(backends, output)
        return Command(name="build", argv=(TRICOMPOSE, "build", str(recipe), "--no-validate", *self._place, *more))

    def publish(self, backends: Sequence[str], knowledge: str) -> Command:
        """Push what is known of the source's layers, and the layers made of them."""
        recipe = self._recipe(backends, knowledge)
        return Command(name="publish", argv=(TRICOMPOSE, "knowledge", "publish", str(recipe), knowledge, *self._place))

    @property
    def _place(self) -> tuple[str, ...]:
        return ("--cache", str(self.cache))

    def _recipe(self, backends: Sequence[str], output: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{'-'.join(backends)}.yaml"
        lines = [
            "version: 1",
            "name: bench",
            f"upstream: {{full: '{self.full}', min: '{self.least}'}}",
            "platforms: [linux/amd64]",
            f"backends: [{', '.join(backends)}]",
            f"outputs: ['{output}']",
        ]
        path.write_text("\n".join(lines) + "\n")
        return path
