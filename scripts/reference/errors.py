"""Every error class with its exit status, and every message that the code can raise with its remedy."""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dedup_storage
from dedup_storage import errors
from scripts.reference.markdown import compact, escaped, table

__all__ = ["Message", "error_classes", "errors_page", "messages"]

_HEAD = """# Errors

Made from the code. An error is one sentence: what happened and to what, what was expected, what was found; then what to
do. The command line prints it without a trace (`--debug` shows the trace) and ends with the exit status of its class.
In Python every class below is a `DedupStorageError` with the fields `what`, `expected`, `got` and `fix`.

Braces stand for what is filled in: `{name}`. Search this page for a few words of the message that you see.
"""


@dataclass(frozen=True)
class Message:
    """A message as the code states it, what is filled in shown in braces.

    Attributes:
        kind: Name of the error's class.
        what: What happened.
        expected: What was expected, where it is said.
        fix: The remedy, where it is said.
    """

    kind: str
    what: str
    expected: str
    fix: str


def error_classes() -> list[type[errors.DedupStorageError]]:
    """The classes of the error tree, the base first."""
    found = [getattr(errors, name) for name in errors.__all__]
    classes = [kind for kind in found if isinstance(kind, type) and issubclass(kind, errors.DedupStorageError)]
    return sorted(classes, key=lambda kind: (len(kind.__mro__), kind.__name__))


def messages() -> list[Message]:
    """Every message that is written where an error is raised, in order of class and text."""
    names = {kind.__name__ for kind in error_classes()}
    found = set()
    for path in sorted(Path(dedup_storage.__file__).parent.rglob("*.py")):
        found |= set(_of_module(ast.parse(path.read_text(encoding="utf-8")), names))
    return sorted(found, key=lambda m: (m.kind, m.what.lower(), m.fix))


def _of_module(tree: ast.Module, names: set[str]) -> Iterator[Message]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in names:
            continue
        if node.args and (what := _text(node.args[0])):
            given = {k.arg: _text(k.value) for k in node.keywords if k.arg}
            yield Message(node.func.id, what, given.get("expected", ""), given.get("fix", ""))


def _text(node: ast.expr) -> str:
    """A text as the code states it; empty where it is not stated as text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_piece(value) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (_text(node.left) or "{…}") + (_text(node.right) or "{…}")
    if isinstance(node, ast.IfExp):
        return " / ".join(filter(None, (_text(node.body), _text(node.orelse))))
    return ""


def _piece(node: ast.expr) -> str:
    if isinstance(node, ast.FormattedValue):
        inner = node.value
        while isinstance(inner, (ast.Attribute, ast.Subscript, ast.Call)):
            if isinstance(inner, ast.Attribute):
                return f"{{{inner.attr}}}"
            inner = inner.value if isinstance(inner, ast.Subscript) else (inner.args[0] if inner.args else inner.func)
        return f"{{{inner.id}}}" if isinstance(inner, ast.Name) else "{…}"
    return _text(node)


def errors_page() -> str:
    """The page's text."""
    by_kind = defaultdict(list)
    for message in messages():
        by_kind[message.kind].append(message)
    classes = error_classes()
    rows = [
        (f"[`{kind.__name__}`](#{kind.__name__.lower()})", str(kind.exit_code), _bases(kind), _said(kind))
        for kind in classes
    ]
    parts = [_HEAD, table(("class", "exit status", "also a", "raised when"), rows)]
    for kind in classes:
        parts.append(f"\n## {kind.__name__}\n\n{_said(kind)}\n")
        said = by_kind[kind.__name__]
        if said:
            parts.append(table(("message", "expected", "what to do"), map(_row, said)))
        else:
            parts.append("Raised through its subclasses, or by a text that is made while running.\n")
    return compact("\n".join(parts))


def _said(kind: type[errors.DedupStorageError]) -> str:
    """The first paragraph of a class's docstring."""
    return escaped(inspect.getdoc(kind) or "").partition("\n\n")[0]


def _bases(kind: type[errors.DedupStorageError]) -> str:
    return ", ".join(f"`{b.__name__}`" for b in kind.__bases__ if b is not Exception) or "`Exception`"


def _row(message: Message) -> tuple[str, str, str]:
    return escaped(message.what), escaped(message.expected), escaped(message.fix)
