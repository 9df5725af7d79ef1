"""Large repositories are checked in seconds: 500 models with 3,000 versions."""

from __future__ import annotations

import time
from pathlib import Path

from composer.models.lint import Case, lint, refusals
from composer.models.repository import read_repository
from composer.releases import RELEASES
from tests.modelfiles import onnx_add_sub
from tests.repositories import PYTHON

CONFIG = """
name: "{name}"
backend: "{backend}"
max_batch_size: 8
input [ {{ name: "X" data_type: TYPE_FP32 dims: [ 16 ] }}, {{ name: "Z" data_type: TYPE_FP32 dims: [ 16 ] }} ]
output [ {{ name: "SUM" data_type: TYPE_FP32 dims: [ 16 ] }}, {{ name: "DIFF" data_type: TYPE_FP32 dims: [ 16 ] }} ]
instance_group [ {{ count: 2 kind: KIND_CPU }} ]
dynamic_batching {{ preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 }}
version_policy {{ all {{ }} }}
"""


def test_five_hundred_models_take_less_than_five_seconds(tmp_path: Path) -> None:
    """Processor time, because other things run on this machine too."""
    for number in range(500):
        backend, file = (("python", "model.py"), ("onnxruntime", "model.onnx"))[number % 2]
        folder = tmp_path / f"m{number}"
        for version in range(1, 7):
            (folder / str(version)).mkdir(parents=True)
            data = f"{PYTHON}\n# {number}.{version}\n".encode() if backend == "python" else onnx_add_sub()
            (folder / str(version) / file).write_bytes(data)
        (folder / "config.pbtxt").write_text(CONFIG.format(name=folder.name, backend=backend))
    case = Case(release=RELEASES["24.10"])
    before = time.process_time()
    repository = read_repository(tmp_path)
    findings = lint([repository], case)
    took = time.process_time() - before
    assert sum(len(model.served) for model in repository.models) == 3000
    assert {one.rule.id for one in refusals(findings)} <= {"ONX008"}, "other names than the file's"
    assert took < 5
