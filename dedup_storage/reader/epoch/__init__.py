"""One pass: the order of batches, the thread that makes them ahead, the state to resume from.

Needs: a ``ReadPlan``.
Gives: batches in order and a state that fits in JSON.
May import: ``reader.open``, ``reader.decode``.
"""
