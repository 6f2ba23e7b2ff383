"""The worker's side of `DASK:k`: programs of other processes run here as if they had been dispatched here."""
