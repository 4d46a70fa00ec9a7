"""Measurements of the window; each runs from the plugin's folder as ``python -m benchmarks.NAME``."""
