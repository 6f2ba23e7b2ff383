"""Parallel: ops that several threads compute, each some part of the result."""
