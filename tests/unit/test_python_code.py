"""What is read out of a model.py that is never run."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.models.python_code import LARGEST, Method, PythonCode, Unreadable, parse_code, read_code

UTILS = "import triton_python_backend_utils as pb_utils\n"


def code(source: str, *, python: str | None = None) -> PythonCode:
    found = parse_code(source.encode(), python=python)
    assert isinstance(found, PythonCode), found
    return found


def unreadable(source: bytes, *, python: str | None = None) -> Unreadable:
    found = parse_code(source, python=python)
    assert isinstance(found, Unreadable)
    return found


def model(body: str, *, before: str = "") -> PythonCode:
    """A program with the class, whose body this is."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return code(f"{UTILS}{before}class TritonPythonModel:\n{lines}")


def execute(body: str, *, signature: str = "def execute(self, requests):") -> Method:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    found = model(f"{signature}\n{lines}").model
    assert found is not None
    return found.methods["execute"]


# -- the class ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "there", "unsure"),
    [
        ("class TritonPythonModel:\n    pass", True, False),
        ("class Other:\n    pass", False, False),
        ("from helper import TritonPythonModel", False, True),
        ("from helper import *", False, True),
        ("class A: pass\nTritonPythonModel = A", False, True),
        ("if x:\n    class TritonPythonModel: pass", False, True),
        ("def f():\n    class TritonPythonModel: pass", False, False),
        ("class A:\n    class TritonPythonModel: pass", False, False),
        ("def TritonPythonModel(): pass", False, True),
        ("globals()['Triton' + 'PythonModel'] = 1", False, True),
        ("", False, False),
    ],
)
def test_the_class(source: str, there: bool, unsure: bool) -> None:
    found = code(source)
    assert (found.model is not None, found.unsure) == (there, unsure)


@pytest.mark.parametrize(
    ("source", "opaque"),
    [
        ("class TritonPythonModel: pass", False),
        ("class TritonPythonModel(object): pass", False),
        ("class TritonPythonModel(Base): pass", True),
        ("@wrap\nclass TritonPythonModel: pass", True),
        ("class TritonPythonModel: pass\nTritonPythonModel.execute = f", True),
        ("class TritonPythonModel:\n    def __init__(self): self.execute = f", True),
    ],
)
def test_a_class_that_may_have_more_methods_than_are_seen(source: str, opaque: bool) -> None:
    found = code(source).model
    assert found is not None
    assert found.opaque is opaque


@pytest.mark.parametrize(
    ("body", "kinds", "ends"),
    [
        ("return [1]", ["list"], False),
        ("return [r for r in requests]", ["list"], False),
        ("return responses", ["unknown"], False),
        ("return None", ["none"], False),
        ("return", ["none"], False),
        ("pass", [], True),
        ("return {}", ["other"], False),
        ("return (1, 2)", ["other"], False),
        ("return None\nreturn [1]", ["none"], False),
        ("raise ValueError", [], False),
        ("if x:\n    return [1]", ["list"], True),
        ("if x:\n    return [1]\nelse:\n    return [2]", ["list", "list"], False),
        ("if x:\n    return [1]\nelif y:\n    return [2]", ["list", "list"], True),
        ("if True:\n    return [1]", ["list"], False),
        ("for r in requests:\n    return [1]", ["list"], True),
        ("while True:\n    pass", [], False),
        ("while True:\n    if x: break", [], True),
        ("while True:\n    for a in b: break", [], False),
        ("with x:\n    return [1]", ["list"], False),
        ("try:\n    return [1]\nexcept E:\n    pass", ["list"], True),
        ("try:\n    return [1]\nexcept E:\n    raise", ["list"], False),
        ("try:\n    pass\nfinally:\n    return [1]", ["list"], False),
        ("match x:\n    case 1:\n        return [1]", ["list"], True),
        ("match x:\n    case _:\n        return [1]", ["list"], False),
        ("def inner():\n    return 1", [], True),
        ("import sys\nsys.exit(1)", [], False),
    ],
)
def test_how_a_method_ends(body: str, kinds: list[str], ends: bool) -> None:
    found = execute(body)
    assert ([one.kind for one in found.returns], found.ends) == (kinds, ends)


def test_what_follows_for_callers() -> None:
    assert execute("raise ValueError").only_raises
    assert not execute("yield 1").only_raises
    assert not execute("raise ValueError", signature="@wrap\ndef execute(self, requests):").only_raises


@pytest.mark.parametrize(
    ("signature", "fits"),
    [
        ("def execute(self, requests):", True),
        ("def execute(requests):", False),
        ("def execute(self):", False),
        ("def execute(self, requests, more):", False),
        ("def execute(self, requests, more=1):", True),
        ("def execute(self, *requests):", True),
        ("def execute(*all):", True),
        ("def execute(self, requests, *, key):", False),
        ("@staticmethod\ndef execute(requests):", True),
    ],
)
def test_whether_a_method_takes_one_argument(signature: str, fits: bool) -> None:
    assert execute("pass", signature=signature).takes(1) is fits


# -- calls of other models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "body", "models"),
    [
        ("", 'model_name="bert"', {"bert"}),
        ('NAME = "bert"\n', "model_name=NAME", {"bert"}),
        ('A = "bert"\nB = A\n', "model_name=B", {"bert"}),
        ('A = "bert"\n', 'model_name=A + "_large"', {"bert_large"}),
        ('A = "bert"\n', 'model_name=f"{A}_large"', {"bert_large"}),
        ("", 'model_name="a" if requests else "b"', {"a", "b"}),
        ('A = "a"\nA = "b"\n', "model_name=A", {"a", "b"}),
        ("", "model_name=name", None),
        ('A = "a"\nA += "b"\n', "model_name=A", None),
        ("", 'model_name=config["name"]', None),
        ("", "model_name=self.name", None),
        ("", "**options", None),
        ("", '"", 0, [], ["Y"], "bert"', {"bert"}),
        ("A = B\nB = A\n", "model_name=A", None),
        ("", 'model_name=""', {""}),
    ],
)
def test_which_models_are_called(before: str, body: str, models: set[str] | None) -> None:
    found = model(f"def execute(self, requests):\n    pb_utils.InferenceRequest({body}).exec()", before=before)
    (call,) = found.calls
    assert (None if call.models is None else set(call.models)) == models
    assert not call.at_load


def test_models_called_by_way_of_attributes_parameters_and_loops() -> None:
    found = model(
        'OTHER = "class"\n'
        "def initialize(self, args):\n"
        '    self.name = "attribute"\n'
        "def ask(self, name, more=None):\n"
        "    return pb_utils.InferenceRequest(model_name=name, inputs=[]).exec()\n"
        "def execute(self, requests):\n"
        '    self.ask("positional")\n'
        '    self.ask(name="keyword")\n'
        "    self.ask(self.name)\n"
        "    self.ask(self.OTHER)\n"
        '    for one in ("first", "second"):\n'
        "        self.ask(one)\n"
    )
    (call,) = found.calls
    assert call.models is not None
    assert set(call.models) == {"positional", "keyword", "attribute", "class", "first", "second"}


def test_a_parameter_that_nobody_in_the_file_gives_is_not_known() -> None:
    (call,) = model("def ask(self, name):\n    pb_utils.InferenceRequest(model_name=name)").calls
    assert call.models is None


def test_where_a_call_stands_and_its_version() -> None:
    (call,) = model('def execute(self, r):\n    pb_utils.InferenceRequest(model_name="é", model_version=2)').calls
    assert (call.place.line, call.place.column, call.version) == (4, 9, 2)
    assert call.place.length == len('pb_utils.InferenceRequest(model_name="é", model_version=2)')


def test_calls_while_loading() -> None:
    send = 'pb_utils.InferenceRequest(model_name="a").exec()'
    made = 'self.request = pb_utils.InferenceRequest(model_name="a")'
    assert model(f"def initialize(self, args):\n    {send}").calls[0].at_load
    assert not model(f"def initialize(self, args):\n    {made}").calls[0].at_load
    assert model(f"def warm(self):\n    {send}\ndef initialize(self, args):\n    self.warm()").calls[0].at_load
    assert not model(f"def warm(self):\n    {send}\ndef execute(self, requests):\n    self.warm()").calls[0].at_load


def test_a_request_of_someone_else_is_none() -> None:
    assert code("from other import InferenceRequest\nInferenceRequest(1)").calls == ()


# -- imports ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "module", "optional", "certain"),
    [
        ("import a.b", "a.b", False, True),
        ("from a.b import c", "a.b", False, True),
        ("try:\n    import a\nexcept ImportError:\n    a = None", "a", True, False),
        ("try:\n    import a\nexcept (ValueError, ModuleNotFoundError):\n    a = None", "a", True, False),
        ("try:\n    import a\nexcept:\n    pass", "a", True, False),
        ("try:\n    import a\nexcept ImportError:\n    raise", "a", False, True),
        ("try:\n    import a\nexcept ValueError:\n    pass", "a", False, True),
        ("import contextlib\nwith contextlib.suppress(ImportError):\n    import a", "a", True, False),
        ("if x:\n    import a", "a", False, False),
        ("if True:\n    import a", "a", False, True),
        ("if x:\n    raise E\nimport a", "a", False, True),
        ("try:\n    import b.c\nexcept ImportError:\n    pass\nelse:\n    import a", "a", False, False),
        ("def f():\n    import a", "a", False, False),
        ("class TritonPythonModel:\n    def initialize(self, args):\n        import a", "a", False, True),
        ("class TritonPythonModel:\n    def execute(self, requests):\n        import a", "a", False, True),
        ("class TritonPythonModel:\n    def finalize(self):\n        import a", "a", False, False),
        ("import importlib\nimportlib.import_module('a')", "a", False, False),
    ],
)
def test_imports(source: str, module: str, optional: bool, certain: bool) -> None:
    (found,) = [one for one in code(source).imports if one.module not in ("b.c", "contextlib", "importlib")]
    assert (found.module, found.optional, found.certain) == (module, optional, certain)


def test_a_process_that_kills_itself() -> None:
    found = code(
        "import os, sys\nif sys.platform == 'win32':\n    os.abort()\nos.kill(os.getpid(), 9)\nos.kill(other, 9)"
    )
    assert [(one.what, one.place.line, one.certain) for one in found.exits] == [("os.kill", 4, True)]


def test_what_never_runs_in_a_server_imports_nothing() -> None:
    source = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\nif __name__ == '__main__':\n    import b"
    )
    assert [one.module for one in code(source).imports] == ["typing"]


def test_relative_imports() -> None:
    (first, second) = code("from .helper import f\nfrom .. import g").imports
    assert (first.level, first.module, first.names) == (1, "helper", ("f",))
    assert (second.level, second.module, second.names) == (2, "", ("g",))


# -- the world outside --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "subject"),
    [
        ('AutoModel.from_pretrained("org/model")', "org/model"),
        ('AutoModel.from_pretrained("bert-base-uncased")', "bert-base-uncased"),
        ('AutoModel.from_pretrained(pretrained_model_name_or_path="org/model")', "org/model"),
        ('requests.get("https://host/x")', "https://host/x"),
        ('urllib.request.urlretrieve("https://host/x", "y")', "https://host/x"),
        ('boto3.client("s3")', "s3"),
    ],
)
def test_downloads(line: str, subject: str) -> None:
    before = "import boto3, requests, urllib.request\n"
    (found,) = model(f"def initialize(self, args):\n    {line}", before=before).downloads
    assert (found.subject, found.at_load, found.certain) == (subject, True, True)


@pytest.mark.parametrize(
    "line",
    [
        'AutoModel.from_pretrained("/opt/model")',
        'AutoModel.from_pretrained("./model")',
        "AutoModel.from_pretrained(path)",
        'AutoModel.from_pretrained("org/model", local_files_only=True)',
        'session.get("https://host")',
    ],
)
def test_no_downloads(line: str) -> None:
    assert model(f"def initialize(self, args):\n    {line}").downloads == ()


def test_files_by_relative_names() -> None:
    found = code(
        "import numpy as np\nfrom PIL import Image\n"
        'open("a.txt")\nopen("b.txt", "w")\nopen("/c.txt")\nnp.load("d.npy")\n'
        'Image.open("e.png")\nopen("f", mode="rb")\n'
        'open(path)\nopen(os.path.join(here, "g"))\n'
    )
    assert [one.subject for one in found.opens] == ["a.txt", "d.npy", "e.png", "f"]


def test_devices() -> None:
    found = code(
        'm.cuda()\nm.to("cuda:0")\nd = "cuda" if torch.cuda.is_available() else "cpu"\nm.to(d)\nf(device="cuda")'
    )
    assert [(one.place.line, one.certain) for one in found.device] == [(1, True), (2, True), (4, False), (5, True)]
    assert found.asks_device
    assert not code("import numpy\nnumpy.zeros(3)").asks_device


def test_exits_and_senders_and_paths() -> None:
    found = code("import os, sys\nsys.path.append('x')\nos._exit(1)\nrequest.get_response_sender()")
    assert [one.what for one in found.exits] == ["os._exit"]
    assert found.senders
    assert found.moves_path


# -- auto_complete_config -----------------------------------------------------------------------------------------


def test_what_auto_complete_config_sets() -> None:
    auto = model(
        "@staticmethod\n"
        "def auto_complete_config(config):\n"
        '    inputs = [{"name": "X", "data_type": "TYPE_FP32", "dims": [-1, 4]}]\n'
        "    for one in inputs:\n"
        "        config.add_input(one)\n"
        '    config.add_output({"name": "Y", "dims": [1]})\n'
        "    if config.as_dict():\n"
        '        config.add_output({"name": "Z", "data_type": "TYPE_FP32", "dims": shape})\n'
        "    config.set_max_batch_size(8)\n"
        "    config.set_dynamic_batching()\n"
        "    config.set_model_transaction_policy(dict(decoupled=True))\n"
        "    return config\n"
    ).auto
    x, y, z = auto.tensors
    assert (x.name, x.data_type, x.dims, x.output, x.certain) == ("X", "TYPE_FP32", (-1, 4), False, True)
    assert (y.keys, y.data_type, y.output, y.certain) == (("name", "dims"), None, True, True)
    assert (z.name, z.dims, z.certain) == ("Z", None, False)
    assert (auto.max_batch_size, auto.decoupled, auto.dynamic_batching is not None) == (8, True, True)


@pytest.mark.parametrize(
    ("body", "adds"),
    [
        ("return c", set()),
        ("c.set_max_batch_size(8)\nreturn c", set()),
        ("c.add_input(X)\nreturn c", {"input"}),
        ("if x:\n    c.add_output(Y)\nreturn c", {"output"}),
        ("c.as_dict()\nreturn c", None),
        ("fill(c)\nreturn c", None),
        ("d = c\nreturn d", None),
        ("c = other\nreturn c", None),
        ("c.input = []\nreturn c", None),
    ],
)
def test_the_sides_on_which_auto_complete_config_adds(body: str, adds: set[str] | None) -> None:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    assert model(f"@staticmethod\ndef auto_complete_config(c):\n{lines}").auto.adds == adds


def test_what_auto_complete_config_may_be_given_by_stars() -> None:
    assert model("@staticmethod\ndef auto_complete_config(*c):\n    return fill(*c)").auto.adds is None
    assert model("def execute(self, requests): pass").auto.adds == set()


@pytest.mark.parametrize(
    ("source", "certain"),
    [
        ("from a import TritonPythonModel", True),
        ("from .a import *", True),
        ("from a import *\nfrom b import *", False),
        ("from a import *\nTritonPythonModel = wrapped(TritonPythonModel)", False),
        ("from a import *\nTritonPythonModel.execute = f", False),
        ("from a import TritonPythonModel\nTritonPythonModel.execute = f", False),
        ("from a import *\nif x:\n    class TritonPythonModel: pass", False),
        ("from a import Model as TritonPythonModel", False),
        ("if x:\n    from a import *", False),
        ("try:\n    from a import *\nexcept ImportError:\n    pass", False),
    ],
)
def test_where_the_class_comes_from(source: str, certain: bool) -> None:
    found = code(source)
    assert (found.model, found.unsure, found.origin is not None) == (None, True, certain)


# -- inputs -------------------------------------------------------------------------------------------------------

GET = 'pb_utils.get_input_tensor_by_name(r, "X")'
USE = f"{GET}.as_numpy()"
OWN = 'r = pb_utils.InferenceRequest(model_name="b", inputs=[x])'


@pytest.mark.parametrize(
    ("body", "certain"),
    [
        (f"return [{USE} for r in requests]", True),
        (f"for r in requests:\n    {USE}", True),
        (f"for i, r in enumerate(requests):\n    x = {GET}\n    x.as_numpy()", True),
        (f"r = requests[0]\nif not r:\n    raise E\n{USE}", True),
        (f"with torch.no_grad():\n    r = requests[0]\n    {USE}", True),
        (f"if True:\n    for r in requests:\n        {USE}", True),
        (f"from_dlpack({GET}.to_dlpack())", True),
        (f"for r in requests:\n    if other:\n        {USE}", False),
        (f"for r in requests:\n    if other:\n        continue\n    {USE}", False),
        (f"if other:\n    return []\nreturn [{USE} for r in requests]", False),
        (f"return [{USE} for r in requests if r.ok]", False),
        (f"return [{USE} for r in requests for _ in r]", False),
        (f"return [{USE} for r in self.kept]", False),
        (f"requests = self.kept(requests)\nreturn [{USE} for r in requests]", False),
        (f"return list({USE} for r in requests)", False),
        (f"return [lambda: {USE} for r in requests]", False),
        (f"def later():\n    {USE}\nreturn []", False),
        (f"while other:\n    {USE}", False),
        (f"return ok and {USE}", False),
        (f"return {USE} if ok else None", False),
        (f"r = requests[0]\nx = {GET}\nx.as_numpy() if x else y", None),
        (f"for r in requests:\n    x = {GET}\n    if x is None:\n        continue\n    x.as_numpy()", None),
        (f"for r in requests:\n    x = {GET}\n    if x is None:\n        x = y\n    x.as_numpy()", None),
        (f"for r in requests:\n    x = y\n    x = {GET}\n    x.as_numpy()", None),
        (f"for r in requests:\n    x, y = {GET}, 1\n    x.as_numpy()", None),
        (f"for r in requests:\n    x = {GET}\n    self.answer(x)", None),
        (f"try:\n    {USE}\nexcept AttributeError:\n    pass", None),
        (f"try:\n    {USE}\nfinally:\n    return []", None),
        (f"with suppress(AttributeError):\n    {USE}", None),
        (f"with self.whatever():\n    {USE}", None),
        (f"for r in requests:\n    {GET}.__class__", None),
        (f"pb_utils.get_input_tensor_by_name = f\nreturn [{USE} for r in requests]", None),
        (f"pb_utils = f()\nreturn [{USE} for r in requests]", None),
        (f"{OWN}\n{USE}", None),
        (f"for r in requests:\n    {OWN}\n    {USE}", None),
        (f"a = pb_utils.InferenceRequest\nreturn [{USE} for r in requests]", True),
        (f"a = pb_utils.InferenceRequest\nreturn [{USE} for r in map(a, requests)]", None),
    ],
)
def test_inputs_that_are_used(body: str, certain: bool | None) -> None:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    found = model(f"def execute(self, requests):\n{lines}").reads
    assert [(one.names, one.certain) for one in found] == ([] if certain is None else [(("X",), certain)])


ASK = "pb_utils.get_input_tensor_by_name(r, {}).as_numpy()"
CALL = "def execute(self, requests):\n    return [self.take(r) for r in requests]\n"
TAKE = f"def take(self, r):\n    return {USE}"


@pytest.mark.parametrize(
    ("body", "before", "reads"),
    [
        (f"{CALL}{TAKE}", "", [("X", True)]),
        (f"{CALL}@cached\n{TAKE}", "", [("X", False)]),
        (f"{CALL}{TAKE}\n{TAKE}", "", [("X", False), ("X", False)]),
        (f"{CALL}{TAKE}\n    yield r", "", [("X", False)]),
        (f"{CALL}{TAKE}\ntake = other", "", [("X", False)]),
        (TAKE, "", [("X", False)]),
        (f"def run(self, requests):\n    return [{USE} for r in requests]\nexecute = run", "", [("X", True)]),
        (f"@wrapped\ndef execute(self, requests):\n    return [{USE} for r in requests]", "", [("X", False)]),
        (
            f"def execute(self, requests):\n    return [{ASK.format('NAME')} for r in requests]",
            'NAME = "N"\n',
            [("N", True)],
        ),
        (f"def execute(self, requests):\n    return [{ASK.format('NAME')} for r in requests]", "", []),
        (
            f"def execute(self, requests):\n    return [{ASK.format('NAME')} for r in requests]",
            'NAME = "N"\ndef f():\n    global NAME\n    NAME = "M"\n',
            [("N", False)],
        ),
        (
            "def execute(self, requests):\n    return [(get(r, 'A'), get(r, 'B') if r else 0) for r in requests]",
            f"def get(r, name):\n    return {ASK.format('name')}\n",
            [("A", True), ("B", False)],
        ),
    ],
)
def test_inputs_by_other_ways(body: str, before: str, reads: list[tuple[str, bool]]) -> None:
    found = model(body, before=before).reads
    assert [(*one.names, one.certain) for one in found] == reads


@pytest.mark.parametrize(
    ("behind", "certain"),
    [
        ("TritonPythonModel.execute = TritonPythonModel.run", True),
        ("TritonPythonModel.execute = TritonPythonModel.other", False),
        ("TritonPythonModel.execute = wrapped(TritonPythonModel.run)", False),
        ("if x:\n    TritonPythonModel.execute = TritonPythonModel.run", False),
        ("TritonPythonModel.execute = TritonPythonModel.run\nTritonPythonModel.execute = f", False),
    ],
)
def test_execute_that_is_given_later(behind: str, certain: bool) -> None:
    body = f"    def run(self, requests):\n        return [{USE} for r in requests]\n"
    (read,) = code(f"{UTILS}class TritonPythonModel:\n{body}{behind}\n").reads
    assert read.certain is certain


# -- anything at all ----------------------------------------------------------------------------------------------


def test_what_is_no_python() -> None:
    found = unreadable(b"x = 1\ndef f(:\n    pass\n")
    assert (found.syntax, found.unsure) == (True, False)
    assert found.place is not None
    assert (found.place.line, found.place.column) == (2, 7)
    assert unreadable(b"version https://git-lfs.github.com/spec/v1\noid sha256:0123abc\n").syntax
    assert unreadable(b"\0").syntax
    assert unreadable(b"# coding: nonsense\n").syntax
    assert unreadable(b"x = '\xff'").syntax


def test_the_python_of_the_image_decides() -> None:
    source = b"match x:\n    case 1: pass\n"
    assert unreadable(source, python="3.8").words == "Pattern matching is only supported in Python 3.10 and greater"
    assert isinstance(parse_code(source, python="3.10"), PythonCode)
    assert unreadable(b"def f(:", python="3.99").unsure


HOSTILE = {
    "brackets": b"(" * 5000,
    "signs": b"-" * 100_000 + b"1",
    "dots": b"x" + b".a" * 100_000,
    "calls": b"x" + b"()" * 50_000,
    "sums": b"1" + b"+1" * 100_000,
    "lambdas": b"lambda:" * 20_000 + b"1",
    "elif": b"if a:pass\n" + b"elif a:pass\n" * 50_000,
    "elif, fewer": b"class TritonPythonModel:\n def execute(self, r):\n  if a:pass\n" + b"  elif a:return 1\n" * 900,
    "f-strings": b"f'" + b"{a:" * 300,
    "indented": b"class TritonPythonModel:\n def execute(self, r):\n"
    + b"".join(b" " * i + b"for x in y:\n" for i in range(2, 90))
    + b" " * 90
    + b"return 1",
    "names in a circle": b"a=b;b=a\nclass TritonPythonModel:\n def f(self):pb.InferenceRequest(model_name=a)",
    "names that double": b"".join(b"a%d=a%d+a%d\n" % (i, i + 1, i + 1) for i in range(200))
    + b"pb.InferenceRequest(model_name=a0)",
    "callers that call": b"def f(a):\n g(a);g(a)\ndef g(a):\n f(a);f(a+a)\n pb.InferenceRequest(model_name=a+a)",
    "functions": b"\n".join(b"def f%d(): f0();f1();f2()" % i for i in range(3000)),
    "inputs": UTILS.encode()
    + b"class TritonPythonModel:\n def execute(self, requests):\n"
    + b"".join(b"  x%d = pb_utils.get_input_tensor_by_name(f(a), 'X')\n  x%d.a\n" % (i, i) for i in range(8000)),
    "utf-16": "x = 1".encode("utf-16"),
    "too large": b"#" * (LARGEST + 1),
    "many lines": b"x=1\n" * 50_000,
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_hostile_programs_end_soon(source: bytes) -> None:
    start = time.monotonic()
    assert isinstance(parse_code(source), PythonCode | Unreadable)
    assert time.monotonic() - start < 10


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    assert isinstance(parse_code(data, python="3.8"), PythonCode | Unreadable)


@given(seed=st.integers(0, 1 << 32))
def test_damaged_programs(seed: int) -> None:
    chance = random.Random(seed)
    source = bytearray((Path(__file__).read_bytes())[:6000])
    for _ in range(chance.randint(1, 20)):
        at = chance.randrange(len(source))
        source[at : at + chance.randrange(9)] = chance.choice([b"", b"(", b"\n", b"  ", b'"', b"\xc3", b"def ", b":"])
    assert isinstance(parse_code(bytes(source)), PythonCode | Unreadable)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, tmp_path / "missing", Path("/dev/null"), Path("\0")):
        assert isinstance(read_code(path), Unreadable)
    (tmp_path / "model.py").write_text("class TritonPythonModel: pass")
    assert isinstance(read_code(tmp_path / "model.py"), PythonCode)
