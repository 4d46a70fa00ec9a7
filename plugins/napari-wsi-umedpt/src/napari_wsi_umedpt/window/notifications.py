"""Words for the user: napari's notifications, which say what to do here. Quick to import.

Errors of the package say what to do by the names of settings. Where the window has a control for one, `words_of`
says that instead.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from napari.utils.notifications import Notification, NotificationSeverity, notification_manager
from wsi_umedpt.errors import WsiError, reason_of

_HERE = {
    "mpp": 'Write the true value into "um per px" of the dock Slides and results, and open it there.',
    "tile_mpp": "Choose a model that takes coarser tiles.",
    "max_unreadable": "Copy it again, or draw a region that leaves that place out.",
}
"""Remedy in this window for an error, by the setting that helps."""
_PATH = re.compile(r"((?:/|[A-Za-z]:[\\/]|\\\\)\S*?)(:?) +(.*)", re.DOTALL)
"""A path from the root on at the beginning of a sentence, with or without a colon."""


def tell(text: str, *, severity: str = "info", actions: Iterable[tuple[str, Any]] = ()) -> None:
    """Show a notification, with buttons if there are actions; may be called from any thread."""
    notification_manager.dispatch(Notification(text, NotificationSeverity(severity), tuple(actions)))


def tell_error(error: BaseException) -> None:
    """Show an error; may be called from any thread."""
    tell(words_of(error), severity="error")


def words_of(error: BaseException) -> str:
    """An error's own words, but for what is to be done: here, and not at the command line."""
    if isinstance(error, OSError) and not isinstance(error, WsiError) and error.filename:
        path = str(error.filename)
        where = "" if Path(path).name == path else f" ({path})"
        return f"{error.strerror or error}: {Path(path).name}{where}"
    if isinstance(error, WsiError) and error.setting in _HERE:
        return cause_first(f"{error.message} {_HERE[error.setting]}")
    return cause_first(reason_of(error))


def cause_first(words: str) -> str:
    """Put a path that words begin with behind them: where little room is, the cause must be what is read.

    Examples
    --------
    >>> cause_first("/mnt/share/cases/a.svs: Permission denied")
    'Permission denied: a.svs (/mnt/share/cases/a.svs)'
    >>> cause_first("/mnt/share/a.zarr is of another slide. Choose another folder.")
    'a.zarr is of another slide. Choose another folder. (/mnt/share/a.zarr)'
    >>> cause_first("a.svs has no overview")
    'a.svs has no overview'
    """
    found = _PATH.match(words)
    if found is None:
        return words
    path, colon, rest = found.groups()
    name = re.split(r"[\\/]", path.rstrip("\\/"))[-1]
    cause = f"{rest}: {name}" if colon else f"{name} {rest}"
    return f"{cause} ({path})"


class Reports:
    """Tells of errors, of each only once: a damaged part of a slide is met with every look at it."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, error: Exception) -> None:
        """Tell of an error; may be called from any thread."""
        words = words_of(error)
        place = words.split(":")[0]  # of a damaged slide, its name: one word a slide is enough
        key = f"{type(error).__name__} {place}"
        if key not in self._told:
            self._told.add(key)
            tell(words, severity="error")
