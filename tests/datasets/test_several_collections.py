"""One task learns from several collections: shares are equal, scales and class names are each one's own."""

from collections import Counter
from dataclasses import replace

import pytest

from wsi_umedpt.datasets.task_data import TaskData, TaskSpec
from wsi_umedpt.errors import DataError

SHARES = {"val": 0.0, "test": 0.0, "split_seed": 0, "seed": 3, "max_pixels": 1 << 20}


@pytest.fixture
def spec(folder):
    """Eight images of one hospital and three of another, which calls its classes otherwise."""
    for name, count in (("a", 8), ("b", 3)):
        for i in range(count):
            folder.picture(f"{name}/{i}.png")
    folder.table("a.csv", "image grade", *[[f"{i}", "high" if i % 2 else "low"] for i in range(8)])
    folder.table("b.csv", "image finding", *[[f"{i}", ("none", "some", "much")[i]] for i in range(3)])
    one = {"source": "table", "collection": "a", "images": "a", "labels": "a.csv", "label_column": "grade"}
    other = {"source": "table", "collection": "b", "images": "b", "labels": "b.csv", "label_column": "finding"}
    renamed = {"none": "low", "some": "high", "much": "high"}
    return TaskSpec(
        name="grade", kind="classification", classes=("low", "high"), modality="microscopy", size_px=(32, 32),
        batch_size=4, zoom=(1.0, 1.0), data=folder.spec(**one),
        more=(folder.spec(**other, rename=renamed, zoom=(0.5, 0.5)),),
    )  # fmt: skip


def test_collections_have_equal_shares(spec):
    """Each batch has as many images of the small collection as of the large one; within each, everyone has a turn."""
    data = TaskData.find(spec, **SHARES)
    turns = [[unit[0].group for unit in data._turn(number)] for number in range(12)]
    assert {Counter(group[0] for group in turn)["b"] for turn in turns} == {2}
    large = [group for turn in turns for group in turn if group.startswith("a")]
    assert [sorted(large[i : i + 8]) for i in (0, 8, 16)] == [[f"a/{i}" for i in range(8)]] * 3
    small = [group for turn in turns for group in turn if group.startswith("b")]
    assert [sorted(small[i : i + 3]) for i in range(0, 24, 3)] == [[f"b/{i}" for i in range(3)]] * 8


def test_classes_are_called_as_the_task_calls_them(spec):
    """`rename` maps one collection's classes, several to one if asked; what has no name in the task is refused."""
    labels = {r.group: r.label for r in TaskData.find(spec, **SHARES).splits["train"] if r.group.startswith("b")}
    assert labels == {"b/0": (0.0,), "b/1": (1.0,), "b/2": (1.0,)}
    with pytest.raises(DataError, match="class 'much' is none of low, high"):
        TaskData.find(replace(spec, more=(replace(spec.more[0], rename={"none": "low", "some": "high"}),)), **SHARES)


def test_images_are_shown_at_their_own_scale(spec):
    """Each collection is evaluated at the middle of its zoom."""
    data = TaskData.find(spec, **SHARES)
    widths = Counter(batch.images.shape[-1] for batch in data.evaluated("train"))
    whole = data.splits["train"][0].read().image.shape[1]
    assert widths == {whole: 8, whole // 2: 3}


def test_masks_of_one_kind(spec, folder):
    """Instances here and classes there cannot be one segmentation task; a renaming needs class names."""
    masks = {"source": "masks", "images": "a", "labels": "a"}
    with pytest.raises(ValueError, match="hold classes, or those of all hold instances"):
        replace(spec, kind="segmentation", data=folder.spec(**masks, instances=True), more=(folder.spec(**masks),))
    with pytest.raises(ValueError, match="rename is for source table or boxes"):
        folder.spec(**masks, rename={"a": "b"})
