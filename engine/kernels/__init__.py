"""Kernels of the engine's own: fused elementwise runs, executed block by block in cache, and reused buffers."""
