"""Functions of the user's own as ops."""
