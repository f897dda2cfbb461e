"""What a column of a log cannot be, told in the same words whichever engine finds it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dedup_storage.errors import InputError
from dedup_storage.forms import ChosenForm, ElementType, ListForm, Padding, PairsForm, SplitForm, TextForm

__all__ = [
    "EXAMPLE",
    "Refusal",
    "absent_choice",
    "bad_json",
    "bad_pair",
    "bad_part",
    "bare_item",
    "inner_padding",
    "no_brackets",
    "no_item",
    "other_size",
    "short_like",
    "unequal_lists",
]

# Characters of an example that a message shows.
EXAMPLE = 80

_PLAIN = {
    ElementType.INT: "whole numbers of 32 bits in their plain form, without leading zeros",
    ElementType.BIGINT: "whole numbers of 64 bits in their plain form, without leading zeros",
    ElementType.FLOAT: "finite numbers such as 0.5 or 1e3",
    ElementType.DOUBLE: "finite numbers such as 0.5 or 1e3",
    ElementType.BOOLEAN: "true or false",
    ElementType.STRING: "texts that are not empty",
}


@dataclass(frozen=True)
class Refusal:
    """A sentence without its example.

    Attributes:
        what: What is wrong, naming the column.
        expected: What was expected.
        fix: What to do.
    """

    what: str
    expected: str
    fix: str

    def error(self, example: object) -> InputError:
        """The error, with a value that shows it."""
        return InputError(self.what, expected=self.expected, got=repr(str(example)[:EXAMPLE]), fix=self.fix)


def no_brackets(column: str, form: TextForm) -> Refusal:
    """A text without the brackets that its form tells."""
    return Refusal(
        f"a text of the column {column} has no brackets",
        f"{form.brackets[0] if form.brackets else ''}…{form.brackets[1] if form.brackets else ''} around every text",
        f"Correct forms.{column}.brackets, or leave it out.",
    )


def no_item(column: str, form: SplitForm) -> Refusal:
    """An item of a text that is no value of its type."""
    return Refusal(
        f"a text of the column {column} holds an item that is no {form.type.value}",
        f"{_PLAIN[form.type]}, between {form.split!r}",
        f"Correct forms.{column}: split, type, or missing for the text that stands for no value.",
    )


def bare_item(column: str, form: SplitForm) -> Refusal:
    """An item without the quotes that its form tells."""
    return Refusal(
        f"a text of the column {column} holds an item without quotes, or with a quote inside",
        f"{form.quote} around every item, between {form.split!r}",
        f"Correct forms.{column}: quote or split.",
    )


def bad_pair(column: str, form: PairsForm) -> Refusal:
    """An item that has another number of parts."""
    return Refusal(
        f"a text of the column {column} holds an item that is no {form.pairs.join(form.fields)}",
        f"{len(form.fields)} parts with {form.pairs!r} between them in every item, items between {form.split!r}",
        f"Correct forms.{column}: pairs, split or fields"
        + (f"; at: last where {next(iter(form.fields))} may hold {form.pairs!r}." if len(form.fields) == 2 else "."),
    )


def bad_part(column: str, form: PairsForm, field: str) -> Refusal:
    """A part of an item that is no value of its type."""
    kind = form.fields[field]
    return Refusal(
        f"a text of the column {column} holds an item whose {field} is no {kind.value}",
        f"{_PLAIN[kind]} as {field} of {form.pairs.join(form.fields)}",
        f"Correct forms.{column}.fields.{field}, or the log.",
    )


def bad_json(column: str, told: str) -> Refusal:
    """A text that is no JSON of the type told."""
    return Refusal(
        f"a text of the column {column} is no JSON of its type",
        told,
        f"Correct forms.{column}.json, or the log. Lists in Python's own form are read with "
        "{split: ',', brackets: '[]', quote: \"'\"}.",
    )


def other_size(column: str, form: ListForm) -> Refusal:
    """A list of another length than it is told to have."""
    return Refusal(
        f"a list of the column {column} has another length than it is declared to have",
        f"{form.size} elements before padding is removed",
        f"Correct forms.{column}.size, or leave it out.",
    )


def inner_padding(column: str, padding: Padding) -> Refusal:
    """Padding that is left when that of its side is removed."""
    return Refusal(
        f"a list of the column {column} holds its padding value {padding.value!r} inside, after the "
        f"{padding.side.value} side is removed",
        f"{padding.value!r} on the {padding.side.value} alone",
        f"Correct forms.{column}.padding: its side or value; or like: COLUMN, where {padding.value!r} is also a value "
        "and another list of the group has padding of its own.",
    )


def short_like(column: str, padding: Padding) -> Refusal:
    """A list that is shorter than the padding to be removed."""
    return Refusal(
        f"a list of the column {column} is not as long as that of {padding.like}, by which its padding is removed",
        f"lists as long as those of {padding.like}",
        f"Correct forms.{column}.padding.like, or the log.",
    )


def unequal_lists(column: str, leader: str, group: str) -> Refusal:
    """Lists of one group whose lengths differ."""
    return Refusal(
        f"lists of {column} and {leader}, which run in parallel in the group {group}, have different lengths once "
        "their forms are applied",
        "equal lengths in every row",
        f"Correct forms.{column} and forms.{leader} (padding removes the same elements of both with like: COLUMN), or "
        "give one of them another group.",
    )


def absent_choice(column: str, form: ChosenForm) -> Refusal:
    """A chosen one that is not among the candidates."""
    return Refusal(
        f"a row has chosen ones in {form.chosen} that are not among {form.among}, so that {column} cannot tell them",
        f"{form.chosen} among {form.among} in every row",
        f"Set forms.{column}.absent: ignore to leave them out, or correct the log.",
    )
