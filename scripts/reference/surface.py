"""The public Python surface: signatures and docstrings."""

from __future__ import annotations

import enum
import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import dedup_storage
from scripts.reference.markdown import compact, docstring_parts, escaped, fields, table

__all__ = ["public_names", "surface_page"]

# Module -> the names that this page shows of it; what a user calls, no helpers.
_MODULES: tuple[tuple[str, str], ...] = (
    (
        "dedup_storage",
        "The way in. `import dedup_storage` needs neither Spark nor torch; what needs one brings it in when used.",
    ),
    ("dedup_storage.dataset.features.accessor:Features", "`Dataset.features`."),
    ("dedup_storage.dataset.samples.accessor:Samples", "`Dataset.samples`."),
    ("dedup_storage.dataset.inspect.accessor:Inspect", "`Dataset.inspect`."),
    (
        "dedup_storage.dataset.functions",
        "Feature functions: expressions and frames over requests, each with the rows of its user alone.",
    ),
    ("dedup_storage.dataset.joins", "Joins that stay inside their buckets."),
    ("dedup_storage.reader", "Batches for PyTorch. Needs the extra `reader`, neither Spark nor Java."),
    ("dedup_storage.training", "Losses, norms, diagnostics. torch alone."),
    ("dedup_storage.training.attention", "Candidates attend to contexts that are never repeated for them."),
    ("dedup_storage.training.cross_attention", "Layers of such attention."),
    ("dedup_storage.training.context_cache", "Encoded contexts kept between scoring calls."),
    ("dedup_storage.errors", "Errors; [Errors](errors.md) lists their messages."),
)
_HEAD = """# Python

Made from the code: every name below is public, with its signature and its docstring. Names that start with an
underscore, and modules that are not listed, may change in any release.
"""


def public_names() -> Iterator[tuple[str, str, Any]]:
    """(module, name, object) of the public surface."""
    seen = set()
    for entry, _ in _MODULES:
        for name, value in _names(entry):
            if id(value) not in seen:
                seen.add(id(value))
                yield entry.partition(":")[0], name, value


def _names(entry: str) -> Iterator[tuple[str, Any]]:
    place, _, only = entry.partition(":")
    module = importlib.import_module(place)
    for name in [only] if only else [n for n in module.__all__ if not n.startswith("__")]:
        yield name, getattr(module, name)


def surface_page() -> str:
    """The page's text."""
    parts, shown = [_HEAD], set()
    for entry, said in _MODULES:
        place, _, only = entry.partition(":")
        parts.append(f"\n## {only or place}\n\n{said}\n")
        for name, value in _names(entry):
            if id(value) in shown:
                continue
            shown.add(id(value))
            parts += _shown(name, value)
    return compact("\n".join(parts))


def _shown(name: str, value: Any) -> list[str]:
    parts = [f"\n### {name}\n"]
    if inspect.isclass(value):
        if not issubclass(value, enum.Enum):
            parts.append(_signature(name, value))
        parts.append(_docs(value))
        for method, function in _methods(value):
            parts.append(f"\n#### {name}.{method}\n")
            if callable(function):
                parts.append(_signature(method, function))
            parts.append(_docs(function))
    elif callable(value):
        parts += [_signature(name, value), _docs(value)]
    else:
        parts.append(f"`{value!r}`\n")
    return parts


def _methods(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that a class of this project defines, in the order of the code."""
    for base in reversed([c for c in kind.__mro__ if c.__module__.startswith(dedup_storage.__name__)]):
        for name, member in vars(base).items():
            if name.startswith("_") or getattr(kind, name, None) is None:
                continue
            if isinstance(member, (classmethod, staticmethod)):
                yield name, getattr(kind, name)
            elif isinstance(member, property) or (inspect.isfunction(member) and member.__doc__):
                yield name, member


def _signature(name: str, value: Any) -> str:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    shown = [
        p.replace(annotation=_bare(p.annotation), default=_plain_default(p.default))
        for p in signature.parameters.values()
        if p.name != "self"
    ]
    arguments = [str(p) for p in _marked(shown)]
    result = signature.return_annotation
    told = "" if result in (inspect.Signature.empty, None, "None") else f" -> {_bare(result)}"
    one = f"{name}({', '.join(arguments)}){told}"
    if len(one) > 100:
        lines = "".join(f"    {argument},\n" for argument in arguments)
        one = f"{name}(\n{lines}){told}"
    return f"```python\n{one}\n```\n"


def _marked(parameters: list[inspect.Parameter]) -> Iterator[Any]:
    starred = False
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            starred = True
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        yield parameter


def _plain_default(default: Any) -> Any:
    """A default as a caller would write it."""
    if isinstance(default, enum.Enum):
        return default.value
    return _Plain("{}") if repr(default) == "<factory>" else default


def _bare(annotation: Any) -> Any:
    """Annotations as the code writes them, which are texts here, without quotes."""
    if isinstance(annotation, str):
        return _Plain(annotation)
    return annotation


class _Plain:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text

    __str__ = __repr__


def _docs(value: Any) -> str:
    said, sections = docstring_parts(inspect.getdoc(value) or "")
    parts = [_paragraphs(said)]
    for title, text in sections.items():
        rows = fields(text) if title in ("Args", "Attributes", "Raises") else []
        if title.startswith("Example"):
            parts.append("```pycon\n" + text.replace("  # doctest: +SKIP", "") + "\n```\n")
        elif rows:
            parts.append(f"**{title}**\n\n" + table(("name", "meaning"), [(f"`{n}`", escaped(t)) for n, t in rows]))
        else:
            parts.append(f"**{title}** {escaped(text)}\n")
    return "\n".join(part for part in parts if part)


def _paragraphs(text: str) -> str:
    """Prose as prose, indented blocks as code."""
    blocks = []
    for block in text.split("\n\n"):
        indented = block.startswith("    ")
        blocks.append(f"```text\n{block}\n```" if indented else escaped(block))
    return "\n\n".join(blocks) + "\n" if text else ""
