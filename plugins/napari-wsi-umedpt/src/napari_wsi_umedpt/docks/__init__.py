"""The docks: they collect, run in a worker, and show."""
