"""Other machines: a Dask cluster that shards of the data and layers are worked on, with one machine's bytes."""
