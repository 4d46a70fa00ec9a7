"""Work that follows a hand: of all that is asked for while something runs, only the last is done."""

from collections.abc import Callable
from typing import Any

from napari.qt.threading import FunctionWorker, create_worker

from napari_wsi_umedpt.logic.background import Once
from napari_wsi_umedpt.window.notifications import tell_error

Task = tuple[Callable[[], Any], Callable[[Any], None]]


class Newest:
    """One thread at a time; a request that waits is replaced by a newer one.

    Parameters
    ----------
    failed
        Is told of errors, in the window's thread.
    """

    def __init__(self, failed: Callable[[Exception], None] = tell_error) -> None:
        self._failed = failed
        self._waiting: Task | None = None
        self._running: FunctionWorker[Any] | None = None
        self._dropped = False

    @property
    def busy(self) -> bool:
        """True while something runs or waits."""
        return self._running is not None or self._waiting is not None

    def ask(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Run `work` in a thread once what runs now is done, then `done` with its result in the window's thread."""
        self._waiting = work, done
        self._start()

    def forget(self) -> None:
        """Drop what waits, and the result of what runs."""
        self._waiting = None
        self._dropped = self._running is not None

    def _start(self) -> None:
        if self._running is not None or self._waiting is None:
            return
        (work, done), self._waiting = self._waiting, None
        self._dropped = False

        def unless_dropped(call: Callable[[Any], None]) -> Callable[[Any], None]:
            return lambda found: None if self._dropped else call(found)

        # Connected here, or napari would tell of errors once more, in its own words.
        told = {
            "returned": Once(unless_dropped(done)), "errored": unless_dropped(self._failed), "finished": self._ended,
        }  # fmt: skip
        worker = self._running = create_worker(Once(work), _start_thread=False, _connect=told)
        worker.start()

    def _ended(self) -> None:
        self._running = None
        self._start()
