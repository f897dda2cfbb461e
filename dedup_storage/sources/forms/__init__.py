"""Columns of published logs as standard columns: lists as text, pairs, JSON texts, padding, order.

    kinds     which columns a log has then, or why a form does not fit
    arrow     rows as Arrow tables          spark     rows as a Spark frame: expressions, no shuffle, no Python
    flat      a log as plain flat rows, for what reads files itself

Both engines follow the same rules, word for word the same refusals (``refusals``), and are held against each other by
tests.

Needs: ``forms``, ``schema``, ``dedup``.
Gives: ``standard_table``, ``standard_frame``, ``standard_kinds``, ``flat_source``.
May import: ``report``, ``spark`` and below.
"""
