"""From files to tensors: units, windows, batches in one buffer.

Needs: units of a plan.
Gives: ``DedupBatch``.
May import: ``reader``'s shared modules alone.
"""
