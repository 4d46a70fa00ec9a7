"""Who is on which side of a split depends on the group alone, and nobody is on two sides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_umedpt.datasets.records import LabelRecord
from wsi_umedpt.datasets.splits import SPLITS, side_of, split_records
from wsi_umedpt.datasets.task_data import TaskData, TaskSpec
from wsi_umedpt.datasets.validation import check
from wsi_umedpt.errors import DataError

GROUPS = st.lists(st.text("abcü/ ", min_size=1, max_size=4), min_size=1, max_size=12)


def records(groups, folder=None, **fields):
    return [
        LabelRecord(name=f"{i}", group=group, path=(folder or "") and folder / f"{i}.png", label=(0.0,), **fields)
        for i, group in enumerate(groups)
    ]


@given(ours=GROUPS, others=GROUPS, seed=st.integers(0, 99))
def test_a_group_is_on_one_side_whatever_other_groups_there_are(ours, others, seed):
    """All records of a group fall together, and records of other groups move none of them."""
    shares = {"val": 0.3, "test": 0.3, "seed": seed}
    alone = split_records(records(ours), **shares)
    among = split_records(records(others + ours), **shares)
    sides = [{r.group for r in alone[s]} for s in SPLITS]
    assert sum(map(len, sides)) == len({*ours})
    for split, groups in zip(SPLITS, sides, strict=True):
        assert {r.group for r in among[split]} & {*ours} == groups
    assert sorted(r.name for s in SPLITS for r in alone[s]) == sorted(r.name for r in records(ours))


def test_shares_are_as_asked_for():
    """Of many groups, the shares of val and test are what was asked for; another seed divides anew."""
    sides = [[side_of(f"g{i}", val=0.2, test=0.1, seed=seed) for i in range(4000)] for seed in (0, 1)]
    for found in sides:
        assert found.count("val") / 4000 == pytest.approx(0.2, abs=0.02)
        assert found.count("test") / 4000 == pytest.approx(0.1, abs=0.02)
    # Two independent divisions agree for .7^2 + .2^2 + .1^2 of the groups.
    assert np.mean(np.array(sides[0]) == np.array(sides[1])) == pytest.approx(0.54, abs=0.03)


@given(groups=GROUPS, split=st.sampled_from(SPLITS))
def test_a_stated_split_wins(groups, split):
    """Where the data says the split, the hash is not asked."""
    found = split_records(records(groups, split=split), val=0.4, test=0.4, seed=0)
    assert {s: len(found[s]) for s in SPLITS} == {s: len(groups) * (s == split) for s in SPLITS}


@pytest.fixture
def tasks(folder):
    """Two tasks on one folder; a function that makes them of stated splits, (image, split, patient)."""

    def made(*rows, second=()):
        out = []
        for name, listed in (("one", rows), ("two", second)):
            if listed:
                folder.table(f"{name}.csv", "image v split who", *([i, "1", s, w] for i, s, w in listed))
                spec = TaskSpec(
                    name=name, kind="regression", classes=("v",), modality="xray",
                    data=folder.spec(
                        "table", labels=f"{name}.csv", split_column="split", patient_column="who"
                    ),
                )  # fmt: skip
                out.append(TaskData.find(spec, val=0.1, test=0.1, split_seed=0, seed=0, max_pixels=1 << 20))
        return out

    for name in "abc":
        folder.picture(f"images/{name}.png")
    folder.array("images/copy_of_a.png", folder.picture("images/a.png"))
    return made


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        pytest.param(
            [("a", "train", "1"), ("copy_of_a", "val", "2")], [],
            r"(?s)same image is in several splits.*\(1\).*one: a\.png \(train\) and one: copy_of_a\.png \(val\)",
            id="copy-in-one-task",
        ),
        pytest.param(
            [("a", "train", "1"), ("b", "val", "2")], [("c", "train", "3"), ("copy_of_a", "test", "4")],
            r"(?s)same image.*one: a\.png \(train\) and two: copy_of_a\.png \(test\)", id="copy-in-another-task",
        ),
        pytest.param(
            [("a", "train", "1"), ("b", "val", "1")], [],
            r"(?s)same patient is in several splits.*one: a\.png \(train\) and one: b\.png \(val\)", id="patient-torn",
        ),
        pytest.param(
            [("a", "train", "1")], [("b", "train", "2"), ("c", "test", "1")],
            r"(?s)same patient.*one: a\.png \(train\) and two: c\.png \(test\)", id="patient-torn-between-tasks",
        ),
        pytest.param([("a", "train", "1"), ("copy_of_a", "train", "2")], [], None, id="copy-on-one-side"),
    ],
)  # fmt: skip
def test_what_is_on_two_sides_is_refused(tasks, first, second, said):
    """The same image content, or the same patient, in two splits of any tasks is refused; both are named."""
    made = tasks(*first, second=second)
    if said is None:
        check(made, cache_bytes=0)
        return
    with pytest.raises(DataError, match=said):
        check(made, cache_bytes=0)


def test_pictures_of_one_colour_are_like_any_other(folder, tasks):
    """Two black slices of two patients are no leak."""
    for name in "ab":
        folder.array(f"images/{name}.png", np.zeros((8, 8), np.uint8))
    check(tasks(("a", "train", "1"), ("b", "val", "2")), cache_bytes=0)


def test_a_task_needs_training_records(tasks):
    """A task whose records are all held out cannot be trained."""
    with pytest.raises(DataError, match="task one: no training records among 2"):
        tasks(("a", "val", "1"), ("b", "test", "2"))
