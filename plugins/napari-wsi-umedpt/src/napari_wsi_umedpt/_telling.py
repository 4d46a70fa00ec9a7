"""Words for the user: napari's notifications. Quick to import."""

from collections.abc import Iterable
from typing import Any

from napari.utils.notifications import Notification, NotificationSeverity, notification_manager
from wsi_umedpt.errors import reason_of


def tell(text: str, *, severity: str = "info", actions: Iterable[tuple[str, Any]] = ()) -> None:
    """Show a notification, with buttons if there are actions; may be called from any thread."""
    notification_manager.dispatch(Notification(text, NotificationSeverity(severity), tuple(actions)))


def tell_error(error: BaseException) -> None:
    """Show an error in its own words; may be called from any thread."""
    tell(reason_of(error), severity="error")


class Reports:
    """Tells of errors, of each only once: a damaged part of a slide is met with every look at it."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, error: Exception) -> None:
        """Tell of an error; may be called from any thread."""
        words = reason_of(error)
        place = words.split(":")[0]  # of a damaged slide, its name: one word a slide is enough
        key = f"{type(error).__name__} {place}"
        if key not in self._told:
            self._told.add(key)
            tell(words, severity="error")
