"""Executors of a run: child processes and Dask workers."""
