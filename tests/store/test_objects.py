"""Objects in a store: what was written is read back, and what is damaged is refused, by name and by `verify`."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.support.painted_slides import paint_nuclei, segment
from wsi_umedpt.errors import StoreError
from wsi_umedpt.store.objects import MEASURES, Objects
from wsi_umedpt.store.objects_io import ARRAYS, NewVectors, read_object_vectors, read_objects, write_objects
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.verify import problems_of
from wsi_umedpt.store.zarr_io import write_array
from wsi_umedpt.testing import relist


def squares(count: int) -> Objects:
    """Squares of side 2 along the diagonal, of two classes."""
    at = np.arange(count, dtype=np.float32)[:, None] * 10
    corners = at[:, None] + np.array([[0, 0], [2, 0], [2, 2], [0, 2]], np.float32)
    return Objects(
        ("a", "b"),
        (np.arange(count) % 2).astype(np.uint8),
        np.linspace(0, 1, count, dtype=np.float32),
        np.tile(at + 1, 2),
        np.full((count, len(MEASURES)), np.nan, np.float32),
        np.arange(count + 1, dtype=np.int64) * 4,
        corners.reshape(-1, 2),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A store of objects and their label image, without a grid."""
    path = tmp_path_factory.mktemp("whole") / "a.zarr"
    segment(paint_nuclei(path.parent), path)
    return path


@pytest.fixture
def store(whole, tmp_path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "a.zarr"))


@pytest.mark.parametrize("count", [0, 1, 7])
def test_what_is_written_is_read_back(store, count):
    """Any number of objects, none included, with what made them."""
    objects = squares(count)
    write_objects(store / "detections" / "squares", objects, {"model": "m"})
    relist(store)
    found, made_by = read_objects(SlideStore.open(store), "squares")
    assert made_by == {"model": "m"}
    assert found.classes == objects.classes
    for name in ARRAYS:
        assert np.array_equal(getattr(found, name), getattr(objects, name), equal_nan=name == "measures")
    assert problems_of(store) == []


@pytest.mark.parametrize("count", [0, 1, 4, 11, 12])
@pytest.mark.parametrize("block", [1, 3, 20])
def test_vectors_lie_in_chunks_and_are_read_back(store, monkeypatch, count, block):
    """However many rows are given at a time, the last chunk whole or not; what is missing or changed is found."""
    monkeypatch.setattr("wsi_umedpt.store.zarr_io.ROWS_CHUNK", 4)
    vectors = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float16)
    blocks = (vectors[at : at + block] for at in range(0, count, block))
    write_objects(store / "detections" / "squares", squares(count), {}, NewVectors(3, blocks, {"model": "m"}))
    relist(store)
    found, about = read_object_vectors(SlideStore.open(store), "squares")
    assert np.array_equal(found, vectors)
    assert (found.dtype, about["model"], about["head"]) == (np.float16, "m", "squares")
    assert len([*(store / "detections/squares/vectors").glob("c/*/0")]) == -(-count // 4)
    assert problems_of(store) == []
    for chunk in (store / "detections/squares/vectors").glob("c/0/0"):
        chunk.write_bytes(b"1" + chunk.read_bytes()[1:])
        assert any("detections/squares/vectors" in problem for problem in problems_of(store))


def test_vectors_of_another_number_of_objects_are_refused(store):
    """When they are written, and when they are read."""
    few = NewVectors(2, [np.ones((2, 2), np.float16)], {})
    with pytest.raises(StoreError, match="2 rows were given, expected 3"):
        write_objects(store / "detections" / "squares", squares(3), {}, few)
    write_objects(store / "detections" / "squares", squares(2), {}, few)
    for name in ARRAYS:
        shutil.rmtree(store / "detections" / "squares" / name)
        write_array(store / "detections" / "squares" / name, getattr(squares(3), name))
    relist(store)
    with pytest.raises(StoreError, match=r"vectors is damaged: it is float16 \(2, 2\) for 3 objects"):
        read_object_vectors(SlideStore.open(store), "squares")


@pytest.mark.parametrize(("name", "said"), [("cells", "no objects 'cells'"), (None, "2 kinds of objects")])
def test_objects_that_are_not_there_are_refused(store, name, said):
    """With the names of those that are."""
    write_objects(store / "detections" / "squares", squares(3), {})
    relist(store)
    with pytest.raises(StoreError, match=rf"{said}\. It holds: nuclei, squares"):
        read_objects(SlideStore.open(store), name)


def test_joined_and_taken_are_the_objects_they_were():
    """Parts one behind the other, and any rows of them, keep their own outlines."""
    objects = squares(9)
    again = Objects.joined([objects.taken(np.arange(4)), squares(0), objects.taken(np.arange(9) >= 4)], objects.classes)
    assert np.array_equal(again.outline, objects.outline)
    assert np.array_equal(again.starts, objects.starts)
    picked = objects.taken(np.array([6, 2]))
    assert picked.boxes().tolist() == [[60, 60, 62, 62], [20, 20, 22, 22]]
    assert [p.area for p in picked.polygons()] == [4, 4]


def replace(store: Path, name: str, values: np.ndarray) -> None:
    shutil.rmtree(store / "detections" / "squares" / name)
    write_array(store / "detections" / "squares" / name, values)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        pytest.param("score", np.zeros(2, np.float32), r"score is float32 \(2,\), expected float32 \(3,\)", id="rows"),
        pytest.param("score", np.zeros(3), "score is float64", id="another-type"),
        pytest.param("centroid", np.zeros((3, 3), np.float32), r"centroid is float32 \(3, 3\)", id="columns"),
        pytest.param("starts", np.array([0, 4, 8, 11]), "starts does not part the 12 corners", id="too-few-corners"),
        pytest.param("starts", np.array([0, 8, 4, 12]), "starts does not part", id="starts-that-fall"),
        pytest.param("starts", np.array([0, 4, 6, 12]), "outlines of 3 or more", id="outline-of-two-corners"),
        pytest.param("starts", np.zeros(0, np.int64), r"starts is int64 \(0,\)", id="no-starts"),
        pytest.param("class_index", np.array([0, 1, 2], np.uint8), "of class 2, but there are 2", id="no-such-class"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(store, name, values, said):
    """Each is told with what was found; `verify` tells the same."""
    write_objects(store / "detections" / "squares", squares(3), {})
    replace(store, name, values)
    relist(store)
    with pytest.raises(StoreError, match=rf"squares is damaged: .*{said}"):
        read_objects(SlideStore.open(store), "squares")
    assert any("squares is damaged" in problem for problem in problems_of(store))


@pytest.mark.parametrize("lacking", ["classes", "made_by", "measures"])
def test_objects_that_do_not_say_what_they_are_are_refused(store, lacking):
    """Attributes of another program, or a later one."""
    node = store / "detections" / "nuclei" / "zarr.json"
    content = json.loads(node.read_text())
    del content["attributes"][lacking]
    node.write_text(json.dumps(content))
    relist(store)
    with pytest.raises(StoreError, match=lacking):
        read_objects(SlideStore.open(store))
    assert any(lacking in problem for problem in problems_of(store))


def first_chunk(folder: Path) -> Path:
    return min(p for p in (folder / "c").rglob("*") if p.is_file())


def flip(path: Path, at: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def relabel(store: Path, level: int, value: int) -> None:
    """Turn all that a level shows into another class, properly compressed."""
    array = zarr.open_array(store / "labels" / "nuclei" / str(level), mode="r+")
    array[...] = (array[...] > 0) * np.uint8(value)


def flip_corner(store: Path) -> None:
    """One pixel of a level that is another class than the finer level's."""
    array = zarr.open_array(store / "labels" / "nuclei" / "1", mode="r+")
    array[0, 0] = 1 - np.asarray(array[0, 0])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(
            lambda s: flip(first_chunk(s / "detections/nuclei/score")), "detections/nuclei/score: .*sha256", id="bit"
        ),
        pytest.param(lambda s: shutil.rmtree(s / "detections/nuclei/outline"), "outline: is lost", id="array-gone"),
        pytest.param(
            lambda s: first_chunk(s / "detections/nuclei/starts").unlink(), "starts: chunk 0 cannot be", id="chunk-gone"
        ),
        pytest.param(
            lambda s: (s / "detections/nuclei/notes.txt").touch(), "nuclei: holds notes.txt, which no", id="foreign"
        ),
        pytest.param(
            lambda s: (s / "detections/nuclei/score/c/9").touch(), "score: holds c/9, which no run", id="foreign-chunk"
        ),
        pytest.param(
            lambda s: shutil.copytree(s / "detections/nuclei/score", s / "detections/nuclei/more"),
            "nuclei: holds more, which no run writes",
            id="foreign-array",
        ),
        pytest.param(
            lambda s: first_chunk(s / "labels/nuclei/0").unlink(),
            r"labels/nuclei is damaged: .* chunks",
            id="label-gone",
        ),
        pytest.param(
            lambda s: first_chunk(s / "labels/nuclei/0").write_bytes(b"no"), "level 0 from row 0 on cannot", id="torn"
        ),
        pytest.param(lambda s: relabel(s, 1, 7), "level 1 holds class 7, but there are 1", id="label-without-a-class"),
        pytest.param(lambda s: flip_corner(s), "level 1 from row 0 on is not made of level 0", id="levels-that-differ"),
        pytest.param(lambda s: (s / "labels/nuclei/0/x").touch(), "holds 0/x, which no run", id="foreign-label"),
        pytest.param(lambda s: (s / "labels/x.txt").touch(), "labels: holds x.txt, which no run", id="foreign-file"),
        pytest.param(lambda s: shutil.rmtree(s / "labels/nuclei"), "lists nuclei, which is not there", id="image-gone"),
        pytest.param(lambda s: (s / "other").mkdir(), "holds other, which no run writes", id="foreign-group"),
    ],
)
def test_verify_names_what_is_damaged(store, damage, said):
    """A line or a few for one damage, with the part that it is in."""
    assert problems_of(store) == []
    damage(store)
    problems = problems_of(store)
    assert any(re.search(said, problem) for problem in problems), problems
    assert len(problems) <= 3  # that it changed, and what it now says that cannot be


@pytest.mark.parametrize("grids", ["empty", "missing"])
def test_a_store_of_objects_alone_is_whole(store, grids):
    """It needs no grid; a store without objects does."""
    assert list((store / "grids").iterdir()) == [store / "grids" / "zarr.json"]
    if grids == "missing":
        shutil.rmtree(store / "grids")
        relist(store)
    assert problems_of(store) == []
    shutil.rmtree(store / "detections")
    shutil.rmtree(store / "labels")
    relist(store)
    if grids == "missing":
        assert problems_of(store) == [".: grids is missing"]
