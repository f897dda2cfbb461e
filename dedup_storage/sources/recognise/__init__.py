"""What a log that nobody has described yet could mean, from its names and its first rows.

    head     the first rows, as they lie
    texts    texts that are lists: split, pairs, JSON        lists    padding, order, lists of times
    roles    user, request, item, time, label    nested   lists of candidates or objects
    propose  all of it as a schema, with the reasons (``proposal``)
    written  the schema file, with the reasons as comments

Needs: ``forms``, ``schema``, ``sources`` without Spark.
Gives: ``propose``, ``Proposal``, ``schema_text``.
May import: what ``sources`` may.
"""
