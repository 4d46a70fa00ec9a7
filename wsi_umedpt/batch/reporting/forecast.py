"""Forecast of a run's remaining time: by tiles, which are what takes time, from its first slide on.

Tiles of a slide are known once it was opened. Those of the others are taken to be as many
for each byte of their files as those of the slides that were opened; where sizes are not
known, as many as those have on average.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from wsi_umedpt.batch.coordination.result import Outcome, Watcher
from wsi_umedpt.slides.slide_job import SlideJob


class Forecast(Watcher):
    """Follows a run, and says how long it will still take.

    Parameters
    ----------
    sizes
        Bytes of each slide, by id; 0 where they are not known.
    """

    def __init__(self, sizes: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._sizes, self._clock = dict(sizes), clock
        self._open = set(sizes)
        self._tiles: dict[str, int] = {}
        """Tiles of slides that were opened."""
        self._done: dict[str, int] = {}
        """Tiles done of slides under way, those of an earlier run too."""
        self._fresh = 0
        """Tiles that this run embedded."""
        self._began: float | None = None
        self._guard = threading.Lock()

    @classmethod
    def of(cls, jobs: Sequence[SlideJob]) -> "Forecast":
        """Make a forecast from the sizes of slides."""
        from wsi_umedpt.batch.jobs.slide_files import bytes_of

        return cls({job.slide_id: bytes_of(job) for job in jobs})

    def slide_started(self, job: SlideJob, tiles: int) -> None:
        """Count its tiles."""
        with self._guard:
            self._began = self._clock() if self._began is None else self._began
            self._tiles[job.slide_id] = tiles

    def tiles_done(self, job: SlideJob, done: int, total: int) -> None:
        """Count what is new; what an earlier run did is no speed of this one."""
        with self._guard:
            self._tiles[job.slide_id] = total
            before = self._done.get(job.slide_id)
            if before is not None:
                self._fresh += max(0, done - before)
            self._done[job.slide_id] = done

    def slide_ended(self, outcome: Outcome) -> None:
        """Nothing is left of it."""
        with self._guard:
            job = outcome.job
            self._open.discard(job.slide_id)
            before = self._done.pop(job.slide_id, None)
            if outcome.status == "done":
                self._tiles[job.slide_id] = outcome.tiles
                if before is None:  # its tiles were not told, as by a worker elsewhere
                    self._began = self._clock() - outcome.seconds if self._began is None else self._began
                    self._fresh += outcome.fresh
                else:
                    self._fresh += max(0, outcome.tiles - before)

    @property
    def tiles_per_s(self) -> float:
        """Tiles that this run embeds in a second, all else that it does counted in; 0 as long as it is not known."""
        seconds = self._clock() - self._began if self._began is not None else 0.0
        return self._fresh / seconds if seconds > 0 else 0.0

    @property
    def tiles_a_slide(self) -> float | None:
        """Tiles of a slide on average, of those that were opened; None if none was."""
        with self._guard:
            return sum(self._tiles.values()) / len(self._tiles) if self._tiles else None

    @property
    def slides_left(self) -> int:
        """Number of slides that have not ended."""
        return len(self._open)

    @property
    def tiles_left(self) -> float | None:
        """About how many tiles are still to be embedded; None as long as no slide was opened."""
        with self._guard:
            if not self._tiles:
                return None
            known = [slide_id for slide_id in self._tiles if self._sizes.get(slide_id)]
            size = sum(self._sizes[slide_id] for slide_id in known)
            a_byte = sum(self._tiles[slide_id] for slide_id in known) / size if size else 0.0
            a_slide = sum(self._tiles.values()) / len(self._tiles)
            left = 0.0
            for slide_id in self._open:
                if slide_id in self._tiles:
                    left += self._tiles[slide_id] - self._done.get(slide_id, 0)
                else:
                    left += (self._sizes[slide_id] * a_byte) or a_slide
            return left

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the run will have ended; None as long as that cannot be said."""
        left, speed = self.tiles_left, self.tiles_per_s
        return left / speed if left is not None and speed else None
