"""What every use of Spark shares: errors in our words, types, small results, counted reads.

Needs: pyspark, ``schema``, ``errors``.
Gives: ``translated``, ``ddl``, ``only_row``, ``text_frame`` and the like.
May import: nothing of the toolkit above ``schema``.
"""
