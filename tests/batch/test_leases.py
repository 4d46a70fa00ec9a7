"""Claims: one holder at a time, on any file system, whatever clocks say; a holder that wakes up late harms nobody."""

import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support import bad_slides
from wsi_umedpt.batch.coordination import leases
from wsi_umedpt.batch.coordination.leases import Claim, Claims
from wsi_umedpt.errors import StoreBusyError
from wsi_umedpt.pipeline.embed import encode_slide
from wsi_umedpt.pipeline.task import Progress
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import lay_grid
from wsi_umedpt.slides.tissue import find_tissue
from wsi_umedpt.store.slide_store import SlideStore


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(leases, "clock", made)
    return made


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that knows no locks: the claim's file alone decides."""
    monkeypatch.setattr(leases, "lock_where_possible", lambda _: None)


@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
def test_of_all_who_take_a_slide_one_has_it(tmp_path, no_locks, monkeypatch, links):
    """Eight at once, forty times, with nothing but the claim's file between them."""
    if not links:

        def link(*_: object) -> None:
            raise OSError(95, "no links here")

        monkeypatch.setattr("os.link", link)
    everyone = [Claims(tmp_path) for _ in range(8)]
    for n in range(40):
        won: list[Claim] = []
        start = threading.Barrier(len(everyone))

        def take(who: Claims, n: int = n, won: list[Claim] = won, start: threading.Barrier = start) -> None:
            start.wait()
            if claim := who.take(f"s{n}", tmp_path / f"s{n}.zarr"):
                won.append(claim)

        threads = [threading.Thread(target=take, args=(who,)) for who in everyone]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert won[0].is_ours()
    assert len(list(tmp_path.glob(".runs/*"))) == 40, "nothing but claims is left"


def test_of_all_who_see_that_a_claim_is_over_one_takes_it(tmp_path, no_locks, clock):
    """Eight thieves at once, twenty times."""
    for n in range(20):
        store = tmp_path / f"s{n}.zarr"
        assert Claims(tmp_path).take(f"s{n}", store)
        thieves = [Claims(tmp_path) for _ in range(8)]
        assert [t.take(f"s{n}", store) for t in thieves] == [None] * 8
        clock.now += 200
        won: list[Claim] = []
        start = threading.Barrier(len(thieves))

        def steal(who: Claims, n: int = n, won=won, start=start, store=store) -> None:
            start.wait()
            if claim := who.take(f"s{n}", store):
                won.append(claim)

        threads = [threading.Thread(target=steal, args=(who,)) for who in thieves]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1


class Actors(RuleBasedStateMachine):
    """Three processes on three machines take, renew, lose and end claims on one slide, in any order."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.patch = pytest.MonkeyPatch()
        self.clock = Clock()
        self.patch.setattr(leases, "clock", self.clock)
        self.patch.setattr(leases, "lock_where_possible", lambda _: None)
        self.folder = tempfile.TemporaryDirectory()
        self.out = Path(self.folder.name)
        self.actors = [Claims(self.out) for _ in range(3)]
        self.held: dict[int, list[Claim]] = {0: [], 1: [], 2: []}

    who = st.integers(0, 2)

    @rule(n=who)
    def take(self, n: int) -> None:
        """Try to have the slide."""
        if claim := self.actors[n].take("s", self.out / "s.zarr"):
            claim.work.mkdir(exist_ok=True)
            self.held[n].append(claim)

    @rule(n=who)
    def renew(self, n: int) -> None:
        """The heartbeats of a process that is awake."""
        for claim in self.held[n]:
            claim.renew()

    @rule(seconds=st.sampled_from([10.0, 100.0, 200.0]))
    def sleep(self, seconds: float) -> None:
        """Nobody does anything."""
        self.clock.now += seconds

    @precondition(lambda self: any(self.held.values()))
    @rule(n=who)
    def end(self, n: int) -> None:
        """A process ends all that it thinks it has, however late."""
        for claim in self.held[n]:
            self.actors[n].end(claim)
        self.held[n].clear()

    @invariant()
    def one_holder(self) -> None:
        """No two may go on, and of those that ever had it one alone finds its work where it left it."""
        able = 0
        for claim in [claim for held in self.held.values() for claim in held]:
            try:
                claim.check()
            except StoreBusyError:
                continue
            able += 1
            assert claim.work.is_dir()
        assert able <= 1

    def teardown(self) -> None:
        """Clean up."""
        self.patch.undo()
        for actor in self.actors:
            actor.close()
        self.folder.cleanup()


TestActors = Actors.TestCase
TestActors.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("skew_s", [-86_400, 0, 86_400], ids=["a-day-behind", "right", "a-day-ahead"])
def test_clocks_of_machines_may_differ(tmp_path, no_locks, clock, skew_s):
    """A claim is over after a lease in which we saw no change of it, whatever time it is stamped with."""
    ours, theirs = Claims(tmp_path), Claims(tmp_path)
    claim = theirs.take("s", tmp_path / "s.zarr")
    assert claim

    def beat(number: int) -> None:
        stamp = 1.7e9 + skew_s + number
        os.utime(claim.path, (stamp, stamp))

    for number in range(6):
        beat(number)
        assert ours.take("s", tmp_path / "s.zarr") is None
        clock.now += 100
    assert ours.take("s", tmp_path / "s.zarr") is None
    clock.now += 181
    assert ours.take("s", tmp_path / "s.zarr")


def test_a_claim_of_a_process_that_died_here_is_taken_at_once(tmp_path):
    """The system freed its lock: no lease is waited for, and its work is gone on with under its name."""
    store = tmp_path / "s.zarr"
    if (pid := os.fork()) == 0:
        claim = Claims(tmp_path).take("s", store)
        assert claim
        claim.work.mkdir(exist_ok=True)
        os._exit(0)
    os.waitpid(pid, 0)
    claim = Claims(tmp_path).take("s", store)
    assert claim
    assert claim.work == tmp_path / "s.zarr.partial"
    assert claim.work.is_dir()


def test_a_claim_that_died_while_it_was_written_is_waited_for(tmp_path, clock):
    """It says nothing of its machine; it is over as any other."""
    (tmp_path / ".runs").mkdir()
    (tmp_path / ".runs" / "s.claim").write_text("{")
    ours = Claims(tmp_path)
    assert ours.take("s", tmp_path / "s.zarr") is None
    clock.now += 181
    assert ours.take("s", tmp_path / "s.zarr")


def test_names_in_a_claim_do_not_lead_out_of_the_folder(tmp_path, no_locks, clock):
    """What a claim calls its work folder is believed only if it could be one."""
    out, precious = tmp_path / "out", tmp_path / "precious"
    precious.mkdir()
    (out / ".runs").mkdir(parents=True)
    names = ["../precious", str(precious), "s.zarr", "t.zarr.partial"]
    (out / "s.zarr").mkdir()
    (out / ".runs" / "s.claim").write_text(json.dumps({"token": "a", "work": names[0], "left": names}))
    ours = Claims(out)
    assert ours.take("s", out / "s.zarr") is None
    clock.now += 181
    assert ours.take("s", out / "s.zarr")
    assert precious.is_dir()
    assert (out / "s.zarr").is_dir()


@pytest.mark.parametrize("successor", ["works", "is-done"])
@pytest.mark.parametrize("asleep_at", ["a-chunk", "the-end", "the-commit"])
def test_a_holder_that_wakes_up_late_harms_nobody(
    jobs, calm, tmp_path, no_locks, clock, monkeypatch, asleep_at, successor
):
    """Suspended, its checks too late: what it writes goes nowhere, and its successor's store is that of a calm run."""
    path = tmp_path / "s0.zarr"
    task = bad_slides.task(readers=0)
    [encoder], [spec] = task.encoders, task.specs(0.5)
    theirs, ours = Claims(tmp_path), Claims(tmp_path)
    late = theirs.take("s0", path)
    assert late

    def embed(claim: Claim, sleep=None) -> None:
        with open_slide(jobs[0].path) as slide:
            tissue = find_tissue(slide)
            grid = lay_grid(slide.size, slide.mpp, spec, within=tissue)
            with SlideStore.create(path, slide, tissue, grid, claim.hold) as store:
                if sleep and asleep_at == "the-commit":
                    commit = store.commit
                    monkeypatch.setattr(store, "commit", lambda: (sleep(len(grid)), commit()))
                progress = Progress()
                if sleep:
                    monkeypatch.setattr(progress, "tiles_done", lambda done, _: sleep(done))
                encode_slide(slide, store, [encoder], settings=task.settings, progress=progress)

    slept = []

    def sleep(done: int) -> None:
        if slept or (asleep_at == "a-chunk" and done < 24) or (asleep_at != "a-chunk" and done < 40):
            return
        slept.append(done)
        assert ours.take("s0", path) is None
        clock.now += 181
        claim = ours.take("s0", path)
        assert claim
        assert claim.work != late.work
        if successor == "is-done":
            embed(claim)
            ours.end(claim)
        slept.append(claim)

    monkeypatch.setattr(Claim, "check", lambda self: None)  # as if it fell asleep right after each of them
    with pytest.raises((OSError, ValueError)):
        embed(late, sleep)
    theirs.end(late)
    assert slept
    if successor == "works":
        assert not path.exists()
        embed(slept[1])
        ours.end(slept[1])
    assert bad_slides.contents(path) == calm["s0"]
