"""The nodes of a program's tree in their order, each with what is around it.

By hand and not by recursion: a chain of 3,000 `elif` is a tree that deep.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from composer.models.python_code.nodes import (
    FUNCTIONS,
    TRIES,
    catches_imports,
    children,
    constant_test,
    leaving,
    suppresses,
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """What is around a node. `scope` is the outermost function, `Class.method`, or ""; `owner` the class around it.

    `maybe` if it does not always run when its scope does; `optional` if a failed import is caught, `caught` if some
    other exception is.
    """

    scope: str = ""
    owner: str = ""
    maybe: bool = False
    optional: bool = False
    caught: bool = False


Located = tuple[ast.AST, Where]


class Walk:
    """One walk over a program. `nodes` are all that can run, `functions` those in no other, by `Class.name`."""

    def __init__(self, tree: ast.Module) -> None:
        self.functions: dict[str, Function] = {}
        self._leaving = leaving(tree)
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
        yield from self._block(node.body, where if self._over_requests(node, where) else maybe)
        yield from self._block(node.orelse, maybe)

    def _with(self, node: ast.With | ast.AsyncWith, where: Where) -> Iterator[Located]:
        optional = where.optional or any(suppresses(item.context_expr) for item in node.items)
        yield from _all(node.items, where)
        yield from self._block(node.body, replace(where, optional=optional, caught=where.caught or optional))

    def _choice(self, node: ast.IfExp | ast.BoolOp, where: Where) -> Iterator[Located]:
        yield from _all(children(node), replace(where, maybe=True))

    def _case(self, node: ast.match_case, where: Where) -> Iterator[Located]:
        maybe = replace(where, maybe=True)
        yield from _all([node.guard] if node.guard else [], maybe)
        yield from self._block(node.body, maybe)

    def _over_requests(self, node: ast.stmt, where: Where) -> bool:
        """Whether it is a loop over what `execute` is given, of which there is always one at least."""
        function = self.functions.get(where.scope)
        if function is None or function.name != "execute" or not isinstance(node, ast.For):
            return False
        names = [one.arg for one in function.args.args]
        given = node.iter.args[:1] if isinstance(node.iter, ast.Call) and _is_enumerate(node.iter) else [node.iter]
        return any(isinstance(one, ast.Name) and one.id in names[1:2] for one in given)

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
        caught = where.caught or bool(node.handlers)
        yield from self._block(node.body, replace(where, optional=optional, caught=caught))
        for handler in node.handlers:
            yield from _all([handler.type] if handler.type else [], where)
            yield from self._block(handler.body, replace(where, maybe=True))
        yield from self._block([*node.orelse, *node.finalbody], where)


def _all(nodes: Sequence[ast.AST], where: Where) -> Iterator[Located]:
    yield from ((node, where) for node in nodes)


def _is_enumerate(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == "enumerate"
