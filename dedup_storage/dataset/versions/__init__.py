"""Published versions: listed, pinned, rolled back, checked.

Needs: a handle; ``quality`` for the check.
Gives: ``list_versions``, ``rollback``, ``pin``, ``unpin``, ``check_version``.
May import: ``dataset.features`` for groups' rules, ``quality``, ``lake``.
"""
