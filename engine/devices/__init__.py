"""Devices: their names, what they do, and the threads that run their kernels."""
