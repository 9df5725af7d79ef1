"""The inputs that a program takes from requests by their names, and uses without asking whether they are there."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import Final

from composer.models.python_code.facts import CLASS, UTILS, Read
from composer.models.python_code.names import Names
from composer.models.python_code.nodes import FUNCTIONS, argument, bindings, place_of
from composer.models.python_code.walk import Function, Walk, Where

_READS: Final = f"{UTILS}.get_input_tensor_by_name"
_PARAMETERS: Final = ("inference_request", "name")

_Use = tuple[str, bool]
"""The attribute that is asked of an input, and whether always."""


class Reads:
    """What a program reads. Its class has a method that answers, which nothing is wrapped around."""

    def __init__(self, walk: Walk, names: Names) -> None:
        self._walk, self._names = walk, names

    def all(self) -> Iterator[Read]:
        """The inputs in the order in which they are read."""
        for call, name, where in self._names.calls:
            if name != _READS or where.caught or self._is_patched(call.func, where.scope):
                continue
            use = self._use(call, where)
            if use and self._is_a_request(argument(call, _PARAMETERS, "inference_request"), where.scope):
                yield from self._read(call, where, use)

    def _read(self, call: ast.Call, where: Where, use: _Use) -> Iterator[Read]:
        node, (attribute, always) = argument(call, _PARAMETERS, "name"), use
        for named, its, at, sure in self._namings(node, call, where):
            if names := self._names.texts(named, its):
                certain = sure and always and not self._may_change(named)
                yield Read(names=names, place=place_of(at), attribute=attribute, certain=certain)

    def _namings(
        self, node: ast.expr | None, call: ast.Call, where: Where
    ) -> Iterator[tuple[ast.expr | None, str, ast.Call, bool]]:
        """The name with its scope, where it is said, and whether it always is: of a parameter, by each call."""
        function = self._walk.functions.get(where.scope)
        own = _parameters(function) if function else []
        stored = self._bound.get((where.scope, getattr(node, "id", "")))
        if not isinstance(node, ast.Name) or node.id not in own or stored:
            yield node, where.scope, call, where.scope in self._answering
            return
        for one, its in self._calls_of.get(where.scope, ()):
            yield argument(one, own, node.id), its.scope, one, where.scope in self._answering and self._always(its)

    def _is_patched(self, function: ast.expr, scope: str) -> bool:
        """Whether the name of the module, or of the function in it, is given something else."""
        root = function.value if isinstance(function, ast.Attribute) else function
        named = getattr(root, "id", "")
        return self._patched or ("", named) in self._bound or (scope, named) in self._bound

    @cached_property
    def _patched(self) -> bool:
        nodes = (node for node, _ in self._walk.nodes if isinstance(node, ast.Attribute))
        return any(_READS.endswith(f".{node.attr}") and not isinstance(node.ctx, ast.Load) for node in nodes)

    # -- how it is used

    @cached_property
    def _asked(self) -> dict[ast.AST, tuple[ast.Attribute, Where]]:
        """The attribute that is asked of each expression that is no name."""
        nodes = ((node, where) for node, where in self._walk.nodes if isinstance(node, ast.Attribute))
        return {node.value: (node, where) for node, where in nodes if not node.attr.startswith("__")}

    @cached_property
    def _asked_names(self) -> dict[tuple[str, str], list[tuple[ast.Attribute, Where]]]:
        found: dict[tuple[str, str], list[tuple[ast.Attribute, Where]]] = {}
        for value, (node, where) in self._asked.items():
            if isinstance(value, ast.Name):
                found.setdefault((where.scope, value.id), []).append((node, where))
        return found

    @cached_property
    def _bound(self) -> dict[tuple[str, str], list[ast.AST]]:
        """What names are given in each scope; where that is no expression, something that is none."""
        found: dict[tuple[str, str], list[ast.AST]] = {}
        stored: Counter[tuple[str, str]] = Counter()
        for node, where in self._walk.nodes:
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                stored[where.scope, node.id] += 1
            for target, value, each in bindings(node):
                if isinstance(target, ast.Name):
                    found.setdefault((where.scope, target.id), []).append(target if each or value is None else value)
        return {
            key: found.get(key, []) if len(found.get(key, ())) == count else [ast.Pass()] * count
            for key, count in stored.items()
        }

    def _use(self, call: ast.Call, where: Where) -> _Use | None:
        """What is asked of the result: at once, or of the one name that it is given to."""
        if call in self._asked:
            return self._asked[call][0].attr, self._always(where)
        scope, name = self._only.get(call, ("", ""))
        uses = self._asked_names.get((scope, name), [])
        sure = next((one.attr for one, its in uses if self._always(its) and self._always(where)), None)
        return (sure, True) if sure else None

    @cached_property
    def _only(self) -> dict[ast.AST, tuple[str, str]]:
        """The name of each expression that is all that a name is given."""
        return {values[0]: name for name, values in self._bound.items() if len(values) == 1}

    # -- what always runs

    @staticmethod
    def _always(where: Where) -> bool:
        return not where.maybe and not where.caught

    @cached_property
    def _answering(self) -> frozenset[str]:
        """The scopes that run with every request: what answers, and what that certainly calls of this file."""
        found: set[str] = set()
        todo = [self._walk.execute]
        while todo:
            scope = todo.pop()
            if scope not in found and self._is_plain(scope):
                found.add(scope)
                todo += self._called_always.get(scope, ())
        return frozenset(found)

    @cached_property
    def _called_always(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for name, calls in self._calls_of.items():
            for _, where in calls:
                if self._always(where):
                    found.setdefault(where.scope, set()).add(name)
        return found

    @cached_property
    def _calls_of(self) -> dict[str, list[tuple[ast.Call, Where]]]:
        """The calls of each function of this file, and of whatever else has a name."""
        found: dict[str, list[tuple[ast.Call, Where]]] = {}
        for call, name, where in self._names.calls:
            owner, _, method = name.partition(".")
            scope = f"{CLASS}.{method}" if owner in ("self", CLASS) and where.owner == CLASS else name
            found.setdefault(scope, []).append((call, where))
        return found

    def _is_plain(self, scope: str) -> bool:
        """Whether a function does, when it is called, what stands in it, and there is no other of its name."""
        function = self._walk.functions.get(scope)
        if not isinstance(function, ast.FunctionDef) or function.decorator_list or self._defined[scope] != 1:
            return False
        owner, _, name = scope.rpartition(".")
        given = self._names.sets(owner, name) if owner else ("", name) in self._bound
        return not given and not any(isinstance(one, ast.Yield | ast.YieldFrom) for one in ast.walk(function))

    @cached_property
    def _defined(self) -> Counter[str]:
        functions = (
            (node, where) for node, where in self._walk.nodes if isinstance(node, FUNCTIONS) and not where.scope
        )
        return Counter(f"{where.owner}.{node.name}" if where.owner else node.name for node, where in functions)

    # -- what a name stands for

    def _may_change(self, node: ast.expr | None) -> bool:
        """Whether a name is one that functions set from within."""
        return node is not None and bool(_names_in(node) & self._globals)

    @cached_property
    def _globals(self) -> frozenset[str]:
        found = (node.names for node, _ in self._walk.nodes if isinstance(node, ast.Global | ast.Nonlocal))
        return frozenset(name for names in found for name in names)

    def _is_a_request(self, node: ast.expr | None, scope: str) -> bool:
        """Whether it is one that the server sent, and not one that the program makes."""
        if not self._makes_requests:
            return node is not None
        requests = self._walk.requests(scope) if scope == self._walk.execute else None
        if requests is None:
            return False
        if isinstance(node, ast.Subscript):
            return isinstance(node.value, ast.Name) and node.value.id == requests
        return isinstance(node, ast.Name) and self._goes_through(node.id, scope, requests)

    @cached_property
    def _makes_requests(self) -> bool:
        return any(name.rpartition(".")[2] == "InferenceRequest" for name in self._names.used)

    def _goes_through(self, name: str, scope: str, requests: str) -> bool:
        """Whether all that a name is given are elements of the requests."""
        loops = [mentions <= {requests, "enumerate"} for mentions in self._loops.get((scope, name), ())]
        return len(loops) == len(self._bound.get((scope, name), ())) and all(loops) and bool(loops)

    @cached_property
    def _loops(self) -> dict[tuple[str, str], list[set[str]]]:
        """By scopes and names, the names in what each loop goes through that gives the name its values."""
        found: dict[tuple[str, str], list[set[str]]] = {}
        for node, where in self._walk.nodes:
            if isinstance(node, ast.For | ast.comprehension):
                for name in _names_in(node.target):
                    found.setdefault((where.scope, name), []).append(_names_in(node.iter))
        return found


def _names_in(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _parameters(function: Function) -> list[str]:
    """The names of parameters, without `self`."""
    names = [one.arg for one in (*function.args.posonlyargs, *function.args.args)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names
