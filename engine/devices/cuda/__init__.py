"""Devices `GPU:0`, `GPU:1`, ...: graphics processors, by way of CuPy. Only `cupy_runtime` imports CuPy."""
