"""How a method ends: which of its returns can be reached, and whether its end can."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from composer.models.python_code.facts import Method, Return
from composer.models.python_code.nodes import FUNCTIONS, TRIES, constant_test, is_exit, place_of


def methods_of(node: ast.AST, *, unsure: bool) -> Iterator[tuple[str, Method]]:
    """The methods that one statement in a class makes; `unsure` if it does not always run."""
    if isinstance(node, FUNCTIONS):
        yield node.name, _method(node, unsure=unsure)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id, Method(name=node.id, place=place_of(node), opaque=True)
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for one in node.names:
            yield one.asname or one.name, Method(name=one.asname or one.name, place=place_of(node), opaque=True)


def _method(node: ast.FunctionDef | ast.AsyncFunctionDef, *, unsure: bool) -> Method:
    static = [getattr(one, "id", "") for one in node.decorator_list]
    opaque = unsure or any(name not in ("staticmethod", "classmethod") for name in static)
    returns, ends = _flow(node.body)
    arguments = node.args
    own = len(arguments.posonlyargs) + len(arguments.args) - ("staticmethod" not in static)
    required = own - len(arguments.defaults) + sum(default is None for default in arguments.kw_defaults)
    return Method(
        name=node.name,
        place=place_of(node),
        returns=tuple(returns),
        ends=ends,
        generator=_yields(node),
        opaque=opaque,
        least=required,
        most=None if arguments.vararg else own,
        bound=bool(static),
    )


def _yields(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    todo: list[ast.AST] = [*function.body]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, (*FUNCTIONS, ast.Lambda, ast.ClassDef, ast.GeneratorExp)):
            todo.extend(ast.iter_child_nodes(node))
    return False


def _flow(body: Sequence[ast.stmt]) -> tuple[list[Return], bool]:
    """The returns that can be reached, and whether the end can. Indentation ends at 100, so this may recurse."""
    returns: list[Return] = []
    for statement in body:
        found, goes_on = _step(statement)
        returns += found
        if not goes_on:
            return returns, False
    return returns, True


def _step(node: ast.stmt) -> tuple[list[Return], bool]:
    if isinstance(node, ast.Return):
        return [_return(node)], False
    if isinstance(node, ast.Raise | ast.Break | ast.Continue) or _never_returns(node):
        return [], False
    if isinstance(node, ast.If):
        return _branches(_arms(node))
    if isinstance(node, ast.While | ast.For | ast.AsyncFor):
        return _loop(node)
    if isinstance(node, ast.With | ast.AsyncWith):
        return _flow(node.body)
    if isinstance(node, TRIES):
        return _attempt(node)
    if isinstance(node, ast.Match):
        arms = [case.body for case in node.cases]
        last = node.cases[-1]
        whole = last.guard is None and isinstance(last.pattern, ast.MatchAs) and last.pattern.pattern is None
        return _branches(arms if whole else [*arms, []])
    return [], True


def _arms(node: ast.If) -> list[Sequence[ast.stmt]]:
    """The branches of an `if` with all its `elif`, each of which is an `if` in the one before."""
    arms: list[Sequence[ast.stmt]] = []
    while True:
        sure = constant_test(node.test)
        if sure is not False:
            arms.append(node.body)
        if sure is True:
            return arms
        if len(node.orelse) != 1 or not isinstance(node.orelse[0], ast.If):
            return [*arms, node.orelse]
        node = node.orelse[0]


def _branches(arms: Collection[Sequence[ast.stmt]]) -> tuple[list[Return], bool]:
    returns: list[Return] = []
    goes_on = False
    for arm in arms:
        found, ends = _flow(arm)
        returns += found
        goes_on = goes_on or ends
    return returns, goes_on


def _loop(node: ast.While | ast.For | ast.AsyncFor) -> tuple[list[Return], bool]:
    returns, _ = _flow(node.body)
    otherwise, ends = _flow(node.orelse)
    endless = isinstance(node, ast.While) and constant_test(node.test) is True
    if endless:
        return returns, _breaks(node)
    return [*returns, *otherwise], ends or _breaks(node)


def _breaks(loop: ast.While | ast.For | ast.AsyncFor) -> bool:
    """Whether a `break` of this loop, not of one in it, is anywhere in its body."""
    todo: list[ast.AST] = [*loop.body]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Break):
            return True
        if isinstance(node, ast.While | ast.For | ast.AsyncFor):
            todo.extend(node.orelse)
        elif not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            todo.extend(ast.iter_child_nodes(node))
    return False


def _attempt(node: ast.Try | ast.TryStar) -> tuple[list[Return], bool]:
    last, finished = _flow(node.finalbody)
    if not finished:
        return last, False
    body, went_on = _flow(node.body)
    if went_on and node.orelse:
        more, went_on = _flow(node.orelse)
        body += more
    caught, handled = _branches([handler.body for handler in node.handlers])
    return [*body, *caught, *last], went_on or handled


def _never_returns(node: ast.stmt) -> bool:
    failing = isinstance(node, ast.Assert) and constant_test(node.test) is False
    return failing or is_exit(node)


_LITERALS: Final = {
    ast.Dict: "dict",
    ast.DictComp: "dict",
    ast.Set: "set",
    ast.SetComp: "set",
    ast.Tuple: "tuple",
    ast.JoinedStr: "str",
    ast.GeneratorExp: "generator",
    ast.Lambda: "function",
}


def _return(node: ast.Return) -> Return:
    value, place = node.value, place_of(node)
    if value is None or (isinstance(value, ast.Constant) and value.value is None):
        return Return(kind="none", place=place)
    if isinstance(value, ast.List | ast.ListComp):
        return Return(kind="list", place=place)
    if isinstance(value, ast.Constant):
        return Return(kind="other", place=place, type=type(value.value).__name__)
    if kind := _LITERALS.get(type(value)):
        return Return(kind="other", place=place, type=kind)
    return Return(kind="unknown", place=place)
