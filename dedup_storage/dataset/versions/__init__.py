"""Published versions: listed, pinned, rolled back, checked; publications under way: shown, given up.

Needs: a handle; ``quality`` for the check.
Gives: ``list_versions``, ``rollback``, ``pin``, ``unpin``, ``check_version``, ``Publication``.
May import: ``dataset.features`` for groups' rules, ``quality``, ``lake``.
"""
