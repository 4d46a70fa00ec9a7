"""What several tests share: slides, stores, cohorts, servers, and processes that can be killed."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository: what child processes need on their path."""
GOLDEN = ROOT / "tests" / "golden"
"""A store of each schema, as the versions that introduced them wrote it."""
