"""History of edits of one window that can be undone, whatever they were made in. No Qt."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_MOST = 200
"""Edits that can be undone."""


@dataclass(frozen=True, eq=False)
class Edit:
    """One thing that somebody did."""

    what: str
    """Description, as in ``drawing of annotations``."""
    undo: Callable[[], None]
    redo: Callable[[], None]
    in_view: Callable[[], bool] = lambda: True
    """Return whether it is of what is looked at; what is not is left alone."""


class History:
    """Edits, and those that were undone.

    Examples
    --------
    >>> seen = [1]
    >>> history = History()
    >>> seen.append(2)
    >>> history.did(Edit("two", seen.pop, lambda: seen.append(2)))
    >>> history.undo(), seen, history.redo(), seen
    ('two', [1, 2], 'two', [1, 2])
    """

    def __init__(self) -> None:
        self._done: deque[Edit] = deque(maxlen=_MOST)
        self._undone: list[Edit] = []

    def did(self, edit: Edit) -> None:
        """Note an edit that was made; what was undone before cannot come back."""
        self._done.append(edit)
        self._undone.clear()

    def undo(self) -> str | None:
        """Undo the last edit of what is looked at; its words, or None where there is none."""
        edit = next((edit for edit in reversed(self._done) if edit.in_view()), None)
        if edit is None:
            return None
        self._done.remove(edit)
        self._undone.append(edit)
        edit.undo()
        return edit.what

    def redo(self) -> str | None:
        """Make the edit that was undone last anew; its words, or None where there is none."""
        edit = next((edit for edit in reversed(self._undone) if edit.in_view()), None)
        if edit is None:
            return None
        self._undone.remove(edit)
        self._done.append(edit)
        edit.redo()
        return edit.what

    def clear(self) -> None:
        """Forget all edits."""
        self._done.clear()
        self._undone.clear()
