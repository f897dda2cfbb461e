"""The vocabulary of a batch, from those of the windows it was taken of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup_storage.dedup.expand import offsets_from_lengths
from dedup_storage.reader.decode.encode import Vocabulary

__all__ = ["compact"]

Array = npt.NDArray[Any]


def compact(codes: Sequence[Array], vocabularies: Sequence[Vocabulary]) -> tuple[Array, tuple[Any, ...]]:
    """Codes into one vocabulary that is no longer than the codes are many.

    Args:
        codes: Arrays of codes, -1 for null.
        vocabularies: What each array's codes stand for.
    """
    own = vocabularies[0]
    if any(v is not own for v in vocabularies):
        return _merge(codes, vocabularies)
    together = codes[0] if len(codes) == 1 else np.concatenate(codes)
    if len(own) <= max(len(together), 1):
        return together, own.values
    used, new = np.unique(together, return_inverse=True)
    null = int(len(used) > 0 and used[0] < 0)
    words = own.strings.take(pa.array(used[null:]))
    return (new - null).astype(np.int32), tuple(words.to_pylist())


def _merge(codes: Sequence[Array], vocabularies: Sequence[Vocabulary]) -> tuple[Array, tuple[Any, ...]]:
    """The same for several vocabularies, which may share strings."""
    own = vocabularies[0]
    distinct = list({id(v): v for v in vocabularies}.values())
    bases = dict(zip(map(id, distinct), offsets_from_lengths(list(map(len, distinct))).tolist(), strict=False))
    shifted = [np.where(c >= 0, c + bases[id(v)], -1) for c, v in zip(codes, vocabularies, strict=True)]
    joined = pa.concat_arrays([v.strings.cast(own.strings.type) for v in distinct]).dictionary_encode()
    translate = np.append(joined.indices.to_numpy(zero_copy_only=False), -1).astype(np.int32)
    return compact([translate[np.concatenate(shifted)]], [Vocabulary(joined.dictionary)])
