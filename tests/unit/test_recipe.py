"""Recipes as they are read: defaults, values, places, files, the schema. What is refused: tests/golden/recipes."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from composer.errors import NotFound, RecipeError
from composer.oci.image import Platform
from composer.oci.names import parse_reference
from composer.recipe import (
    AllClose,
    ArgMax,
    Ports,
    Recipe,
    TensorSpec,
    Upstream,
    flag_warnings,
    json_schema,
    load_recipe,
    not_yet,
    parse_recipe,
    refuse_unbuilt,
)

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "recipes").glob("*.yaml"))
SMALL = 'triton: "24.10"\nbackends: [python]\n'

FULL = """\
version: 1
name: full
triton: "24.10"
variant: py3
upstream: {full: "docker://harbor.example.com/t:24.10-py3", min: "oci:min:24.10"}
platforms: [linux/amd64, linux/arm64]
backends: [onnxruntime, python]
repoagents: [checksum]
caches: [local]
custom_backends:
  - {name: mine, path: ./mine}
  - {name: vllm, image: "docker://nvcr.io/nvidia/tritonserver:24.10-vllm-python-py3"}
packages: {pip: [transformers==4.44.0, "-r requirements.txt"], apt: [libgl1]}
models:
  - path: ./model_repository
  - {name: densenet_onnx, source: "https://host/densenet121.onnx", sha256: "SHA", config: auto}
  - {name: resnet50_fp16, convert: {to: tensorrt, from: ./resnet50.onnx, precision: fp16}}
files:
  - {source: ./ca.pem, target: /usr/local/share/ca-certificates/corp.crt, mode: "0644"}
server:
  model-repository: /models
  repository-poll-secs: 30
  cuda-memory-pool-byte-size: {0: 67108864}
  cache-config: {local: {size: 1048576}}
  load-model: [a, b]
run: {gpus: all, shm_size: 2g, ports: {http: 9000, grpc: 9001, metrics: 9002}}
env: {OMP_NUM_THREADS: "1"}
labels: {team: ml-platform}
user: triton-server
healthcheck: true
slim: backends
keep: [/usr/local/cuda/bin/cuobjdump]
drop: [/opt/tritonserver/third-party-src]
max_layer_size: 2GiB
engine: direct
network:
  mirrors: {nvcr.io: [harbor.example.com/nvcr], docker.io: [mirror.example.com]}
  hosts: {registry-1.docker.io: 52.0.218.102}
  dns: [223.5.5.5]
  apt_mirror: http://mirrors.example.com/ubuntu
  pip_index: https://mirrors.example.com/pypi/simple
  proxy: {https: "http://proxy:3128", no_proxy: [harbor.example.com]}
  ca_bundle: ./corp-ca.pem
  insecure: ["127.0.0.1:5000"]
  credentials: {nvcr.io: {username: NGC_USER, password: NGC_API_KEY}}
validate:
  gpu: auto
  startup: {deadline: 5m, stall: 60s}
  checks:
    - id: sum
      model: simple
      version: 2
      protocols: [http, grpc]
      request: {timeout: 500ms, inputs: {X: {dtype: INT32, shape: [1, 2], data: [1, 2]}}}
      expect: {outputs: {Y: {dtype: INT32, shape: [1, 2], equals: [[11, 22]]}}}
    - id: golden
      model: densenet_onnx
      request: {inputs: {data_0: {dtype: FP32, shape: [1, 3], random: {seed: 0, low: 0, high: 1}}, Z: {npy: z.npy}}}
      expect:
        outputs:
          a: {allclose: {npy: golden/densenet.npy, rtol: 1.0e-3, atol: 0}, finite: true}
          b: {argmax: {axis: 1, equals: [281]}, range: [0, 1.5]}
          c: {allclose: {values: [[.inf, 1]]}, sum: {value: 1, atol: 1.0e-3}}
    - id: refused
      model: simple
      request: {inputs: {X: {dtype: FP32, shape: [1, 1000], fill: 0.5}}}
      expect: {status: {error: {code: 400, match: "unexpected shape"}}}
  load:
    - {id: rush, check: sum, concurrency: [1, 5], requests: 500, slo: {p99: 200ms, error_rate: 0, min_throughput: 50}}
  after: [health, gpu, sum]
outputs:
  - docker://harbor.example.com/tools/tritonserver:24.10-py3-slim-1
  - oci-archive:dist/tritonserver.tar
""".replace("SHA", "0c8f" * 16)


def read(text: str, **environ: str) -> Recipe:
    return parse_recipe(text, path=Path("/srv/recipes/r.yaml"), environ=environ)


def messages(text: str, **environ: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        read(text, **environ)
    return [problem.message for problem in caught.value.problems]


# -- what recipes become --------------------------------------------------------------------------


def test_defaults() -> None:
    recipe = read(SMALL)
    assert (recipe.version, recipe.variant, recipe.upstream, recipe.slim, recipe.engine) == (
        1,
        "py3",
        None,
        "backends",
        "direct",
    )
    assert recipe.platforms == (Platform(os="linux", architecture="amd64"),)
    assert (recipe.max_layer_size, recipe.run.shm_size, recipe.run.gpus) == (2**30, 2**30, "auto")
    assert recipe.run.ports == Ports(http=8000, grpc=8001, metrics=8002)
    assert (recipe.models, recipe.outputs, recipe.server, recipe.validation) == ((), (), {}, None)
    assert read('triton: "24.10"\nmodels: [{path: m}]').backends == "auto"


def test_everything_of_the_format_is_read() -> None:
    recipe = read(FULL)
    assert recipe.upstream == Upstream(
        full=parse_reference("docker://harbor.example.com/t:24.10-py3"), min=parse_reference("oci:min:24.10")
    )
    assert [str(platform) for platform in recipe.platforms] == ["linux/amd64", "linux/arm64"]
    assert [model.path for model in recipe.models] == [Path("model_repository"), None, None]
    assert recipe.models[2].convert is not None
    assert recipe.models[2].convert.from_ == Path("resnet50.onnx")
    assert recipe.files[0].mode == 0o644
    assert recipe.server["cuda-memory-pool-byte-size"] == {"0": 67108864}
    assert recipe.server["load-model"] == ("a", "b")
    assert (recipe.run.shm_size, recipe.max_layer_size) == (2 << 30, 2 << 30)
    assert [str(output) for output in recipe.outputs] == [
        "docker://harbor.example.com/tools/tritonserver:24.10-py3-slim-1",
        "oci-archive:dist/tritonserver.tar",
    ]
    proof = recipe.validation
    assert proof is not None
    assert (proof.startup.deadline, proof.startup.stall, proof.checks[0].request.timeout) == (300.0, 60.0, 0.5)
    assert proof.checks[0].request.inputs["X"] == TensorSpec(dtype="INT32", shape=(1, 2), data=(1, 2))
    outputs = proof.checks[1].expect.outputs
    assert outputs["a"].allclose == AllClose(npy=Path("golden/densenet.npy"), rtol=1e-3, atol=0)
    assert (outputs["b"].argmax, outputs["b"].range) == (ArgMax(axis=1, equals=(281,)), (0, 1.5))
    assert outputs["c"].allclose == AllClose(values=((float("inf"), 1),))
    assert proof.load[0].slo.p99 == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1g", 2**30),
        ("1G", 2**30),
        ("2GiB", 2**31),
        ("1.5k", 1536),
        ("500MB", 500_000_000),
        ("64 MiB", 2**26),
        ("7b", 7),
        ("9", 9),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert read(f"{SMALL}max_layer_size: {text}").max_layer_size == size


@pytest.mark.parametrize(
    ("text", "gpus"), [("all", "all"), ("none", "none"), ("2", 2), ('["0", GPU-1]', ("0", "GPU-1"))]
)
def test_gpus(text: str, gpus: object) -> None:
    assert read(f"{SMALL}run: {{gpus: {text}}}").run.gpus == gpus


def test_a_plain_upstream_is_the_full_one() -> None:
    recipe = read("upstream: oci:../build/x:1\nbackends: [python]")
    assert recipe.upstream == Upstream(full=parse_reference("oci:../build/x:1"))


def test_paths_start_from_the_recipe() -> None:
    recipe = read(
        "upstream: oci:../build/x:1\nbackends: [python]\noutputs: [docker://a.b/c:1, docker-daemon:x:1, oci:/abs:1]"
    )
    assert recipe.base == Path("/srv/recipes")
    assert recipe.upstream is not None
    assert recipe.place(recipe.upstream.full).place == "/srv/build/x"
    assert [str(recipe.place(output)) for output in recipe.outputs] == [
        "docker://a.b/c:1",
        "docker-daemon:x:1",
        "oci:/abs:1",
    ]


def test_recipes_do_not_change() -> None:
    recipe = read(SMALL)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.name = "other"  # type: ignore[misc]
    other = recipe.model_copy(update={"name": "other"})
    assert (recipe.name, other.name, other.base) == ("tritonserver-slim", "other", recipe.base)


def test_a_release_in_any_quotes() -> None:
    assert [read(f"triton: {text}\nbackends: [python]").triton for text in ("'24.10'", '"24.10"', "!!str 24.10")] == [
        "24.10"
    ] * 3


def test_anchors_may_be_used() -> None:
    recipe = read(f'{SMALL}env: &settings {{A: "1"}}\nlabels: *settings')
    assert recipe.env == recipe.labels == {"A": "1"}


# -- variables ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A}", "one"),
        ("x${A}y${B}", "xoney"),
        ("${MISSING:-two}", "two"),
        ("${MISSING:-}", ""),
        ("${B:-empty too}", "empty too"),
        ("${A:-two}", "one"),
        ("$${A}", "${A}"),
        ("$A $$ $", "$A $$ $"),
        ("${C}", "${A} $${A}"),
    ],
)
def test_variables(text: str, expected: str) -> None:
    recipe = read(f"{SMALL}env: {{X: '{text}'}}", A="one", B="", C="${A} $${A}")
    assert recipe.env["X"] == expected


def test_variables_stand_in_values_and_not_in_keys() -> None:
    assert read(f"{SMALL}labels: {{'${{A}}': '${{A}}'}}", A="1").labels == {"${A}": "1"}


def test_what_a_variable_holds_is_text() -> None:
    assert read("triton: ${R}\nbackends: [python]", R="24.10").triton == "24.10"
    assert messages("triton: ${R}\nbackends: [python]\nhealthcheck: ${H}", R="24.10", H="true") == [
        'healthcheck must be true or false, not the text "true"'
    ]


def test_a_variable_may_not_bring_yaml() -> None:
    recipe = read(f"{SMALL}labels: {{a: '${{A}}'}}", A="x}\nengine: dockerfile\n#")
    assert (recipe.engine, recipe.labels["a"]) == ("direct", "x}\nengine: dockerfile\n#")


def test_one_unset_variable_is_one_problem() -> None:
    assert messages("triton: ${R}\nupstream: ${U}\nbackends: ['${B}']\noutputs: [oci:$x, '${O}']") == [
        f"the variable {name} is not set" for name in "RUBO"
    ]


# -- files ----------------------------------------------------------------------------------------


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert load_recipe(path, environ={}).base == tmp_path


def test_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text(SMALL)
    with pytest.raises(NotFound, match="there is no recipe") as caught:
        load_recipe(tmp_path / "quikstart.yaml", environ={})
    assert caught.value.hint == f"did you mean {tmp_path / 'quickstart.yaml'}?"
    with pytest.raises(NotFound) as caught:
        load_recipe(tmp_path / "gone" / "r.yaml", environ={})
    assert caught.value.hint == f"there is no folder {tmp_path / 'gone'} either"


def test_a_folder_and_a_giant(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        load_recipe(tmp_path, environ={})
    (tmp_path / "r.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(RecipeError, match="more than 1 MiB"):
        load_recipe(tmp_path / "r.yaml", environ={})


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become someone else")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(SMALL)
    code = """if True:
        import os, sys; from pathlib import Path
        from composer.errors import RecipeError
        from composer.recipe import load_recipe
        os.chdir(sys.argv[1]); os.setuid(65534)
        try:
            load_recipe(Path("r.yaml"), environ={})
        except RecipeError as error:
            print(error.message, error.hint)
    """
    (tmp_path / "r.yaml").chmod(0o600)
    tmp_path.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60)
    assert (done.stderr, done.stdout) == ("", "r.yaml: the recipe cannot be read: Permission denied ls -l r.yaml\n")


def test_a_text_as_large_as_is_read_is_read_soon() -> None:
    nested = "a: " + "[" * 500_000
    assert messages(nested) == ["the file is nested too deeply"]


def test_whatever_is_written_is_read_or_refused() -> None:
    """Recipes with random damage: a problem with its place, and never anything else."""
    drawn = random.Random(0)
    places: list[str] = []
    for _ in range(200):
        text = FULL
        for _ in range(drawn.randint(1, 4)):
            at = drawn.randrange(len(text))
            text = text[:at] + drawn.choice(DAMAGE) + text[at + drawn.choice((0, 0, 1, 5)) :]
        try:
            read(text)
        except RecipeError as error:
            places += (problem.where for problem in error.problems)
    assert len(places) > 100
    assert all(re.match(r"/srv/recipes/r.yaml:\d+:\d+$", place) for place in places)


DAMAGE = [
    *"{}[]:,\"'|>#@`=\n\t\a\ufeff",
    "  ",
    "- ",
    "&a ",
    "*a",
    "!!int ",
    "!!float ",
    "!!bool ",
    "!x ",
    "${",
    "${A}",
    "null",
]
DAMAGE += [
    "~",
    "0x1F",
    ".nan",
    "2024-01-01",
    "? ",
    "<<: ",
    "%YAML 1.1\n",
    "---\n",
    "1e999",
    "9" * 5000,
    "-1",
    "true",
    "é",
]


# -- places ---------------------------------------------------------------------------------------


def test_where() -> None:
    recipe = read(f"{SMALL}models:\n  - path: ./m\n")
    file = "/srv/recipes/r.yaml"
    assert recipe.where("backends", 0) == f"{file}:2:12"
    assert recipe.where("models", 0, "path") == f"{file}:4:11"
    assert recipe.where("models", 0, "path", key=True) == f"{file}:4:5"
    # What was not written is where it would belong.
    assert recipe.where("models", 0, "name") == f"{file}:4:5"
    assert recipe.where("outputs") == f"{file}:1:1"
    assert Recipe.model_validate({"triton": "24.10"}).where("triton") == "recipe"


def test_flags_that_are_not_known_yet_are_warned_of() -> None:
    recipe = read('triton: "29.01"\nbackends: [python]\nserver: {http-port: 1, http-prot: 2}')
    (warning,) = flag_warnings(recipe)
    assert (warning.where, warning.hint) == ("/srv/recipes/r.yaml:3:24", 'did you mean "http-port"?')
    assert 'tritonserver 29.01 has a flag "http-prot" is not known' in warning.message
    assert flag_warnings(read(SMALL)) == ()


def test_what_is_built_is_not_refused() -> None:
    recipe = read(
        f"""{SMALL}platforms: [linux/amd64, linux/arm64]
upstream: oci:x
variant: vllm-python-py3
repoagents: [checksum]
caches: [local]
models: [{{path: m}}]
files: [{{source: a, target: /a}}]
server: {{log-verbose: 1}}
network: {{ca_bundle: ca.pem, insecure: [localhost:5000]}}
validate: {{gpu: off, checks: [{{id: a, model: m, request: {{inputs: {{X: {{dtype: FP32, shape: [1], data: [1]}}}}}},
  expect: {{outputs: {{Y: {{allclose: {{values: [1]}}, argmax: {{equals: 0}}, finite: true, range: [0, 1]}}}}}}}}]}}
"""
    )
    assert not_yet(recipe) == ()
    refuse_unbuilt(recipe)


def test_what_is_not_built_is_refused_wherever_it_was_made() -> None:
    with pytest.raises(RecipeError, match='recipe: "slim: closure" is not built yet'):
        refuse_unbuilt(Recipe.model_validate({"slim": "closure"}))


# -- the schema for editors -----------------------------------------------------------------------


def test_the_schema_beside_the_examples_is_the_one_of_this_code() -> None:
    written = json.loads((ROOT / "recipes" / "schema.json").read_text())
    assert written == json_schema(), "run: tricompose schema > recipes/schema.json"


def test_every_key_says_what_it_means() -> None:
    schema = json_schema()
    for name, part in [("recipe", schema), *schema["$defs"].items()]:
        assert part["description"], name
        assert part["additionalProperties"] is False, name
        for key, property_ in part["properties"].items():
            part_ = schema["$defs"].get(property_.get("$ref", "").rpartition("/")[2], {})
            assert property_.get("description") or part_.get("description"), f"{name}.{key}"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples(path: Path) -> None:
    assert path.read_text().startswith("# yaml-language-server: $schema=")
    recipe = load_recipe(path, environ={})
    refuse_unbuilt(recipe)
    assert list(mismatches(plain(recipe), json_schema())) == []


def test_the_schema_takes_what_the_reader_takes() -> None:
    assert list(mismatches(plain(read(FULL)), json_schema())) == []
    assert list(mismatches(plain(read("upstream: oci:x\nbackends: auto\nmodels: [{path: m}]")), json_schema())) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"bakends": ["python"]},
        {"triton": 24.1},
        {"triton": "24.13"},
        {"slim": "most"},
        {"models": "m"},
        {"run": {"ports": {"http": 0}}},
        {"upstream": "nvcr.io/x"},
        {"files": [{"source": "a"}]},
        {"validate": {"checks": [{"id": "a"}]}},
        {"validate": {"startup": {"stall": 5}}},
    ],
)
def test_the_schema_refuses(wrong: dict[str, Any]) -> None:
    assert list(mismatches(wrong, json_schema()))


def test_the_schema_takes_variables() -> None:
    assert list(mismatches({"triton": "${RELEASE}", "name": "${A}-${B}"}, json_schema())) == []


def plain(recipe: Recipe) -> Any:
    """What was written, as JSON has it."""
    assert recipe._origin is not None
    return json.loads(json.dumps(recipe._origin.document.data))


def mismatches(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None, at: str = "") -> Iterator[str]:
    """Where a value is not what a JSON Schema says: as much of the standard as our schema uses."""
    root = root or schema
    if "$ref" in schema:
        yield from mismatches(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, at)
    for key in ("anyOf", "oneOf"):
        if key in schema and all([*mismatches(value, arm, root, at)] for arm in schema[key]):
            yield f"{at}: none of {key}"
    kinds = schema.get("type", [])
    if kinds and not any(is_a(kind, value) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        yield f"{at}: not {kinds}"
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        yield f"{at}: {value!r} is no choice"
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        yield f"{at}: {value!r} is not {schema['pattern']}"
    if is_a("number", value) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{at}: {value} is out of range"
    for index, item in enumerate(value if isinstance(value, list) else ()):
        yield from mismatches(item, schema.get("items", {}), root, f"{at}[{index}]")
    if isinstance(value, dict):
        yield from in_mapping(value, schema, root, at)


def in_mapping(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], at: str) -> Iterator[str]:
    yield from (f"{at}: lacks {key}" for key in schema.get("required", ()) if key not in value)
    for key, item in value.items():
        known, others = schema.get("properties", {}).get(key), schema.get("additionalProperties", {})
        if known is None and others is False:
            yield f"{at}: {key} is unknown"
        yield from mismatches(item, known or others or {}, root, f"{at}.{key}")


def is_a(kind: str, value: object) -> bool:
    kinds = {"string": str, "integer": int, "number": int | float, "boolean": bool, "null": None | type(None)}
    kinds |= {"array": list, "object": dict}
    return isinstance(value, kinds[kind]) and (kind == "boolean" or not isinstance(value, bool))


# -- the code -------------------------------------------------------------------------------------


def test_reading_yaml_needs_no_pydantic() -> None:
    code = "import sys, composer.recipe_yaml, composer.server; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_parts_are_frozen_and_closed() -> None:
    parts = [part for part in _all(BaseModel) if part.__module__.startswith("composer.recipe_")]
    assert len(parts) > 40
    assert all(part.model_config["frozen"] and part.model_config["extra"] == "forbid" for part in parts)


def _all(cls: type) -> Iterator[type[BaseModel]]:
    for part in cls.__subclasses__():
        yield part
        yield from _all(part)
