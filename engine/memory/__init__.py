"""Memory: buffers that are used again, how arrays lie in memory, and what refers to them."""
