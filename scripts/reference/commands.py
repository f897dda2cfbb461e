"""Every command with its help, from the command line's own objects."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Any

import typer.main

from dedup_storage.cli.app import app
from dedup_storage.cli.options import ConfigOption, DebugOption, JsonOption, QuietOption
from scripts.reference.markdown import compact, escaped, table

__all__ = ["commands", "commands_page", "shown_options"]

# What every command takes; said once.
SHARED = ("--config", "--json", "--debug", "--quiet")
_HEAD = """# Commands

Made from the code. `dedup-storage COMMAND --help` shows the same. Each command is also a script for spark-submit:
`spark-submit jobs/COMMAND.py …` takes the same arguments. In the names of scripts a hyphen is `_`, and the groups
`datasets`, `features`, `sample` and `versions` are one script each.

Exit status of all commands: 0 done, 1 failed while running (nothing half-published), 2 wrong usage or input, 3 refused
by the quality gate, 130 interrupted. The number alone is enough for a scheduler: only 1 is worth a retry.

## All commands take
"""


def commands() -> Iterator[tuple[str, Any]]:
    """(what follows ``dedup-storage``, command), names that are kept for old callers left out."""
    root: Any = typer.main.get_command(app)
    yield from _below(root, "")


def _below(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _below(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def shown_options(command: Any) -> list[Any]:
    """A command's parameters that help shows, without those that every command takes."""
    return [p for p in command.params if not getattr(p, "hidden", False) and p.opts[0] not in SHARED]


def commands_page() -> str:
    """The page's text."""
    shared = [(f"`{name}`", escaped(info.help)) for name, info in zip(SHARED, _shared(), strict=True)]
    parts = [_HEAD, table(("option", "meaning"), shared)]
    for name, command in commands():
        parts.append(f"\n## {name}\n\n{escaped(inspect.cleandoc(command.help or ''))}\n")
        parts.append(f"\n```text\ndedup-storage {name}{_usage(command)}\n```\n\n")
        rows = [(_spelling(p), _meaning(p), _default(p)) for p in shown_options(command)]
        parts.append(table(("option", "meaning", "default"), rows))
    return compact("\n".join(parts))


def _shared() -> list[Any]:
    # Annotated[type, option]
    return [option.__metadata__[0] for option in (ConfigOption, JsonOption, DebugOption, QuietOption)]


def _usage(command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    needed = [p for p in shown_options(command) if p.required and p not in arguments]
    words = [p.name.upper() for p in arguments] + [f"{p.opts[0]} …" for p in needed]
    return "".join(f" {word}" for word in words)


def _spelling(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`"
    return ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))


def _meaning(parameter: Any) -> str:
    kind = parameter.type_descriptor.annotation
    choices = [str(member.value) for member in kind] if isinstance(kind, type) and issubclass(kind, Enum) else []
    said = escaped(parameter.help or "")
    return f"{said} One of {', '.join(f'`{c}`' for c in choices)}." if choices else said


def _default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    value = parameter.default
    if value is None or parameter.multiple:
        return ""
    if isinstance(value, bool):
        return f"`{parameter.opts[0]}`" if value else "off"
    return f"`{value.value if isinstance(value, Enum) else value}`"
