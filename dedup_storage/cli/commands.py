"""Commands that take each option once: of two settings files the last one would count, without a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

__all__ = ["Commands"]


class _Command(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; refuse an option that is given twice and holds one value."""
        if not ctx.resilient_parsing:
            *_, order = self.make_parser(ctx).parse_args(args=list(args))
            times = Counter(id(option) for option in order)
            for option in {id(found): found for found in order}.values():
                if times[id(option)] > 1 and _holds_one(option):
                    ctx.fail(f"the option {option.opts[0]} is given twice.")
        return super().parse_args(ctx, args)


def _holds_one(option: Any) -> bool:
    """Whether of several values one would count; a switch that is on twice is on."""
    if option.param_type_name != "option" or option.multiple or getattr(option, "count", False):
        return False
    return not option.is_flag or bool(option.secondary_opts)


class Commands(typer.Typer):
    """An application, or a group of it, of such commands."""

    def command(self, name: str | None = None, **given: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:  # type: ignore[override]
        """See ``Typer.command``."""
        return super().command(name, **{"cls": _Command, **given})
