"""Batches are a pure function of seed and number; every image has its turn; nothing unfit passes the door."""

import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsi_umedpt.datasets.records import LabelRecord
from wsi_umedpt.datasets.task_data import TaskData, TaskSpec
from wsi_umedpt.datasets.validation import check
from wsi_umedpt.errors import DataError
from wsi_umedpt.training.run import _batches

SHARES = {"val": 0.0, "test": 0.0, "split_seed": 0}


@pytest.fixture
def tasks(folder):
    """One task of every kind on eight images of 32 x 40 px and their masks, all for training."""
    for i in range(8):
        folder.picture(f"images/{i}.png")
        folder.blobs(f"masks/{i}.png", ids=(1, 2) if i % 2 else (1,))
    rows = [[f"{i}", "high" if i % 2 else "low", f"{i}", f"S{i // 3}", "low"] for i in range(8)]
    folder.table("t.csv", "image grade size slide worst", *rows)

    def made(kind, seed=3, max_pixels=1 << 20, **fields):
        masks = {"source": "masks", "labels": "masks"}
        classes, where = {
            "classification": ("low high", {"source": "table", "labels": "t.csv", "label_column": "grade"}),
            "regression": ("size", {"source": "table", "labels": "t.csv"}),
            "segmentation": ("out a b", masks),
            "multilabel": ("a b", masks),
            "detection": ("cell", {**masks, "instances": True}),
            "bags": (
                "low high", {"source": "table", "labels": "t.csv", "label_column": "worst", "bag_column": "slide"},
            ),
        }[kind]  # fmt: skip
        fields = {"modality": "microscopy", "size_px": (32, 64), "batch_size": 3, **fields}
        of = "classification" if kind == "bags" else kind
        spec = TaskSpec(name=f"t_{kind}", kind=of, classes=tuple(classes.split()), data=folder.spec(**where), **fields)
        return TaskData.find(spec, seed=seed, max_pixels=max_pixels, **SHARES)

    return made


KINDS = ["classification", "regression", "segmentation", "multilabel", "detection", "bags"]


def content(batch):
    """All tensors of a batch as bytes."""
    boxes = [t for pair in batch.boxes or () for t in pair]
    return [t.numpy().tobytes() for t in (batch.images, batch.labels, batch.masks, batch.bags, *boxes) if t is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_a_function_of_seed_and_number(tasks, kind):
    """Asked again, in any order, after being kept in memory or sent to another process, batch i is the same."""
    data = tasks(kind)
    first = [content(data.batch(i)) for i in range(4)]
    check([data], cache_bytes=1 << 30)
    assert len(data.samples) == 8
    sent = pickle.loads(pickle.dumps(data))  # noqa: S301 - our own
    assert [content(sent.batch(i)) for i in (3, 2, 1, 0)] == first[::-1]
    assert len({b"".join(c) for c in first}) == 4
    assert content(tasks(kind, seed=4).batch(0)) != first[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_who_loads_them(tasks, workers):
    """Loader processes give the same batches in the same order, from any step on."""
    data = [tasks("segmentation"), tasks("detection")]
    loaded = [*_batches(data, 2, 5, workers)]
    for step, batches in zip((2, 3, 4), loaded, strict=True):
        assert {k: content(b) for k, b in batches.items()} == {d.spec.name: content(d.batch(step)) for d in data}


def counting(units, batch_size, room=10**6, bag=False):
    """Task data of so many units whose batches are never read, only whose turn it is."""
    column = "slide" if bag else ""
    from wsi_umedpt.datasets.records import DataSpec

    spec = TaskSpec(
        name="t", kind="classification", classes=("a",), modality="xray", batch_size=batch_size, size_px=(32, 32),
        data=DataSpec(source="table", images="", labels="", label_column="a", bag_column=column),
    )  # fmt: skip
    records = [LabelRecord(name=f"{i}", group=f"{i}", path=f"{i}", label=(0.0,), bag=f"{i}") for i in range(units)]
    return TaskData(spec, {"train": records}, 5, room)


@given(units=st.integers(1, 20), batch_size=st.integers(1, 9), bag=st.booleans())
def test_everyone_has_a_turn_once_an_epoch(units, batch_size, bag):
    """Over three epochs' worth of batches every image, or bag, has had its turn three times; orders differ."""
    data = counting(units, batch_size, bag=bag)
    turns = [data._turn(i) for i in range(-(-3 * units // batch_size))]
    assert {len(turn) for turn in turns} == {batch_size}
    names = [record.name for turn in turns for [record] in turn][: 3 * units]
    epochs = [names[k * units : (k + 1) * units] for k in range(3)]
    assert [sorted(epoch, key=int) for epoch in epochs] == [[f"{i}" for i in range(units)]] * 3
    if units > 7:
        assert len({tuple(epoch) for epoch in epochs}) > 1


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(0, 50), budget=st.sampled_from([64 * 64, 3 * 64 * 64, 1 << 20]), kind=st.sampled_from(KINDS))
def test_a_batch_holds_to_the_pixel_budget(tiny, number, budget, kind):
    """A batch has as many pixels as are allowed or fewer, at least one image, and sides that are multiples of 32."""
    data = replace(tiny[kind], max_pixels=budget)
    images = data.batch(number).images
    assert images.numel() / 3 <= budget
    assert len(images) >= 1
    assert {s % 32 for s in images.shape[2:]} == {0}
    assert {*images.shape[2:]} <= {32, 64}
    if budget == 1 << 20 and kind != "bags":
        assert len(images) == 3


@pytest.fixture
def tiny(tasks):
    """A task of every kind, read."""
    made = {kind: tasks(kind) for kind in KINDS}
    check([*made.values()], cache_bytes=1 << 30)
    return made


def test_batches_carry_what_their_kind_needs(tiny):
    """Fields, dtypes and shapes of every kind of batch."""
    got = {kind: data.batch(0) for kind, data in tiny.items()}
    assert {b.images.dtype for b in got.values()} == {torch.uint8}
    assert (got["classification"].labels.dtype, got["classification"].labels.shape) == (torch.int64, (3,))
    assert (got["regression"].labels.dtype, got["regression"].labels.shape) == (torch.float32, (3, 1))
    assert (got["multilabel"].labels.dtype, got["multilabel"].labels.shape) == (torch.float32, (3, 2))
    assert (got["segmentation"].masks.dtype, got["segmentation"].masks.ndim) == (torch.int64, 3)
    assert got["segmentation"].masks.shape[1:] == got["segmentation"].images.shape[2:]
    assert [(b.xyxy.dtype, b.classes.dtype) for b in got["detection"].boxes] == [(torch.float32, torch.int64)] * 3


def test_labels_of_a_mask_are_of_the_crop(tiny):
    """Which classes an image shows, and what share is covered, is asked of the part that is in view."""
    spec = replace(tiny["multilabel"].spec, size_px=(32, 32), zoom=(3.0, 3.0), name="close")
    close = replace(tiny["multilabel"], spec=spec)
    shown = [tuple(row) for i in range(20) for row in close.batch(i).labels.tolist()]
    # All images have class 1 somewhere, half of them class 2; a window of 11 px misses them at times.
    assert {*shown} >= {(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)}
    # The same crops with their masks: the same classes are in them.
    masks = replace(tiny["segmentation"], spec=replace(spec, kind="segmentation", classes=("out", "a", "b")))
    for i in range(5):
        there = [[float((m == k).any()) for k in (1, 2)] for m in masks.batch(i).masks]
        assert close.batch(i).labels.tolist() == there


def test_bags_are_whole_with_one_label_each(tasks):
    """Images of a bag stand together, counted from 0; each bag has one label."""
    data = tasks("bags", batch_size=2, size_px=(32, 32))
    sizes = {"S0": 3, "S1": 3, "S2": 2}
    for i in range(6):
        batch, turn = data.batch(i), data._turn(i)
        assert batch.bags.tolist() == [k for k, unit in enumerate(turn) for _ in range(sizes[unit[0].bag])]
        assert (batch.labels.dtype, batch.labels.tolist()) == (torch.int64, [0] * len(turn))
        assert len(batch.images) == len(batch.bags)


@pytest.mark.parametrize("room", [2, 3, 5, 8])
def test_bags_under_the_pixel_budget(tasks, room):
    """Bags are whole while they fit; of a first one that is too large, a random part is shown."""
    data = tasks("bags", batch_size=2, size_px=(32, 32), max_pixels=room * 32 * 32)
    for i in range(12):
        first, second = (len(unit) for unit in data._turn(i))
        expected = [min(first, room)] + [second] * (first + second <= room)
        batch = data.batch(i)
        assert batch.bags.tolist() == [k for k, n in enumerate(expected) for _ in range(n)]
        assert len(batch.labels) == len(expected)
        assert len(batch.images) == sum(expected)


def test_the_label_of_each_bag_is_its_own(folder, tasks):
    """Labels stand in the order of the bags."""
    folder.table("t.csv", "image worst slide", *([f"{i}", "high" if i > 5 else "low", f"S{i // 3}"] for i in range(8)))
    data = tasks("bags", batch_size=3)
    for i in range(4):
        assert data.batch(i).labels.tolist() == [int(unit[0].bag == "S2") for unit in data._turn(i)]


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_shows_everything_once_as_it_is(tiny, kind):
    """One image, or one bag, a batch, in the order of the records, at the middle zoom."""
    data = tiny[kind]
    data = replace(data, splits={**data.splits, "val": data.splits["train"]})
    shown = [*data.evaluated("val")]
    if kind == "bags":
        assert [(len(b.images), b.labels.tolist(), b.bags.tolist()) for b in shown] == [
            (n, [0], [0] * n) for n in (3, 3, 2)
        ]
    else:
        assert [b.images.shape for b in shown] == [(1, 3, 32, 40)] * 8
    if kind == "regression":
        assert [b.labels.item() for b in shown] == [*range(8)]


def test_images_of_a_bag_may_differ_in_size(folder, tasks):
    """Smaller ones get a border, so that a bag is one batch."""
    folder.picture("images/0.png", 20, 64)
    data = tasks("bags", zoom=(1.0, 1.0))
    data = replace(data, splits={"val": data.splits["train"]})
    [first, *_] = data.evaluated("val")
    assert first.images.shape == (3, 3, 32, 64)


def test_label_moments(folder, tasks):
    """Mean and spread over training batches; a value that no training image has is refused."""
    [centre], [spread] = tasks("regression", batch_size=8).label_moments()
    assert centre == pytest.approx(np.arange(8).mean())
    assert spread == pytest.approx(np.arange(8).std())
    folder.table("t.csv", "image size", *([f"{i}", ""] for i in range(8)))
    with pytest.raises(DataError, match="task t_regression: no training image has a value for size"):
        tasks("regression").label_moments()


def test_every_damaged_file_is_listed_in_one_error(folder, tasks):
    """Of all tasks, and of all kinds of damage: each file is named with its task."""
    made = [tasks("segmentation"), tasks("detection"), tasks("classification")]
    (folder.path / "images/1.png").write_bytes(b"no image")
    folder.blobs("masks/2.png", 31, 40)
    folder.array("masks/4.png", np.full((32, 40), 7, np.uint8))
    (folder.path / "masks/5.png").unlink()
    with pytest.raises(DataError) as caught:
        check(made, cache_bytes=0)
    said = str(caught.value)
    for part in (
        "t_segmentation: ", "images/1.png is no picture", "masks/2.png is (31, 40)",
        "t_segmentation: 4.png: its mask holds class 7; the task names classes up to 2", "masks/5.png cannot be read",
        "t_detection: ", "t_classification: ",
    ):  # fmt: skip
        assert part in said
    assert "t_detection: 4.png" not in said, "7 is a fine number of an instance"


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        pytest.param("multilabel", 3, "holds class 3; the task names classes up to 2", id="label-beyond-the-names"),
        pytest.param("multilabel", 2, None, id="label-of-the-last-name"),
        pytest.param("segmentation", 3, "holds class 3; the task names classes up to 2", id="class-beyond-the-names"),
        pytest.param("segmentation", 2, None, id="class-of-the-last-name"),
        pytest.param("detection", 60000, None, id="instances-have-any-number"),
    ],
)
def test_class_numbers_are_checked_at_the_door(folder, tasks, kind, value, said):
    """A mask's numbers have names, unless they count instances."""
    folder.array("masks/4.png", np.full((32, 40), value, np.uint16))
    if said is None:
        check([tasks(kind)], cache_bytes=0)
        return
    with pytest.raises(DataError, match=said):
        check([tasks(kind)], cache_bytes=0)


def test_a_damaged_volume_is_listed_once(folder):
    """However many slices it has."""
    for name in ("a", "b"):
        folder.volume(f"v/{name}.nii.gz", np.random.default_rng(0).normal(size=(5, 8, 8)).astype(np.float32))
        folder.volume(f"m/{name}.nii.gz", np.full((5, 8, 8), -2, np.int16))
    whole = (folder.path / "v/a.nii.gz").read_bytes()
    spec = TaskSpec(
        name="t", kind="segmentation", classes=("a", "b"), modality="tomography",
        data=folder.spec("volumes", "v", labels="m"),
    )  # fmt: skip
    data = TaskData.find(spec, seed=0, max_pixels=1 << 20, **SHARES)
    (folder.path / "v/a.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"\(6\)") as caught:  # a once, b for each slice whose class is -2
        check([data], cache_bytes=0)
    assert str(caught.value).count("a.nii.gz cannot be read as NIfTI") == 1
    assert "b slice 3: its mask holds class -2" in str(caught.value)


def test_the_door_reads_each_file_once_and_keeps_what_fits(folder, tasks, monkeypatch):
    """Tasks on the same masks share what was read; no more is kept than there is room for."""
    read = Counter()
    from wsi_umedpt.datasets import records

    plain = records.read_image
    monkeypatch.setattr(records, "read_image", lambda path: read.update([path.name]) or plain(path))
    one = tasks("segmentation")
    other = replace(one, spec=replace(one.spec, name="other"), samples={})
    seen = []
    check([one, other], cache_bytes=3 * 32 * 40 * 7 + 1, progress=lambda done, total: seen.append((done, total)))
    assert set(read.values()) == {1}
    assert seen == [(i + 1, 8) for i in range(8)]
    assert len(one.samples) == 3
    assert all(one.samples[r] is other.samples[r] for r in one.samples)
