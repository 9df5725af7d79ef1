"""What is known of a model.py once it was read: frozen values, every one with its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from composer.models.configuration import Place

CLASS: Final = "TritonPythonModel"
UTILS: Final = "triton_python_backend_utils"
"""The module that the backend itself brings; `c_python_backend_utils` is built into the stub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """Why a file could not be parsed, in Python's words where it has some.

    `syntax` if Python itself said that this is no Python. `unsure` if a newer Python, which the image has, may take it.
    """

    words: str
    place: Place | None = None
    syntax: bool = False
    unsure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported module: `module` as it is written, dotted; `level` counts the dots before it; `names` what is taken.

    `optional` if the program goes on without it. `certain` if it is imported whenever the model loads or answers.
    """

    module: str
    place: Place
    level: int = 0
    names: tuple[str, ...] = ()
    optional: bool = False
    certain: bool = False

    @property
    def top(self) -> str:
        """The name before the first dot."""
        return self.module.partition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of another model. `models` are those it may mean, None where that cannot be told from the text.

    `version` is None where it is left out (the server's policy decides) or not known. `at_load` if it is sent while the
    model loads, which the server refuses; `certain` if it is made whenever the model loads or answers, and an exception
    is not caught.
    """

    models: tuple[str, ...] | None
    place: Place
    version: int | None = None
    at_load: bool = False
    certain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """Another call worth a word: `what` is its name, `subject` what it is called with, where that is known.

    `at_load` if it happens while the model loads, `certain` if it happens whenever it loads or answers, uncaught.
    """

    what: str
    place: Place
    subject: str | None = None
    at_load: bool = False
    certain: bool = False


Kind = Literal["none", "list", "other", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """A `return` that can be reached. `kind` is what is returned, `type` its Python type where `kind` is "other"."""

    kind: Kind
    place: Place
    type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method of the class. `opaque` if it is decorated, or no function: then only `name` and `place` say anything.

    `ends` if its end can be reached, which returns None. `least` and `most` are how many arguments it takes without
    `self`; `most` is None for any number. `bound` if it takes nothing for itself where the class is asked, and not an
    instance: a static method, a class method.
    """

    name: str
    place: Place
    returns: tuple[Return, ...] = ()
    ends: bool = True
    generator: bool = False
    opaque: bool = False
    least: int = 0
    most: int | None = None
    bound: bool = False

    @property
    def only_raises(self) -> bool:
        """Whether it neither returns nor comes to its end."""
        return not self.opaque and not self.generator and not self.returns and not self.ends

    def takes(self, count: int) -> bool:
        """Whether an instance's can be called with so many arguments."""
        return self.opaque or (self.least <= count and (self.most is None or count <= self.most))

    def class_takes(self, count: int) -> bool:
        """The same for the class's own: there, `self` must be given too."""
        return self.takes(count) if self.bound else self.takes(count - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output that `auto_complete_config` adds. What cannot be told is None; `keys` is all it names."""

    place: Place
    output: bool
    keys: tuple[str, ...]
    name: str | None
    data_type: str | None
    dims: tuple[int, ...] | None
    certain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """An input of a request that is used as if it were there: `attribute` is what is asked of it first.

    `names` are those that it may have. `certain` if this happens whenever the model answers, uncaught.
    """

    names: tuple[str, ...]
    place: Place
    attribute: str
    certain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoComplete:
    """What `auto_complete_config` does to the config, as far as it does so always, and with constants.

    `may_decouple` if the program has anything to do with that at all. `adds` is on which sides it may add anything,
    None where that cannot be told.
    """

    tensors: tuple[Tensor, ...] = ()
    max_batch_size: int | None = None
    max_batch_size_place: Place | None = None
    dynamic_batching: Place | None = None
    decoupled: bool | None = None
    decoupled_place: Place | None = None
    may_decouple: bool = False
    adds: frozenset[Literal["input", "output"]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelClass:
    """`TritonPythonModel`. `opaque` if it may have more methods than are seen: a base, a decorator, another's name."""

    place: Place
    methods: Mapping[str, Method]
    opaque: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonCode:
    """What was found in one file, everything in the order in which it stands there.

    `model` is None where there is no such class, and `unsure` where it may come from elsewhere all the same: certainly
    by the import that is its `origin`.
    `device` are uses of a GPU; `exits` end the process; `opens` are files by relative names; `moves_path` if it changes
    where modules are looked for. `senders` if it answers by response senders.
    """

    model: ModelClass | None
    unsure: bool
    origin: Import | None
    imports: tuple[Import, ...]
    calls: tuple[Call, ...]
    reads: tuple[Read, ...]
    downloads: tuple[Mention, ...]
    opens: tuple[Mention, ...]
    device: tuple[Mention, ...]
    exits: tuple[Mention, ...]
    auto: AutoComplete
    moves_path: bool
    senders: bool
    asks_device: bool
