"""Graphs: ops that are written down in place of being run, and what runs them later."""
