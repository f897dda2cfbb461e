"""OpenLineage events: which run read which version and published which, and where the columns of features come from.

Needs: ``openlineage-python`` (extra ``lineage``) where the settings say that events are sent, a dataset's metadata.
Gives: ``told``, inside which every run that a user starts does its work; ``accounts``, what such a run read and made.
May import: ``lake``'s metadata without Spark, ``config``; ``events`` and ``receiver`` alone know OpenLineage's classes.
"""
