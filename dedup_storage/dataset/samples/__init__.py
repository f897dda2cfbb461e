"""Named samples of whole users: made, stored, read, reported.

Needs: a handle and ``read``.
Gives: sampled frames and the records of samples.
May import: ``dataset.read`` and below.
"""
