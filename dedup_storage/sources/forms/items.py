"""Items of a text as values of their type, exactly or not at all. Pure Arrow."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.forms import BLANKS, ElementType, SplitForm, TextForm
from dedup_storage.sources.forms.lists import Bools, Lists
from dedup_storage.sources.forms.refusals import Refusal, bare_item, no_brackets, no_item

__all__ = ["ARROW_TYPES", "NUMBER", "WHOLE", "pattern_of", "refuse", "split_lists", "split_texts", "values_of"]

ARROW_TYPES = {
    ElementType.STRING: pa.string(),
    ElementType.INT: pa.int32(),
    ElementType.BIGINT: pa.int64(),
    ElementType.FLOAT: pa.float32(),
    ElementType.DOUBLE: pa.float64(),
    ElementType.BOOLEAN: pa.bool_(),
}
# Java's expressions and Arrow's understand these alike.
WHOLE = "^-?(0|[1-9][0-9]{0,18})$"
NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]+)?$"
_SPECIAL = re.compile(r"([!-/:-@\[-`{-~])")
_TRUTH = {"true": True, "True": True, "false": False, "False": False}


def pattern_of(separator: str) -> str:
    """A regular expression for a separator: a blank stands for any run of blanks and line breaks."""
    return f"[{BLANKS}]+" if not separator.strip(" ") else _SPECIAL.sub(r"\\\1", separator)


def refuse(refusal: Refusal, wrong: Bools, examples: pa.Array, lists: Lists | None = None) -> None:
    """Refuse where anything is wrong, with the first example.

    Args:
        refusal: The sentence.
        wrong: (rows,) bool; with ``lists`` (elements,).
        examples: What to show of a row.
        lists: What the elements belong to.

    Raises:
        InputError: something is wrong.
    """
    if wrong.any():
        first = int(np.argmax(wrong))
        row = first if lists is None else lists.row_of(first)
        raise refusal.error(examples[row].as_py())


def bools(flags: pa.Array) -> Bools:
    """Truth values as numpy has them; null is false."""
    found: Bools = pc.fill_null(flags, False).to_numpy(zero_copy_only=False)
    return found


def split_texts(column: str, texts: pa.Array, form: TextForm) -> Lists:
    """Texts taken apart into items, which are texts still.

    Raises:
        InputError: a text has no brackets.
    """
    inner = pc.utf8_trim(texts, characters=BLANKS)
    if form.brackets is not None:
        framed = pc.and_(
            pc.and_(pc.starts_with(inner, form.brackets[0]), pc.ends_with(inner, form.brackets[1])),
            pc.greater_equal(pc.utf8_length(inner), 2),
        )
        refuse(no_brackets(column, form), bools(pc.invert(framed)), texts)
        inner = pc.utf8_trim(pc.utf8_slice_codeunits(inner, 1, -1), characters=BLANKS)
    lists = Lists.of(pc.split_pattern_regex(inner, pattern_of(form.split)))
    # An empty text is a list of nothing, not of one empty item.
    starts, ends = lists.offsets[:-1], lists.offsets[1:]
    lists = lists.between(starts, np.where(bools(pc.equal(inner, "")), starts, ends))
    return lists.with_values(pc.utf8_trim(lists.values, characters=BLANKS))


def split_lists(column: str, texts: pa.Array, form: SplitForm) -> Lists:
    """Texts of the form ``split`` as lists of values.

    Raises:
        InputError: an item is no value of its type, or has no quotes.
    """
    lists = split_texts(column, texts, form)
    items = lists.values
    if form.missing is not None:
        items = pc.if_else(pc.equal(items, form.missing), pa.scalar(None, items.type), items)
    if form.quote is not None:
        mark = pattern_of(form.quote)
        quoted = pc.match_substring_regex(items, f"(?s)^{mark}[^{mark}]*{mark}$")
        refuse(bare_item(column, form), bools(pc.invert(quoted)), texts, lists)
        items = pc.utf8_slice_codeunits(items, 1, -1)
    values, wrong = values_of(items, form.type, empty=form.quote is not None)
    refuse(no_item(column, form), wrong, texts, lists)
    return lists.with_values(values)


def values_of(items: pa.Array, kind: ElementType, *, empty: bool = False) -> tuple[pa.Array, Bools]:
    """Texts as values of a type, and which of them are none.

    Args:
        items: Texts; null stays null.
        kind: Their type.
        empty: Whether an empty text is a text.
    """
    wanted, nothing = ARROW_TYPES[kind], pa.scalar(None, items.type)
    if kind is ElementType.STRING:
        wrong = np.zeros(len(items), dtype=bool) if empty else bools(pc.equal(items, ""))
        return items, wrong
    if kind is ElementType.BOOLEAN:
        fits = pc.is_in(items, pa.array(list(_TRUTH)))
        right = bools(pc.is_in(items, pa.array([t for t, value in _TRUTH.items() if value])))
        values = pc.if_else(pc.is_null(items), pa.scalar(None, pa.bool_()), pa.array(right))
    elif kind in (ElementType.INT, ElementType.BIGINT):
        fits = pc.match_substring_regex(items, WHOLE)
        wide = pc.if_else(fits, items, nothing).cast(pa.decimal128(38, 0))
        limit = 2 ** (wanted.bit_width - 1)
        low, high = (pa.scalar(bound).cast(pa.decimal128(38, 0)) for bound in (-limit, limit - 1))
        fits = pc.and_(fits, pc.and_(pc.greater_equal(wide, low), pc.less_equal(wide, high)))
        values = pc.if_else(fits, wide, pa.scalar(None, wide.type)).cast(wanted)
    else:
        fits = pc.match_substring_regex(items, NUMBER)
        plain = pc.replace_substring_regex(pc.if_else(fits, items, nothing), r"\.($|[eE])", r"\1")
        values = plain.cast(wanted)
        fits = pc.and_(fits, pc.is_finite(values))
    return values, bools(pc.is_valid(items)) & ~bools(fits)
