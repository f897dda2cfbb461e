"""What the forms of a schema are together: the columns they make, and whether that fits their roles. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dedup_storage.forms.models import ChosenForm, ColumnsForm, ListForm, Order, PairsForm

__all__ = ["check_forms", "first_read", "made_columns"]


def made_columns(column: str, form: ListForm | ChosenForm, *, candidates: bool) -> Iterator[str]:
    """Names of the standard columns that a column of this form becomes.

    Args:
        column: Its name in the log.
        form: Its form.
        candidates: Whether it is a list of candidates, whose parts become impression columns later.
    """
    if isinstance(form, PairsForm) and not candidates:
        yield from form.fields
    elif isinstance(form, ListForm) and form.into and not candidates:
        yield from form.into.values()
    else:
        yield column


def first_read(column: str, form: ListForm | ChosenForm) -> str:
    """The first column of a log that a form reads."""
    if isinstance(form, ChosenForm):
        return form.among
    return form.columns[0] if isinstance(form, ColumnsForm) else column


def check_forms(
    forms: Mapping[str, ListForm | ChosenForm],
    candidates: Mapping[str, str],
    item: str,
    groups: Mapping[str, Sequence[str]],
) -> None:
    """Check forms against the roles of their columns.

    Args:
        forms: Column -> its form.
        candidates: List of candidates -> impression column.
        item: The item's column.
        groups: Group of parallel lists -> its columns.

    Raises:
        ValueError: what does not fit, naming the column.
    """
    made = [m for column, form in forms.items() for m in made_columns(column, form, candidates=column in candidates)]
    twice = sorted({c for c in made if made.count(c) > 1})
    if twice:
        raise ValueError(f"forms: two forms make the column {twice[0]}")
    for column, form in forms.items():
        if isinstance(form, PairsForm):
            _check_pairs(column, form, candidates, item)
        if isinstance(form, ListForm) and column in candidates and form.order is Order.NEWEST_FIRST:
            raise ValueError(f"forms.{column}: candidates have no order of time")
        if isinstance(form, ListForm) and form.padding is not None and form.padding.like is not None:
            other = forms.get(form.padding.like)
            if not isinstance(other, ListForm) or other.padding is None or other.padding.like is not None:
                raise ValueError(
                    f"forms.{column}.padding: like names {form.padding.like}, which has no padding value of its own"
                )
    for group, members in groups.items():
        orders = {c: _order_of(c, forms) for c in members}
        if len(set(orders.values())) > 1:
            told = ", ".join(f"{c} {o.value}" for c, o in orders.items())
            raise ValueError(f"the lists of the group {group} run in parallel, but in several orders: {told}")


def _check_pairs(column: str, form: PairsForm, candidates: Mapping[str, str], item: str) -> None:
    if column in candidates and candidates[column] != "*":
        raise ValueError(f"candidates.{column}: pairs become several columns; expected '*'")
    if column not in candidates and item in form.fields:
        raise ValueError(f"forms.{column} makes the item; expected candidates: {{{column}: '*'}}")


def _order_of(column: str, forms: Mapping[str, ListForm | ChosenForm]) -> Order:
    """The order in the log of the list that a column is made of."""
    for source, form in forms.items():
        if isinstance(form, ListForm) and column in made_columns(source, form, candidates=False):
            return form.order
    return Order.OLDEST_FIRST
