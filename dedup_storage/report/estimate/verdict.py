"""Whether the user grain would pay, said in a sentence."""

from __future__ import annotations

from dedup_storage.report.model import Range
from dedup_storage.words import human_bytes

__all__ = ["verdict"]

# Below, decoding less is not worth a layout that reads two tables for one list.
_LEAST_SAVING = 1.25
_MOST_STORED = 1.05
_MOST_CHOSEN = 0.5


def verdict(
    ratio: Range,
    no_windows: Range,
    *,
    repeats: bool,
    stored_split: Range | None,
    stored_user: Range | None,
    decoded_split: Range,
    decoded_user: Range,
) -> tuple[bool, str]:
    """Judge a sequence group by what is decoded, then by what is stored.

    Args:
        ratio: Tokens / tokens to store.
        no_windows: Share of lists that are no windows.
        repeats: Some user has two requests with a history.
        stored_split, stored_user, decoded_split, decoded_user: Bytes; stored ones where they were measured.

    Returns:
        Whether it pays, and why.
    """
    if not repeats:
        return False, "It does not pay: no user has two requests with a history, so no event is stored twice."
    if no_windows.value > _MOST_CHOSEN:
        return False, (
            f"It does not pay: {no_windows.value:.0%} of the lists are no windows of their user's list. They are "
            f"chosen by the request, or ordered anew each time, and would stay lists."
        )
    saving = decoded_split.value / decoded_user.value if decoded_user.value else 1.0
    if saving < _LEAST_SAVING:
        return False, (
            f"It does not pay: decoding falls by {saving:.2f}x only, with {ratio.value:.2f} tokens for each event "
            f"that is stored."
        )
    decodes = f"{human_bytes(decoded_user.value)} decoded for {human_bytes(decoded_split.value)} ({saving:.1f}x less)"
    if stored_split is None or stored_user is None:
        return True, f"It pays: {decodes} in an epoch over all dates."
    stores = f"{human_bytes(stored_user.value)} stored for {human_bytes(stored_split.value)}"
    if stored_user.value > _MOST_STORED * stored_split.value:
        return False, f"It does not pay on disk: {stores}; it would pay in decoding alone: {decodes}."
    sure = "" if stored_user.high <= stored_split.low else ", with intervals that overlap"
    return True, f"It pays: {stores}{sure}, and {decodes} in an epoch over all dates."
