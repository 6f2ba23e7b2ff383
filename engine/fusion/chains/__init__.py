"""Chains of ops that come again and again: planned and compiled once, then computed by one call on the same thread."""
