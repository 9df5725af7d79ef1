"""The nodes of a program's tree in their order, each with what is around it.

By hand and not by recursion: a chain of 3,000 `elif` is a tree that deep.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from composer.models.python_code.facts import CLASS
from composer.models.python_code.nodes import (
    FUNCTIONS,
    TRIES,
    catches_imports,
    children,
    constant_test,
    leaving,
    may_suppress,
    suppresses,
)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """What is around a node. `scope` is the outermost function, `Class.method`, or ""; `owner` the class around it.

    `maybe` if it does not always run when its scope does, and nothing before it raises; `optional` if a failed import
    is caught, `caught` if some other exception is.
    """

    scope: str = ""
    owner: str = ""
    maybe: bool = False
    optional: bool = False
    caught: bool = False


Located = tuple[ast.AST, Where]


class Walk:
    """One walk over a program. `nodes` are all that can run, `functions` those in no other, by `Class.name`.

    `execute` is the scope that answers requests: another method's, where that is given to `execute`.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.functions: dict[str, Function] = {}
        self.execute = _execute(tree)
        self._leaving = leaving(tree)
        self._requests: dict[str, str | None] = {}
        self.nodes: tuple[Located, ...] = tuple(self._walk(tree))

    def _walk(self, tree: ast.Module) -> Iterator[Located]:
        stack = list(self._block(tree.body, Where()))[::-1]
        while stack:
            node, where = stack.pop()
            yield node, where
            way = self._ways.get(type(node))
            inner = way(node, where) if way else [(one, where) for one in children(node)]
            stack.extend(list(inner)[::-1])

    @cached_property
    def _ways(self) -> Mapping[type[ast.AST], Callable[[Any, Where], Iterator[Located]]]:
        """How to go into the nodes around which something changes."""
        return {
            **dict.fromkeys((*FUNCTIONS, ast.Lambda), self._function),
            **dict.fromkeys(TRIES, self._try),
            **dict.fromkeys((ast.For, ast.AsyncFor, ast.While), self._loop),
            **dict.fromkeys((ast.With, ast.AsyncWith), self._with),
            **dict.fromkeys((ast.IfExp, ast.BoolOp), self._choice),
            **dict.fromkeys((ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp), self._comprehension),
            ast.comprehension: self._generator,
            ast.ClassDef: self._class,
            ast.If: self._if,
            ast.match_case: self._case,
        }

    def _class(self, node: ast.ClassDef, where: Where) -> Iterator[Located]:
        yield from _all([*node.decorator_list, *node.bases, *node.keywords], where)
        yield from self._block(node.body, where if where.scope or where.owner else replace(where, owner=node.name))

    def _loop(self, node: ast.For | ast.AsyncFor | ast.While, where: Where) -> Iterator[Located]:
        yield from _all([node.test] if isinstance(node, ast.While) else [node.target, node.iter], where)
        maybe = replace(where, maybe=True)
        always = isinstance(node, ast.For) and self._over_requests(node.iter, where)
        yield from self._block(node.body, where if always else maybe)
        yield from self._block(node.orelse, maybe)

    def _with(self, node: ast.With | ast.AsyncWith, where: Where) -> Iterator[Located]:
        optional = where.optional or any(suppresses(item.context_expr) for item in node.items)
        yield from _all(node.items, where)
        caught = where.caught or optional or any(may_suppress(item.context_expr) for item in node.items)
        yield from self._block(node.body, replace(where, optional=optional, caught=caught))

    def _comprehension(self, node: Comprehension, where: Where) -> Iterator[Located]:
        """A loop: what it makes of each element is made once at least if all that it goes through is the requests."""
        first, *others = node.generators
        always = not others and not first.ifs and self._over_requests(first.iter, where)
        maybe = replace(where, maybe=True)
        inner = where if always and not isinstance(node, ast.GeneratorExp) else maybe
        yield first, where
        yield from _all(others, maybe)
        yield from _all([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt], inner)

    def _generator(self, node: ast.comprehension, where: Where) -> Iterator[Located]:
        yield from _all([node.target, node.iter], where)
        yield from _all(node.ifs, replace(where, maybe=True))

    def _choice(self, node: ast.IfExp | ast.BoolOp, where: Where) -> Iterator[Located]:
        yield from _all(children(node), replace(where, maybe=True))

    def _case(self, node: ast.match_case, where: Where) -> Iterator[Located]:
        maybe = replace(where, maybe=True)
        yield from _all([node.guard] if node.guard else [], maybe)
        yield from self._block(node.body, maybe)

    def _over_requests(self, node: ast.expr, where: Where) -> bool:
        """Whether it is what `execute` is given, of which there is always one at least."""
        requests = self.requests(where.scope) if where.scope == self.execute else None
        given = node.args[:1] if isinstance(node, ast.Call) and _is_enumerate(node) else [node]
        return requests is not None and any(isinstance(one, ast.Name) and one.id == requests for one in given)

    def requests(self, scope: str) -> str | None:
        """The name of the second parameter of a method, where it means nothing else in there."""
        if scope not in self._requests:
            function = self.functions.get(scope)
            self._requests[scope] = _second(function) if function else None
        return self._requests[scope]

    def _block(self, body: Sequence[ast.stmt], where: Where) -> Iterator[Located]:
        """Statements in their order: those behind one that may leave do not always run."""
        for statement in body:
            yield statement, where
            if statement in self._leaving and not where.maybe:
                where = replace(where, maybe=True)

    def _function(self, node: Function | ast.Lambda, where: Where) -> Iterator[Located]:
        yield from _all([*node.args.defaults, *(one for one in node.args.kw_defaults if one)], where)
        if isinstance(node, ast.Lambda):
            yield node.body, replace(where, maybe=True)
            return
        yield from _all(node.decorator_list, where)
        if where.scope:
            # A function in a function: its names are taken for the outer one's, and nobody knows when it runs.
            yield from self._block(node.body, replace(where, maybe=True))
            return
        name = f"{where.owner}.{node.name}" if where.owner else node.name
        self.functions.setdefault(name, node)
        yield from self._block(node.body, Where(scope=name, owner=where.owner))

    def _if(self, node: ast.If, where: Where) -> Iterator[Located]:
        yield node.test, where
        sure = constant_test(node.test)
        if sure is not False:
            yield from self._block(node.body, where if sure else replace(where, maybe=True))
        if sure is not True:
            yield from self._block(node.orelse, where if sure is False else replace(where, maybe=True))

    def _try(self, node: ast.Try | ast.TryStar, where: Where) -> Iterator[Located]:
        optional = where.optional or any(catches_imports(handler) for handler in node.handlers)
        caught = where.caught or bool(node.handlers) or any(one in self._leaving for one in node.finalbody)
        yield from self._block(node.body, replace(where, optional=optional, caught=caught))
        for handler in node.handlers:
            yield from _all([handler.type] if handler.type else [], where)
            yield from self._block(handler.body, replace(where, maybe=True))
        yield from self._block(node.orelse, replace(where, maybe=where.maybe or bool(node.handlers)))
        yield from self._block(node.finalbody, where)


def _all(nodes: Sequence[ast.AST], where: Where) -> Iterator[Located]:
    yield from ((node, where) for node in nodes)


def _is_enumerate(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == "enumerate"


def _second(function: Function) -> str | None:
    names = [one.arg for one in (*function.args.posonlyargs, *function.args.args)]
    stored = {one.id for one in ast.walk(function) if isinstance(one, ast.Name) and not isinstance(one.ctx, ast.Load)}
    return names[1] if len(names) > 1 and names[1] not in stored else None


def _execute(tree: ast.Module) -> str:
    """`execute` of the class, or the method that it is another name of: `execute = run`, in the class or behind it."""
    found = f"{CLASS}.execute"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == CLASS:
            for one in node.body:
                found = f"{CLASS}.{_renamed(one, '') or found.partition('.')[2]}"
        elif name := _renamed(node, CLASS):
            found = f"{CLASS}.{name}"
    return found


def _renamed(node: ast.stmt, owner: str) -> str | None:
    """The method of a class that a statement makes its `execute`; `owner` is how the class is called there."""
    if isinstance(node, FUNCTIONS) and not owner:
        return node.name if node.name == "execute" else None
    if not isinstance(node, ast.Assign) or len(node.targets) != 1:
        return None
    target, value = (_plain(one) for one in (node.targets[0], node.value))
    return value[1] if target == (owner, "execute") and value and value[0] == owner else None


def _plain(node: ast.expr) -> tuple[str, str] | None:
    """A name, with what stands before its one dot."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.value.id, node.attr
    return ("", node.id) if isinstance(node, ast.Name) else None
