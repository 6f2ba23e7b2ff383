"""Base: what an op is, and what its result will look like."""
