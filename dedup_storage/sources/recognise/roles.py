"""Which columns could be the user, the request, the item, the time and the label, by name and by what they hold. Pure.

A name counts first; among columns without a telling name, what they hold decides, and that is said to be unsure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.dedup.runs import single_chunk
from dedup_storage.sources.recognise.lists import plausible_unit
from dedup_storage.sources.recognise.texts import time_pattern

__all__ = ["Found", "Looks", "by_name", "find_item", "find_label", "find_request", "find_time", "find_user", "look"]

# Names as they are without case, underscores and blanks, the more telling first.
USER = (
    "userid", "user", "uid", "userkey", "useridx", "customerid", "customer", "visitorid", "memberid", "reviewerid",
    "accountid", "profileid", "householdid", "playerid", "listenerid", "clientid", "deviceid", "cookieid", "sessionid",
    "session",
)  # fmt: skip
REQUEST = (
    "requestid", "request", "impressionid", "impid", "slateid", "displayid", "searchid", "queryid", "viewid", "pageid",
    "pageviewid", "orderid", "basketid", "invoiceno", "sessionid", "session", "visitid",
)  # fmt: skip
ITEM = (
    "itemid", "item", "iid", "itemidx", "candidateid", "articleid", "newsid", "videoid", "movieid", "productid",
    "parentasin", "asin", "trackid", "songid", "artistid", "aid", "adid", "docid", "documentid", "creativeid",
    "photoid", "bookid", "businessid", "hotelid", "streamid", "sku", "stockcode", "productkey",
)  # fmt: skip
TIME = (
    "requesttime", "impressiontime", "eventtime", "eventtimestamp", "timestamp", "timems", "ts", "time", "datetime",
    "createdat", "unixreviewtime", "timestampms", "tdat", "eventdate", "date", "day",
)  # fmt: skip
LABEL = (
    "label", "clicked", "isclick", "click", "target", "islabel", "isclicked", "iscompleted", "rating", "overall",
    "stars", "score", "islike", "like", "longview", "purchased", "ispurchase", "purchase", "conversion",
    "playedratiopct", "event", "eventtype", "type",
)  # fmt: skip
STEP = ("step", "seq", "sequence", "turn", "page", "number", "index")
CANDIDATES = (
    "impressions", "impression", "candidates", "candidateids", "articleidsinview", "inview", "shown", "slate", "items",
    "displayed", "events",
)  # fmt: skip
CHOSEN = ("articleidsclicked", "clicked", "clicks", "clickeditems", "chosen", "selected", "reference", "purchaseditems")
_HISTORY = re.compile(r"hist|past|previous|recent|seq|last|before|_fixed$")


@dataclass(frozen=True)
class Looks:
    """What the first rows tell of a column of scalars.

    Attributes:
        name: The column.
        kind: Its type.
        distinct: Different values.
        rows: Values that are there.
        binary: Whether it holds 0 and 1, or truth values, alone.
        time: Whether it could be a time.
        pattern: The pattern of its texts, or the unit of its numbers, where they are times.
    """

    name: str
    kind: pa.DataType
    distinct: int
    rows: int
    binary: bool
    time: bool
    pattern: str | None

    @property
    def could_be_id(self) -> bool:
        """Whether it is an integer or a text with many values."""
        whole = pa.types.is_integer(self.kind) or pa.types.is_string(self.kind)
        return bool(whole and not self.binary and not self.time and self.distinct > 1)


@dataclass(frozen=True)
class Found:
    """A role's column.

    Attributes:
        column: Its name.
        because: Why.
        sure: Whether its name tells.
    """

    column: str
    because: str
    sure: bool


def look(name: str, column: pa.ChunkedArray) -> Looks:
    """What the first rows tell of a column of scalars."""
    values, kind = single_chunk(column).drop_null(), column.type
    types = pa.types
    # A column without any value has the type null, which Arrow's `count_distinct` does not know.
    distinct = len(values.unique())
    binary = types.is_boolean(kind)
    time, pattern = types.is_timestamp(kind), None
    if types.is_integer(kind) or types.is_floating(kind):
        binary = bool(len(values)) and bool(pc.all(pc.is_in(values, pa.array([0, 1], kind)), min_count=0).as_py())
        unit = plausible_unit(values)
        time, pattern = unit is not None, None if unit is None else unit.value
    elif types.is_string(kind):
        time, pattern = time_pattern(column)
    return Looks(name, kind, distinct, len(values), binary, time, pattern)


def plain(name: str) -> str:
    """A name without case, underscores and other marks."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def is_history(name: str) -> bool:
    """Whether a name speaks of what was before."""
    return bool(_HISTORY.search(name.lower()))


def by_name(names: Iterable[str], known: Sequence[str]) -> str | None:
    """The column whose name is the first of those known."""
    found = {plain(name): name for name in reversed(list(names))}
    return next((found[told] for told in known if told in found), None)


def _named(looks: Sequence[Looks], known: Sequence[str], fits: Callable[[Looks], bool]) -> Found | None:
    name = by_name([x.name for x in looks if fits(x)], known)
    return None if name is None else Found(name, "its name", True)


def find_user(looks: Sequence[Looks], taken: Sequence[str]) -> Found | None:
    """The user: an id that comes back in several rows."""
    free = [x for x in looks if x.name not in taken]
    found = _named(free, USER, lambda x: pa.types.is_integer(x.kind) or pa.types.is_string(x.kind))
    if found is not None:
        return found
    ids = [x for x in free if x.could_be_id and x.distinct < x.rows]
    return Found(ids[0].name, "the first id that comes back in several rows", False) if ids else None


def find_request(looks: Sequence[Looks], taken: Sequence[str], time: str | None, *, nested: bool) -> Found | None:
    """The request: named, unique in every row of a nested log, or the time of the event."""
    free = [x for x in looks if x.name not in taken]
    found = _named(free, REQUEST, lambda x: not pa.types.is_floating(x.kind) and not x.binary)
    if found is not None:
        sure = nested or plain(found.column) not in ("sessionid", "session", "visitid")
        return Found(found.column, found.because, sure)
    unique = [x for x in free if x.distinct == x.rows > 1 and x.name != time]
    if nested and unique:
        return Found(unique[0].name, "one value in every row", False)
    told = "no column tells requests: what a user did at one time counts as one"
    if time is not None:
        return Found(time, told, False)
    counted = by_name([x.name for x in free if pa.types.is_integer(x.kind)], TIME)
    return None if counted is None else Found(counted, f"{told}; it counts from no known start", False)


def find_item(looks: Sequence[Looks], taken: Sequence[str]) -> Found | None:
    """The item: an id that is not the user."""
    free = [x for x in looks if x.name not in taken]
    found = _named(free, ITEM, lambda x: pa.types.is_integer(x.kind) or pa.types.is_string(x.kind))
    if found is not None:
        return found
    ids = sorted((x for x in free if x.could_be_id), key=lambda x: -x.distinct)
    return Found(ids[0].name, "the id with the most values beside the user", False) if ids else None


def find_time(looks: Sequence[Looks]) -> tuple[Found, str | None] | None:
    """The time of the event, and its unit or pattern."""
    times = [x for x in looks if x.time]
    found = _named(times, TIME, lambda x: True)
    if found is None and times:
        alone = len(times) == 1
        told = "the only column that holds times" if alone else "the first column that holds times"
        found = Found(times[0].name, told, alone and not pa.types.is_integer(times[0].kind))
    return None if found is None else (found, next(x.pattern for x in times if x.name == found.column))


def find_label(looks: Sequence[Looks], taken: Sequence[str]) -> Found | None:
    """The label: named, or the only column of 0 and 1."""
    free = [x for x in looks if x.name not in taken]
    found = _named(free, LABEL, lambda x: not x.time)
    if found is not None:
        return Found(found.column, found.because, plain(found.column) not in ("event", "eventtype", "type"))
    binary = [x for x in free if x.binary]
    return Found(binary[0].name, "the only column of 0 and 1", False) if len(binary) == 1 else None
