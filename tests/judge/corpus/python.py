"""Python models: PY."""

from __future__ import annotations

import gzip
import io
import tarfile

from . import Entry, File, Folder, Link, bad, good
from .parts import ANY, ECHO, PYTHON, onnx, python, without

_HEAD = "import triton_python_backend_utils as pb\n\n\n"
_CLASS = "class TritonPythonModel:\n"
_NO_IO = 'name: "m"\nbackend: "python"\n'
_DECOUPLED = PYTHON + "model_transaction_policy { decoupled: true }\n"
_ANSWER = 'pb.InferenceResponse([pb.Tensor("Y", pb.get_input_tensor_by_name(r, "X").as_numpy())])'
_FINAL = "TRITONSERVER_RESPONSE_COMPLETE_FINAL"
_ALL = f"return [{_ANSWER} for r in requests]"


def _code(body: str, before: str = "") -> str:
    lines = "".join(f"    {line}\n" if line else "\n" for line in body.splitlines())
    return _HEAD + before + _CLASS + lines


def _execute(body: str, more: str = "", before: str = "") -> str:
    """A program whose `execute` does this."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return _code(f"{more}def execute(self, requests):\n{lines}", before)


def _model(body: str, more: str = "", before: str = "", config: str = PYTHON) -> dict[str, File]:
    return python(config, _execute(body, more, before))


def _initialize(body: str, before: str = "") -> dict[str, File]:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return _model(_ALL, f"def initialize(self, args):\n{lines}", before)


def _auto(
    body: str, config: str = _NO_IO, *, head: str = "@staticmethod\ndef auto_complete_config(c):\n"
) -> dict[str, File]:
    """A program that completes its own config, and gives zeros."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    inner = ANY.partition(_CLASS)
    completing = "".join(f"    {line}\n" for line in (head + lines).splitlines())
    return python(config, inner[0] + inner[1] + completing + "\n" + inner[2])


_X = 'c.add_input({"name": "X", "data_type": "TYPE_FP32", "dims": [2]})\n'
_Y = 'c.add_output({"name": "Y", "data_type": "TYPE_FP32", "dims": [2]})\n'
_FULL = _X + _Y + "c.set_max_batch_size(4)\nreturn c"


def _parameter(key: str, value: str) -> str:
    return PYTHON + f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'


def _environment(value: str, **files: File) -> dict[str, File]:
    return {**python(_parameter("EXECUTION_ENV_PATH", value), ECHO), **{f"m/{k}": v for k, v in files.items()}}


def _tar(*names: str, packed: bool = True) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 0
            tar.addfile(info, io.BytesIO(b""))
    return gzip.compress(stream.getvalue(), mtime=0) if packed else stream.getvalue()


_ENV = "$$TRITON_MODEL_DIRECTORY/env.tar.gz"

ENTRIES: list[Entry] = [
    # -- the file
    bad("PY001", "python/no-model-py", {**without(python(), "m/1/model.py"), "m/1": Folder()}),
    bad("PY001", "python/other-name", {**without(python(), "m/1/model.py"), "m/1/Model.py": ANY}),
    bad("PY001", "python/program-above", {**without(python(), "m/1/model.py"), "m/model.py": ANY, "m/1": Folder()}),
    bad("PY001", "python/second-version-empty", {**python(), "m/2": Folder()}),
    good("python/older-version-empty", {**python(version=2), "m/1": Folder()}),
    good(
        "python/named-otherwise",
        {**without(python(PYTHON + 'default_model_filename: "main.py"\n'), "m/1/model.py"), "m/1/main.py": ANY},
    ),
    bad(
        "PY002",
        "python/named-txt",
        {**without(python(PYTHON + 'default_model_filename: "model.txt"\n'), "m/1/model.py"), "m/1/model.txt": ANY},
    ),
    bad(
        "PY002",
        "python/named-with-dots",
        {**without(python(PYTHON + 'default_model_filename: "my.model.py"\n'), "m/1/model.py"), "m/1/my.model.py": ANY},
    ),
    good(
        "python/named-with-dash",
        {**without(python(PYTHON + 'default_model_filename: "my-model.py"\n'), "m/1/model.py"), "m/1/my-model.py": ANY},
    ),
    good(
        "python/program-is-a-link",
        {**without(python(), "m/1/model.py"), "m/1/model.py": Link("../main.py"), "m/main.py": ANY},
    ),
    bad(
        "PY003",
        "python/syntax",
        python(code=ANY.replace("def execute(self, requests):", "def execute(self, requests)")),
    ),
    bad("PY003", "python/indentation", python(code=ANY.replace("    def execute", "   def execute"))),
    bad("PY003", "python/python2", _model(_ALL, before="print 'hello'\n\n\n")),
    bad("PY003", "python/null-byte", python(code=ANY + "\0")),
    good("python/not-utf-8-in-a-comment", python(code=ANY.encode() + b"# \xff\n")),  # type: ignore[arg-type]
    bad("PY003", "python/not-utf-8", python(code=ANY.encode() + b"x = '\xff'\n")),  # type: ignore[arg-type]
    good("python/latin-1", python(code=b"# -*- coding: latin-1 -*-\n# \xff\n" + ANY.encode())),  # type: ignore[arg-type]
    good("python/byte-order-mark", python(code=b"\xef\xbb\xbf" + ANY.encode())),  # type: ignore[arg-type]
    good("python/crlf", python(code=ANY.replace("\n", "\r\n"))),
    bad("PY003", "python/tabs-and-spaces", _model("if requests:\n\tx = 1\n        y = 2\n" + _ALL)),
    bad("PY003", "python/merge-conflict", python(code="<<<<<<< HEAD\n" + ANY)),
    bad("PY003", "python/return-outside", python(code=ANY + "\nreturn 1\n")),
    bad("PY003", "python/await-outside", _model("await requests\n" + _ALL)),
    bad("PY003", "python/break-outside", python(code=ANY + "\nbreak\n")),
    good("python/match", _model("match len(requests):\n    case _:\n        " + _ALL)),
    bad(
        "PY003",
        "python/3.12-generics",
        _model(_ALL, before="def first[T](x: T) -> T:\n    return x\n\n\n"),
        release="24.10",
    ),
    # -- the class
    bad("LAY024", "python/empty", python(code="")),
    bad("PY004", "python/other-class", python(code=ANY.replace("TritonPythonModel", "Model"))),
    bad(
        "PY004", "python/class-in-function", python(code="def f():\n" + "".join(f"    {x}\n" for x in ANY.splitlines()))
    ),
    bad(
        "PY004",
        "python/main-only",
        python(code="import numpy\n" + "if __name__ == '__main__':\n    class TritonPythonModel: pass\n"),
    ),
    good(
        "python/class-of-another-name",
        python(code=ANY.replace("TritonPythonModel", "Model") + "\n\nTritonPythonModel = Model\n"),
    ),
    good("python/class-imported", {**python(code="from inner import TritonPythonModel\n"), "m/1/inner.py": ANY}),
    good("python/class-imported-by-star", {**python(code="from inner import *\n"), "m/1/inner.py": ANY}),
    good(
        "python/class-with-base",
        {**python(code=ANY.replace("TritonPythonModel", "Base") + "\n\nclass TritonPythonModel(Base):\n    pass\n")},
    ),
    good("python/class-on-condition", python(code="if True:\n" + "".join(f"    {x}\n" for x in ANY.splitlines()))),
    bad("PY005", "python/no-execute", python(code=_code("def initialize(self, args):\n    pass"))),
    bad("PY005", "python/execute-misspelt", python(code=ECHO.replace("def execute", "def exceute"))),
    bad(
        "PY005",
        "python/execute-outside",
        python(code=_HEAD + _CLASS + "    pass\n\n\ndef execute(self, requests):\n    return []\n"),
    ),
    good(
        "python/execute-given-later",
        python(code=ECHO.replace("def execute", "def run") + "\n\nTritonPythonModel.execute = TritonPythonModel.run\n"),
    ),
    good("python/execute-as-attribute", python(code=ECHO.replace("def execute", "def run") + "\n    execute = run\n")),
    # -- methods that cannot be called
    bad(
        "PY029",
        "python/execute-without-self",
        python(code=ECHO.replace("execute(self, requests)", "execute(requests)")),
    ),
    bad(
        "PY029",
        "python/execute-with-more",
        python(code=ECHO.replace("execute(self, requests)", "execute(self, requests, more)")),
    ),
    good(
        "python/execute-with-default",
        python(code=ECHO.replace("execute(self, requests)", "execute(self, requests, more=1)")),
    ),
    good(
        "python/execute-static",
        python(code=ECHO.replace("    def execute(self, requests)", "    @staticmethod\n    def execute(requests)")),
    ),
    bad("PY029", "python/initialize-without-args", _model(_ALL, "def initialize(self):\n    pass\n")),
    bad("PY029", "python/constructor-with-args", _model(_ALL, "def __init__(self, args):\n    pass\n")),
    good("python/constructor", _model(_ALL, "def __init__(self):\n    pass\n")),
    good("python/finalize-with-args", _model(_ALL, "def finalize(self, args):\n    pass\n")),
    bad("PY029", "python/completion-with-self", _auto(_FULL, head="def auto_complete_config(self, c):\n")),
    good("python/completion-without-decorator", _auto(_FULL, head="def auto_complete_config(c):\n")),
    good("python/completion-of-the-class", _auto(_FULL, head="@classmethod\ndef auto_complete_config(cls, c):\n")),
    # -- what ends the process
    bad("PY030", "python/exits-in-initialize", _initialize("import os\nos._exit(1)")),
    bad("PY030", "python/sys-exit-in-initialize", _initialize("import sys\nsys.exit(1)")),
    bad("PY030", "python/exits-in-execute", _model("os._exit(1)", before="import os\n\n\n")),
    bad("PY030", "python/exits-at-import", _model(_ALL, before="import os\n\nos._exit(3)\n\n\n")),
    bad("PY030", "python/kills-itself", _initialize("import os\nimport signal\nos.kill(os.getpid(), signal.SIGKILL)")),
    good("python/exits-elsewhere", _initialize("import os\nimport sys\nif sys.platform == 'win32':\n    os._exit(1)")),
    bad("PY030", "python/may-exit", _initialize("import os\nif not args:\n    os._exit(1)")),
    # -- imports
    bad("PY006", "python/import-missing", _model(_ALL, before="import transformers\n\n\n")),
    bad("PY006", "python/import-misspelt", _model(_ALL, before="import nunpy as np\n\n\n")),
    bad("PY006", "python/import-in-initialize", _initialize("import torch")),
    bad("PY006", "python/import-in-execute", _model("import torch\n" + _ALL)),
    bad("PY006", "python/import-from-missing", _model(_ALL, before="from PIL import Image\n\n\n")),
    good(
        "python/import-optional",
        _model(_ALL, before="try:\n    import torch\nexcept ImportError:\n    torch = None\n\n\n"),
    ),
    good(
        "python/import-suppressed",
        _model(_ALL, before="import contextlib\n\nwith contextlib.suppress(ImportError):\n    import torch\n\n\n"),
    ),
    bad(
        "PY006",
        "python/import-raised-again",
        _model(_ALL, before="try:\n    import torch\nexcept ImportError:\n    raise\n\n\n"),
    ),
    good(
        "python/import-for-types",
        _model(_ALL, before="from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import torch\n\n\n"),
    ),
    good("python/import-in-main", _model(_ALL, before="if __name__ == '__main__':\n    import torch\n\n\n")),
    good("python/import-never-reached", _model(_ALL, "def never(self):\n    import torch\n")),
    good(
        "python/import-numpy", _model(_ALL, before="import numpy\nimport numpy.linalg\nfrom numpy import ndarray\n\n\n")
    ),
    good("python/import-beside", {**_model(_ALL, before="import helper\n\n\n"), "m/1/helper.py": "x = 1\n"}),
    good("python/import-above", {**_model(_ALL, before="import helper\n\n\n"), "m/helper.py": "x = 1\n"}),
    good(
        "python/import-package",
        {
            **_model(_ALL, before="from lib.inner import x\n\n\n"),
            "m/1/lib/__init__.py": "",
            "m/1/lib/inner.py": "x = 1\n",
        },
    ),
    good(
        "python/import-namespace",
        {**_model(_ALL, before="from lib.inner import x\n\n\n"), "m/1/lib/inner.py": "x = 1\n"},
    ),
    good("python/import-relative", {**_model(_ALL, before="from .helper import x\n\n\n"), "m/1/helper.py": "x = 1\n"}),
    good(
        "python/import-relative-module",
        {**_model(_ALL, before="from . import helper\n\n\n"), "m/1/helper.py": "x = 1\n"},
    ),
    bad("PY031", "python/import-relative-missing", _model(_ALL, before="from .helper import x\n\n\n")),
    bad(
        "PY031",
        "python/import-relative-above",
        {**_model(_ALL, before="from ..helper import x\n\n\n"), "m/helper.py": "x = 1\n"},
    ),
    bad(
        "PY031",
        "python/import-part-missing",
        {**_model(_ALL, before="import lib.outer\n\n\n"), "m/1/lib/inner.py": "x = 1\n"},
    ),
    bad(
        "PY006",
        "python/import-by-helper",
        {**_model(_ALL, before="import helper\n\n\n"), "m/1/helper.py": "import torch\n"},
    ),
    bad(
        "PY003",
        "python/helper-is-no-python",
        {**_model(_ALL, before="import helper\n\n\n"), "m/1/helper.py": "def f(:\n"},
    ),
    bad(
        "PY006",
        "python/helper-in-other-version",
        {
            **_model(_ALL, before="import helper\n\n\n"),
            "m/2/helper.py": "x = 1\n",
            "m/2/model.py": ANY,
            "m/config.pbtxt": PYTHON + "version_policy { all {} }\n",
        },
    ),
    good(
        "python/import-by-path",
        {
            **_model(
                _ALL,
                before="import sys\n\nsys.path.append(__file__.replace('model.py', 'deep'))\nimport helper\n\n\n",
            ),
            "m/1/deep/helper.py": "x = 1\n",
        },
    ),
    bad(
        "PY025",
        "python/named-like-stdlib",
        {**_model(_ALL, before="import json\nimport types\n\n\n"), "m/1/types.py": "x = 1\n"},
    ),
    good(
        "python/import-after-condition",
        _model(_ALL, before="import os\n\nif os.environ.get('NO_SUCH_VARIABLE'):\n    import torch\n\n\n"),
    ),
    # -- what execute gives back
    bad("PY007", "python/returns-nothing", _model("pass")),
    bad("PY007", "python/returns-none", _model("return None")),
    bad("PY007", "python/returns-a-dict", _model("return {}")),
    bad("PY007", "python/returns-a-tuple", _model(f"return tuple({_ANSWER} for r in requests), 1")),
    bad("PY007", "python/yields", _model(f"for r in requests:\n    yield {_ANSWER}")),
    bad("PY007", "python/raises", _model("raise NotImplementedError")),
    bad("PY007", "python/returns-in-loop-only", _model(f"for r in requests:\n    return [{_ANSWER}]")),
    good("python/returns-in-both-branches", _model("if len(requests) > 1:\n    " + _ALL + "\nelse:\n    " + _ALL)),
    bad("PY007", "python/may-return-none", _model("if len(requests) > 1000:\n    return None\n" + _ALL)),
    good(
        "python/answers-by-sender",
        _model(f"for r in requests:\n    r.get_response_sender().send({_ANSWER}, flags=pb.{_FINAL})"),
        release="24.10",
    ),
    good("python/answers-asynchronously", python(code=ECHO.replace("def execute", "async def execute"))),
    bad("PY007", "python/asynchronously-nothing", python(code=_code("async def execute(self, requests):\n    pass"))),
    good("python/raises-sometimes", _model("if len(requests) > 1000:\n    raise ValueError\n" + _ALL)),
    good(
        "python/decoupled",
        _model(
            f"for r in requests:\n    s = r.get_response_sender()\n"
            f"    s.send({_ANSWER})\n    s.send(flags=pb.{_FINAL})",
            config=_DECOUPLED,
        ),
    ),
    bad("PY008", "python/decoupled-returns", _model(_ALL, config=_DECOUPLED)),
    bad("PY008", "python/decoupled-yields", _model(f"for r in requests:\n    yield {_ANSWER}", config=_DECOUPLED)),
    # -- auto_complete_config
    good("python/completes", _auto(_FULL)),
    good(
        "python/completes-in-a-loop",
        _auto(
            'for one in [{"name": "X", "data_type": "TYPE_FP32", "dims": [2]}]:\n    c.add_input(one)\n'
            + _Y
            + "return c"
        ),
    ),
    bad("PY009", "python/completes-nothing", _auto(_X + _Y)),
    bad("PY009", "python/completes-a-dict", _auto(_X + _Y + "return {}")),
    bad("PY009", "python/completes-sometimes", _auto(_X + _Y + "if c.as_dict():\n    return c")),
    good("python/completes-nothing-unasked", _auto(_X + _Y, PYTHON), flags=("--disable-auto-complete-config",)),
    bad("PY009", "python/completes-nothing-of-a-whole-config", _auto("pass", PYTHON)),
    bad("PY010", "python/completes-without-type", _auto('c.add_input({"name": "X", "dims": [2]})\n' + _Y + "return c")),
    bad(
        "PY010",
        "python/completes-without-dims",
        _auto('c.add_output({"name": "Y", "data_type": "TYPE_FP32"})\n' + _X + "return c"),
    ),
    bad(
        "PY010",
        "python/completes-without-name",
        _auto('c.add_input({"data_type": "TYPE_FP32", "dims": [2]})\n' + _Y + "return c"),
    ),
    bad(
        "PY010",
        "python/completes-with-more",
        _auto('c.add_input({"name": "X", "data_type": "TYPE_FP32", "dims": [2], "format": 1})\n' + _Y + "return c"),
    ),
    good(
        "python/completes-with-optional",
        _auto(
            'c.add_input({"name": "X", "data_type": "TYPE_FP32", "dims": [2], "optional": True})\n' + _Y + "return c"
        ),
        release="24.10",
    ),
    bad(
        "PY010",
        "python/completes-with-optional-output",
        _auto(_X + 'c.add_output({"name": "Y", "data_type": "TYPE_FP32", "dims": [2], "optional": True})\nreturn c'),
    ),
    bad("PY011", "python/completes-smaller-batches", _auto("c.set_max_batch_size(2)\nreturn c", PYTHON)),
    good("python/completes-larger-batches", _auto("c.set_max_batch_size(8)\nreturn c", PYTHON)),
    bad(
        "PY011",
        "python/completes-another-type",
        _auto('c.add_input({"name": "X", "data_type": "TYPE_INT32", "dims": [2]})\nreturn c', PYTHON),
    ),
    bad(
        "PY011",
        "python/completes-other-dims",
        _auto('c.add_output({"name": "Y", "data_type": "TYPE_FP32", "dims": [3]})\nreturn c', PYTHON),
    ),
    good("python/completes-the-same", _auto(_FULL, PYTHON)),
    bad(
        "PY011",
        "python/completes-decoupled",
        _auto(
            "c.set_model_transaction_policy(dict(decoupled=True))\nreturn c",
            PYTHON + "model_transaction_policy { decoupled: false }\n",
        ),
        release="24.10",
    ),
    bad(
        "PY011",
        "python/completes-batching",
        _auto("c.set_dynamic_batching()\nreturn c", PYTHON + "sequence_batching {}\n"),
    ),
    good(
        "python/completes-batching-again", _auto("c.set_dynamic_batching()\nreturn c", PYTHON + "dynamic_batching {}\n")
    ),
    # -- environments
    bad("PY012", "python/environment-missing", _environment(_ENV)),
    bad("PY012", "python/environment-relative", {**_environment("env.tar.gz"), "m/env.tar.gz": _tar("bin/activate")}),
    bad(
        "PY015",
        "python/environment-one-dollar",
        _environment("$TRITON_MODEL_DIRECTORY/env.tar.gz", **{"env.tar.gz": _tar("bin/activate")}),
    ),
    bad(
        "PY013",
        "python/environment-of-text",
        _environment(_ENV, **{"env.tar.gz": "not an archive, only words, and some more of them\n" * 30}),
    ),
    bad("PY013", "python/environment-empty", _environment(_ENV, **{"env.tar.gz": b""})),
    bad(
        "PY013",
        "python/environment-gzip-of-text",
        _environment(_ENV, **{"env.tar.gz": gzip.compress(b"only words " * 200, mtime=0)}),
    ),
    bad("PY014", "python/environment-without-activate", _environment(_ENV, **{"env.tar.gz": _tar("bin/python3")})),
    bad("PY014", "python/environment-deeper", _environment(_ENV, **{"env.tar.gz": _tar("env/bin/activate")})),
    good("python/environment", _environment(_ENV, **{"env.tar.gz": _tar("bin/activate")})),
    good("python/environment-not-packed", _environment(_ENV, **{"env.tar.gz": _tar("bin/activate", packed=False)})),
    good("python/environment-with-dot", _environment(_ENV, **{"env.tar.gz": _tar("./bin/activate")})),
    good("python/environment-folder", _environment("$$TRITON_MODEL_DIRECTORY/env", **{"env/bin/activate": ""})),
    bad(
        "PY014",
        "python/environment-folder-without-activate",
        _environment("$$TRITON_MODEL_DIRECTORY/env", **{"env/x": ""}),
    ),
    bad(
        "PY013",
        "python/environment-cut",
        _environment(_ENV, **{"env.tar.gz": _tar("bin/activate", "lib/a", "lib/b")[:60]}),
    ),
    bad(
        "PY017",
        "python/environment-leaves",
        _environment(_ENV, **{"env.tar.gz": _tar("bin/activate", "../evil-of-the-test")}),
    ),
    # -- settings
    bad("PY020", "python/cpu-only-maybe", python(_parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "maybe"))),
    bad("PY020", "python/cpu-only-capital", python(_parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "Yes"))),
    good("python/cpu-only-no", python(_parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "no"))),
    bad("PY020", "python/cpu-only-empty", python(_parameter("FORCE_CPU_ONLY_INPUT_TENSORS", ""))),
    bad("PY021", "python/region-too-small", python(), flags=("--backend-config=python,shm-default-byte-size=524288",)),
    good("python/region-smallest", python(), flags=("--backend-config=python,shm-default-byte-size=1048576",)),
    good(
        "python/region-too-small-for-nobody",
        onnx(),
        flags=("--backend-config=python,shm-default-byte-size=524288",),
    ),
    # -- the world outside
    bad("PY024", "python/relative-open", _initialize('open("labels.txt")')),
    bad("PY024", "python/relative-open-caught", _initialize('try:\n    open("labels.txt")\nexcept OSError:\n    pass')),
    good(
        "python/open-by-args",
        {
            **_initialize(
                'import os\nopen(os.path.join(args["model_repository"], args["model_version"], "labels.txt"))'
            ),
            "m/1/labels.txt": "a\n",
        },
    ),
    good(
        "python/open-by-utils",
        {**_initialize('import os\nopen(os.path.join(pb.get_model_dir(), "labels.txt"))'), "m/1/labels.txt": "a\n"},
    ),
    bad(
        "PY023",
        "python/may-download",
        _initialize(
            'try:\n    urllib.request.urlopen("http://127.0.0.1:9/")\nexcept OSError:\n    pass',
            before="import urllib.request\n\n\n",
        ),
    ),
]
