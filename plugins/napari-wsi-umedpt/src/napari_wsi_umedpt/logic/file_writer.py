"""Files that follow a hand: each is written beside the window at once, and of what waits only the newest. No Qt."""

import threading
from collections.abc import Callable, Hashable


class Writer:
    """One thread that writes, as long as there is something to write.

    A process that ends orderly waits for it; one that is killed leaves every file as it was before or after.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[Hashable, Callable[[], None]] = {}
        self._working = False

    @property
    def busy(self) -> bool:
        """True while something is not written yet."""
        with self._changed:
            return self._working

    def put(self, key: Hashable, write: Callable[[], None]) -> None:
        """Write soon, in a thread; what waits under the same key is not needed any more. `write` must not raise."""
        with self._changed:
            self._waiting.pop(key, None)
            self._waiting[key] = write
            if not self._working:
                self._working = True
                threading.Thread(target=self._work, name="wsi-umedpt writer").start()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all is written; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._working, timeout_s)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._working = False
                    self._changed.notify_all()
                    return
                write = self._waiting.pop(next(iter(self._waiting)))
            write()
