"""The small values that recipes are made of: sizes, durations, names, paths, tensors. Parsed once, at the edge.

A value that cannot be is refused with `refusal`, which carries the words, the hint and where inside the value it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, PlainValidator, WithJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from composer.errors import TricomposeError
from composer.network.addresses import parse_address
from composer.network.names import THIS_MACHINE
from composer.oci.image import Platform
from composer.oci.names import Reference, parse_reference
from composer.recipe_yaml import KeyPath


def refusal(message: str, hint: str | None = None, *, at: KeyPath = (), on_key: bool = False) -> PydanticCustomError:
    """An error to raise in a validator. `at` leads from the value being validated to the part that is wrong."""
    # Braces would be read as a template by pydantic, so the words travel in the context alone.
    return PydanticCustomError("refused", "{message}", {"message": message, "hint": hint, "at": at, "on_key": on_key})


def _in_json(pattern: str) -> str:
    """A pattern for editors, which see variables that are not yet expanded."""
    return rf"^(?:{pattern})$|\$\{{"


@dataclass(frozen=True, slots=True)
class _Spelled:
    """Text of one spelling, with the words for when it is not."""

    pattern: str
    words: str
    hint: str

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | {"pattern": _in_json(self.pattern)}

    def _checked(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text):
            raise refusal(f'"{text}" {self.words}', self.hint)
        return text


Text = Annotated[str, _Spelled(r"[^\x00]*\S[^\x00]*", "says nothing", "write a text, or remove the line")]
Name = Annotated[
    str,
    _Spelled(
        r"[A-Za-z0-9][A-Za-z0-9_.-]*",
        "is not a name",
        "letters, digits, '_', '.' and '-', beginning with a letter or digit",
    ),
]
Release = Annotated[
    str,
    _Spelled(
        r"[0-9]{2}\.(?:0[1-9]|1[0-2])", "is not a Triton release", 'a release is its year and month, quoted: "24.10"'
    ),
]
Variant = Annotated[
    str, _Spelled(r"[a-z0-9]+(?:-[a-z0-9]+)*", "is not a variant", "py3, vllm-python-py3, trtllm-python-py3, ...")
]
CPU: Final = "cpu-only-py3"
"""The variant without CUDA. NVIDIA names it so and publishes none: it is made out of `py3`, on Ubuntu's own image."""
User = Annotated[
    str,
    _Spelled(
        r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?::[A-Za-z0-9_][A-Za-z0-9_.-]*)?",
        "is not a user",
        "name, name:group, or numbers: 1000:1000",
    ),
]
EnvName = Annotated[
    str,
    _Spelled(
        r"[A-Za-z_][A-Za-z0-9_]*", "is not a variable's name", "letters, digits and '_', not beginning with a digit"
    ),
]
DebianPackage = Annotated[
    str,
    _Spelled(
        r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.](?::[a-z0-9]+)?(?:[=/][A-Za-z0-9][A-Za-z0-9.+:~-]*)?",
        "is not an Ubuntu package",
        "a name, as apt-get takes it: libgl1, or libgl1=1.6.0-1",
    ),
]
EnvText = Annotated[str, _Spelled(r"[^\x00]*", "holds a NUL character", "no variable can hold one")]
LabelName = Annotated[str, _Spelled(r"[^\s=\x00]+", "is not a label's name", "no spaces and no '='")]
Host = Annotated[
    str,
    _Spelled(
        r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?",
        "is not a host",
        "name or address, with :port where needed",
    ),
]
RegistryPlace = Annotated[
    str,
    _Spelled(
        r"(?:\*|(?:\*\.)?[A-Za-z0-9.-]+(?::[0-9]{1,5})?|\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?)(?:/[A-Za-z0-9._/-]+)?",
        "is not a registry, or a place in one",
        "host[:port], host/path, *.domain, or '*'",
    ),
]
MirrorPlace = Annotated[
    str,
    _Spelled(
        r"(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._/-]*)?",
        "is no place that could be asked",
        "host[:port], or host/path, without https://",
    ),
]
NoProxy = Annotated[
    str,
    _Spelled(
        r"\*|(?:\*?\.)?[A-Za-z0-9.-]+(?::[0-9]{1,5})?|[0-9.]+/[0-9]{1,2}|\[?[0-9a-fA-F:.]+\]?(?::[0-9]{1,5}|/[0-9]{1,3})?",
        "is not a host or network",
        "name, .domain, address, network (10.0.0.0/8), with :port where needed, or '*'",
    ),
]
Url = Annotated[str, _Spelled(r"https?://\S+", "is not a web address", "http://... or https://...")]
Sha256 = Annotated[str, _Spelled(r"[0-9a-f]{64}", "is not a SHA-256", "64 hex digits, as sha256sum prints them")]
_LAYOUT: Final = r"(?:chw(?:2|4|16|32)?|d?hwc|d?hwc8|hwc16|cdhw32|dla_linear|dla_hwc4)"
TensorFormat = Annotated[
    str,
    _Spelled(
        rf"(?:(?:fp32|fp16|bf16|fp8|int8|int32|int64|uint8|bool):)?{_LAYOUT}(?:\+{_LAYOUT})*",
        "is not a tensor's type and layout",
        "fp16:chw, int8:chw32, fp16:chw+hwc8, ...",
    ),
]
Port = Annotated[int, Field(ge=1, le=65535)]
Positive = Annotated[int, Field(ge=1)]


_SIZE: Final = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?) ?(?P<unit>[A-Za-z]*)")
_UNITS: Final = {"": 1, "b": 1} | {
    spelling: base**power
    for power, letter in enumerate("kmgt", start=1)
    # Docker's one-letter units are binary.
    for spelling, base in ((letter, 1024), (f"{letter}ib", 1024), (f"{letter}b", 1000))
}


def _said(value: object) -> str:
    """A value as YAML has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _size(value: object) -> int:
    """Bytes of `2GiB`, `500MB`, `1g` (as Docker reads it: 2**30) or a whole number of bytes."""
    match = _SIZE.fullmatch(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
    if match is None or match["unit"].lower() not in _UNITS:
        raise refusal(f'"{_said(value)}" is not a size', "a number and a unit: 2GiB, 500MB, 1g")
    size = float(match["number"]) * _UNITS[match["unit"].lower()]
    if not 1 <= size < 2**63:
        raise refusal(f'"{value}" is not a possible size', "1g")
    return int(size)


_DURATION: Final = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?) ?(?P<unit>us|ms|s|m|h)")
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def _duration(value: object) -> float:
    """Seconds of `300s`, `200ms`, `5m`, `1h`. A bare number is refused: it does not say of what."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        hint = f"{value}s" if isinstance(value, int | float) else "a number and a unit: 300s, 200ms, 5m"
        raise refusal(f'"{value}" is not a duration', hint)
    seconds = float(match["number"]) * _SECONDS[match["unit"]]
    if seconds <= 0:
        raise refusal(f'"{value}" is no time at all', "60s")
    return seconds


def _mode(value: object) -> int:
    """Permission bits of a quoted octal number, as chmod takes it."""
    if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}|[0-7]{4}", value):
        return int(value, 8)
    # YAML 1.2 reads 0644 as six hundred and forty-four.
    quoted = f'"0{value}"' if isinstance(value, int) and re.fullmatch(r"[0-7]{3}", str(value)) else '"0644"'
    raise refusal(f'"{value}" is not a file mode', f"octal, in quotes: {quoted}")


def _reference(value: object) -> Reference:
    """An image's name in any transport."""
    if isinstance(value, Reference):
        return value
    if not isinstance(value, str):
        raise refusal(
            f'"{value}" does not name an image', "docker://host/repo:tag, oci:dir:tag, oci-archive:file.tar:tag"
        )
    try:
        return parse_reference(value)
    except TricomposeError as error:
        raise refusal(error.message, error.hint) from error


_ARCHITECTURES: Final = {"x86_64": "amd64", "x64": "amd64", "aarch64": "arm64", "arm64v8": "arm64"}


def _platform(value: object) -> Platform:
    """One of the platforms that Triton is published for."""
    text = value if isinstance(value, str) else ""
    try:
        platform = value if isinstance(value, Platform) else Platform.parse(text)
    except TricomposeError as error:
        meant = _ARCHITECTURES.get(text, text if text in ("amd64", "arm64") else "amd64")
        raise refusal(f'"{value}" is not a platform', f"linux/{meant}") from error
    if platform.os != "linux" or platform.architecture not in ("amd64", "arm64"):
        meant = _ARCHITECTURES.get(platform.architecture, platform.architecture)
        hint = f"linux/{meant}" if meant in ("amd64", "arm64") else "linux/amd64 or linux/arm64"
        raise refusal(f"Triton does not run on {platform}", hint)
    return platform


def _target(value: str) -> str:
    """An absolute path inside the image, in its one spelling."""
    if not value.startswith("/") or value == "/" or "\0" in value:
        raise refusal(f'"{value}" is not a path in the image', f"begin at the root: /{value.strip('/') or 'models'}")
    parts = value[1:].split("/")
    if any(part in ("", ".", "..") for part in parts):
        clean = "/" + "/".join(part for part in parts if part not in ("", ".", ".."))
        raise refusal(f'"{value}" is not a plain path', f"no '.', '..' or empty parts: {clean}")
    return value


def _ip_address(value: object) -> str:
    """An address, with a port or without: `10.0.0.7`, `10.0.0.7:5353`, `[fd00::1]:53`."""
    try:
        parse_address(value if isinstance(value, str) else "", 1)
    except ValueError as error:
        raise refusal(f'"{_said(value)}" is not an address', "numbers: 10.0.0.7, 10.0.0.7:8443, [fd00::7]") from error
    return str(value)


def _fixed_addresses(value: object) -> tuple[str, ...]:
    """One address, or several that are tried in order."""
    given = value if isinstance(value, tuple) else (value,)
    if not given:
        raise refusal("there is no address", "10.0.0.7")
    return tuple(str(one) if one == THIS_MACHINE else _ip_address(one) for one in given)


def _path(value: object) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise refusal(f'"{value}" is not a path', "./a/path, from the recipe's folder")
    return Path(value)


Size = Annotated[
    int, PlainValidator(_size), WithJsonSchema({"type": ["string", "integer"], "examples": ["2GiB", "1g"]})
]
Duration = Annotated[
    float,
    PlainValidator(_duration),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"^{_DURATION.pattern}$".replace("?P<number>", "").replace("?P<unit>", ""),
            "examples": ["300s", "200ms"],
        }
    ),
]
Mode = Annotated[
    int, PlainValidator(_mode), WithJsonSchema({"type": "string", "pattern": "^[0-7]{3,4}$", "examples": ["0644"]})
]
ImageName = Annotated[
    Reference,
    PlainValidator(_reference),
    WithJsonSchema({"type": "string", "pattern": "^(docker://|oci:|oci-archive:|docker-archive:|docker-daemon:).+"}),
]
PlatformName = Annotated[
    Platform, PlainValidator(_platform), WithJsonSchema({"type": "string", "enum": ["linux/amd64", "linux/arm64"]})
]
IpAddress = Annotated[str, PlainValidator(_ip_address), WithJsonSchema({"type": "string", "minLength": 1})]
FixedAddresses = Annotated[
    tuple[str, ...],
    PlainValidator(_fixed_addresses),
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
         "examples": ["10.0.0.7", ["10.0.0.7", "10.0.0.8:8443"]]}
    ),
]  # fmt: skip
Target = Annotated[str, AfterValidator(_target), Field(json_schema_extra={"pattern": "^/"})]
LocalPath = Annotated[Path, PlainValidator(_path), WithJsonSchema({"type": "string", "minLength": 1})]


def distinct(what: str, name: Callable[[Any], object] = str, at: str | None = None) -> AfterValidator:
    """A check that no two items of a tuple have the same name. `at` is the item's key that holds it."""

    def check(items: tuple[Any, ...]) -> tuple[Any, ...]:
        seen: set[object] = set()
        for index, item in enumerate(items):
            if (label := name(item)) is not None and label in seen:
                where = (index, at) if at else (index,)
                raise refusal(f'the {what} "{label}" stands twice', "keep one of them, or rename one", at=where)
            seen.add(label)
        return items

    return AfterValidator(check)


# -- tensors -----------------------------------------------------------------------------------

DATATYPES: Final = (
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "BF16", "FP32", "FP64", "BYTES"),
)
_OTHER_SPELLINGS: Final = {
    "STRING": "BYTES",
    "STR": "BYTES",
    "FLOAT": "FP32",
    "DOUBLE": "FP64",
    "BFLOAT16": "BF16",
    "HALF": "FP16",
}


def _datatype(value: object) -> str:
    """A datatype as KServe's v2 protocol writes it. NumPy's and config.pbtxt's spellings are hinted away."""
    if value in DATATYPES:
        return str(value)
    text = re.sub(r"^FLOAT(?=\d)", "FP", str(value).upper().removeprefix("TYPE_"))
    meant = _OTHER_SPELLINGS.get(text, text)
    hint = meant if meant in DATATYPES else f"one of {', '.join(DATATYPES)}"
    raise refusal(f'"{value}" is not a datatype', hint)


def _values(value: object) -> object:
    """Numbers, texts, or nested lists of them that make a regular shape."""
    _measure(value, ())
    return value


def _single(value: object) -> object:
    if not isinstance(value, bool | int | float | str):
        raise refusal("this must be one number or text", "0.5")
    return value


def _measure(value: object, path: KeyPath) -> tuple[int, ...]:
    """The shape of nested tuples. Refuses ragged ones at the first item that breaks the pattern."""
    if isinstance(value, bool | int | float | str):
        return ()
    if not isinstance(value, tuple):
        raise refusal("tensors hold numbers and texts only", "[[1, 2], [3, 4]]", at=path)
    shapes = [_measure(item, (*path, index)) for index, item in enumerate(value)]
    for index, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise refusal("the lists are not of one length", "give every row as many values", at=(*path, index))
    return (len(value), *(shapes[0] if shapes else ()))


def shape_of(values: object) -> tuple[int, ...]:
    """The shape of values that `Values` has accepted; () for a single one."""
    return (len(values), *(shape_of(values[0]) if values else ())) if isinstance(values, tuple) else ()


Datatype = Annotated[str, PlainValidator(_datatype), WithJsonSchema({"type": "string", "enum": list(DATATYPES)})]
Single = Annotated[
    bool | int | float | str,
    PlainValidator(_single),
    WithJsonSchema({"type": ["number", "string", "boolean"]}),
]
Shape = tuple[Annotated[int, Field(ge=0)], ...]
Values = Annotated[
    Any,
    PlainValidator(_values),
    WithJsonSchema({"type": ["array", "number", "string", "boolean"], "examples": [[[1, 2, 3, 4]]]}),
]


def fit(values: object, *, key: str, shape: Sequence[int] | None, datatype: str | None) -> None:
    """Refuse values that a tensor of that shape and datatype cannot hold. Flat values fit any shape of that count."""
    found = shape_of(values)
    if shape is not None and found not in (tuple(shape), (math.prod(shape),)):
        message = f"{key} has {math.prod(found)} values of shape {list(found)}, the shape is {list(shape)}"
        raise refusal(message, f"that shape holds {math.prod(shape)} values", at=(key,))
    if datatype is not None:
        for path, value in _scalars(values, (key,)):
            if not _holds(datatype, value):
                raise refusal(f"{datatype} cannot hold {value!r}", _fitting(datatype), at=path)


def _scalars(values: object, path: KeyPath) -> Iterator[tuple[KeyPath, object]]:
    if isinstance(values, tuple):
        for index, item in enumerate(values):
            yield from _scalars(item, (*path, index))
    else:
        yield path, values


def _limits(datatype: str) -> tuple[int, int]:
    bits = int(re.sub(r"\D", "", datatype))
    return (0, 2**bits - 1) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _holds(datatype: str, value: object) -> bool:
    if datatype == "BYTES":
        return isinstance(value, str)
    if datatype == "BOOL" or isinstance(value, bool):
        return datatype == "BOOL" and isinstance(value, bool)
    if "INT" in datatype:
        low, high = _limits(datatype)
        return isinstance(value, int) and low <= value <= high
    return isinstance(value, int | float)


def _fitting(datatype: str) -> str:
    if datatype in ("BYTES", "BOOL"):
        return {"BYTES": 'texts, in quotes: ["a", "b"]', "BOOL": "true or false"}[datatype]
    if "INT" in datatype:
        return "whole numbers from {} to {}".format(*_limits(datatype))
    return "numbers; 1.0e-3, .nan and .inf are numbers too"
