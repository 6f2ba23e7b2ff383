"""Native fusion: a group compiled to one function, which computes what NumPy computes without the interpreter."""
