"""Encoded contexts kept between scoring calls: a user's context is encoded once, any number of candidates read it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise

import torch
from torch import Tensor

from dedup_storage.errors import UsageError
from dedup_storage.training.cross_attention import EncodedContexts

__all__ = ["CacheStatistics", "ContextCache", "ContextKey", "history_digests"]


@dataclass(frozen=True)
class ContextKey:
    """What an encoded context is known by. A changed history or model is another key, so it is never scored with an old
    context.

    Attributes:
        user: User id.
        history: Digest of all that the encoder reads of the history (``history_digests``).
        model: Version of the model whose weights encode it.
    """

    user: int | str
    history: bytes
    model: str


@dataclass(frozen=True)
class CacheStatistics:
    """What a cache did and holds.

    Attributes:
        hits, misses: Contexts found, and contexts that had to be encoded.
        evicted: Contexts that made room for others.
        contexts, num_bytes: Held now.
    """

    hits: int
    misses: int
    evicted: int
    contexts: int
    num_bytes: int

    @property
    def hit_rate(self) -> float:
        """Share of the contexts asked for that were found; 0 before the first."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0


def history_digests(offsets: Tensor, *columns: Tensor) -> list[bytes]:
    """A digest of each request's history: of the values of all its parallel lists, and of their types.

    Args:
        offsets: (R + 1,) int64.
        columns: (T,) or (T, ...) each: everything that the encoder reads, in values that mean the same in every batch.
            Codes of a batch's own vocabulary do not: pass ``column.ids()``. Columns on a device are copied from it; it
            costs less to ask before the batch is moved there.

    Returns:
        R digests of 16 bytes (BLAKE2b).

    Raises:
        UsageError: no column is given, or one has another number of elements than the offsets tell of.
    """
    if not columns:
        # All histories would have one digest, and each user one context for ever.
        raise UsageError(
            "a history is told by its columns, and none is given",
            fix="Pass the offsets, then the values of every list that the encoder reads.",
        )
    rows = [c.detach().cpu().contiguous() for c in columns]
    bounds = offsets.tolist()
    # What lies outside of the offsets would be in no digest, and a change there would not be seen.
    wrong = [len(c) for c in rows if len(c) != (bounds or [0])[-1]]
    if wrong or (bounds and bounds[0] != 0):
        raise UsageError(
            "the offsets do not fit the history's columns",
            expected=f"from 0 to {wrong[0] if wrong else bounds[-1]}",
            got=f"from {bounds[0] if bounds else 0} to {bounds[-1] if bounds else 0}",
            fix="Pass the offsets and the values of the same lists.",
        )
    head = repr([(str(c.dtype), tuple(c.shape[1:])) for c in rows]).encode()
    found = []
    for first, last in pairwise(bounds):
        digest = blake2b(head, digest_size=16)
        for column in rows:
            digest.update(column[first:last].view(torch.uint8).numpy().tobytes() if last > first else b"")
        found.append(digest.digest())
    return found


@dataclass
class _Entry:
    layers: tuple[tuple[Tensor, Tensor], ...]
    length: int
    num_bytes: int
    encoded_on: torch.device | None


class ContextCache:
    """Encoded contexts, at most so many bytes; those not used for longest go first. Safe for threads.

    Two threads that miss one context at once may both encode it; either result is right, and one is kept.

    Args:
        max_bytes: Bound of the keys and values that are held.
        device: Where they are held; ``None`` leaves them where the encoder put them. ``"cpu"`` holds contexts that a
            GPU has no room for: they are copied back when they are read.
        pin: Hold them in pinned memory, so that copies to a GPU run beside its work; needs ``device="cpu"``.

    Example:
        >>> cache = ContextCache(max_bytes=2 << 30)
        >>> contexts = cache.contexts(keys, lambda missing: model.encode(*tokens_of(missing)))
        >>> scores = head(model(candidates, contexts, inverse_indices))
    """

    def __init__(self, max_bytes: int, *, device: torch.device | str | None = None, pin: bool = False) -> None:
        if max_bytes <= 0:
            raise UsageError("the cache holds nothing", expected="max_bytes above 0", got=str(max_bytes))
        if pin and (device is None or torch.device(device).type != "cpu"):
            raise UsageError("only contexts held on the CPU can be pinned", fix="Pass device='cpu' with pin=True.")
        self.max_bytes, self.device, self.pin = max_bytes, device, pin
        self._entries: OrderedDict[ContextKey, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes = self._hits = self._misses = self._evicted = 0

    @property
    def statistics(self) -> CacheStatistics:
        """What it did and holds now."""
        with self._lock:
            return CacheStatistics(self._hits, self._misses, self._evicted, len(self._entries), self._bytes)

    def clear(self) -> None:
        """Let everything go, as after a new model was loaded."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def contexts(
        self,
        keys: Sequence[ContextKey],
        encode: Callable[[list[int]], EncodedContexts],
        *,
        device: torch.device | str | None = None,
    ) -> EncodedContexts:
        """The contexts of some requests, those that are not held encoded now.

        Args:
            keys: Of R requests; a key may come more than once, and is encoded once.
            encode: Given the places of the requests whose contexts are missing, encodes these, in that order. It is
                called at most once, without gradients, and not at all when nothing is missing.
            device: Where the result lies; ``None`` takes the encoder's device, whether anything was encoded now or
                all was held.

        Returns:
            R contexts in the order of ``keys``.

        Raises:
            UsageError: the encoder gave another number of contexts than it was asked for.
        """
        found: dict[ContextKey, _Entry] = {}
        missing: dict[ContextKey, int] = {}
        with self._lock:
            for place, key in enumerate(keys):
                if key in self._entries:
                    self._entries.move_to_end(key)
                    found[key] = self._entries[key]
                    self._hits += 1
                elif key in missing:
                    self._hits += 1
                else:
                    missing[key] = place
                    self._misses += 1
        if missing:
            with torch.no_grad():
                made = encode(list(missing.values()))
            if len(made.offsets) - 1 != len(missing):
                raise UsageError(
                    "the encoder gave another number of contexts",
                    expected=str(len(missing)),
                    got=str(len(made.offsets) - 1),
                )
            for key, (first, last) in zip(missing, pairwise(made.offsets.tolist()), strict=True):
                found[key] = self._keep(key, made, first, last)
        wanted = [found[key] for key in keys]
        if device is None and wanted:
            # What was encoded now, if anything was, says where the model is: it may have moved meanwhile.
            device = found[next(iter(missing), keys[0])].encoded_on
        return _joined(wanted, device)

    def _keep(self, key: ContextKey, made: EncodedContexts, first: int, last: int) -> _Entry:
        layers = tuple((self._held(k[first:last]), self._held(v[first:last])) for k, v in made.layers)
        size = sum(t.numel() * t.element_size() for pair in layers for t in pair)
        entry = _Entry(layers, last - first, size, made.layers[0][0].device if made.layers else None)
        if size > self.max_bytes:
            return entry
        with self._lock:
            former = self._entries.pop(key, None)
            self._bytes += size - (former.num_bytes if former is not None else 0)
            self._entries[key] = entry
            while self._bytes > self.max_bytes:
                _, oldest = self._entries.popitem(last=False)
                self._bytes -= oldest.num_bytes
                self._evicted += 1
        return entry

    def _held(self, rows: Tensor) -> Tensor:
        # A slice would keep the whole batch's memory alive.
        kept = rows.detach().to(self.device, copy=True) if self.device is not None else rows.detach().clone()
        return kept.pin_memory() if self.pin else kept


def _joined(entries: Sequence[_Entry], device: torch.device | str | None) -> EncodedContexts:
    offsets = torch.tensor([0, *(e.length for e in entries)], dtype=torch.int64).cumsum(0)
    layers = []
    for number in range(len(entries[0].layers) if entries else 0):
        sides = [[entry.layers[number][side] for entry in entries] for side in (0, 1)]
        if device is not None:
            # Rows on their way to the CPU would be read before they have come.
            beside = torch.device(device).type != "cpu"
            sides = [[rows.to(device, non_blocking=beside) for rows in side] for side in sides]
        keys, values = (torch.cat(side) for side in sides)
        layers.append((keys, values))
    return EncodedContexts(tuple(layers), offsets.to(layers[0][0].device) if layers else offsets)
