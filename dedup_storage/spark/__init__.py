"""Everything that runs on Spark: sessions, writing, joins, features, maintenance."""
