"""Table formats and versions."""
