"""A model for each form that a column of a published log can have. Pure.

    split    a list as text, with any separator: ``N1 N2``, ``[1, 2, 3]``, ``['a', 'b']``
    pairs    a list of items as text, each with a label or other parts: ``N1-0 N2-1``
    json     a JSON text: a list or an object
    columns  no column yet: a list whose elements stand in columns of their own: ``hist_1``, ``hist_2``
    chosen   no column yet: which of a list's elements are among those of another column
    (none)   a list that is padded, newest first, of a fixed size, or of objects

Every list may be padded (``padding``), newest first (``order``) or of a fixed size (``size``), and lists of objects
become parallel lists (``into``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from dedup_storage.documents import WholeNumber

__all__ = [
    "BLANKS",
    "Absent",
    "At",
    "ChosenForm",
    "ColumnsForm",
    "ElementType",
    "JsonForm",
    "JsonType",
    "ListForm",
    "Order",
    "Padding",
    "PairsForm",
    "RawForm",
    "Side",
    "SplitForm",
    "TextForm",
]

# What stands between and around items without being part of them.
BLANKS = " \t\r\n"


class ElementType(StrEnum):
    """Type of what a text holds, in Spark's words."""

    STRING = "string"
    INT = "int"
    BIGINT = "bigint"
    FLOAT = "float"
    DOUBLE = "double"
    BOOLEAN = "boolean"


class Order(StrEnum):
    """Which end of a list is the newest; a dataset keeps its lists oldest first."""

    OLDEST_FIRST = "oldest-first"
    NEWEST_FIRST = "newest-first"


class Side(StrEnum):
    """The end of a list that is padded, as it lies in the log."""

    LEFT = "left"
    RIGHT = "right"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Padding(_Strict):
    """What fills a list up to its size; removed on reading.

    Attributes:
        value: The element that fills; ``null`` and ``nan`` are values too. Inside a list it is refused.
        like: Instead of a value: as many elements are removed as of this other column.
        side: The end that is filled.
    """

    value: StrictBool | StrictInt | StrictFloat | StrictStr | None = None
    like: str | None = None
    side: Side

    @field_validator("value")
    @classmethod
    def _nan_as_text(cls, value: Any) -> Any:
        return "nan" if isinstance(value, float) and math.isnan(value) else value

    @model_validator(mode="after")
    def _one_of(self) -> Padding:
        if ("value" in self.model_fields_set) == (self.like is not None):
            raise ValueError("padding needs either a value or like: COLUMN")
        return self

    @model_serializer
    def _plain(self) -> dict[str, Any]:
        told = {"value": self.value} if self.like is None else {"like": self.like}
        return {**told, "side": self.side.value}


class ListForm(_Strict):
    """A column that is a list, or becomes one.

    Attributes:
        order: Which end is the newest; a list that is newest first is turned.
        padding: What fills it up.
        size: Length of every list before padding is removed; others are refused.
        into: Of a list of objects: field -> column, a parallel list each; of an object: field -> column.
    """

    order: Order = Order.OLDEST_FIRST
    padding: Padding | None = None
    size: WholeNumber | None = Field(default=None, ge=1)
    into: Mapping[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _says_something(self) -> ListForm:
        if type(self) is ListForm and self == ListForm.model_construct():
            raise ValueError(
                "the form says nothing; expected split, pairs, json, columns, chosen, padding, order, size or into"
            )
        return self


def _separator(text: Any) -> Any:
    if isinstance(text, str) and not text:
        raise ValueError("a separator has at least one character")
    return text


Separator = Annotated[StrictStr, BeforeValidator(_separator)]


class TextForm(ListForm):
    """A list as text.

    Attributes:
        split: What stands between two items; a blank stands for any run of blanks and line breaks. Blanks around items
            are no part of them.
        brackets: The two characters around the whole text, such as ``[]``; a text without them is refused.
    """

    split: Separator = " "
    brackets: str | None = Field(default=None, min_length=2, max_length=2)


class SplitForm(TextForm):
    """A list as text, such as ``N1 N2`` or ``[1, 2, 3]``.

    Attributes:
        type: Of the items; an item that is none in its plain form is refused.
        quote: The character around each item; an item without it is refused.
        missing: The text that stands for an item without a value.
    """

    split: Separator
    type: ElementType = ElementType.STRING
    quote: str | None = Field(default=None, min_length=1, max_length=1)
    missing: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> SplitForm:
        if self.into:
            raise ValueError("into is for lists of objects; items of split are no objects")
        return self


class At(StrEnum):
    """Where a pair is split."""

    EACH = "each"
    LAST = "last"


class PairsForm(TextForm):
    """Items with further parts as text, such as ``N1-0 N2-1``.

    A candidate's parts become impression columns (``candidates: {COLUMN: "*"}``); elsewhere each field becomes a
    parallel list.

    Attributes:
        pairs: What stands between the parts of an item.
        fields: Name -> type of each part, in order.
        at: ``each`` separator splits, and their number must be right; ``last``: only the last one does, of two fields.
    """

    pairs: Separator
    fields: Mapping[str, ElementType]
    at: At = At.EACH

    @model_validator(mode="after")
    def _consistent(self) -> PairsForm:
        if len(self.fields) < 2:
            raise ValueError("fields names the parts of a pair: at least two; for one, use split")
        if self.at is At.LAST and len(self.fields) != 2:
            raise ValueError("at: last splits an item into two fields")
        if self.pairs == self.split:
            raise ValueError("pairs and split are the same text")
        if self.into:
            raise ValueError("into is not needed: fields names the columns")
        return self


# A name of a type, [type] for a list, {field: type} for an object.
JsonType: TypeAlias = "ElementType | list[JsonType] | dict[str, JsonType]"


def _json_type(told: Any) -> Any:
    if isinstance(told, str):
        try:
            return ElementType(told)
        except ValueError:
            known = ", ".join(e.value for e in ElementType)
            raise ValueError(f"{told!r} is no type; expected one of {known}, [TYPE] or {{field: TYPE}}") from None
    if isinstance(told, (list, tuple)) and len(told) == 1:
        return [_json_type(told[0])]
    if isinstance(told, Mapping) and told and all(isinstance(k, str) for k in told):
        return {key: _json_type(inner) for key, inner in told.items()}
    raise ValueError("the type of a JSON text is [TYPE] for a list or {field: TYPE} for an object")


def _json_root(told: Any) -> Any:
    if isinstance(told, str):
        raise ValueError(f"a JSON text is a list or an object; expected [{told}] or {{field: {told}}}")
    return _json_type(told)


class JsonForm(ListForm):
    """A JSON text.

    Attributes:
        json_type: In a file ``json``: ``[bigint]`` for a list, ``{aid: bigint, type: string}`` for an object,
            ``[{aid: bigint}]`` for a list of objects. Fields that are not named are left out; one that is missing is
            null.
    """

    model_config = ConfigDict(populate_by_name=True)

    json_type: Annotated[Any, BeforeValidator(_json_root)] = Field(alias="json")

    @model_validator(mode="after")
    def _consistent(self) -> JsonForm:
        told = self.json_type
        fields = told[0] if isinstance(told, list) else told
        if self.into and not isinstance(fields, dict):
            raise ValueError("into is for objects, or lists of them")
        unknown = [f for f in self.into if f not in fields]
        if unknown:
            raise ValueError(f"into: the field {unknown[0]} is not in json")
        if isinstance(told, dict) and (self.padding or self.size or self.order is Order.NEWEST_FIRST):
            raise ValueError("padding, size and order are of lists; json tells an object")
        return self


class ColumnsForm(ListForm):
    """A list that the log holds in columns of their own, one for each element.

    Attributes:
        columns: The columns, in order; they are no columns of the log any more.
    """

    columns: Annotated[tuple[str, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _consistent(self) -> ColumnsForm:
        if self.into:
            raise ValueError("into is for lists of objects; columns hold plain values")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("columns names a column twice")
        return self


class Absent(StrEnum):
    """What becomes of a chosen one that is not among the candidates."""

    REFUSE = "refuse"
    IGNORE = "ignore"


class ChosenForm(_Strict):
    """A list of 0 and 1 that the log does not have: which candidates were chosen.

    Attributes:
        among: Column of a list, the candidates.
        chosen: Column of the chosen ones: a list, or one value; where it is null, nothing was chosen. It is not looked
            at in rows without candidates.
        absent: What becomes of a chosen one that is not among the candidates: the log is refused, or it is left out.
    """

    among: str
    chosen: str
    absent: Absent = Absent.REFUSE


# The key that tells a form; pairs have a separator too, and come first.
_KINDS: dict[type[BaseModel], str] = {
    PairsForm: "pairs",
    SplitForm: "split",
    JsonForm: "json",
    ColumnsForm: "columns",
    ChosenForm: "chosen",
}


def _kind(told: Any) -> str | None:
    if isinstance(told, BaseModel):
        return _KINDS.get(type(told), "list")
    if not isinstance(told, Mapping):
        return None
    if "json_type" in told:
        return "json"
    return next((key for key in _KINDS.values() if key in told), "list")


RawForm = Annotated[
    Annotated[SplitForm, Tag("split")]
    | Annotated[PairsForm, Tag("pairs")]
    | Annotated[JsonForm, Tag("json")]
    | Annotated[ColumnsForm, Tag("columns")]
    | Annotated[ChosenForm, Tag("chosen")]
    | Annotated[ListForm, Tag("list")],
    Discriminator(
        _kind,
        custom_error_type="form",
        custom_error_message="a form is a mapping, such as {split: ' '} or {order: newest-first}",
    ),
]
