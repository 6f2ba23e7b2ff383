"""What eagerloop costs and saves, measured."""
