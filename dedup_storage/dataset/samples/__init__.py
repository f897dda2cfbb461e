"""Named samples of whole users: made, stored, read, reported.

Needs: a handle; ``sampling`` for definitions and estimates.
Gives: ``accessor.Samples``, frames cut down to a sample, and a sample as the users of a backfill.
May import: ``dataset.read``, ``dataset.write``, ``dataset.backfill`` for its request, ``lake``.
"""
