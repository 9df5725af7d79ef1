"""Asks the tree of a model.py one question after another."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Final, Literal

from composer.models.python_code import watched
from composer.models.python_code.facts import (
    CLASS,
    UTILS,
    AutoComplete,
    Call,
    Import,
    Mention,
    Method,
    ModelClass,
    PythonCode,
    Read,
    Tensor,
)
from composer.models.python_code.flow import methods_of
from composer.models.python_code.names import Names
from composer.models.python_code.nodes import (
    EXITS,
    KILLS,
    argument,
    binds,
    entries,
    integer,
    integers,
    is_true,
    place_of,
    short,
    text_of,
)
from composer.models.python_code.reads import Reads
from composer.models.python_code.walk import Walk, Where

_AT_LOAD: Final = ("", f"{CLASS}.__init__", f"{CLASS}.initialize", f"{CLASS}.auto_complete_config")
"""The scopes that run when a model is loaded; "" is the module's own."""

_AUTO: Final = f"{CLASS}.auto_complete_config"
_SETS: Final = ("set_max_batch_size", "set_dynamic_batching", "set_model_transaction_policy")
_ADDS: Final[Mapping[str, Literal["input", "output"]]] = {"add_input": "input", "add_output": "output"}
"""What a program can call of the config that it is to complete."""

_METHODS: Final = ("auto_complete_config", "initialize", "execute", "finalize", "is_ready", "__init__")
_BY_NAME: Final = ("importlib.import_module", "__import__")


def read(tree: ast.Module) -> PythonCode:
    """What is found in a program."""
    return _Reader(tree).code()


class _Reader:
    """One reading of one program."""

    def __init__(self, tree: ast.Module) -> None:
        self._walk = Walk(tree)
        self._names = Names(self._walk)
        self._always = (*_AT_LOAD, self._walk.execute)

    def code(self) -> PythonCode:
        model, unsure = self._model()
        return PythonCode(
            model=model,
            unsure=unsure,
            origin=self._origin() if unsure else None,
            imports=tuple(self._imports()),
            calls=tuple(self._requests()),
            reads=tuple(self._reads(model)),
            downloads=tuple(self._downloads()),
            opens=tuple(self._opens()),
            device=tuple(self._device()),
            exits=tuple(self._exits()),
            auto=self._auto(),
            moves_path=any(name.startswith("sys.path") for name in self._names.used),
            senders=any(name.rpartition(".")[2] == "get_response_sender" for name in self._names.used),
            asks_device=self._asks_device(),
        )

    @cached_property
    def _loading(self) -> frozenset[str]:
        """The scopes that run while a model loads: those that always do, and what they call of this file."""
        edges: dict[str, set[str]] = {}
        for name, calls in self._names.called.items():
            for _, scope in calls:
                edges.setdefault(scope, set()).add(name)
        seen: set[str] = set()
        todo = [*_AT_LOAD]
        while todo:
            scope = todo.pop()
            if scope not in seen:
                seen.add(scope)
                todo += [one for one in self._walk.functions if one.rpartition(".")[2] in edges.get(scope, ())]
        return frozenset(seen - {f"{CLASS}.execute"})

    def _mention(self, node: ast.expr, what: str, where: Where, subject: str | None = None) -> Mention:
        return Mention(
            what=what.lstrip("."),
            place=place_of(node),
            subject=subject,
            at_load=where.scope in self._loading,
            certain=where.scope in self._always and not where.maybe and (not where.caught or what in KILLS),
        )

    # -- imports

    def _imports(self) -> Iterator[Import]:
        for node, where in self._walk.nodes:
            if isinstance(node, ast.Import):
                yield from (self._imported(one, one.name, where) for one in node.names)
            elif isinstance(node, ast.ImportFrom):
                names = tuple(one.name for one in node.names)
                yield replace(self._imported(node, node.module or "", where), level=node.level, names=names)
            elif isinstance(node, ast.Call) and self._names.dotted(node.func) in _BY_NAME:
                for name in self._names.texts(argument(node, ["name"], "name"), where.scope) or ():
                    if not name.startswith("."):
                        yield replace(self._imported(node, name, where), certain=False)

    def _imported(self, node: ast.AST, module: str, where: Where) -> Import:
        certain = not where.maybe and not where.optional and where.scope in self._always
        return Import(module=module, place=place_of(node), optional=where.optional, certain=certain)

    # -- the inputs of requests

    def _reads(self, model: ModelClass | None) -> Iterator[Read]:
        """Nobody knows what happens where the method that answers may be another, or is wrapped."""
        execute = model.methods.get("execute") if model else None
        known = model is not None and not model.opaque and execute is not None and not execute.opaque
        for one in Reads(self._walk, self._names).all():
            yield replace(one, certain=one.certain and known)

    # -- calls of other models

    def _requests(self) -> Iterator[Call]:
        for node, name, where in self._names.calls:
            if name.rpartition(".")[2] != "InferenceRequest":
                continue
            model = argument(node, watched.REQUEST, "model_name")
            if model is None and not name.startswith(UTILS):
                continue
            version = self._names.constant(argument(node, watched.REQUEST, "model_version"), where.scope)
            yield Call(
                models=self._names.texts(model, where.scope),
                place=place_of(node),
                version=integer(version) if version else None,
                at_load=where.scope in self._sending,
                certain=where.scope in self._always and not where.maybe and not where.caught,
            )

    @cached_property
    def _sending(self) -> frozenset[str]:
        """The scopes of loading that send requests, and do not only make them."""
        calls = ((name.rpartition(".")[2], where.scope) for _, name, where in self._names.calls)
        return frozenset(scope for verb, scope in calls if verb in watched.SENDS and scope in self._loading)

    # -- the world outside

    def _downloads(self) -> Iterator[Mention]:
        for node, name, where in self._names.calls:
            how = watched.DOWNLOADS.get(name) or watched.DOWNLOADS.get("*." + name.rpartition(".")[2])
            if how is None or is_true(node, "local_files_only"):
                continue
            named = (one.value for one in node.keywords if one.arg in watched.SUBJECTS)
            first = node.args[0] if node.args else next(named, None)
            subject = next(iter(self._names.texts(first, where.scope) or ()), None)
            if how == "any" or (subject and watched.PATTERNS[how].match(subject)):
                yield self._mention(node, name, where, subject)

    def _opens(self) -> Iterator[Mention]:
        for node, name, where in self._names.calls:
            if name in watched.OPENS and node.args and not _writes(node, name):
                for subject in self._names.texts(node.args[0], where.scope) or ():
                    if _relative(subject):
                        yield self._mention(node, name, where, subject)

    def _exits(self) -> Iterator[Mention]:
        for node, name, where in self._names.calls:
            target = node.args[0] if name == "os.kill" and node.args else None
            itself = isinstance(target, ast.Call) and self._names.dotted(target.func) == "os.getpid"
            if name in EXITS or itself:
                yield self._mention(node, name, where)

    def _device(self) -> Iterator[Mention]:
        for node, name, where in self._names.calls:
            last = name.rpartition(".")[2]
            if last == "cuda":
                yield self._mention(node, name, where)
            elif last in ("to", "device") or any(one.arg == "device" for one in node.keywords):
                yield from self._cuda_argument(node, name, where)

    def _cuda_argument(self, node: ast.Call, name: str, where: Where) -> Iterator[Mention]:
        for one in (*node.args[:1], *(one.value for one in node.keywords if one.arg == "device")):
            texts = self._names.texts(one, where.scope) or ()
            cuda = [text for text in texts if watched.CUDA.match(text)]
            if cuda:
                alone = len(cuda) == len(texts)
                yield self._mention(node, name, where if alone else replace(where, maybe=True), cuda[0])

    def _asks_device(self) -> bool:
        """Whether it has anything to do with devices."""
        texts = (text_of(node) or "" for node, _ in self._walk.nodes if isinstance(node, ast.Constant))
        names = (*self._names.used, *(text for text in texts if len(text) < watched.LONG))
        return any(watched.DEVICES.search(name) for name in names)

    # -- the class

    def _model(self) -> tuple[ModelClass | None, bool]:
        """The class, and whether there may be one that is not seen."""
        found: ast.ClassDef | None = None
        other = False
        for node, where in self._walk.nodes:
            if where.scope or where.owner:
                continue
            if isinstance(node, ast.ClassDef) and node.name == CLASS:
                other = other or where.maybe or found is not None
                found = node
            elif binds(node, CLASS):
                other = True
        if found is None or other:
            return None, other or bool({"exec", "globals", "setattr", "vars"} & self._names.used)
        return self._class(found), False

    def _origin(self) -> Import | None:
        """The one import that makes the class, where nothing else may."""
        binders = [
            (node, where)
            for node, where in self._walk.nodes
            if not (where.scope or where.owner) and (binds(node, CLASS) or _is_class(node))
        ]
        if len(binders) != 1 or any(f"{CLASS}." in name for name in self._names.used) or self._patches(None):
            return None
        ((node, where),) = binders
        if not isinstance(node, ast.ImportFrom):
            return None
        names = tuple(one.name for one in node.names)
        one = replace(self._imported(node, node.module or "", where), level=node.level, names=names)
        return one if one.certain and not where.caught and {CLASS, "*"} & set(names) else None

    def _class(self, node: ast.ClassDef) -> ModelClass:
        methods: dict[str, Method] = {}
        for one, where in self._walk.nodes:
            if where.owner == CLASS and not where.scope:
                methods.update(methods_of(one, unsure=where.maybe))
        bases = [base for base in node.bases if self._names.dotted(base) != "object"]
        if renamed := self._renames(methods):
            methods["execute"] = replace(methods[renamed], name="execute")
        opaque = bool(bases or node.keywords or node.decorator_list or self._patches(renamed))
        return ModelClass(place=place_of(node), methods=methods, opaque=opaque)

    def _renames(self, methods: Mapping[str, Method]) -> str | None:
        """The method that is made `execute`, if that is all that this is ever given."""
        name = self._walk.execute.partition(".")[2]
        nodes = (node for node, _ in self._walk.nodes if isinstance(node, ast.Attribute) and short(node))
        stored = [node for node in nodes if not isinstance(node.ctx, ast.Load)]
        times = self._names.sets(CLASS, "execute") + sum(self._is_own(self._names.dotted(node)) for node in stored)
        return name if name != "execute" and name in methods and times == 1 else None

    @staticmethod
    def _is_own(dotted: str) -> bool:
        return dotted.startswith(f"{CLASS}.")

    def _patches(self, renamed: str | None) -> bool:
        """Whether methods are set from elsewhere; of the one that is only renamed it is known how."""
        known = {"execute", renamed} if renamed else set()
        later = any(self._names.sets(CLASS, name) for name in _METHODS if name not in known)
        named = any(self._is_own(name) and name.partition(".")[2] not in known for name in self._names.used)
        return later or named or "setattr" in self._names.used

    # -- auto_complete_config

    def _auto(self) -> AutoComplete:
        tensors: list[Tensor] = []
        auto = AutoComplete()
        for node, name, where in self._names.calls:
            if where.scope == _AUTO:
                verb = name.rpartition(".")[2]
                if verb in ("add_input", "add_output"):
                    tensors += self._added(node, where, output=verb == "add_output")
                elif not where.maybe:
                    auto = self._set(auto, verb, node, where.scope)
        decouples = any(name.endswith("set_model_transaction_policy") for name in self._names.used)
        return replace(auto, tensors=tuple(tensors), may_decouple=decouples, adds=self._adds())

    def _adds(self) -> frozenset[Literal["input", "output"]] | None:
        """The sides on which something may be added, where the config is asked for nothing but what is known."""
        function = self._walk.functions.get(_AUTO)
        names = [one.arg for one in function.args.args][-1:] if function else []
        if function and (not names or function.args.vararg or function.args.kwarg):
            return None
        uses = {node for node, where in self._walk.nodes if where.scope == _AUTO and _is_named(node, names)}
        verbs: list[str] = []
        for node, where in self._walk.nodes if function else ():
            if isinstance(node, ast.Return) and where.scope == _AUTO:
                uses -= {node.value}
            if isinstance(node, ast.Attribute) and node.value in uses and node.attr in (*_SETS, *_ADDS):
                uses -= {node.value}
                verbs.append(node.attr)
        return None if uses else frozenset(_ADDS[verb] for verb in verbs if verb in _ADDS)

    def _set(self, auto: AutoComplete, verb: str, node: ast.Call, scope: str) -> AutoComplete:
        first, place = node.args[0] if node.args else None, place_of(node)
        if verb == "set_dynamic_batching":
            return replace(auto, dynamic_batching=place)
        if verb == "set_max_batch_size" and (size := self._names.constant(first, scope)):
            return replace(auto, max_batch_size=integer(size), max_batch_size_place=place)
        if verb == "set_model_transaction_policy":
            return replace(auto, decoupled=self._decoupled(first, scope), decoupled_place=place)
        return auto

    def _decoupled(self, node: ast.expr | None, scope: str) -> bool | None:
        """The value in `{"decoupled": True}` or `dict(decoupled=True)`."""
        value: ast.expr | None = None
        if isinstance(node, ast.Call) and self._names.dotted(node.func) == "dict":
            value = next((one.value for one in node.keywords if one.arg == "decoupled"), None)
        elif isinstance(literal := self._names.constant(node, scope), ast.Dict):
            value = entries(literal).get("decoupled")
        return value.value if isinstance(value, ast.Constant) and isinstance(value.value, bool) else None

    def _added(self, node: ast.Call, where: Where, *, output: bool) -> Iterator[Tensor]:
        for one in self._names.constants(node.args[0] if node.args else None, where.scope) or ():
            if isinstance(one, ast.Dict) and len(values := entries(one)) == len(one.keys):
                yield self._tensor(node, values, where, output=output)

    def _tensor(self, node: ast.Call, values: Mapping[str, ast.expr], where: Where, *, output: bool) -> Tensor:
        dims = self._names.constant(values.get("dims"), where.scope)
        return Tensor(
            place=place_of(node),
            output=output,
            keys=tuple(values),
            name=self._names.text(values.get("name"), where.scope),
            data_type=self._names.text(values.get("data_type"), where.scope),
            dims=integers(dims) if dims else None,
            certain=not where.maybe or self._in_plain_loop(node),
        )

    def _in_plain_loop(self, node: ast.Call) -> bool:
        """Whether it stands directly in a loop over literals that always runs."""
        body = self._walk.functions[_AUTO].body
        loops = (one for one in body if isinstance(one, ast.For))
        return any(isinstance(one, ast.Expr) and one.value is node for loop in loops for one in loop.body)


def _is_class(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and node.name == CLASS


def _is_named(node: ast.AST, names: list[str]) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def _writes(node: ast.Call, name: str) -> bool:
    mode = argument(node, ["file", "mode"], "mode")
    return name in ("open", "io.open") and mode is not None and bool(set(text_of(mode) or "w") & set("wax"))


def _relative(path: str) -> bool:
    return (
        bool(path) and not path.startswith(("/", "~")) and "\0" not in path and not watched.PATTERNS["url"].match(path)
    )
