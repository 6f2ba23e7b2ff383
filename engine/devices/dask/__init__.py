"""`DASK:k`: the workers of a Dask cluster as devices. The client's side; `engine.remote` is the worker's."""
