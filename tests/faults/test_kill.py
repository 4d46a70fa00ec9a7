"""A run may be killed at any moment: what is in a `.zarr` folder is whole, and going on gives the same bytes."""

import contextlib
import os
import random
import shutil
import signal

import pytest

from wsi_umedpt.store.verify import problems_of

EVERY = int(os.environ.get("WSI_UMEDPT_KILL_EVERY", "3"))
"""Of so many changes of a file one is tried; 1 tries all."""
KILLS = 24 // EVERY
STRIDE = 48
"""Tiles overlap, so that a small slide has several chunks of them."""


@pytest.fixture(scope="module")
def reference(lab, slide, tmp_path_factory):
    """Stores of uninterrupted runs: with one encoder, with two at once, and with the second added later."""
    stores = {}
    for name, steps in {"one": [["one.test"]], "added": [["one.test"], ["one.test", "second.test"]]}.items():
        out = tmp_path_factory.mktemp(name)
        for encoders in steps:
            [outcome] = lab.do("embed", slides=[[str(slide), "s"]], out=str(out), encoders=encoders, stride=STRIDE)
            assert (outcome["status"], outcome["tiles"] > 3 * 32) == ("done", True), outcome
        stores[name] = out / "s.zarr"
        assert problems_of(stores[name]) == []
    return stores


@pytest.fixture(params=[pytest.param(None, id="new-store"), pytest.param("one", id="second-encoder-added")])
def case(request, reference, slide):
    """What is there beforehand, what is asked for, and the store it must come to."""
    before = reference[request.param] if request.param else None
    encoders = ["one.test", "second.test"] if before else ["one.test"]
    return (
        before,
        {"slides": [[str(slide), "s"]], "encoders": encoders, "stride": STRIDE},
        reference["added" if before else "one"],
    )


def test_killed_at_random_moments(lab, case, quick_disk):
    """SIGKILL at random moments, over several rounds: every store ever seen is whole, the last one identical."""
    before, request, expected = case
    rng = random.Random(20261122)
    kills = rounds = 0
    while kills < KILLS:
        rounds += 1
        assert rounds < 40, "the kills come too late to hit anything"
        out = quick_disk / str(rounds)
        out.mkdir()
        if before:
            shutil.copytree(before, out / "s.zarr")
        done, patience = False, 0.25
        while not done:
            patience += 0.02  # or a busy machine never gets anywhere
            [pid] = lab.start({"task": "embed", "out": str(out), "delay": 0.004, **request})
            done = lab.ended(rng.uniform(0, patience))
            if (out / "s.zarr").exists():
                assert problems_of(out / "s.zarr") == []
            if not done:
                with contextlib.suppress(ProcessLookupError):  # it ended just now
                    os.kill(pid, signal.SIGKILL)
            [answer] = lab.wait()
            kills += answer.code == -signal.SIGKILL
            done = answer.code == 0
            if done:
                assert answer.value[0]["status"] in ("done", "already"), answer.value
            if (out / "s.zarr").exists():
                assert problems_of(out / "s.zarr") == []
        assert lab.difference(lab.contents(out / "s.zarr"), lab.contents(expected)) == ""


@pytest.mark.slow
def test_killed_before_every_change_of_a_file(lab, case, quick_disk):
    """SIGKILL just before the k-th open, rename, mkdir or remove that changes something: the same law, without luck.

    For every third k, another third for each case; see `EVERY`.
    """
    before, request, expected = case
    wanted, wrong = lab.contents(expected), []
    last, k = 0, 1 - EVERY if before else 0
    while not last:
        # Two at a time, in folders of their own: the law is about one process, the second core is free.
        stores = {k + n * EVERY: quick_disk / str(k + n * EVERY) / "s.zarr" for n in (1, 2)}
        for store in stores.values():
            store.parent.mkdir()
            if before:
                shutil.copytree(before, store)
        outs = {k: str(store.parent) for k, store in stores.items()}
        lab.start(
            *({"task": "embed_killed_at", "at": k, "out": out, "readers": 0, **request} for k, out in outs.items())
        )
        for k, killed in zip(stores, lab.wait(), strict=True):
            assert killed.code in (0, -signal.SIGKILL)
            last = last or (k if killed.code == 0 else 0)
            if stores[k].exists() and (found := problems_of(stores[k])):
                wrong.append(f"k={k}: {found}")
        lab.start(*({"task": "embed", "out": out, "readers": 0, **request} for out in outs.values()))
        for k, answer in zip(stores, lab.wait(), strict=True):
            [again] = answer.value
            if again["status"] not in ("done", "already"):
                wrong.append(f"k={k}: going on: {again['reason']}")
            elif found := lab.difference(lab.contents(stores[k]), wanted):
                wrong.append(f"k={k}: going on: {found}")
            elif again["status"] == "done" and (left := lab.leftovers(stores[k].parent)):
                wrong.append(f"k={k}: going on: leaves {left}")
            shutil.rmtree(stores[k].parent)
    assert last > 40
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_an_error_at_every_change_of_a_file(lab, case, quick_disk):
    """OSError from the k-th change, and each other time from all later ones: whole or absent, again the same bytes.

    For every third k, fsync among them, another third for each case; see `EVERY`.
    """
    before, request, expected = case
    parts, first = 2, min(EVERY, 2 if before else 1)
    lab.start(
        *(
            {
                "task": "embed_with_errors",
                "scratch": str(quick_disk / str(n)),
                "reference": lab.contents(expected),
                "before": str(before) if before else None,
                "part": [first + n * EVERY, parts * EVERY],
                "readers": 0,
                **request,
            }
            for n in range(parts)
        )
    )
    answers = lab.wait()
    assert [a.code for a in answers] == [0] * parts
    assert min(a.value["changes"] for a in answers) > 40
    wrong = [w for a in answers for w in a.value["wrong"]]
    assert not wrong, "\n".join(wrong)
