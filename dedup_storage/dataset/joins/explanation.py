"""An explanation of joins as a whole: plain values for JSON, and how a terminal shows them."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from dedup_storage.dataset.joins.model import ExplainedJoin, Frozen, JoinSide, PlanStep
from dedup_storage.words import human_bytes

__all__ = ["JoinExplanation"]


class JoinExplanation(Frozen):
    """What a query's joins cost, why, and what to do.

    Attributes:
        shuffle_free: No row moves between tasks anywhere in the plan.
        verdict: One sentence.
        joins: The plan's joins, deepest first.
        steps: Its shuffles, broadcasts and sorts, deepest first.
        bucket_join: Whether ``bucket_join`` joins the two sides, with which settings; ``None`` for a query.
    """

    shuffle_free: bool
    verdict: str
    joins: tuple[ExplainedJoin, ...]
    steps: tuple[PlanStep, ...]
    bucket_join: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _rendered(self)


def _rendered(explanation: JoinExplanation) -> Iterator[RenderableType]:
    """Its parts, top to bottom: the verdict, each join with its reasons, the steps."""
    yield Text(explanation.verdict, style="bold green" if explanation.shuffle_free else "bold yellow")
    if explanation.bucket_join:
        yield Text(explanation.bucket_join)
    for number, join in enumerate(explanation.joins, 1):
        yield Text()
        yield Text(f"{number}. {join.how} join on {', '.join(join.on) or 'no key'} ({join.algorithm})", style="bold")
        yield _sides(join)
        for reason in join.reasons:
            yield Text(f"   {'moves because' if reason.blocks else 'note'}: {reason.text}.")
            yield Text(f"   do: {reason.fix}")
    if explanation.steps:
        yield Text()
        yield _steps(explanation.steps)


def _table(*columns: str, right: int) -> Table:
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index >= right else "left", overflow="fold")
    return table


def _sides(join: ExplainedJoin) -> Table:
    table = _table("side", "table", "partitioned by", "rows", "on disk", "as rows", "files", "skew", right=3)
    for name, side in (("left", join.left), ("right", join.right)):
        table.add_row(f"   {name}", *map(Text, _side(side)))
    return table


def _side(side: JoinSide) -> tuple[str, ...]:
    skew = "-" if side.skew is None else f"{side.skew:.1f}x"
    return (
        ", ".join(side.tables) or "no Iceberg table",
        ", ".join(side.partitions) or "-",
        _count(side.rows),
        _bytes(side.stored_bytes),
        _bytes(side.row_bytes),
        _count(side.files),
        skew,
    )


def _steps(steps: tuple[PlanStep, ...]) -> Table:
    table = _table("step", "by", "of", "rows at most", "on disk", "as rows", right=3)
    for step in steps:
        table.add_row(
            step.kind.value,
            Text(step.detail),
            Text(", ".join(step.tables) or "no Iceberg table"),
            _count(step.rows),
            _bytes(step.stored_bytes),
            _bytes(step.row_bytes),
        )
    return table


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _bytes(value: int | None) -> str:
    return "-" if value is None else human_bytes(value)
