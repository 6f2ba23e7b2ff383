"""`CLUSTER:0`: a whole Dask cluster as one device, for arrays that are larger than a machine."""
