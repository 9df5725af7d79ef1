"""What names stand for in a program: which modules, and which constants, as far as its text tells."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from composer.models.python_code.nodes import MOST_STEPS, argument, bindings, defaults, short, text_of
from composer.models.python_code.walk import Walk, Where

_MOST_VALUES: Final = 32
"""To how many values a name is followed."""


@dataclass(frozen=True, slots=True)
class _Given:
    """An expression, and the scope in which its names mean something. `each` if what is meant are its elements."""

    node: ast.expr | None
    scope: str
    each: bool = False
    steps: int = 0


class Names:
    """The names of one program."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._aliases = _aliases(walk)
        self._bound: dict[tuple[str, str], list[_Given]] = {}
        self.called: dict[str, list[tuple[ast.Call, str]]] = {}
        """All calls by the last part of what is called, with the scope that they stand in."""
        for node, where in walk.nodes:
            for target, value, each in bindings(node):
                self._bind(target, value, where, each=each)
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                self.called.setdefault(name, []).append((node, where.scope))

    def dotted(self, node: ast.AST) -> str:
        """A name with imported names written out: `numpy.load`. What is no name at its start is empty: `.cuda`."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        parts.append(self._aliases.get(node.id, node.id) if isinstance(node, ast.Name) else "")
        return ".".join(reversed(parts))

    @cached_property
    def used(self) -> frozenset[str]:
        """All dotted names. Endless ones are not among them: nobody writes them, and they are work."""
        nodes = (node for node, _ in self._walk.nodes if isinstance(node, ast.Attribute | ast.Name))
        return frozenset(self.dotted(node) for node in nodes if short(node))

    @cached_property
    def calls(self) -> tuple[tuple[ast.Call, str, Where], ...]:
        """All calls, with the dotted name of what is called."""
        calls = ((node, where) for node, where in self._walk.nodes if isinstance(node, ast.Call))
        return tuple((node, self.dotted(node.func), where) for node, where in calls if short(node.func))

    def sets(self, owner: str, name: str) -> int:
        """How often something is given to an attribute of a class, in it or by `self.`."""
        return len(self._bound.get((f"{owner}.", name), ()))

    def texts(self, node: ast.expr | None, scope: str) -> tuple[str, ...] | None:
        """The texts that an expression may be, in no order; None where that cannot be told."""
        found = self.constants(node, scope)
        texts = [text for one in found or () if (text := text_of(one)) is not None]
        return tuple(dict.fromkeys(texts)) if found and len(texts) == len(found) else None

    def text(self, node: ast.expr | None, scope: str) -> str | None:
        """The one text that an expression is."""
        texts = self.texts(node, scope)
        return texts[0] if texts and len(texts) == 1 else None

    def constant(self, node: ast.expr | None, scope: str) -> ast.expr | None:
        """The one literal that an expression is."""
        found = self.constants(node, scope)
        return found[0] if found and len(found) == 1 else None

    def constants(self, node: ast.expr | None, scope: str) -> list[ast.expr] | None:
        """The literals that an expression may be: names are followed to whatever they are given anywhere."""
        found: list[ast.expr] = []
        todo = [_Given(node, scope)]
        while todo:
            given = todo.pop()
            if given.steps > MOST_STEPS or len(found) + len(todo) > _MOST_VALUES:
                return None
            more = self._followed(given)
            if more is None:
                return None
            todo += [one for one in more if isinstance(one, _Given)]
            found += [one for one in more if isinstance(one, ast.expr)]
        return found

    def _followed(self, given: _Given) -> Sequence[_Given | ast.expr] | None:
        """One step: what an expression is, or what must be followed instead of it."""
        node, scope, steps = given.node, given.scope, given.steps + 1
        if isinstance(node, ast.List | ast.Tuple | ast.Set) and given.each:
            return [_Given(one, scope, steps=steps) for one in node.elts]
        if isinstance(node, ast.IfExp):
            return [_Given(one, scope, given.each, steps) for one in (node.body, node.orelse)]
        if isinstance(node, ast.Name | ast.Attribute):
            return [
                _Given(one.node, one.scope, one.each or given.each, steps) for one in self._given(node, scope)
            ] or None
        if given.each:
            return None
        if isinstance(node, ast.Constant | ast.Dict | ast.List | ast.Tuple | ast.UnaryOp):
            return [node]
        joined = self._joined(node, scope, steps) if node else None
        return [ast.Constant(joined)] if joined is not None else None

    def _joined(self, node: ast.expr, scope: str, steps: int) -> str | None:
        """Texts put together: "a" + B, f"a{B}", if each part is one text."""
        if steps > MOST_STEPS:
            return None
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            parts: list[ast.expr] = [node.left, node.right]
        elif isinstance(node, ast.JoinedStr):
            parts = [one.value if _plain(one) else one for one in node.values]  # type: ignore[attr-defined]
        else:
            return None
        texts = [self._joined(part, scope, steps + 4) or self._part(part, scope, steps) for part in parts]
        known = [text for text in texts if text is not None]
        return "".join(known) if len(known) == len(texts) else None

    def _part(self, node: ast.expr, scope: str, steps: int) -> str | None:
        if isinstance(node, ast.Constant):
            return text_of(node)
        if steps > MOST_STEPS // 2 or not isinstance(node, ast.Name | ast.Attribute):
            return None
        values = {text_of(one.node) for one in self._given(node, scope) if one.node is not None and not one.each}
        return values.pop() if len(values) == 1 and len(self._given(node, scope)) == 1 else None

    def _given(self, node: ast.Name | ast.Attribute, scope: str) -> Sequence[_Given]:
        """What a name was given, everywhere it was. Of a parameter, what this file's own calls give it."""
        owner = scope.partition(".")[0] if "." in scope else ""
        if isinstance(node, ast.Attribute):
            ours = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", owner)
            return self._bound.get((f"{owner}.", node.attr), []) if ours else []
        local = [*self._bound.get((scope, node.id), ()), *self._from_calls(node.id, scope)]
        return local or self._bound.get(("", node.id), [])

    def _from_calls(self, name: str, scope: str) -> Sequence[_Given]:
        function = self._walk.functions.get(scope)
        arguments = function.args if function else ast.arguments([], [], None, [], [], None, [])
        names = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
        if name not in (*names, *(one.arg for one in arguments.kwonlyargs)):
            return ()
        if names[:1] in (["self"], ["cls"]):
            names = names[1:]
        default = defaults(arguments).get(name)
        calls = self.called.get(scope.rpartition(".")[2], ())
        values = [_Given(argument(call, names, name) or default, its) for call, its in calls[: _MOST_VALUES + 1]]
        return values or [_Given(None, scope)]

    def _bind(self, target: ast.expr, value: ast.expr | None, where: Where, *, each: bool) -> None:
        given = _Given(value, where.scope, each)
        if isinstance(target, ast.Name):
            scope = f"{where.owner}." if where.owner and not where.scope else where.scope
            self._bound.setdefault((scope, target.id), []).append(given)
        elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
            if target.value.id in ("self", "cls", where.owner):
                self._bound.setdefault((f"{where.owner}.", target.attr), []).append(given)
        elif isinstance(target, ast.Tuple | ast.List):
            values = value.elts if isinstance(value, ast.Tuple | ast.List) and not each else []
            for index, one in enumerate(target.elts):
                if isinstance(one, ast.Name | ast.Attribute):
                    self._bind(one, values[index] if len(values) == len(target.elts) else None, where, each=False)


def _plain(node: ast.expr) -> bool:
    return isinstance(node, ast.FormattedValue) and node.conversion == -1 and node.format_spec is None


def _aliases(walk: Walk) -> dict[str, str]:
    """The dotted name that each imported name stands for: `np` is `numpy`."""
    aliases: dict[str, str] = {}
    for node, _ in walk.nodes:
        if isinstance(node, ast.Import):
            for one in node.names:
                top = one.name.partition(".")[0]
                aliases[one.asname or top] = one.name if one.asname else top
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            aliases.update({one.asname or one.name: f"{node.module}.{one.name}" for one in node.names})
    return aliases
