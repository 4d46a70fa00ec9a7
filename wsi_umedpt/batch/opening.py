"""Slides of a run opened one ahead: taken, fetched and prepared in a thread that can be left behind."""

import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from wsi_umedpt.batch.coordination.attempts import PASSING_S, Attempt, Attempts, will_pass
from wsi_umedpt.batch.coordination.publish import PublishTarget
from wsi_umedpt.batch.coordination.result import Outcome
from wsi_umedpt.batch.coordination.shutdown import Terminated
from wsi_umedpt.batch.jobs.slide_files import fingerprint_at
from wsi_umedpt.batch.jobs.staging import Stage
from wsi_umedpt.errors import StalledError, reason_of
from wsi_umedpt.io.remote import NoRangesError, StopAskingError, asking_until, without_secrets
from wsi_umedpt.io.stalls import GRACE_S, LeftBehind, Pulse, Task
from wsi_umedpt.pipeline.prepare import PreparedSlide, fits
from wsi_umedpt.pipeline.task import SlideTask
from wsi_umedpt.slides.slide_job import SlideJob, store_path
from wsi_umedpt.store.partial import awaits_commit
from wsi_umedpt.store.slide_store import SlideStore


@dataclass(frozen=True)
class Ready:
    """An open slide, and the attempt at it of this process."""

    attempt: Attempt
    prepared: PreparedSlide
    opened: ExitStack
    """Frees the slide, and its copy."""

    def close(self) -> None:
        """Free the slide, and let others have it if its attempt did not end."""
        try:
            self.opened.close()
        finally:
            self.attempt.hand_back()


@dataclass(frozen=True)
class Opener:
    """Takes and prepares slides of a run, for one process."""

    task: SlideTask
    attempts: Attempts
    stage: Stage
    publish_to: PublishTarget | None = None
    """Target to which stores are published, if that is not where they are made."""

    def open(self, job: SlideJob) -> "Opening":
        """Begin to prepare a slide, in a thread of its own."""
        return Opening(self, job)

    def already(self, job: SlideJob) -> Outcome | None:
        """Outcome from a slide's store, here or where it is published, if it holds all that is asked for."""
        return self._done_in(self._store(job, self.publish_to), job)

    def prepare(self, job: SlideJob, attempt: Attempt, pulse: Pulse) -> Ready | Outcome | None:
        """Fetch and open a slide that was taken; or what is to be said instead."""
        if self.publish_to:
            if done := self._published(job, attempt):
                return done
        with ExitStack() as opened:
            file = opened.enter_context(self.stage.at_hand(job, pulse))
            pulse()
            prepared = PreparedSlide.open(
                job, store_path(self.attempts.out, job), self.task, file=file, watched=True, pulse=pulse
            )  # fmt: skip
            opened.callback(prepared.close)
            prepared.read_ahead(self.task)
            return Ready(attempt, prepared, opened.pop_all())

    def publish(self, job: SlideJob, attempt: Attempt) -> None:
        """Put a store that is whole where the stores of the run go, if that is elsewhere."""
        if self.publish_to:
            self.publish_to.put(store_path(self.attempts.out, job), attempt.check)

    def _published(self, job: SlideJob, attempt: Attempt) -> Outcome | None:
        """Publish a store that an earlier run made whole here; else fetch the published one, to be added to."""
        assert self.publish_to is not None  # noqa: S101 - asked by the caller
        self.publish_to.take_base(store_path(self.attempts.out, job))
        done = self._done_in(self._store(job, None), job)
        if done is None:
            return None
        self.publish(job, attempt)
        return attempt.end(done)

    def _store(self, job: SlideJob, publish_to: PublishTarget | None) -> SlideStore | None:
        path = store_path(self.attempts.out, job)
        if publish_to and not path.exists():  # one that is here waits to be published
            return publish_to.open(path)
        if not publish_to and path.exists() and not awaits_commit(path):
            return SlideStore.open(path)  # where a commit was killed the next one clears what it left
        return None

    def _done_in(self, store: SlideStore | None, job: SlideJob) -> Outcome | None:
        if store is None or not fits(store, job, self.task.tissue):
            return None
        if (result := self.task.already_done(store)) is None or not _is_of(store, job):
            return None
        return Outcome.of(job, "already", result, fingerprint=store.attrs["slide"]["fingerprint"])


class Opening:
    """A slide that is prepared in a thread of its own, which is left behind if reading makes no progress."""

    def __init__(self, opener: Opener, job: SlideJob) -> None:
        self._opener, self._job = opener, job
        self._attempt: Attempt | None = None
        self._task = Task[Outcome | Ready | None](
            self._prepare, stall_s=opener.task.settings.stall_s, name="next-slide", discard=_close_ready
        )

    def result(self) -> Outcome | Ready | None:
        """The slide, open; its outcome where it is not to be opened; or None if another process has it."""
        try:
            return self._task.result()
        except StalledError as error:
            outcome = failure(self._job, error)
            return self._attempt.end(outcome, error) if self._attempt else outcome
        except BaseException:  # Ctrl-C, or SIGTERM: nobody will take it
            self.close()
            raise

    def close(self) -> None:
        """Let go of the slide, which nobody will take as the run ends; what hangs is not waited for."""
        self._opener.stage.stop()
        self._task.leave(GRACE_S)
        if self._attempt:
            self._attempt.hand_back()

    def _prepare(self, pulse: Pulse) -> Outcome | Ready | None:
        job, opener = self._job, self._opener
        try:
            with asking_until(opener.stage.stopped):
                attempt = opener.attempts.take(job, opener.already)
        except StopAskingError:
            raise Terminated from None
        except Exception as error:  # noqa: BLE001 - whatever one slide does must not end the run
            return failure(job, error)
        if not isinstance(attempt, Attempt):
            return attempt
        self._attempt = attempt
        try:
            pulse()
            with asking_until(opener.stage.stopped):
                return opener.prepare(job, attempt, pulse)
        except StopAskingError:
            attempt.hand_back()
            raise Terminated from None
        except Exception as error:  # noqa: BLE001 - as above
            pulse()  # unless it was left behind meanwhile, it ends here
            return attempt.end(failure(job, error), error)
        except LeftBehind:  # who left it says what became of the slide
            raise
        except BaseException:
            attempt.hand_back()
            raise


def one_ahead(
    jobs: Sequence[SlideJob], begin: Callable[[SlideJob], Opening]
) -> Generator[tuple[SlideJob, Outcome | Ready | None]]:
    """Prepare each slide while the one before it is used, and no more: each holds an open slide.

    Closed before its end, as by Ctrl-C, it lets go of the slide that nobody will take.
    """
    upcoming = iter(jobs)
    job = next(upcoming, None)
    opening = begin(job) if job else None
    try:
        while job and opening:
            ready, taken = opening.result(), job
            job = next(upcoming, None)
            opening = begin(job) if job else None
            yield taken, ready
    finally:
        if opening:
            opening.close()


def failure(job: SlideJob, error: Exception) -> Outcome:
    """Outcome of a slide that an error ended."""
    frames = without_secrets("".join(traceback.format_exception(error)), job.url)
    reason, passing = without_secrets(reason_of(error), job.url), will_pass(error)
    again_s = PASSING_S if passing else None
    return Outcome(job, "failed", reason=reason, traceback=frames, again_s=again_s, passing=passing)


def _is_of(store: SlideStore, job: SlideJob) -> bool:
    """Return whether a store is of the slide as it is now; False where only opening a copy can tell."""
    try:
        return bool(store.attrs["slide"]["fingerprint"] == fingerprint_at(job))
    except NoRangesError:
        return False


def _close_ready(made: Outcome | Ready | None) -> None:
    if isinstance(made, Ready):
        made.close()
