"""The same on a real card; run with `-m gpu`, and never skipped when asked for."""
