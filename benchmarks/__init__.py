"""What eagerloop costs and saves, measured beside NumPy and the systems that solve the same problem."""
