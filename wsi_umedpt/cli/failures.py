"""Work on many things, one at a time: failures are kept and listed at the end, and the exit code is then 1."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from wsi_umedpt.cli.terminal import say
from wsi_umedpt.errors import WsiError, reason_of

Made = TypeVar("Made")
Failures = Sequence[tuple[Path | str, str]]
"""Names of things that failed, and the reasons."""


def each(
    paths: Sequence[Path], make: Callable[[Path], Made], *, said: Callable[[Path], str] | None = None
) -> tuple[list[Made], Failures]:
    """Make something of each store or file.

    Parameters
    ----------
    paths, make
        Paths, and the function that makes something of each.
    said
        Given, a line is printed at once for each that fails, which begins with what it gives.

    Returns
    -------
    made
        In the order of `paths`, without those that failed.
    failures
        The others, with reasons.
    """
    made: list[Made] = []
    failed: list[tuple[Path | str, str]] = []
    for path in paths:
        try:
            made.append(make(path))
        # What lies there may be damaged, or edited, in any way.
        except (WsiError, OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            failed.append((path, reason_of(error)))
            if said:
                say(f"{said(path)}: FAILED (why: in the list at the end)")
    return made, failed


def say_failures(failed: Failures) -> int:
    """List what failed, with reasons; the exit code."""
    if failed:
        say(f"{len(failed)} failed:", error=True)
    for path, reason in failed:
        say(f"  {path}: {reason}", error=True)
    return 1 if failed else 0
