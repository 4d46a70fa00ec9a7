"""Measurements by subject; each runs from the repository as ``python -m benchmarks.ROOM.NAME``."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The repository: what child processes need on their path."""
DATA = Path(__file__).parent / "data"
"""What benchmarks make or download once, and what they found; git does not see it."""
