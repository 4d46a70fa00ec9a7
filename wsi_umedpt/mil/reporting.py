"""Placeholder."""

from typing import Any


def report_run(*_: Any) -> list[str]:
    """Do nothing yet."""
    return []
