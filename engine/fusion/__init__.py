"""Fusion: chains of elementwise ops, collected, planned and computed block by block while they are in cache."""
