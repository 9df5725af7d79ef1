"""A thousand repositories, each a good one of the corpus with one thing changed by chance, the same at every run.

A mutation depends on its number and on the entry it is of. The entry is drawn so that a new entry of the corpus takes
over a few mutations and leaves the others as they are.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from .corpus import Entry, File, Files, Folder, Link, entries

COUNT = 1000
CONFIG = "config.pbtxt"
IN_CONFIG = 0.75
"""How many of the mutations change a config.pbtxt, where there is one; the others change files and folders."""

TOKEN = re.compile(r'#[^\n]*|"(?:\\.|[^"\\\n])*"|[A-Za-z_]\w*|-?\d[\w.]*|\s+|.', re.DOTALL)
TYPES = (
    "TYPE_BOOL", "TYPE_UINT8", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING",
    "TYPE_BF16", "TYPE_INVALID", "TYPE_FLOAT",
)  # fmt: skip
KINDS = ("KIND_CPU", "KIND_GPU", "KIND_AUTO", "KIND_MODEL", "KIND_ANY")
NUMBERS = ("0", "-1", "-2", "1", "2", "3", "4", "5", "7", "16", "1000", "2147483647", "2147483648", "1.5", "0x2", "08")
FIELDS = (
    "name", "platform", "backend", "runtime", "max_batch_size", "input", "output", "data_type", "dims", "reshape",
    "shape", "format", "label_filename", "optional", "allow_ragged_batch", "is_shape_tensor", "version_policy",
    "latest", "all", "specific", "versions",
    "num_versions", "dynamic_batching", "preferred_batch_size", "sequence_batching",
    "control_input", "control", "state", "initial_state", "ensemble_scheduling", "step", "model_name", "model_version",
    "input_map", "output_map", "instance_group", "kind", "count", "gpus", "passive", "parameters", "key", "value",
    "string_value", "model_warmup", "batch_size", "inputs", "zero_data", "random_data", "input_data_file",
    "response_cache", "enable", "model_transaction_policy", "decoupled", "optimization", "default_model_filename",
)  # fmt: skip
LINES = """
dynamic_batching { }
dynamic_batching { preferred_batch_size: [ 2 ] }
dynamic_batching { preferred_batch_size: 8 }
dynamic_batching { priority_levels: 2 }
dynamic_batching { preserve_ordering: true }
sequence_batching { }
sequence_batching { oldest { max_candidate_sequences: 2 } }
sequence_batching { direct { minimum_slot_utilization: 2 } }
ensemble_scheduling { }
instance_group [ { count: 2 kind: KIND_CPU } ]
instance_group [ { kind: KIND_GPU } ]
instance_group [ { count: 0 } ]
instance_group [ { kind: KIND_CPU gpus: [ 0 ] } ]
instance_group [ { passive: true } ]
instance_group { name: "m" }
version_policy { all { } }
version_policy { latest { num_versions: 0 } }
version_policy { specific { versions: [ 1 ] } }
version_policy { specific { versions: [ 3 ] } }
response_cache { enable: true }
model_transaction_policy { decoupled: false }
model_transaction_policy { decoupled: true }
default_model_filename: "model.onnx"
default_model_filename: "model.py"
parameters { key: "k" value { string_value: "v" } }
parameters { key: "k" value: "v" }
optimization { graph { level: 1 } }
optimization { priority: PRIORITY_MAX }
metric_tags { key: "a" value: "b" }
model_metrics { }
runtime: ""
input [ { name: "Z" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "Z" data_type: TYPE_FP32 dims: [ 1 ] } ]
model_warmup [ { name: "w" batch_size: 1 } ]
platform: "onnxruntime_onnx"
platform: "x"
max_batch_size: 0
batch_input [ { kind: BATCH_ELEMENT_COUNT target_name: "B" data_type: TYPE_FP32 source_input: "X" } ]
model_repository_agents { agents [ { name: "checksum" } ] }
# nothing
// nothing
;
,
""".strip().splitlines()
Text: TypeAlias = Callable[[random.Random, str], str]
Tree: TypeAlias = Callable[[random.Random, dict[str, File]], str]


def mutations(release: str, count: int = COUNT) -> list[Entry]:
    """The mutations of the good entries for a release, from number 1."""
    bases = [entry for entry in entries(release) if entry.rule is None and not entry.requests and entry.user is None]
    return [mutation(number, bases) for number in range(1, count + 1)]


def mutation(number: int, bases: Sequence[Entry]) -> Entry:
    """One mutation. Its note says what was done to which entry."""
    base = min(bases, key=lambda entry: hashlib.sha256(f"{number} {entry.name}".encode()).digest())
    draw = random.Random(f"{number} {base.name}")
    while True:
        files, note = _mutated(draw, base.files)
        if files != dict(base.files):
            return replace(base, name=f"mutations/{number:04}", files=files, note=f"{base.name}: {note}")


def _mutated(draw: random.Random, files: Files) -> tuple[dict[str, File], str]:
    changed = dict(files)
    configs = [path for path, file in files.items() if path.endswith(f"/{CONFIG}") and isinstance(file, str) and file]
    if configs and draw.random() < IN_CONFIG:
        path = draw.choice(configs)
        change = draw.choice(IN_TEXT)
        before = str(files[path])
        changed[path] = change(draw, before)
        return changed, f"{change.__name__[1:]} in {path}: {_difference(before, str(changed[path]))}"
    act = draw.choice(IN_TREE)
    return changed, act(draw, changed)


def _difference(before: str, after: str) -> str:
    """The part that differs, in both."""
    start = _common(before, after)
    end = _common(before[start:][::-1], after[start:][::-1])
    return f"{before[start : len(before) - end]!r} -> {after[start : len(after) - end]!r}"


def _common(one: str, other: str) -> int:
    """How many characters they have in common at their start."""
    return next(
        (at for at, (here, there) in enumerate(zip(one, other, strict=False)) if here != there),
        min(len(one), len(other)),
    )


# Changes of a config.pbtxt.


def _tokens(text: str) -> list[str]:
    return TOKEN.findall(text)


def _spots(tokens: Sequence[str], pattern: str) -> list[int]:
    """Where the tokens are that match; all that are not space where none does."""
    found = [at for at, token in enumerate(tokens) if re.fullmatch(pattern, token)]
    return found or [at for at, token in enumerate(tokens) if token.strip()]


def _replaced(tokens: list[str], at: int, new: str) -> str:
    return "".join([*tokens[:at], new, *tokens[at + 1 :]])


def _token_deleted(draw: random.Random, text: str) -> str:
    tokens = _tokens(text)
    return _replaced(tokens, draw.choice(_spots(tokens, r"\S+")), "")


def _token_doubled(draw: random.Random, text: str) -> str:
    tokens = _tokens(text)
    at = draw.choice(_spots(tokens, r"\S.*"))
    return _replaced(tokens, at, f"{tokens[at]} {tokens[at]}")


def _tokens_swapped(draw: random.Random, text: str) -> str:
    tokens = _tokens(text)
    spots = _spots(tokens, r"\S.*")
    first = draw.randrange(max(1, len(spots) - 1))
    one, other = spots[first], spots[min(first + 1, len(spots) - 1)]
    tokens[one], tokens[other] = tokens[other], tokens[one]
    return "".join(tokens)


def _number_changed(draw: random.Random, text: str) -> str:
    tokens = _tokens(text)
    return _replaced(tokens, draw.choice(_spots(tokens, r"-?\d[\w.]*")), draw.choice(NUMBERS))


def _enum_changed(draw: random.Random, text: str) -> str:
    tokens = _tokens(text)
    at = draw.choice(_spots(tokens, r"(TYPE|KIND)_\w+"))
    return _replaced(tokens, at, draw.choice(KINDS if tokens[at].startswith("KIND") else TYPES))


def _string_changed(draw: random.Random, text: str) -> str:
    tokens = _tokens(text)
    at = draw.choice(_spots(tokens, r'".*"'))
    inside = tokens[at].strip('"')
    others = [token.strip('"') for token in tokens if token.startswith('"')]
    new = draw.choice(["", inside.swapcase(), inside + "x", inside[:-1], inside + " ", draw.choice(others or [""])])
    return _replaced(tokens, at, f'"{new}"')


def _name_changed(draw: random.Random, text: str) -> str:
    """Another field, or the same one misspelled."""
    tokens = _tokens(text)
    at = draw.choice(_spots(tokens, r"[a-z]\w*"))
    word = tokens[at]
    cut = draw.randrange(len(word))
    return _replaced(
        tokens, at, draw.choice([draw.choice(FIELDS), word[:cut] + word[cut + 1 :], word.title(), word + "s"])
    )


def _brace_changed(draw: random.Random, text: str) -> str:
    tokens = _tokens(text)
    return _replaced(
        tokens, draw.choice(_spots(tokens, r"[][{}<>:,]")), draw.choice(["", "{", "}", "[", "]", ":", ","])
    )


def _line_inserted(draw: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True)
    at = draw.randint(0, len(lines))
    return "".join([*lines[:at], draw.choice(LINES) + "\n", *lines[at:]])


def _line_deleted(draw: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True)
    del lines[draw.randrange(len(lines))]
    return "".join(lines)


def _line_doubled(draw: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True)
    at = draw.randrange(len(lines))
    return "".join([*lines[: at + 1], lines[at].rstrip("\n") + "\n", *lines[at + 1 :]])


def _field_deleted(draw: random.Random, text: str) -> str:
    start, end = _field(draw, text)
    return text[:start] + text[end:]


def _field_doubled(draw: random.Random, text: str) -> str:
    start, end = _field(draw, text)
    return f"{text[:end]} {text[start:end]}{text[end:]}"


def _field_moved(draw: random.Random, text: str) -> str:
    """A field somewhere else: in another message, or at the top."""
    start, end = _field(draw, text)
    rest = text[:start] + text[end:]
    spots = [0, *(found.end() for found in re.finditer(r"[{}]|\n", rest))]
    at = draw.choice(spots)
    return f"{rest[:at]} {text[start:end]} {rest[at:]}"


def _field(draw: random.Random, text: str) -> tuple[int, int]:
    """From where to where a field goes with its value, be it a scalar, a message or a list."""
    starts = [found.start() for found in re.finditer(r"[a-z_]+\s*(?:[:{\[])", text)]
    start = draw.choice(starts or [0])
    depth = 0
    tokens = TOKEN.finditer(text, start)
    for found in tokens:
        token = found[0]
        depth += token in {"{", "["}
        depth -= token in {"}", "]"}
        value = found.start() > start and token.strip() and token != ":"
        if depth == 0 and value:
            return start, found.end()
    return start, len(text)


def _cut_off(draw: random.Random, text: str) -> str:
    return text[: draw.randrange(len(text))]


def _character_inserted(draw: random.Random, text: str) -> str:
    at = draw.randint(0, len(text))
    return text[:at] + draw.choice("\"'{}[]:;,#/\\$-0aZ é\t\0") + text[at:]


def _case_changed(draw: random.Random, text: str) -> str:
    tokens = _tokens(text)
    at = draw.choice(_spots(tokens, r"[A-Za-z_]\w*"))
    return _replaced(tokens, at, tokens[at].swapcase())


IN_TEXT: tuple[Text, ...] = (
    _token_deleted, _token_doubled, _tokens_swapped, _number_changed, _number_changed, _enum_changed, _enum_changed,
    _string_changed, _string_changed, _name_changed, _brace_changed, _line_inserted, _line_inserted, _line_deleted,
    _line_doubled, _field_deleted, _field_deleted, _field_doubled, _field_moved, _cut_off, _character_inserted,
    _case_changed,
)  # fmt: skip

# Changes of files and folders.


def _file(draw: random.Random, files: dict[str, File]) -> str:
    return draw.choice(sorted(files))


def _file_removed(draw: random.Random, files: dict[str, File]) -> str:
    path = _file(draw, files)
    del files[path]
    return f"removed {path}"


def _file_emptied(draw: random.Random, files: dict[str, File]) -> str:
    path = _file(draw, files)
    files[path] = ""
    return f"emptied {path}"


def _file_renamed(draw: random.Random, files: dict[str, File]) -> str:
    path = _file(draw, files)
    folder, _, name = path.rpartition("/")
    new = draw.choice([name.upper(), name + ".txt", name + "~", "_" + name, "model.onnx", "model.py", name.title()])
    return _moved(files, path, f"{folder}/{new}".lstrip("/"))


def _file_raised(draw: random.Random, files: dict[str, File]) -> str:
    """Into the folder above."""
    path = _file(draw, files)
    folder, _, name = path.rpartition("/")
    return _moved(files, path, f"{folder.rpartition('/')[0]}/{name}".lstrip("/"))


def _file_lowered(draw: random.Random, files: dict[str, File]) -> str:
    """Into a folder within its own."""
    path = _file(draw, files)
    folder, _, name = path.rpartition("/")
    return _moved(files, path, f"{folder}/{draw.choice(['1', '2', 'files'])}/{name}".lstrip("/"))


def _folder_renamed(draw: random.Random, files: dict[str, File]) -> str:
    old = _folder(draw, files)
    above, _, name = old.rpartition("/")
    new = draw.choice(["0", "01", "2", "v1", "1a", "-1", "1.0", name + "x", name.upper() + "_", "." + name])
    return _moved(files, old, f"{above}/{new}".lstrip("/"))


def _folder_copied(draw: random.Random, files: dict[str, File]) -> str:
    old = _folder(draw, files)
    above, _, _ = old.rpartition("/")
    new = f"{above}/{draw.choice(['2', '3', '01', 'copy', 'v2', '0'])}".lstrip("/")
    for path in [path for path in files if path.startswith(old + "/")]:
        files.setdefault(new + path.removeprefix(old), files[path])
    return f"copied {old} to {new}"


def _folder_emptied(draw: random.Random, files: dict[str, File]) -> str:
    old = _folder(draw, files)
    for path in [path for path in files if path.startswith(old + "/")]:
        del files[path]
    files[old] = Folder()
    return f"emptied {old}"


def _folder_added(draw: random.Random, files: dict[str, File]) -> str:
    above = draw.choice(["", _folder(draw, files) + "/"])
    new = above + draw.choice(["2", "0", "01", ".git", "__pycache__", "tmp", "assets", "7x"])
    if not any(path == new or path.startswith(new + "/") for path in files):
        files[new] = Folder()
    return f"added {new}/"


def _link_added(draw: random.Random, files: dict[str, File]) -> str:
    above = draw.choice(["", _folder(draw, files) + "/"])
    new = above + draw.choice(["2", "latest", "labels.txt"])
    files.setdefault(new, Link(draw.choice(["nowhere", "1", "m", CONFIG])))
    return f"added the link {new}"


def _contents_swapped(draw: random.Random, files: dict[str, File]) -> str:
    one, other = _file(draw, files), _file(draw, files)
    files[one], files[other] = files[other], files[one]
    return f"swapped {one} and {other}"


def _folder(draw: random.Random, files: Files) -> str:
    """A folder with something in it."""
    paths = {path.rpartition("/")[0] for path in files}
    above = {folder.rpartition("/")[0] for folder in paths}
    return draw.choice(sorted((paths | above) - {""}) or ["m"])


def _moved(files: dict[str, File], old: str, new: str) -> str:
    for path in [path for path in files if path == old or path.startswith(old + "/")]:
        target = new + path.removeprefix(old)
        taken = target in files or any(
            there.startswith(target + "/") or target.startswith(there + "/") for there in files if there != path
        )
        if not taken:
            files[target] = files.pop(path)
    return f"moved {old} to {new}"


IN_TREE: tuple[Tree, ...] = (
    _file_removed, _file_removed, _file_emptied, _file_renamed, _file_raised, _file_lowered, _folder_renamed,
    _folder_renamed, _folder_copied, _folder_emptied, _folder_added, _folder_added, _link_added, _contents_swapped,
)  # fmt: skip
