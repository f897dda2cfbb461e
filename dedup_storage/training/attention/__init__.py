"""Attention of B candidates over the contexts of R requests; keys and values are never repeated for each candidate.

Needs: torch.
Gives: ``attend`` with backends by device, ``Attention`` for several layers, ``Windows`` of list columns or of shared
event lists, ``AgeBias``.
May import: nothing of the toolkit but ``errors``.
"""

from dedup_storage.training.attention.attend import Attention, Backend, attend
from dedup_storage.training.attention.bias import AgeBias
from dedup_storage.training.attention.reference import attend_plainly
from dedup_storage.training.attention.windows import Moments, Windows

__all__ = ["AgeBias", "Attention", "Backend", "Moments", "Windows", "attend", "attend_plainly"]
