"""Every setting and every key of a schema file, from the models that validate them."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from dedup_storage.config import Settings
from dedup_storage.quality.own import SUPPORTED
from dedup_storage.schema import LogSchema
from dedup_storage.settings_file import FILE_SECRETS
from dedup_storage.variables import ENV_PREFIX
from scripts.reference.markdown import compact, docstring_parts, escaped, fields, table

__all__ = ["schema_models", "schema_page", "setting_names", "settings_page"]

_SETTINGS_HEAD = """# Settings

Made from the code. Settings come from a YAML file (`--config`, else `conf/local.yaml` of the working directory, else
the embedded defaults), then from the environment, which wins: `{prefix}` and the key in capitals, levels joined with
two underscores, such as `{prefix}CATALOG__URI`. Mappings and lists are given there as JSON. An unknown key is an error.
The secrets {secrets} come from the environment alone.

`{prefix}CONFIG`, `{prefix}DATASET`, `{prefix}RUN_ID`, `{prefix}QUIET` and `{prefix}DEBUG` stand for the
options of the same names.
"""
_SCHEMA_HEAD = """# Schema file

Made from the code. A schema file says what the columns of a log mean. `dedup-storage infer-schema` writes one;
`dedup-storage validate LOG --schema FILE` tells whether a log fits it. A file needs `user`, `request` and `item`; an
unknown key is an error.
"""


# What docstrings do not say of single fields.
_FIELDS = {
    "ColumnCheck": {
        "not_null": "Whether every row must have a value.",
        "minimum": "Least value allowed, itself included.",
        "maximum": "Greatest value allowed, itself included.",
        "allowed": "All values that may occur.",
    },
}
_WORDS = {
    "str": "text", "int": "whole number", "float": "number", "bool": "true or false", "SecretStr": "secret text",
    "Any": "anything",
    "date": "date", "datetime": "time",
}  # fmt: skip
_EXPECTATIONS = """What the file that `quality.expectations` names may ask for: an entry has a `grain`, one of these
types, and its arguments as `kwargs`.
"""


def setting_names(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from setting_names(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


def settings_page() -> str:
    """The page of settings."""
    secrets = ", ".join(f"`{name}`" for name in FILE_SECRETS)
    parts = [_SETTINGS_HEAD.format(prefix=ENV_PREFIX, secrets=secrets)]
    top = {n: f for n, f in Settings.model_fields.items() if not _is_model(f.annotation)}
    parts.append("## Top level\n\n" + table(("key", "type", "default", "meaning"), _rows(top, _texts(Settings))))
    for name, field in Settings.model_fields.items():
        if _is_model(field.annotation):
            kind = typing.cast("type[BaseModel]", field.annotation)
            parts.append(f"## {name}\n\n{_described(kind, prefix=f'{name}.')}")
    return compact("\n".join(parts))


def schema_page() -> str:
    """The page of a schema file's keys."""
    parts = [_SCHEMA_HEAD]
    for title, kind in schema_models().items():
        parts.append(f"## {title}\n\n{_described(kind)}")
    rows = [(f"`{name}`", ", ".join(f"`{a}`" for a in sorted(arguments))) for name, arguments in SUPPORTED.items()]
    parts.append(f"## Own expectations\n\n{_EXPECTATIONS}\n" + table(("type", "arguments"), rows))
    return compact("\n".join(parts))


def schema_models() -> dict[str, type[BaseModel]]:
    """Title -> model of each part of a schema file: the file, and the entries inside it, however deep."""
    found: dict[type[BaseModel], str] = {LogSchema: "Top level"}
    waiting = [LogSchema]
    while waiting:
        for key, field in waiting.pop(0).model_fields.items():
            inner = [kind for kind in _models_in(field.annotation) if kind not in found]
            for kind in inner:
                found[kind] = f"An entry of `{key}`" + (f": {kind.__name__}" if len(inner) > 1 else "")
            waiting += inner
    return {title: kind for kind, title in found.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if _is_model(annotation):
        return [annotation]
    return [kind for part in typing.get_args(annotation) for kind in _models_in(part)]


def _described(model: type[BaseModel], prefix: str = "") -> str:
    said, _ = docstring_parts(inspect.getdoc(model) or "")
    rows = _rows(model.model_fields, _texts(model), prefix)
    return f"{escaped(said)}\n\n" + table(("key", "type", "default", "meaning"), rows)


def _texts(model: type[BaseModel]) -> dict[str, str]:
    """Field -> what the docstrings of a model and of those that it is made from say of it."""
    said: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        _, sections = docstring_parts(inspect.cleandoc(kind.__doc__ or ""))
        said |= fields(sections.get("Attributes", ""))
    return {**_FIELDS.get(model.__name__, {}), **said}


def _rows(model_fields: Mapping[str, Any], texts: Mapping[str, str], prefix: str = "") -> list[tuple[str, ...]]:
    rows = []
    for name, field in model_fields.items():
        dotted = prefix + name
        meaning = escaped(texts.get(name, "")).replace("`None`", "None")
        rows.append((f"`{dotted}`", escaped(type_text(field.annotation)), _default(field), meaning))
    return rows


def _default(field: Any) -> str:
    if field.is_required():
        return "needed"
    if field.default is PydanticUndefined:
        made = field.default_factory()
        return "none" if not made else f"`{made}`"
    value = field.default
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value.value if isinstance(value, Enum) else value}`"


def type_text(kind: Any) -> str:
    """A type in a few words."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, UnionType):
        return " or ".join(dict.fromkeys(type_text(k) for k in inner if k is not NoneType))
    if origin is typing.Literal:
        return " or ".join(map(str, inner))
    if origin in (tuple, list):
        return f"list of {type_text(inner[0])}"
    if origin is typing.Annotated:
        return type_text(inner[0])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"mapping of {type_text(inner[0])} to {type_text(inner[1])}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " or ".join(str(member.value) for member in kind)
    if _is_model(kind):
        return "entry, see below"
    return _WORDS.get(getattr(kind, "__name__", ""), str(kind))


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
