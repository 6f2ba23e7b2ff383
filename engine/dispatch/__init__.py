"""Dispatch: from an op and its operands to a record on a queue, or to a result, and a handle of it."""
