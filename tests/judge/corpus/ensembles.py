"""Ensembles, and models that call others: ENS."""

from __future__ import annotations

from . import Entry, File, Folder, bad, good
from .parts import ANY, ECHO, ONNX, PYTHON, changed, onnx, python

_DECOUPLED = PYTHON + "model_transaction_policy { decoupled: true }\n"
_STREAM = """import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            value = pb.get_input_tensor_by_name(request, "X").as_numpy()
            sender = request.get_response_sender()
            sender.send(pb.InferenceResponse([pb.Tensor("Y", value)]))
            sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def _step(model: str, inputs: str, outputs: str, version: int | None = -1) -> str:
    """A step. Maps are written `X=a Z=b`."""
    said = "" if version is None else f"model_version: {version} "
    return f'{{ model_name: "{model}" {said}{_map("input_map", inputs)}{_map("output_map", outputs)}}}'


def _map(name: str, pairs: str) -> str:
    return "".join(f'{name} {{ key: "{k}" value: "{v}" }} ' for k, _, v in (p.partition("=") for p in pairs.split()))


_IN = 'input [ { name: "IN" data_type: TYPE_FP32 dims: [ 2 ] } ]\n'
_OUT = 'output [ { name: "OUT" data_type: TYPE_FP32 dims: [ 2 ] } ]\n'
_TWO = (_step("a", "X=IN", "Y=mid"), _step("b", "X=mid", "Y=OUT"))


def _config(
    *steps: str, name: str = "e", inputs: str = _IN, outputs: str = _OUT, batch: int = 4, more: str = ""
) -> str:
    listed = ", ".join(steps)
    head = f'name: "{name}"\nplatform: "ensemble"\nmax_batch_size: {batch}\n'
    return f"{head}{inputs}{outputs}{more}ensemble_scheduling {{ step [ {listed} ] }}\n"


def _ensemble(config: str, *others: dict[str, File], name: str = "e") -> dict[str, File]:
    files: dict[str, File] = {f"{name}/config.pbtxt": config, f"{name}/1": Folder()}
    for other in others:
        files.update(other)
    return files


def _a(config: str = PYTHON, code: str = ECHO, name: str = "a", version: int = 1) -> dict[str, File]:
    return python(changed(config, 'name: "m"', f'name: "{name}"'), code, name=name, version=version)


def _b(config: str = PYTHON, code: str = ECHO) -> dict[str, File]:
    return _a(config, code, "b")


def _both(*steps: str, **more: str) -> dict[str, File]:
    return _ensemble(_config(*(steps or _TWO), **more), _a(), _b())  # type: ignore[arg-type]


def _of(config: str, code: str = ANY, *, batch: int = 4, steps: tuple[str, ...] = _TWO) -> dict[str, File]:
    """The two-step ensemble with another second model."""
    return _ensemble(_config(*steps, batch=batch), _a(), _b(config, code))


def _shape(dims: str, kind: str = "TYPE_FP32", batch: int = 4) -> str:
    """A config whose input is another."""
    config = PYTHON.replace("TYPE_FP32 dims: [ 2 ] } ]\noutput", f"{kind} dims: [ {dims} ] }} ]\noutput")
    return config.replace("max_batch_size: 4", f"max_batch_size: {batch}")


_OPTIONAL = PYTHON.replace("input [ {", 'input [ { name: "Z" data_type: TYPE_FP32 dims: [ 2 ] optional: true }, {')
_NEEDED = PYTHON.replace("input [ {", 'input [ { name: "Z" data_type: TYPE_FP32 dims: [ 2 ] }, {')
_JOIN = (_step("a", "X=IN", "Y=one"), _step("b", "X=IN", "Y=two"), _step("c", "X=one Z=two", "Y=OUT"))


def _calling(body: str, *, at: str = "execute", before: str = "", version: str = "") -> dict[str, File]:
    """A model `a` that calls `b`, or says so."""
    lines = [f"        {line}\n" for line in body.splitlines()]
    loading = "    def initialize(self, args):\n" + "".join(lines) + "\n" if at == "initialize" else ""
    asking = "".join(lines) if at == "execute" else ""
    code = (
        "import numpy\nimport triton_python_backend_utils as pb\n\n"
        + before
        + "\nclass TritonPythonModel:\n"
        + loading
        + "    def execute(self, requests):\n"
        + asking
        + '        values = [pb.get_input_tensor_by_name(r, "X").as_numpy() for r in requests]\n'
        + '        return [pb.InferenceResponse([pb.Tensor("Y", value)]) for value in values]\n'
    )
    return {**_a(code=code), **_b()}


_WARMUP = """model_warmup [ {
  name: "w" batch_size: 1
  inputs { key: "IN" value { data_type: TYPE_FP32 dims: [ 2 ] zero_data: true } }
} ]
"""
_X = 'pb.Tensor("X", numpy.zeros((1, 2), numpy.float32))'


def _call(name: str, more: str = "") -> str:
    return (
        f'answer = pb.InferenceRequest(model_name={name}, requested_output_names=["Y"], inputs=[{_X}]{more}).exec()\n'
        "if answer.has_error():\n    raise pb.TritonModelException(answer.error().message())\n"
    )


def _each(body: str) -> str:
    return "for request in requests:\n" + _indented(body)


def _caught(body: str) -> str:
    return "try:\n" + _indented(body) + "except pb.TritonModelException:\n    pass\n"


def _indented(body: str) -> str:
    return "".join(f"    {line}\n" for line in body.splitlines())


ENTRIES: list[Entry] = [
    good("ensembles/two-steps", _both()),
    good("ensembles/one-step", _both(_step("a", "X=IN", "Y=OUT"))),
    good("ensembles/steps-in-another-order", _both(_TWO[1], _TWO[0])),
    good("ensembles/same-model-twice", _both(_step("a", "X=IN", "Y=mid"), _step("a", "X=mid", "Y=OUT"))),
    good("ensembles/onnx-and-python", _ensemble(_config(*_TWO), _a(), onnx(changed(ONNX, '"m"', '"b"'), name="b"))),
    good("ensembles/onnx-without-config", _ensemble(_config(*_TWO), _a(), onnx(None, name="b"))),
    good(
        "ensembles/nested",
        {
            **_both(name="inner"),
            "e/config.pbtxt": _config(_step("inner", "IN=IN", "OUT=OUT")),
            "inner/config.pbtxt": _config(*_TWO, name="inner"),
            "inner/1": Folder(),
        },
    ),
    bad("LAY021", "ensembles/no-version", {k: v for k, v in _both().items() if k != "e/1"}),
    # -- what an ensemble has
    bad(
        "ENS001",
        "ensembles/no-platform",
        _ensemble(
            _config(*_TWO).replace('platform: "ensemble"', 'backend: "python"'), _a(), _b(), {"e/1/model.py": ANY}
        ),
    ),
    bad(
        "ENS001",
        "ensembles/nothing-says-it",
        _ensemble(_config(*_TWO).replace('platform: "ensemble"\n', ""), _a(), _b()),
    ),
    bad("ENS002", "ensembles/no-scheduling", _ensemble(_config().partition("ensemble_scheduling")[0])),
    bad(
        "ENS002",
        "ensembles/scheduling-of-batches",
        _ensemble(_config().partition("ensemble_scheduling")[0] + "dynamic_batching {}\n"),
    ),
    bad("CFG023", "ensembles/with-backend", _ensemble(_config(*_TWO, more='backend: "python"\n'), _a(), _b())),
    bad("ENS003", "ensembles/with-instances", _both(more="instance_group [ { count: 1 kind: KIND_CPU } ]\n")),
    bad("ENS004", "ensembles/with-optimization", _both(more="optimization { priority: PRIORITY_MAX }\n")),
    bad("ENS004", "ensembles/with-empty-optimization", _both(more="optimization {}\n")),
    bad(
        "ENS005",
        "ensembles/with-warmup",
        _both(more=_WARMUP),
    ),
    bad("ENS006", "ensembles/no-steps", _ensemble(_config())),
    bad("ENS007", "ensembles/no-model-name", _both(_TWO[0], _TWO[1].replace('model_name: "b" ', ""))),
    bad("ENS007", "ensembles/no-input-map", _both(_TWO[0], _step("b", "", "Y=OUT"))),
    bad("ENS007", "ensembles/no-output-map", _both(_step("a", "X=IN", "Y=OUT"), _step("b", "X=IN", ""))),
    bad("ENS008", "ensembles/model-missing", _both(_TWO[0], _step("c", "X=mid", "Y=OUT"))),
    bad("ENS008", "ensembles/model-in-capitals", _both(_TWO[0], _step("B", "X=mid", "Y=OUT"))),
    bad("ENS009", "ensembles/of-itself", _ensemble(_config(_step("e", "IN=IN", "OUT=OUT")))),
    bad(
        "ENS009",
        "ensembles/of-one-another",
        {
            **_ensemble(_config(_step("f", "IN=IN", "OUT=OUT"))),
            **_ensemble(_config(_step("e", "IN=IN", "OUT=OUT"), name="f"), name="f"),
        },
    ),
    bad(
        "ENS009",
        "ensembles/of-one-that-is-of-itself",
        {
            **_ensemble(_config(_step("f", "IN=IN", "OUT=OUT"))),
            **_ensemble(_config(_step("f", "IN=IN", "OUT=OUT"), name="f"), name="f"),
        },
    ),
    # -- tensors
    bad("ENS010", "ensembles/written-twice", _both(_step("a", "X=IN", "Y=OUT"), _step("b", "X=IN", "Y=OUT"))),
    bad(
        "ENS011",
        "ensembles/input-unused",
        _both(inputs=_IN.replace("input [ {", 'input [ { name: "MORE" data_type: TYPE_FP32 dims: [ 2 ] }, {')),
    ),
    bad("ENS011", "ensembles/input-in-small-letters", _both(_step("a", "X=in", "Y=mid"), _TWO[1])),
    bad(
        "ENS012",
        "ensembles/output-not-given",
        _both(outputs=_OUT.replace("output [ {", 'output [ { name: "MORE" data_type: TYPE_FP32 dims: [ 2 ] }, {')),
    ),
    bad("ENS012", "ensembles/output-in-small-letters", _both(_TWO[0], _step("b", "X=mid", "Y=out"))),
    bad(
        "ENS012",
        "ensembles/circle-of-tensors",
        _both(_step("a", "X=back", "Y=mid"), _step("b", "X=mid", "Y=back OTHER=OUT"), inputs=""),
    ),
    bad("ENS012", "ensembles/source-missing", _both(_step("a", "X=nowhere", "Y=mid"), _TWO[1], inputs="")),
    bad("ENS013", "ensembles/tensor-unused", _both(_step("a", "X=IN", "Y=mid"), _step("b", "X=IN", "Y=OUT"))),
    good(
        "ensembles/tensor-given-out-too",
        _both(outputs=_OUT.replace("output [ {", 'output [ { name: "mid" data_type: TYPE_FP32 dims: [ 2 ] }, {')),
    ),
    good(
        "ensembles/tensor-taken-twice",
        _ensemble(
            _config(_step("a", "X=IN", "Y=one"), _step("b", "X=one", "Y=two"), _step("c", "X=one Z=two", "Y=OUT")),
            _a(),
            _b(),
            _a(_NEEDED, name="c"),
        ),
    ),
    bad("ENS014", "ensembles/input-of-no-model", _both(_TWO[0], _step("b", "x=mid", "Y=OUT"))),
    bad("ENS014", "ensembles/output-of-no-model", _both(_TWO[0], _step("b", "X=mid", "Z=OUT"))),
    bad(
        "ENS014",
        "ensembles/input-of-no-onnx",
        _ensemble(_config(_TWO[0], _step("b", "x=mid", "Y=OUT")), _a(), onnx(None, name="b")),
    ),
    bad("ENS015", "ensembles/input-not-mapped", _of(_NEEDED, ECHO)),
    good("ensembles/optional-input-not-mapped", _of(_OPTIONAL, ECHO)),
    bad("ENS016", "ensembles/other-type", _of(_shape("2", "TYPE_INT32"))),
    bad("ENS016", "ensembles/other-type-of-input", _both(inputs=_IN.replace("FP32", "FP64"))),
    bad("ENS016", "ensembles/other-type-of-output", _both(outputs=_OUT.replace("FP32", "INT32"))),
    bad(
        "ENS016",
        "ensembles/other-type-of-onnx",
        _ensemble(
            _config(*_TWO, inputs=_IN.replace("FP32", "FP16")),
            _a(PYTHON.replace("FP32", "FP16"), ANY),
            onnx(None, name="b"),
        ),
    ),
    bad("ENS017", "ensembles/other-shape", _of(_shape("3"))),
    bad("ENS017", "ensembles/other-rank", _of(_shape("2, 1"))),
    bad("ENS017", "ensembles/other-shape-of-output", _both(outputs=_OUT.replace("[ 2 ]", "[ 3 ]"))),
    good("ensembles/any-shape", _of(_shape("-1"))),
    good(
        "ensembles/any-shape-of-input",
        _both(inputs=_IN.replace("[ 2 ]", "[ -1 ]")),
        requests={"e": {"inputs": [{"name": "IN", "shape": [1, 2], "datatype": "FP32", "data": [0, 0]}]}},
    ),
    good(
        "ensembles/without-batches-after-them",
        _of(
            _shape("-1, 2", batch=0).replace(
                '"Y" data_type: TYPE_FP32 dims: [ 2 ]', '"Y" data_type: TYPE_FP32 dims: [ -1, 2 ]'
            ),
            batch=4,
        ),
    ),
    bad("ENS017", "ensembles/without-batches-of-other-rank", _of(_shape("2, 2, 2", batch=0), batch=4)),
    good(
        "ensembles/reshaped-input", _both(inputs=_IN.replace("dims: [ 2 ]", "dims: [ 2, 1 ] reshape { shape: [ 2 ] }"))
    ),
    bad(
        "ENS017",
        "ensembles/dims-of-reshaped-input",
        _both(inputs=_IN.replace("dims: [ 2 ]", "dims: [ 2 ] reshape { shape: [ 2, 1 ] }")),
    ),
    bad("ENS018", "ensembles/larger-batches", _both(batch=8)),  # type: ignore[arg-type]
    good("ensembles/smaller-batches", _both(batch=2)),  # type: ignore[arg-type]
    good(
        "ensembles/no-batches",
        _ensemble(
            _config(
                *_TWO, batch=0, inputs=_IN.replace("[ 2 ]", "[ -1, 2 ]"), outputs=_OUT.replace("[ 2 ]", "[ -1, 2 ]")
            ),
            _a(),
            _b(),
        ),
    ),
    good(
        "ensembles/member-without-batches",
        _ensemble(
            _config(_step("a", "X=IN", "Y=OUT"), batch=4),
            _a(PYTHON.replace("max_batch_size: 4", "max_batch_size: 0").replace("[ 2 ]", "[ -1, 2 ]")),
        ),
    ),
    bad(
        "ENS018",
        "ensembles/larger-batches-than-onnx",
        _ensemble(_config(_step("b", "X=IN", "Y=OUT"), batch=8), onnx(None, name="b")),
    ),
    bad(
        "ENS018",
        "ensembles/larger-batches-than-completed",
        _ensemble(_config(_step("a", "X=IN", "Y=OUT"), batch=8), _a()),
    ),
    # -- decoupled
    good("ensembles/one-decoupled", _ensemble(_config(*_TWO), _a(_DECOUPLED, _STREAM), _b())),
    good(
        "ensembles/two-decoupled-in-a-row", _ensemble(_config(*_TWO), _a(_DECOUPLED, _STREAM), _b(_DECOUPLED, _STREAM))
    ),
    bad(
        "ENS019",
        "ensembles/two-decoupled-side-by-side",
        _ensemble(_config(*_JOIN), _a(_DECOUPLED, _STREAM), _b(_DECOUPLED, _STREAM), _a(_NEEDED, name="c")),
    ),
    bad(
        "ENS019",
        "ensembles/decoupled-and-not-side-by-side",
        _ensemble(_config(*_JOIN), _a(_DECOUPLED, _STREAM), _b(), _a(_NEEDED, name="c")),
    ),
    good("ensembles/none-decoupled-side-by-side", _ensemble(_config(*_JOIN), _a(), _b(), _a(_NEEDED, name="c"))),
    # -- versions
    bad("ENS020", "ensembles/version-left-out", _both(_TWO[0], _step("b", "X=mid", "Y=OUT", None))),
    bad("ENS020", "ensembles/version-0", _both(_TWO[0], _step("b", "X=mid", "Y=OUT", 0))),
    good("ensembles/version-0-that-is-there", _ensemble(_config(_step("a", "X=IN", "Y=OUT", None)), _a(version=0))),
    good("ensembles/version-1", _both(_TWO[0], _step("b", "X=mid", "Y=OUT", 1))),
    bad("ENS021", "ensembles/version-2", _both(_TWO[0], _step("b", "X=mid", "Y=OUT", 2))),
    bad("ENS021", "ensembles/version-minus-2", _both(_TWO[0], _step("b", "X=mid", "Y=OUT", -2))),
    bad(
        "ENS021",
        "ensembles/version-left-out-by-policy",
        _ensemble(_config(_step("a", "X=IN", "Y=OUT", 1)), _a(), {"a/2/model.py": ECHO}),
    ),
    good(
        "ensembles/version-kept-by-policy",
        _ensemble(
            _config(_step("a", "X=IN", "Y=OUT", 1)), _a(PYTHON + "version_policy { all {} }\n"), {"a/2/model.py": ECHO}
        ),
    ),
    good(
        "ensembles/several-versions-wanted",
        _ensemble(
            _config(_step("a", "X=IN", "Y=mid", 1), _step("a", "X=mid", "Y=OUT", 2)),
            _a(PYTHON + "version_policy { all {} }\n"),
            {"a/2/model.py": ECHO},
        ),
    ),
    # -- calls
    good("ensembles/calls", _calling(_call('"b"'))),
    good("ensembles/calls-version-1", _calling(_call('"b"', ", model_version=1"))),
    bad("ENS023", "ensembles/calls-nobody-in-a-loop", _calling(_each(_call('"c"')))),
    bad("ENS023", "ensembles/calls-nobody-and-goes-on", _calling(_caught(_call('"c"')))),
    good("ensembles/calls-a-constant", _calling(_call("NAME"), before='NAME = "b"\n')),
    bad("ENS023", "ensembles/calls-nobody", _calling(_call('"c"'))),
    bad(
        "ENS023",
        "ensembles/may-call-nobody",
        _calling("if len(requests) > 1000:\n" + "".join(f"    {x}\n" for x in _call('"c"').splitlines())),
    ),
    bad("ENS023", "ensembles/calls-nobody-by-constant", _calling(_call("NAME"), before='NAME = "bert"\n')),
    bad("ENS024", "ensembles/calls-while-loading", _calling(_call('"b"'), at="initialize")),
    good(
        "ensembles/makes-a-request-while-loading",
        _calling(
            'self.request = pb.InferenceRequest(model_name="b", requested_output_names=["Y"], inputs=[])',
            at="initialize",
        ),
    ),
    bad(
        "ENS022",
        "ensembles/calls-what-is-not-loaded",
        _calling(_call('"b"')),
        flags=("--model-control-mode=explicit", "--load-model=a"),
    ),
    good(
        "ensembles/calls-what-is-loaded",
        _calling(_call('"b"')),
        flags=("--model-control-mode=explicit", "--load-model=a", "--load-model=b"),
    ),
    good("ensembles/members-are-loaded-too", _both(), flags=("--model-control-mode=explicit", "--load-model=e")),
    bad(
        "ENS025",
        "ensembles/calls-itself",
        _calling("if len(requests) > 1000:\n" + "".join(f"    {x}\n" for x in _call('"a"').splitlines())),
    ),
    bad("ENS023", "ensembles/calls-a-version-that-is-not-there", _calling(_call('"b"', ", model_version=7"))),
]
