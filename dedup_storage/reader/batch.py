"""DedupBatch: request rows once, impression rows, and the index that puts them together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.reduction import ForkingPickler
from typing import Any, cast

import torch
from torch import Tensor

from dedup_storage.choices import choice
from dedup_storage.errors import InverseIndexError, UnknownColumnError, UsageError, known_names
from dedup_storage.reader.blocks import Sent, receive, send
from dedup_storage.reader.column import Column, repeated
from dedup_storage.reader.forms import (
    arrow_table,
    keyed_jagged,
    pandas_frame,
    pipelineable,
    plain_tensors,
    shown_columns,
)
from dedup_storage.reader.layout import IMPRESSIONS, INVERSE, LENGTHS, REQUESTS, STARTS, FieldView, Layout, packed
from dedup_storage.reader.progress import Progress
from dedup_storage.reader.shared import SharedLists
from dedup_storage.schema import Grain
from dedup_storage.training.masks import negative_mask
from dedup_storage.words import counted, human_bytes

__all__ = ["DedupBatch", "FieldView", "Progress"]

_START = Progress()
# Of Python's description of an object, where a batch crosses to another process as any object does.
_PROTOCOL = 4


@dataclass(frozen=True)
class DedupBatch:
    """R request rows, B impression rows, ``inverse_indices`` (B,) into the requests, ``lengths`` (R,).

    Impressions of one request lie together, in the order of the requests. All tensors are views into one buffer, so
    that crossing a worker, pinning and copying to a device cost one operation each; tensors that a transform adds
    stand beside it. Index with a column's name: ``batch["item_id"]`` is a ``Column``.

    Attributes:
        buffer: (num_bytes,) uint8.
        layout: What lies in ``buffer``.
        sizes: R, B, and the elements of each list column: with ``layout`` they say where.
        vocabularies: The strings behind the codes of string columns.
        user_column: Name of the user key.
        item_column: Name of the item column.
        label_columns: Names of the labels.
        sequence_columns: Names of the history lists.
        progress: Where the batch stands in the epoch.
        extras: Columns added by ``with_columns``: (grain, column) by name.
    """

    buffer: Tensor
    layout: Layout
    sizes: tuple[int, ...]
    vocabularies: Mapping[str, tuple[Any, ...]]
    user_column: str
    item_column: str
    label_columns: tuple[str, ...] = ()
    sequence_columns: tuple[str, ...] = ()
    progress: Progress = _START
    extras: Mapping[str, tuple[Grain, Column]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pipelineable(DedupBatch)

    # -- rows ---------------------------------------------------------------------------------------------------
    def _view(self, view: FieldView) -> Tensor:
        width = view.dtype.itemsize
        return self.buffer[view.start : view.start + view.size * width].view(view.dtype)

    @property
    def views(self) -> tuple[FieldView, ...]:
        """What lies where in ``buffer``."""
        return self.layout.views(self.sizes)

    def _index(self, part: str) -> Tensor:
        return self._view(self.layout.of("", self.sizes)[part])

    @property
    def lengths(self) -> Tensor:
        """(R,) int64: impressions of each request."""
        return self._index(LENGTHS)

    @property
    def inverse_indices(self) -> Tensor:
        """(B,) int64: the request row of each impression, ascending."""
        return self._index(INVERSE)

    @property
    def offsets(self) -> Tensor:
        """(R + 1,) int64: request r has the impressions offsets[r] to offsets[r + 1]."""
        return torch.nn.functional.pad(self.lengths.cumsum(0), (1, 0))

    @property
    def num_requests(self) -> int:
        """R."""
        return self.sizes[REQUESTS]

    @property
    def num_impressions(self) -> int:
        """B."""
        return self.sizes[IMPRESSIONS]

    def __len__(self) -> int:
        return self.num_impressions

    def __repr__(self) -> str:
        """Rows, bytes, and the dtype of each column, never values."""
        rows = f"{counted(self.num_requests, 'request')}, {counted(self.num_impressions, 'impression')}"
        first = f"DedupBatch({rows}, {human_bytes(self.num_bytes)} on {self.device}, batch {self.progress.index}"
        return "\n".join([first, *shown_columns(self.requests, self.impressions)]) + ")"

    @property
    def num_bytes(self) -> int:
        """Bytes that cross to a device."""
        return self.buffer.numel() + sum(
            t.numel() * t.element_size() for _, c in self.extras.values() for t in c.tensors().values()
        )

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.buffer.device

    # -- columns ------------------------------------------------------------------------------------------------
    @property
    def grains(self) -> dict[str, Grain]:
        """Grain of each column, requests first, each in the dataset's order."""
        return {**self.layout.grains, **{name: grain for name, (grain, _) in self.extras.items()}}

    def __contains__(self, name: object) -> bool:
        return name in self.grains

    def __iter__(self) -> Iterator[str]:
        return iter(self.grains)

    def __getitem__(self, name: str) -> Column:
        if name in self.extras:
            return self.extras[name][1]
        parts = {part: self._view(view) for part, view in self.layout.of(name, self.sizes).items()}
        if not parts or name == "":
            raise UnknownColumnError(f"the batch has no column {name}", expected=known_names(name, self.grains))
        if STARTS in parts:
            return SharedLists(vocabulary=self.vocabularies.get(name), **parts).lists()
        return Column(vocabulary=self.vocabularies.get(name), **parts)

    @property
    def shared(self) -> dict[str, SharedLists]:
        """List columns of requests that share elements, with ``histories="shared"``; ``batch[name]`` gathers them."""
        found = {name: self.layout.of(name, self.sizes) for name in self.layout.grains if name not in self.extras}
        return {
            name: SharedLists(vocabulary=self.vocabularies.get(name), **{p: self._view(v) for p, v in parts.items()})
            for name, parts in found.items()
            if STARTS in parts
        }

    def to_requests(self) -> DedupBatch:
        """The batch with lists of their own in place of shared ones, gathered on its device."""
        if not self.shared:
            return self
        named = [("", LENGTHS, self.lengths), ("", INVERSE, self.inverse_indices)]
        named += [(name, part, t) for name in self.layout.grains for part, t in self[name].tensors().items()]
        buffer, layout, sizes = packed(self.layout.grains, named, self.layout.types)
        return replace(self, buffer=buffer, layout=layout, sizes=sizes)

    def request_users(self) -> tuple[Tensor, Tensor]:
        """The users of the batch (U,) int64, as ``user_ids``, and which of them each request is of, (R,) int64."""
        users, index = torch.unique(self.user_ids(), return_inverse=True)
        return users, index

    def _of(self, grain: Grain) -> dict[str, Column]:
        return {name: self[name] for name, g in self.grains.items() if g is grain}

    @property
    def requests(self) -> dict[str, Column]:
        """Request-grain columns, R rows each."""
        return self._of(Grain.REQUEST)

    @property
    def impressions(self) -> dict[str, Column]:
        """Impression-grain columns, B rows each."""
        return self._of(Grain.IMPRESSION)

    @property
    def labels(self) -> dict[str, Column]:
        """Label columns, B rows each."""
        return {name: self[name] for name in self.label_columns if name in self.grains}

    # -- between the grains -------------------------------------------------------------------------------------
    def counts(self) -> Tensor:
        """(R,) int64: impressions of each request; the weights that make R rows count as B."""
        return self.lengths

    def expand(self, rows: Tensor) -> Tensor:
        """One row per impression from one row per request, on the tensor's own device; differentiable.

        Args:
            rows: (R, ...), any dtype.

        Returns:
            (B, ...), same dtype and device.

        Raises:
            InverseIndexError: ``rows`` has another number of rows than the batch has requests.
        """
        if rows.shape[0] != self.num_requests:
            raise InverseIndexError(
                "expand needs one row per request",
                expected=f"{self.num_requests} rows",
                got=f"{rows.shape[0]}",
                fix="Pass a tensor computed from this batch's request columns.",
            )
        return repeated(rows, self.inverse_indices.to(rows.device))

    def user_ids(self, level: Grain | str = Grain.REQUEST) -> Tensor:
        """The user of each request (R,) or of each impression (B,), int64, the same in every batch and on every rank.

        String keys are hashed to 64 bits, as with ``strings='hash'``, which spares doing it here.
        """
        users = self[self.user_column].ids()
        return users if _of_rows(level) is Grain.REQUEST else self.expand(users)

    def item_ids(self, column: str | None = None) -> Tensor:
        """(B,) int64: the item of each impression, the same in every batch and on every rank.

        With a vocabulary its ids, so that all items that it does not hold count as one item, 0.

        Args:
            column: Name of the item column; ``None`` takes the dataset's. A request-grain column is expanded.
        """
        name = column if column is not None else self.item_column
        ids = self[name].ids()
        return ids if self.grains[name] is Grain.IMPRESSION else self.expand(ids)

    def negative_mask(
        self,
        users: Tensor | None = None,
        items: Tensor | None = None,
        *,
        item_column: str | None = None,
        first: int = 0,
    ) -> Tensor:
        """Which candidates of a (gathered) batch are true negatives of each impression of this batch.

        M_ij = [i = j] or (u_i != u_j and y_i != y_j): another impression of the same user or of the same item is no
        negative. Users are compared by their keys, never by inverse indices, which collide between ranks.

        Args:
            users: (N,) ``user_ids("impression")`` of every candidate, gathered over ranks in rank order; ``None``
                takes this batch's.
            items: (N,) ``item_ids()`` of every candidate; ``None`` takes this batch's.
            item_column: Name of the item column; ``None`` takes the dataset's.
            first: Place of this batch's first impression among the N.

        Returns:
            (B, N) bool, True on the diagonal ``j = first + i``.

        Raises:
            UsageError: users and items are not of the same candidates, or this batch's lie not among them.
        """
        own_users = self.user_ids(Grain.IMPRESSION)
        own_items = self.item_ids(item_column)
        all_users = own_users if users is None else users
        all_items = own_items if items is None else items
        if len(all_users) != len(all_items) or not 0 <= first <= len(all_users) - len(own_users):
            raise UsageError(
                "the candidates do not fit",
                expected=f"as many users as items, and this batch's {len(own_users)} from {first} on",
                got=f"{len(all_users)} users and {len(all_items)} items",
                fix="Gather user_ids('impression') and item_ids() of all ranks, in the same order.",
            )
        places = torch.arange(first, first + len(own_users), device=own_users.device)
        return negative_mask(own_users, own_items, all_users, all_items, places)

    def weighted_moments(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance that R request rows have once expanded to B impressions.

        mu = sum_r c_r x_r / sum_r c_r and sum_r c_r (x_r - mu)^2 / sum_r c_r with c_r impressions of request r.

        Args:
            rows: (R, ...) floating point.

        Returns:
            Mean (...) and biased variance (...), equal to those of ``expand(rows)`` over its first dimension; summed in
            float32, or float64 for float64 rows, and of the rows' dtype.
        """
        # Half precision cannot tell counts above a few hundred apart, nor hold their sum.
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        weights = self.counts().to(wide.device, wide.dtype).reshape(-1, *[1] * (rows.dim() - 1))
        total = weights.sum()
        mean = (weights * wide).sum(0) / total
        variance = (weights * (wide - mean) ** 2).sum(0) / total
        kept = rows.dtype if rows.is_floating_point() else wide.dtype
        return mean.to(kept), variance.to(kept)

    # -- moving -------------------------------------------------------------------------------------------------
    def _map(self, move: Callable[[Tensor], Tensor]) -> DedupBatch:
        extras = {
            name: (grain, column.with_tensors({part: move(t) for part, t in column.tensors().items()}))
            for name, (grain, column) in self.extras.items()
        }
        return replace(self, buffer=move(self.buffer), extras=extras)

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> DedupBatch:
        """The batch on another device: one copy, whatever the number of columns."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self, device: torch.device | str | None = None) -> DedupBatch:
        """The batch in page-locked memory; called by ``DataLoader(pin_memory=True)``."""
        return self._map(lambda t: t.pin_memory())

    def is_pinned(self) -> bool:
        """Whether every tensor is in page-locked memory; one without elements has none to lock."""
        added = [t for _, column in self.extras.values() for t in column.tensors().values()]
        return all(t.is_pinned() for t in (self.buffer, *added) if t.numel())

    def record_stream(self, stream: Any) -> None:
        """Tell the allocator that ``stream`` uses every tensor, so that none is reused too early."""
        self.buffer.record_stream(stream)
        for _, column in self.extras.values():
            for tensor in column.tensors().values():
                tensor.record_stream(stream)

    # -- forms --------------------------------------------------------------------------------------------------
    def with_columns(
        self,
        requests: Mapping[str, Tensor | Column] | None = None,
        impressions: Mapping[str, Tensor | Column] | None = None,
    ) -> DedupBatch:
        """The batch with columns added or replaced, for transforms; moved to the batch's device where they are not.

        Raises:
            InverseIndexError: a column has another number of rows than its grain.
            UsageError: a name is given at both grains.
        """
        both = [name for name in requests or () if name in (impressions or ())]
        if both:
            raise UsageError(f"two columns are called {both[0]}", fix="A batch knows a column by its name alone.")
        extras = dict(self.extras)
        for grain, columns, rows in (
            (Grain.REQUEST, requests, self.num_requests),
            (Grain.IMPRESSION, impressions, self.num_impressions),
        ):
            for name, values in (columns if columns is not None else {}).items():
                column = values if isinstance(values, Column) else Column(values=values)
                if len(column) != rows:
                    raise InverseIndexError(
                        f"the column {name} does not fit the {grain.value} grain",
                        expected=f"{rows} rows",
                        got=f"{len(column)}",
                    )
                there = {part: t.to(self.device) for part, t in column.tensors().items()}
                extras[name] = (grain, column.with_tensors(there))
        return replace(self, extras=extras)

    def as_dict(self) -> dict[str, Tensor]:
        """Plain tensors by name: ``column``, ``column.offsets``, ``column.valid``, ``inverse_indices``, ``lengths``.

        A column whose own name is ``inverse_indices`` or ``lengths`` comes as ``request.lengths`` (``impression.…``).

        Raises:
            UsageError: two tensors would have one name, which only ``with_columns`` can bring about.
        """
        index = {INVERSE: self.inverse_indices, LENGTHS: self.lengths}
        return plain_tensors(index, {name: (grain, self[name]) for name, grain in self.grains.items()})

    def to_nested(self) -> dict[str, Tensor]:
        """Plain tensors by column name; list columns as jagged NestedTensors, null elements left out."""
        return {name: self[name].to_nested() for name in self.grains}

    def to_kjt(
        self,
        columns: Sequence[str] | None = None,
        grain: Grain | str = Grain.REQUEST,
        *,
        buckets: Mapping[str, int] | int | None = None,
    ) -> Any:
        """List and integer columns of one grain as a torchrec ``KeyedJaggedTensor``.

        A scalar column becomes lists of length 1 (0 where it is null); null elements of lists are left out. Each grain
        is a tensor of its own: look request columns up for R rows and ``expand`` what comes out.

        Args:
            columns: Names; ``None`` takes every integer column of the grain, and none of codes, which mean another
                string in each batch.
            grain: ``request`` (stride R) or ``impression`` (stride B).
            buckets: Rows of each column's embedding table, or of all: the ids are then ``Column.buckets``, 1 to so many
                (texts too), and the table has one more row. Without it they are the values as they are.

        Raises:
            MissingDependencyError: torchrec is not installed.
            UnknownColumnError: a column that this grain of the batch does not have.
            UsageError: a column of codes, or there is no column to take.
        """
        chosen = _of_rows(grain)
        return keyed_jagged(self._of(chosen), columns, chosen.value, buckets)

    def to_arrow(self, grain: Grain | str = Grain.IMPRESSION) -> Any:
        """A pyarrow table for people: strings, nulls, dates and times put back as the log has them.

        Timestamps have microseconds, and UTC where the column is one of instants; decimals are float64, as in tensors.
        Hashes and ids of a vocabulary stay numbers, and so does what ``with_columns`` added.

        Args:
            grain: ``impression`` for B rows with the request columns repeated, ``request`` for R rows of these alone.
        """
        # A column that was added in the place of another one has a type of its own.
        types = {name: kind for name, kind in self.layout.types.items() if name not in self.extras}
        inverse = self.inverse_indices if _of_rows(grain) is Grain.IMPRESSION else None
        return arrow_table(self.requests, self.impressions, inverse, types)

    def to_pandas(self, grain: Grain | str = Grain.IMPRESSION) -> Any:
        """A pandas frame, as ``to_arrow``: dates and times are ``datetime64``, and ``NaT`` where they are null.

        Whole numbers and booleans with nulls are of pandas' nullable types (``Int64``, ``UInt64``, ``boolean``), so
        that no id becomes a float; lists are arrays, with null ones among their numbers Python lists. Times of day are
        ``datetime.time``, durations ``timedelta64``.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        return pandas_frame(self.to_arrow(grain))


def _of_rows(grain: Grain | str) -> Grain:
    """A grain that a batch has rows of; events are elements of its lists."""
    return choice(Grain, grain, "grain of a batch", (Grain.REQUEST, Grain.IMPRESSION))


def _cross(batch: DedupBatch) -> str | tuple[Any, ...]:
    """How a batch goes from a worker to its main process: its buffer stays where it is."""
    sent = send(batch.buffer)
    if sent is None:
        return cast("tuple[Any, ...]", batch.__reduce_ex__(_PROTOCOL))
    return _crossed, (sent, {name: value for name, value in vars(batch).items() if name != "buffer"})


def _crossed(sent: Sent, rest: dict[str, Any]) -> DedupBatch:
    return DedupBatch(buffer=receive(sent), **rest)


ForkingPickler.register(DedupBatch, _cross)
