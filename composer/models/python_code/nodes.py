"""Small questions about nodes of a program's tree, each answered from the node alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Final

from composer.models.configuration import Place

FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)
TRIES: Final = (ast.Try, ast.TryStar)
KILLS: Final = frozenset(["os._exit", "os.abort", "os.kill"])
EXITS: Final = frozenset(["os._exit", "os.abort", "sys.exit", "exit", "quit"])
"""What ends the process; what kills does so whatever is caught."""
_LEAVES: Final = (ast.Return, ast.Break, ast.Continue)
"""What leaves statements, and goes on: where one raises instead, the model fails sooner than at what comes behind."""
_CATCHES_IMPORTS: Final = frozenset(["ImportError", "ModuleNotFoundError", "Exception", "BaseException"])
MOST_STEPS: Final = 12
"""How far names are followed: through so many dots, through so many others."""


def place_of(node: ast.AST) -> Place:
    """Where a node begins, and how long it is on its first line."""
    line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
    end = getattr(node, "end_col_offset", None) if getattr(node, "end_lineno", None) == line else None
    return Place(line=line, column=column + 1, length=max(1, (end or 0) - column))


def text_of(node: ast.AST) -> str | None:
    """The text that a literal is."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def is_exit(node: ast.stmt) -> bool:
    """Whether a statement ends the process."""
    call = node.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
    return call is not None and _written(call.func) in EXITS


def _written(node: ast.expr) -> str:
    """A name, or one with a dot; empty for anything else."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


_NO_PARTS: Final = (ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)
"""Nodes that say how others are meant, and are nothing of their own."""


def children(node: ast.AST) -> list[ast.AST]:
    """The nodes directly below one, in their order."""
    found: list[ast.AST] = []
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, list):
            found += [one for one in value if isinstance(one, ast.AST) and not isinstance(one, _NO_PARTS)]
        elif isinstance(value, ast.AST) and not isinstance(value, _NO_PARTS):
            found.append(value)
    return found


def leaving(tree: ast.Module) -> frozenset[ast.AST]:
    """The statements in which control may leave the statements around them."""
    found: set[ast.AST] = set()
    above: dict[ast.AST, ast.AST | None] = {}
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        for one in _statements(node):
            above[one] = None if isinstance(node, (*FUNCTIONS, ast.Module)) else node
            todo.append(one)
    for one in above:
        up: ast.AST | None = one if isinstance(one, _LEAVES) else None
        while up is not None and up not in found:
            found.add(up)
            up = above[up]
    return frozenset(found)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """The statements directly in one, and the branches of it that have statements of their own."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        value = getattr(node, name, None)
        if isinstance(value, list):
            yield from value


def short(node: ast.AST) -> bool:
    """Whether a chain of attributes is one that a person writes."""
    for _ in range(MOST_STEPS):
        if not isinstance(node, ast.Attribute):
            return True
        node = node.value
    return False


def constant_test(test: ast.expr) -> bool | None:
    """What a condition comes to, where it is always the same in a server."""
    if isinstance(test, ast.Constant):
        return bool(test.value)
    if isinstance(test, ast.Name | ast.Attribute):
        return False if (test.id if isinstance(test, ast.Name) else test.attr) == "TYPE_CHECKING" else None
    return _comparison(test) if isinstance(test, ast.Compare) and len(test.ops) == 1 else None


def _comparison(test: ast.Compare) -> bool | None:
    """The server imports the file, so that it is never the program; and it runs on Linux."""
    left, right = _written(test.left), text_of(test.comparators[0])
    known = {"__name__": None, "sys.platform": "linux", "os.name": "posix"}
    if left not in known or right is None or not isinstance(test.ops[0], ast.Eq | ast.NotEq):
        return None
    return (known[left] == right) is isinstance(test.ops[0], ast.Eq)


def catches_imports(handler: ast.ExceptHandler) -> bool:
    """Whether the program goes on after a failed import."""
    if handler.body and isinstance(handler.body[-1], ast.Raise):
        return False
    return handler.type is None or _names_import_error(handler.type)


def _names_import_error(node: ast.expr) -> bool:
    named = node.elts if isinstance(node, ast.Tuple) else [node]
    return any(isinstance(one, ast.Name) and one.id in _CATCHES_IMPORTS for one in named)


def suppresses(node: ast.expr) -> bool:
    """Whether it is a `contextlib.suppress` that takes failed imports."""
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name == "suppress" and any(_names_import_error(one) for one in node.args)


_LETS_THROUGH: Final = frozenset(
    [
        *("autocast", "device", "enable_grad", "errstate", "inference_mode", "no_grad", "open", "profile"),
        *("record_function", "set_grad_enabled", "stream", "NamedTemporaryFile", "TemporaryDirectory"),
    ]
)
"""What people write behind `with` that never takes an exception; nor do locks."""


def may_suppress(node: ast.expr) -> bool:
    """Whether what stands behind `with` may take exceptions, as far as its name tells."""
    func = node.func if isinstance(node, ast.Call) else node
    name = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
    return name not in _LETS_THROUGH and "lock" not in name.lower()


def bindings(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr | None, bool]]:
    """What a node gives to which names: the value, None where it is no expression; whether each element of it."""
    if isinstance(node, ast.Assign):
        yield from ((target, node.value, False) for target in node.targets)
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
        if node.value is not None:
            yield node.target, node.value, False
    elif isinstance(node, ast.AugAssign):
        yield node.target, None, False
    elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
        yield node.target, node.iter, True
    elif isinstance(node, ast.withitem) and node.optional_vars is not None:
        yield node.optional_vars, None, False


def binds(node: ast.AST, name: str) -> bool:
    """Whether a node makes a name mean something, other than by a class statement."""
    if isinstance(node, ast.ImportFrom | ast.Import):
        return any(one.name == "*" or (one.asname or one.name) == name for one in node.names)
    if isinstance(node, FUNCTIONS):
        return node.name == name
    return isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)


def argument(call: ast.Call, names: Sequence[str], name: str) -> ast.expr | None:
    """An argument by its name, or by its place among `names`."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    index = names.index(name) if name in names else len(call.args)
    given = call.args[: index + 1]
    starred = any(isinstance(one, ast.Starred) for one in given)
    return given[index] if len(given) > index and not starred else None


def defaults(arguments: ast.arguments) -> dict[str, ast.expr | None]:
    """The defaults of parameters by their names."""
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
    found: dict[str, ast.expr | None] = dict(
        zip(names[len(names) - len(arguments.defaults) :], arguments.defaults, strict=True)
    )
    keywords = (one.arg for one in arguments.kwonlyargs)
    return found | dict(zip(keywords, arguments.kw_defaults, strict=True))


def is_true(call: ast.Call, name: str) -> bool:
    """Whether a call says `name=True`."""
    return any(
        one.arg == name and isinstance(one.value, ast.Constant) and one.value.value is True for one in call.keywords
    )


def entries(node: ast.Dict) -> dict[str, ast.expr]:
    """The entries whose keys are texts."""
    pairs = zip(node.keys, node.values, strict=True)
    return {key.value: value for key, value in pairs if isinstance(key, ast.Constant) and isinstance(key.value, str)}


def integer(node: ast.expr) -> int | None:
    """The number that a literal is."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = integer(node.operand)
        return None if inner is None else -inner
    plain = isinstance(node, ast.Constant) and isinstance(node.value, int) and not isinstance(node.value, bool)
    return node.value if plain else None  # type: ignore[attr-defined]


def integers(node: ast.expr) -> tuple[int, ...] | None:
    """The numbers of a literal list."""
    if not isinstance(node, ast.List):
        return None
    found = [integer(one) for one in node.elts]
    return tuple(one for one in found if one is not None) if None not in found else None
