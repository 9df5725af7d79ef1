"""Models that are Python programs, and the environments that are packed for them."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from composer.models.lint import Case, Finding, lint
from composer.models.python_env import read_env
from composer.models.repository import read_repository
from composer.releases import RELEASES

from . import MARK, Files, assert_finds, unmarked, write

CONFIG = """name: "m"
backend: "python"
max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""
DECOUPLED = CONFIG + "model_transaction_policy { decoupled: true }\n"
NEW = Case(release=RELEASES["26.03"])
MAY = Case(release=RELEASES["24.10"])
HAS = Case(release=RELEASES["24.10"], packages=frozenset({"numpy"}), all_packages=True)


def program(body: str, before: str = "") -> str:
    """A program whose class has this body."""
    lines = "".join(f"    {line}\n" if line else "\n" for line in body.splitlines())
    return f"import triton_python_backend_utils as pb\n\n{before}\nclass TritonPythonModel:\n{lines}"


def execute(body: str, more: str = "", before: str = "") -> str:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return program(f"{more}def execute(self, requests):\n{lines}", before)


def initialize(body: str, before: str = "") -> str:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return execute("return list(requests)", f"def initialize(self, args):\n{lines}", before)


def completing(body: str, head: str = "@staticmethod\ndef auto_complete_config(c):\n") -> str:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return execute("return list(requests)", head + lines)


def found(
    folder: Path, code: str, config: str = CONFIG, case: Case | None = None, files: Files | None = None
) -> list[Finding]:
    """What lint finds of a Python model with this program."""
    for path, content in {"config.pbtxt": config, "1/model.py": code, **(files or {})}.items():
        write(folder / "m" / path, content)
    return list(lint([read_repository(folder)], case or HAS))


def say(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(one.rule.id, one.severity) for one in findings if one.severity != "info"]


def assert_marked(folder: Path, rule: str, code: str, severity: str = "error", **more: object) -> Finding:
    """Of the program, this is all that is found, once, where the mark stands."""
    text, place = unmarked(code)
    findings = [one for one in found(folder, text, **more) if one.severity != "info"]  # type: ignore[arg-type]
    assert say(findings) == [(rule, severity)], findings
    (only,) = findings
    assert only.place is not None
    assert (only.place.line, only.place.column) == place
    assert only.path.suffix == ".py"
    assert "{" not in only.says
    assert only.message
    assert only.fix
    return only


def test_good_programs(tmp_path: Path) -> None:
    assert say(found(tmp_path, execute("return [r for r in requests]"))) == []


# -- the file -----------------------------------------------------------------------------------------------------


def test_a_version_without_program(tmp_path: Path) -> None:
    findings = found(tmp_path, "", files={"1/model.py": "", "2": None, "2/Model.py": execute("return []")})
    assert say(findings) == [("PY001", "error")]
    (fix,) = (one.fix for one in findings if one.rule.id == "PY001")
    assert fix == f"mv {tmp_path / 'm/2/Model.py'} {tmp_path / 'm/2/model.py'}"


def test_a_program_that_is_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "m/config.pbtxt", CONFIG)
    write(tmp_path / "m/1/model.py/x", "")
    assert ("PY001", "error") in say(list(lint([read_repository(tmp_path)], HAS)))


@pytest.mark.parametrize("name", ["model.txt", "my.model.py"])
def test_names_of_programs(tmp_path: Path, name: str) -> None:
    config = CONFIG + f'default_model_filename: {MARK}"{name}"\n'
    assert_finds(tmp_path, "PY002", config, {f"1/{name}": execute("return []")})


def test_what_is_no_python(tmp_path: Path) -> None:
    one = assert_marked(tmp_path, "PY003", f"def f({MARK}:\n    pass\n")
    assert one.says == "SyntaxError: invalid syntax (model.py, line 1)"


def test_another_files_syntax_counts(tmp_path: Path) -> None:
    code = execute("return list(requests)", before="import helper\n")
    assert say(found(tmp_path / "1", code, files={"1/helper.py": "def f(:\n"})) == [("PY003", "error")]
    assert say(found(tmp_path / "2", code.replace("import helper", ""), files={"1/helper.py": "def f(:\n"})) == []
    lazy = execute("return list(requests)", "def never(self):\n    import helper\n")
    assert say(found(tmp_path / "3", lazy, files={"1/helper.py": "def f(:\n"})) == [("PY003", "warning")]


def test_the_images_python_counts(tmp_path: Path) -> None:
    code = execute("match requests:\n    case _:\n        return list(requests)")
    assert say(found(tmp_path / "new", code, case=Case(release=RELEASES["24.10"]))) == []
    assert say(found(tmp_path / "old", code, case=Case(release=RELEASES["22.04"]))) == [("PY003", "error")]


def test_huge_and_nested_programs_are_no_errors(tmp_path: Path) -> None:
    assert say(found(tmp_path / "1", "x = " + "-" * 50_000 + "1")) == [("PY003", "warning")]
    assert say(found(tmp_path / "2", "#" * (2 << 20))) == [("PY003", "warning")]


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("PY005", f"{MARK}class TritonPythonModel:\n    pass\n"),
        ("PY029", execute("return []").replace("def execute(self, requests)", f"{MARK}def execute(requests)")),
        ("PY029", initialize("pass").replace("def initialize(self, args)", f"{MARK}def initialize(self)")),
        ("PY029", execute("return []", f"{MARK}def __init__(self, args):\n    pass\n")),
        ("PY029", completing("return c", f"{MARK}def auto_complete_config(self, c):\n")),
        ("PY030", initialize(f"import os\n{MARK}os._exit(1)")),
        ("PY030", initialize(f"import sys\n{MARK}sys.exit(1)")),
    ],
)
def test_classes_that_cannot_serve(tmp_path: Path, rule: str, code: str) -> None:
    assert_marked(tmp_path, rule, code)


def test_no_class(tmp_path: Path) -> None:
    assert say(found(tmp_path / "1", "import json\n")) == [("PY004", "error")]
    files = {"1/helper.py": execute("return list(requests)")}
    assert say(found(tmp_path / "2", "from helper import *\n", files=files)) == []


def test_an_exit_that_may_not_come(tmp_path: Path) -> None:
    assert_marked(tmp_path, "PY030", initialize(f"import os\nif args:\n    {MARK}os._exit(1)"), "warning")


# -- imports ------------------------------------------------------------------------------------------------------


def test_imports(tmp_path: Path) -> None:
    one = assert_marked(tmp_path, "PY006", execute("return list(requests)", before=f"import {MARK}cv2\n"))
    assert one.says == "ModuleNotFoundError: No module named 'cv2'"
    assert one.fix == "packages: {pip: [opencv-python-headless]}"


@pytest.mark.parametrize(
    ("code", "packages", "whole", "severity"),
    [
        ("import torch", {"numpy"}, True, "error"),
        ("import torch", {"numpy", "torch"}, True, None),
        ("import torch", {"numpy", "mystery"}, True, "warning"),
        ("import torch", set(), False, "warning"),
        ("import torch", {"accelerate"}, False, None),
        ("import numpy", set(), False, None),
        ("import torch", None, False, None),
    ],
)
def test_what_is_known_of_the_image(
    tmp_path: Path, code: str, packages: set[str] | None, whole: bool, severity: str | None
) -> None:
    names = None if packages is None else frozenset(packages)
    case = Case(release=RELEASES["24.10"], packages=names, all_packages=whole)
    findings = say(found(tmp_path, execute("return list(requests)", before=f"{code}\n"), case=case))
    assert findings == ([("PY006", severity)] if severity else [])


def test_imports_of_the_models_own_files(tmp_path: Path) -> None:
    assert_marked(tmp_path / "1", "PY031", execute("return list(requests)", before=f"{MARK}from .helper import x\n"))
    code = execute("return list(requests)", before="from .helper import x\n")
    assert say(found(tmp_path / "2", code, files={"1/helper.py": ""})) == []


def test_a_file_that_pythons_own_library_hides(tmp_path: Path) -> None:
    code = execute("return list(requests)", before=f"import {MARK}types\n")
    assert_marked(tmp_path, "PY025", code, "warning", files={"1/types.py": ""})


def test_pythonpath(tmp_path: Path) -> None:
    case = Case(env={"PYTHONPATH": "/opt"})
    assert ("PY026", "warning") in say(found(tmp_path, execute("return list(requests)"), case=case))


# -- what execute gives back --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "severity"),
    [
        (f"{MARK}return None", "error"),
        (f"{MARK}return {{}}", "error"),
        (f"if requests:\n    {MARK}return None\nreturn list(requests)", "warning"),
    ],
)
def test_returns_that_answer_nothing(tmp_path: Path, body: str, severity: str) -> None:
    assert_marked(tmp_path, "PY007", execute(body), severity)


@pytest.mark.parametrize("body", ["pass", "raise NotImplementedError", "yield requests", "while True:\n    pass"])
def test_programs_that_answer_nothing(tmp_path: Path, body: str) -> None:
    code = execute(body).replace("def execute", f"{MARK}def execute")
    assert_marked(tmp_path, "PY007", code)


def test_response_senders(tmp_path: Path) -> None:
    code = execute("for r in requests:\n    r.get_response_sender().send(pb.InferenceResponse([]))")
    assert say(found(tmp_path / "new", code, case=MAY)) == []
    assert say(found(tmp_path / "old", code, case=Case(release=RELEASES["24.05"]))) == [("PY007", "error")]
    assert say(found(tmp_path / "decoupled", code, DECOUPLED)) == []


@pytest.mark.parametrize(
    ("body", "severity"),
    [(f"{MARK}return [r for r in requests]", "error"), (f"if requests:\n    {MARK}return []\nreturn None", "warning")],
)
def test_decoupled_models_return_none(tmp_path: Path, body: str, severity: str) -> None:
    assert_marked(tmp_path, "PY008", execute(body), severity, config=DECOUPLED)


def test_readiness(tmp_path: Path) -> None:
    code = execute("return list(requests)", f'def is_ready(self):\n    {MARK}return "yes"\n')
    assert_marked(tmp_path / "new", "PY028", code, case=NEW)
    assert say(found(tmp_path / "old", unmarked(code)[0], case=MAY)) == []
    assert say(found(tmp_path / "good", unmarked(code)[0].replace('"yes"', "True"), case=NEW)) == []


# -- auto_complete_config -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "body"),
    [
        ("PY009", f"{MARK}return {{}}"),
        ("PY010", f'{MARK}c.add_input({{"name": "Z", "dims": [1]}})\nreturn c'),
        ("PY010", f'{MARK}c.add_output({{"name": "Z", "data_type": "TYPE_FP32", "dims": [1], "x": 1}})\nreturn c'),
        ("PY011", f"{MARK}c.set_max_batch_size(2)\nreturn c"),
        ("PY011", f'{MARK}c.add_input({{"name": "X", "data_type": "TYPE_INT8", "dims": [2]}})\nreturn c'),
        ("PY011", f'{MARK}c.add_output({{"name": "Y", "data_type": "TYPE_FP32", "dims": [3]}})\nreturn c'),
    ],
)
def test_completion(tmp_path: Path, rule: str, body: str) -> None:
    assert_marked(tmp_path / "1", rule, completing(body))
    unasked = Case(release=RELEASES["24.10"], server={"disable-auto-complete-config": True})
    assert say(found(tmp_path / "2", unmarked(completing(body))[0], case=unasked)) == []


def test_completion_without_return(tmp_path: Path) -> None:
    assert say(found(tmp_path / "1", completing("pass"))) == [("PY009", "error")]
    assert say(found(tmp_path / "2", completing("if c.as_dict():\n    return c"))) == [("PY009", "warning")]
    assert say(found(tmp_path / "3", completing("c.set_max_batch_size(8)\nreturn c"))) == []


# -- environments -------------------------------------------------------------------------------------------------


def parameter(key: str, value: str) -> str:
    return f'{CONFIG}parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'


def archive(*names: str, packed: bool = True) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    return gzip.compress(stream.getvalue(), mtime=0) if packed else stream.getvalue()


INNER = parameter("EXECUTION_ENV_PATH", "$$TRITON_MODEL_DIRECTORY/env.tar.gz")


def environment(
    folder: Path, data: bytes | None, config: str = INNER, case: Case | None = None
) -> list[tuple[str, str]]:
    files: Files = {} if data is None else {"env.tar.gz": data}
    return say(found(folder, execute("return list(requests)", before="import torch\n"), config, case or HAS, files))


@pytest.mark.parametrize(
    ("data", "findings"),
    [
        (archive("bin/activate"), []),
        (archive("./bin/activate"), []),
        (archive("bin/activate", packed=False), []),
        (None, [("PY012", "error")]),
        (b"words", [("PY013", "error")]),
        (b"", [("PY013", "error")]),
        (archive("bin/python3"), [("PY014", "error")]),
        (archive("bin/activate", "lib/python3.8/x"), [("PY016", "warning")]),
        (archive("bin/activate", "../x"), [("PY017", "warning")]),
        (archive("bin/activate", "lib/python3.10/site-packages/numpy-2.1.0.dist-info/RECORD"), [("PY018", "error")]),
        (archive("bin/activate", "lib/python3.10/site-packages/numpy-1.26.4.dist-info/RECORD"), []),
    ],
)
def test_environments(tmp_path: Path, data: bytes | None, findings: list[tuple[str, str]]) -> None:
    assert environment(tmp_path, data) == findings


def test_environments_and_releases(tmp_path: Path) -> None:
    numpy = archive("bin/activate", "lib/python3.12/site-packages/numpy-2.1.0.dist-info/RECORD")
    assert environment(tmp_path / "1", numpy, case=Case(release=RELEASES["25.01"])) == []
    leaving = archive("bin/activate", "/etc/x")
    assert environment(tmp_path / "2", leaving, case=Case(release=max(RELEASES.values(), key=lambda r: r.name))) == [
        ("PY017", "error")
    ]


@pytest.mark.parametrize("value", ["$TRITON_MODEL_DIRECTORY/env.tar.gz", "$$TRITON_MODEL_DIRECTORY/env.tar.gz"])
def test_dollars(tmp_path: Path, value: str) -> None:
    findings = environment(tmp_path, archive("bin/activate"), parameter("EXECUTION_ENV_PATH", value))
    assert findings == ([] if value.startswith("$$") else [("PY015", "error")])


def test_any_archive_is_looked_at_without_end(tmp_path: Path) -> None:
    path = tmp_path / "env.tar.gz"
    path.write_bytes(gzip.compress(tarfile.TarInfo("x").tobuf() + bytes(1 << 20)) * 3)
    assert read_env(path) is not None
    for data in (archive("a", "b")[:40], b"\x1f\x8b", b"\x1f\x8b" + bytes(99), bytes(5000)):
        path.write_bytes(data)
        read_env(path)


# -- settings -----------------------------------------------------------------------------------------------------


def test_cpu_only(tmp_path: Path) -> None:
    config = CONFIG + 'parameters {\n  key: "FORCE_CPU_ONLY_INPUT_TENSORS"\n  value { string_value: "maybe" } }\n'
    assert say(found(tmp_path / "1", execute("return list(requests)"), config)) == [("PY020", "error")]
    assert say(found(tmp_path / "2", execute("return list(requests)"), config.replace("maybe", "no"))) == []


def test_shared_memory(tmp_path: Path) -> None:
    many = CONFIG + "instance_group [ { count: 100 kind: KIND_CPU } ]\n"
    code = execute("return list(requests)")
    for number, (size, severity) in enumerate([(64, "error"), (150, None), (1024, None)]):
        case = Case(release=RELEASES["24.10"], shm_size=size << 20)
        findings = say(found(tmp_path / str(number), code, many, case))
        assert findings == ([("PY022", severity)] if severity else [])
    for size, severity in ((63, "error"), (64, None)):
        old = Case(release=RELEASES["23.08"], shm_size=size << 20)
        findings = say(found(tmp_path / f"old-{size}", code, CONFIG, old))
        assert findings == ([("PY022", severity)] if severity else [])
    large = CONFIG.replace("[ 2 ]", "[ 3, 1024, 1024 ]")
    busy = Case(release=RELEASES["24.10"], shm_size=64 << 20)
    assert say(found(tmp_path / "large", code, large, busy)) == [("PY022", "warning")]


def test_the_smallest_region(tmp_path: Path) -> None:
    flags = {"backend-config": {"python": {"shm-default-byte-size": 1 << 20}}}
    code = execute("return list(requests)")
    assert say(found(tmp_path / "1", code, case=Case(release=RELEASES["24.10"], server=flags))) == []
    assert say(found(tmp_path / "2", code, case=Case(release=RELEASES["23.08"], server=flags))) == [("PY021", "error")]


# -- inputs -------------------------------------------------------------------------------------------------------

GET = 'pb.get_input_tensor_by_name(r, "{}").as_numpy()'
ALL = f"return [{GET} for r in requests]"


def test_an_input_that_no_request_has(tmp_path: Path) -> None:
    code = execute(ALL.format("Z").replace("pb.", f"{MARK}pb.", 1))
    one = assert_marked(tmp_path / "1", "PY032", code)
    assert one.says == "AttributeError: 'NoneType' object has no attribute 'as_numpy'"
    assert one.fix == 'input [ { name: "Z" data_type: TYPE_FP32 dims: [ -1 ] } ]'
    one = assert_marked(tmp_path / "2", "PY032", code.replace('"Z"', '"x"'))
    assert one.message == 'the config has no input x, which is used here: there is "X"'
    maybe = execute(f"if self.more:\n    r = requests[0]\n    {MARK}{GET.format('Z')}\nreturn list(requests)")
    assert_marked(tmp_path / "3", "PY032", maybe, "warning")
    either = execute(f"name = 'X' if self.x else 'Z'\nreturn [{MARK}{GET} for r in requests]".replace('"{}"', "name"))
    assert_marked(tmp_path / "4", "PY032", either, "warning")


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("X", ""),
        ("SI", 'sequence_batching { state { input_name: "SI" output_name: "SO" data_type: TYPE_FP32 dims: 1 } }'),
        ("END", 'sequence_batching { control_input { name: "END" control { kind: CONTROL_SEQUENCE_END '
                'fp32_false_true: [ 0, 1 ] } } }'),
        ("O", 'input { name: "O" data_type: TYPE_FP32 dims: [ 2 ] optional: true }'),
        ("B", 'batch_input { kind: BATCH_ELEMENT_COUNT target_name: "B" data_type: TYPE_FP32 source_input: "X" }'),
    ],
)  # fmt: skip
def test_an_input_that_requests_may_have(tmp_path: Path, name: str, more: str) -> None:
    assert "PY032" not in {one.rule.id for one in found(tmp_path, execute(ALL.format(name)), CONFIG + more)}


def test_an_input_that_the_program_adds(tmp_path: Path) -> None:
    head = "@staticmethod\ndef auto_complete_config(c):\n"
    add = '    c.add_input({"name": "Z", "data_type": "TYPE_FP32", "dims": [2]})\n'
    code, unasked = execute(ALL.format("Z"), f"{head}{add}    return c\n"), {"disable-auto-complete-config": True}
    assert say(found(tmp_path / "1", code)) == []
    assert say(found(tmp_path / "2", execute(ALL.format("Z"), f"{head}    return c\n"))) == [("PY032", "error")]
    assert say(found(tmp_path / "3", code, case=Case(release=RELEASES["24.10"], server=unasked))) == [
        ("PY032", "error")
    ]


def test_inputs_of_numbers_that_numpy_does_not_have(tmp_path: Path) -> None:
    config = CONFIG.replace("FP32", "BF16", 1)
    by_dlpack = execute(ALL.format("X").replace("as_numpy", "to_dlpack"))
    old = Case(release=RELEASES["24.07"])
    assert say(found(tmp_path / "1", execute(ALL.format("X")), config)) == [("IO017", "error")]
    assert say(found(tmp_path / "2", by_dlpack, config)) == [("IO017", "warning")]
    assert say(found(tmp_path / "3", by_dlpack, config, old)) == [("IO017", "error")]


NO_INPUTS = "\n".join(line for line in CONFIG.splitlines() if not line.startswith("input")) + "\n"
STATE = 'sequence_batching { state { input_name: "SI" output_name: "SO" data_type: TYPE_FP32 dims: 1 } }\n'


@pytest.mark.parametrize(
    ("config", "body", "severity"),
    [
        (NO_INPUTS, "return c", "error"),
        (NO_INPUTS.replace("4", "0"), "return c", "warning"),
        (NO_INPUTS.replace("4", "0"), "c.set_max_batch_size(8)\nreturn c", "error"),
        (NO_INPUTS.replace("4", "0"), "if x:\n    c.set_max_batch_size(8)\nreturn c", "warning"),
        (NO_INPUTS, "return fill(c)", None),
        (NO_INPUTS + "sequence_batching { }\n", "return c", "error"),
        (NO_INPUTS + STATE, "return c", "warning"),
    ],
)
def test_no_inputs(tmp_path: Path, config: str, body: str, severity: str | None) -> None:
    findings = say(found(tmp_path, completing(body), config))
    assert [one for one in findings if one[0] == "IO019"] == ([("IO019", severity)] if severity else [])


def test_a_class_from_a_file_beside_the_program(tmp_path: Path) -> None:
    files = {"1/inner.py": execute("return list(requests)")}
    code = "from inner import *\n"
    assert ("IO019", "error") in say(found(tmp_path / "1", code, NO_INPUTS, files=files))
    assert say(found(tmp_path / "2", code, NO_INPUTS, files={"1/inner.py": completing("return fill(c)")})) == []
    assert say(found(tmp_path / "3", code + "TritonPythonModel = f()\n", NO_INPUTS, files=files)) == []


# -- the world outside --------------------------------------------------------------------------------------------


def test_downloads(tmp_path: Path) -> None:
    code = initialize(f'self.model = {MARK}AutoModel.from_pretrained("org/model")')
    assert_marked(tmp_path, "PY023", code, "warning")


def test_relative_paths(tmp_path: Path) -> None:
    assert_marked(tmp_path / "1", "PY024", initialize(f'{MARK}open("labels.txt")'))
    caught = initialize(f'try:\n    {MARK}open("labels.txt")\nexcept OSError:\n    pass')
    assert_marked(tmp_path / "2", "PY024", caught, "warning")
    added = Case(files=frozenset({"/opt/tritonserver/labels.txt"}))
    assert_marked(tmp_path / "3", "PY024", initialize(f'{MARK}open("labels.txt")'), "warning", case=added)


def test_devices(tmp_path: Path) -> None:
    code = initialize(f"{MARK}self.model.cuda()")
    assert_marked(tmp_path / "1", "PY027", code, "warning")
    on_gpu = CONFIG + "instance_group [ { kind: KIND_GPU } ]\n"
    assert say(found(tmp_path / "2", unmarked(code)[0], on_gpu)) == []
    assert say(found(tmp_path / "3", execute("return list(requests)"), on_gpu)) == [("PY027", "warning")]
