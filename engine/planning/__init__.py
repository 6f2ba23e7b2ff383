"""Planning: pure functions from pending records to what to do with them."""
