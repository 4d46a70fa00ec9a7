"""A label image is whole or absent, the same however it was appended or interrupted, and lies where it should."""

import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsi_umedpt.errors import StoreError
from wsi_umedpt.io.stalls import watched
from wsi_umedpt.store import label_info, label_pyramid
from wsi_umedpt.store.label_info import LabelInfo
from wsi_umedpt.store.label_pyramid import LabelWriter, halve, read_labels, write_labels_group

TRUE_CHUNK_PX, TRUE_COARSEST_PX = label_pyramid.CHUNK_PX, label_info.COARSEST_PX


@pytest.fixture(autouse=True, scope="module")
def _small_chunks() -> Iterator[None]:
    """Chunks of 8 px, so that small images have many chunks and levels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_pyramid, "CHUNK_PX", 8)
        patch.setattr(label_info, "COARSEST_PX", 5)
        yield


def info_of(image: np.ndarray, **changes) -> LabelInfo:
    known = {
        "name": "regions",
        "shape": image.shape,
        "mpp": 0.5,
        "scale": 2.0,
        "classes": ("tumour", "stroma", "necrosis"),
        "colours": ((200, 0, 0), (0, 150, 0), (40, 40, 40)),
    }
    return LabelInfo(**{**known, **changes})


def write(path: Path, image: np.ndarray, cuts: tuple[int, ...] = ()) -> LabelInfo:
    writer = LabelWriter(path, info_of(image))
    for part in np.split(image, cuts):
        writer.append(part)
    writer.finish()
    return writer.info


def files_of(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@contextmanager
def fresh_folder() -> Iterator[Path]:
    # hypothesis runs a test many times on one tmp_path
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def naive_halve(image: np.ndarray) -> np.ndarray:
    even = np.pad(image, [(0, n % 2) for n in image.shape], mode="edge")
    rows, cols = even.shape
    blocks = even.reshape(rows // 2, 2, cols // 2, 2).swapaxes(1, 2).reshape(rows // 2, cols // 2, 4)
    return np.sort(blocks, axis=2)[:, :, 2]


def naive_pyramid(image: np.ndarray) -> list[np.ndarray]:
    levels = [image]
    while max(levels[-1].shape) > label_info.COARSEST_PX:
        levels.append(naive_halve(levels[-1]))
    return levels


sides = st.tuples(st.integers(1, 40), st.integers(1, 20))
images = hnp.arrays(np.uint8, sides, elements=st.integers(0, 3), fill=st.just(0))


@st.composite
def cut_images(draw) -> tuple[np.ndarray, tuple[int, ...]]:
    """An image, and the rows where it is cut; pieces may be empty."""
    image = draw(images)
    return image, tuple(sorted(draw(st.lists(st.integers(0, len(image)), max_size=5))))


# ---- one level of another ----


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_halving_takes_the_third_smallest_of_four(image):
    """The branch-free network gives what sorting the four gives, odd sides repeated."""
    np.testing.assert_array_equal(halve(image), naive_halve(image))


@pytest.mark.parametrize(
    ("four", "expected"),
    [
        pytest.param([0, 0, 0, 3], 0, id="one-of-four-is-lost"),
        pytest.param([0, 2, 0, 2], 2, id="half-survives"),
        pytest.param([1, 0, 3, 0], 1, id="half-survives-as-its-lesser-class"),
        pytest.param([1, 1, 2, 2], 2, id="of-two-halves-the-greater-number"),
    ],
)
def test_what_survives_halving(four, expected):
    """Foreground survives where it fills half of the four, never as a class that is not among them."""
    assert halve(np.array(four, np.uint8).reshape(2, 2)).tolist() == [[expected]]


# ---- pixels ----


@given(cut_images())
@settings(max_examples=25)
def test_levels_are_those_of_the_whole_image(drawn):
    """However the rows came in, the levels are the image and its naive halvings."""
    image, cuts = drawn
    with fresh_folder() as folder:
        write(folder / "a", image, cuts)
        read = read_labels(folder / "a")
        expected = naive_pyramid(image)
        assert len(read.levels) == len(expected)
        for number, (level, pixels) in enumerate(zip(read.levels, expected, strict=True)):
            np.testing.assert_array_equal(level.array[...], pixels)
            assert level.scale == 2 * 2**number


@given(cut_images(), st.data())
@settings(max_examples=25)
def test_resuming_gives_the_bytes_of_an_uninterrupted_run(drawn, data):
    """Killed any number of rows after its state was taken, a writer goes on to the same files."""
    image, cuts = drawn
    taken = data.draw(st.integers(0, len(image)), label="state taken at row")
    killed = data.draw(st.integers(taken, len(image)), label="killed at row")
    with fresh_folder() as folder:
        info = write(folder / "whole", image, cuts)
        first = LabelWriter(folder / "cut", info)
        first.append(image[:taken])
        state = first.state()
        first.append(image[taken:killed])
        np.savez(folder / "state.npz", **state)
        with np.load(folder / "state.npz") as saved:
            second = LabelWriter.resume(folder / "cut", info, saved)
        assert second.rows_done == taken
        second.append(image[taken:])
        second.finish()
        assert files_of(folder / "cut") == files_of(folder / "whole")


def test_what_a_kill_tore_is_written_again(tmp_path, rng):
    """Half a chunk, a temporary file and attributes that came too soon are gone after resuming."""
    image = rng.integers(1, 4, (30, 20), dtype=np.uint8)
    info = write(tmp_path / "whole", image)
    first = LabelWriter(tmp_path / "cut", info)
    first.append(image[:10])
    state = first.state()
    torn = tmp_path / "cut" / "0" / "c" / "1"
    torn.mkdir()
    (torn / "2").write_bytes(b"torn")
    (torn / "1.0f.partial").write_bytes(b"torn")
    (tmp_path / "cut" / "zarr.json").write_text("{}")
    second = LabelWriter.resume(tmp_path / "cut", info, state)
    assert not (tmp_path / "cut" / "zarr.json").exists()
    second.append(image[10:])
    second.finish()
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


@given(cut_images())
@settings(max_examples=15)
def test_state_is_less_than_a_chunk_of_rows_a_level(drawn):
    """What a writer holds back does not grow with the height of the image."""
    image, cuts = drawn
    with fresh_folder() as folder:
        writer = LabelWriter(folder / "a", info_of(image))
        for part in np.split(image, cuts):
            writer.append(part)
            held = [rows for name, rows in writer.state().items() if name != "rows"]
            assert all(len(rows) < label_pyramid.CHUNK_PX for rows in held)
            assert [rows.shape[1] for rows in held] == [cols for _, cols in writer.info.level_shapes()]


def test_background_is_not_written(tmp_path):
    """An empty image has no chunk file at any level, a dot only those that it lies in."""
    image = np.zeros((40, 20), np.uint8)
    write(tmp_path / "empty", image)
    assert {name for name in files_of(tmp_path / "empty") if "/c/" in name} == set()
    assert not read_labels(tmp_path / "empty").levels[0].array[...].any()
    image[9, 17] = 1
    write(tmp_path / "dot", image)
    assert {name for name in files_of(tmp_path / "dot") if "/c/" in name} == {"0/c/1/2"}


def test_chunks_and_levels_at_their_true_size(tmp_path, monkeypatch, rng):
    """Chunks are 1024 px a side, zstd, unsharded; the coarsest level is at most 512 px a side."""
    monkeypatch.setattr(label_pyramid, "CHUNK_PX", TRUE_CHUNK_PX)
    monkeypatch.setattr(label_info, "COARSEST_PX", TRUE_COARSEST_PX)
    image = np.kron(rng.integers(0, 3, (31, 17)), np.ones((67, 67))).astype(np.uint8)
    write(tmp_path / "a", image, (100, 1500))
    read = read_labels(tmp_path / "a")
    for number, (level, pixels) in enumerate(zip(read.levels, naive_pyramid(image), strict=True)):
        np.testing.assert_array_equal(level.array[...], pixels)
        meta = json.loads((tmp_path / "a" / str(number) / "zarr.json").read_bytes())
        assert meta["chunk_grid"]["configuration"]["chunk_shape"] == [1024, 1024]
        assert [codec["name"] for codec in meta["codecs"]] == ["bytes", "zstd"]
    assert [level.array.shape for level in read.levels] == [(2077, 1139), (1039, 570), (520, 285), (260, 143)]


# ---- metadata ----


def test_metadata_are_those_of_ome_zarr_05(tmp_path):
    """Every MUST of the sections multiscales, labels and image-label that concerns two axes."""
    write(tmp_path / "a", np.ones((30, 11), np.uint8))
    group = json.loads((tmp_path / "a" / "zarr.json").read_bytes())
    assert (group["zarr_format"], group["node_type"]) == (3, "group")
    ome = group["attributes"]["ome"]
    assert ome["version"] == "0.5"
    (multiscale,) = ome["multiscales"]
    assert multiscale["axes"] == [{"name": axis, "type": "space", "unit": "micrometer"} for axis in ("y", "x")]
    sizes = []
    for dataset in multiscale["datasets"]:
        array = json.loads((tmp_path / "a" / dataset["path"] / "zarr.json").read_bytes())
        assert (array["zarr_format"], array["node_type"], array["data_type"]) == (3, "array", "uint8")
        assert array["dimension_names"] == ["y", "x"]
        assert [step["type"] for step in dataset["coordinateTransformations"]] == ["scale", "translation"]
        assert all(len(step[step["type"]]) == 2 for step in dataset["coordinateTransformations"])
        sizes.append(math.prod(array["shape"]))
    assert sizes == sorted(sizes, reverse=True)
    label = ome["image-label"]
    values = [colour["label-value"] for colour in label["colors"]]
    assert values == [prop["label-value"] for prop in label["properties"]] == [0, 1, 2, 3]
    for rgba in (colour["rgba"] for colour in label["colors"]):
        assert len(rgba) == 4
        assert all(isinstance(part, int) and 0 <= part <= 255 for part in rgba)
    assert label["colors"][0]["rgba"][3] == 0, "background is transparent"
    assert label["properties"][1]["name"] == "tumour"
    assert isinstance(label["source"], dict)


@pytest.mark.parametrize(
    ("scale", "origin", "expected"),
    [
        pytest.param(1.0, (0, 0), [(0, 0), (0.25, 0.25), (0.75, 0.75)], id="as-fine-as-the-slide"),
        pytest.param(2.0, (0, 0), [(0.125, 0.125), (0.375, 0.375), (0.875, 0.875)], id="half-as-fine"),
        pytest.param(1.0, (100, 10), [(5, 50), (5.25, 50.25), (5.75, 50.75)], id="begins-inside-the-slide"),
    ],
)
def test_middles_of_pixels_lie_where_they_cover_the_slide(scale, origin, expected):
    """(y, x) um of a level's first pixel: the mean of the middles of the level-0 px that it covers."""
    info = info_of(np.zeros((20, 20)), mpp=0.5, scale=scale, origin=origin)
    datasets = info.ome()["multiscales"][0]["datasets"]
    steps = [[step[step["type"]] for step in dataset["coordinateTransformations"]] for dataset in datasets]
    assert [scale for scale, _ in steps] == [[0.5, 0.5], [1.0, 1.0], [2.0, 2.0]]
    assert [tuple(translation) for _, translation in steps] == expected


def test_info_round_trips(tmp_path):
    """What a label image says of itself is read back as it was given."""
    image = np.ones((9, 9), np.uint8)
    info = info_of(image, origin=(3.0, 4.5), source={"fingerprint": "ab"}, made_by={"model": "m", "batch": [1, 2]})
    writer = LabelWriter(tmp_path / "a", info)
    writer.append(image)
    writer.finish()
    assert read_labels(tmp_path / "a").info == info


def test_labels_group_lists_what_is_whole(tmp_path):
    """The group names label images that are finished, no others."""
    for name in ("b", "a"):
        write(tmp_path / name, np.ones((9, 9), np.uint8))
    LabelWriter(tmp_path / "growing", info_of(np.ones((9, 9))))
    assert write_labels_group(tmp_path) == ["a", "b"]
    group = json.loads((tmp_path / "zarr.json").read_bytes())
    assert group["attributes"]["ome"] == {"version": "0.5", "labels": ["a", "b"]}


# ---- refusals ----


def test_an_unfinished_folder_is_no_label_image(tmp_path):
    """Until `finish`, which needs every row, nothing can be read."""
    image = np.ones((20, 9), np.uint8)
    writer = LabelWriter(tmp_path / "a", info_of(image))
    writer.append(image[:-1])
    with pytest.raises(StoreError, match="19 of 20 rows"):
        writer.finish()
    with pytest.raises(StoreError, match="cannot be read as zarr"):
        read_labels(tmp_path / "a")


def test_a_missing_chunk_is_damage_not_background(tmp_path):
    """A chunk that is lost reads as background, so that it must be refused."""
    write(tmp_path / "a", np.ones((20, 9), np.uint8))
    (tmp_path / "a" / "0" / "c" / "1" / "0").unlink()
    with pytest.raises(StoreError, match=r"hold \[5, 2, 1\] chunks, but \[6, 2, 1\]"):
        read_labels(tmp_path / "a")


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        pytest.param(np.zeros((1, 8), np.uint8), r"\(1, 8\)", id="too-narrow"),
        pytest.param(np.zeros((21, 9), np.uint8), r"up to 20", id="too-many"),
        pytest.param(np.zeros((1, 9), np.int64), "int64", id="not-uint8"),
        pytest.param(np.full((1, 9), 4, np.uint8), "class 4", id="class-without-a-name"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, rows, match):
    """What cannot be part of the image is refused, and changes nothing."""
    writer = LabelWriter(tmp_path / "a", info_of(np.zeros((20, 9))))
    with pytest.raises(StoreError, match=match):
        writer.append(rows)
    assert writer.rows_done == 0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        pytest.param({"shape": (0, 9)}, "shape must be positive", id="no-rows"),
        pytest.param({"mpp": 0.0}, "mpp must be positive", id="no-mpp"),
        pytest.param({"classes": ()}, "1 to 255 classes", id="no-classes"),
        pytest.param({"classes": ("a", "b", "a")}, "different names", id="a-name-twice"),
        pytest.param({"colours": ((0, 0, 0),)}, "1 colours", id="colours-missing"),
        pytest.param({"colours": ((0, 0, 256),) * 3}, "0 to 255", id="no-colour"),
    ],
)
def test_infos_that_make_no_sense_are_refused(changes, match):
    """What no label image can be is refused at the door."""
    with pytest.raises(StoreError, match=match):
        info_of(np.zeros((20, 9)), **changes)


def test_a_state_of_another_image_is_refused(tmp_path):
    """State and folder must be of one image, and a new writer takes no folder that is there."""
    image = np.ones((20, 9), np.uint8)
    writer = LabelWriter(tmp_path / "a", info_of(image))
    writer.append(image[:5])
    state = writer.state()
    with pytest.raises(StoreError, match="is there already"):
        LabelWriter(tmp_path / "a", info_of(image))
    with pytest.raises(StoreError, match="expected"):
        LabelWriter.resume(tmp_path / "a", info_of(np.ones((20, 10))), state)
    with pytest.raises(StoreError, match="other rows"):
        LabelWriter.resume(tmp_path / "a", info_of(image), {**state, "rows": np.array(6)})
    del state["held_0"]
    with pytest.raises(StoreError, match="lacks 'held_0'"):
        LabelWriter.resume(tmp_path / "a", info_of(image), state)


@pytest.mark.parametrize("part", ["0/zarr.json", "zarr.json", "0/c/0/0"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_part_that_is_no_file_is_never_waited_for(tmp_path, part, kind):
    """A pipe or a device under the name of metadata or a chunk is refused."""
    write(tmp_path / "regions", np.full((20, 20), 2, np.uint8))
    (tmp_path / "regions" / part).unlink()
    if kind == "pipe":
        os.mkfifo(tmp_path / "regions" / part)
    else:
        (tmp_path / "regions" / part).symlink_to("/dev/zero")

    def read(_: object) -> object:
        return read_labels(tmp_path / "regions").levels[0].array[:]

    with pytest.raises((StoreError, OSError), match=r"a (named pipe|device), not a file"):
        watched(read, stall_s=20)
