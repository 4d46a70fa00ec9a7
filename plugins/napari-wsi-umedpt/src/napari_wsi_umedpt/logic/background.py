"""Work beside the window: a function runs in a thread, what it returns is used in the window's own thread."""

from collections.abc import Callable
from typing import Any, NamedTuple

from napari.qt.threading import FunctionWorker, create_worker
from qtpy.QtCore import QThreadPool

from napari_wsi_umedpt.window.notifications import tell_error

_THREADS = 8
"""At least: an analysis takes one for minutes, and Qt has as many as cores; slides must open meanwhile on one core."""


class _Failure(NamedTuple):
    """Work that failed."""

    error: Exception


class Once:
    """A call that lets go of what it calls when it is called: napari holds every worker until it ends."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = [call]

    def __call__(self, *given: Any) -> Any:
        """Call it, for the first and last time."""
        return self._call.pop()(*given)


class Background:
    """Runs work for one widget; what is asked for last is what is shown.

    Parameters
    ----------
    failed
        Is told of errors, in the window's thread, where nothing else is asked for.
    """

    def __init__(self, failed: Callable[[Exception], None] = tell_error) -> None:
        self._failed = failed
        self._latest = 0
        self._forgotten = False
        self._running: set[FunctionWorker[Any]] = set()

    @property
    def busy(self) -> bool:
        """True while something is being worked on."""
        return bool(self._running)

    def run(
        self,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None] | None = None,
        *,
        doing: str = "",
    ) -> None:
        """Run `work` in a thread, then `done` with its result in the window's thread, or `failed` with its error.

        If other work was asked for meanwhile, the result is dropped; errors are always told. What it is `doing` is
        listed among napari's activities.
        """
        self._latest += 1
        number = self._latest

        def attempt() -> Any:
            try:
                return work()
            except Exception as error:  # noqa: BLE001 - told below; napari would tell it in its own words
                return _Failure(error)

        def returned(result: Any) -> None:
            if isinstance(result, _Failure):
                tell = tell_error if self._forgotten else failed or self._failed
                tell(result.error)
            elif number == self._latest:
                done(result)

        worker = create_worker(Once(attempt), _start_thread=False, _progress={"desc": doing} if doing else None)
        worker.returned.connect(Once(returned))
        # A worker that nothing holds may be gone before it is done.
        self._running.add(worker)
        worker.finished.connect(lambda: self._running.discard(worker))
        pool = QThreadPool.globalInstance()
        pool.setMaxThreadCount(max(pool.maxThreadCount(), _THREADS))
        worker.start()

    def forget(self) -> None:
        """Drop results that are still to come, as when the widget is closed; errors are reported without it."""
        self._forgotten = True
        self._latest += 1
