"""What can be done with one dataset: a room for each thing a user does, and ``facade`` over them.

Needs: ``lake``, ``sources``, ``quality``, ``report``.
Gives: ``facade.Dataset``.
May import: rooms import those below them (``setup.cfg`` lists the floors), none imports the facade.
"""
