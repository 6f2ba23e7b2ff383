"""The documentation of the ops: a row for each, and what the rows have in common."""
