"""What a configuration can do, found by trying it: machine, packages, store, catalog, engines, joins, clock.

Needs: ``lake`` for what each table format tries (``probes`` of its room), ``dataset.joins`` for the joins' settings.
Gives: ``examine.examine`` and its ``Diagnosis``; the form of a result is ``lake.probing.Probe``.
May import: everything below; no engine before a probe needs it, so that one that is missing is a result.
"""
