"""The lazy pyramid: gives what an array would, in bounded memory, and survives damage."""

import gc
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_umedpt.errors import SlideError
from wsi_umedpt.geometry import Box
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.testing import flip_bytes, tissue_image, write_pyramid

from napari_wsi_umedpt.layers.multiscale import COARSEST_PX, Cache, ImagePyramid, Window, display_scales, slide_pyramid


def numbered(window: Window) -> np.ndarray:
    """A picture whose every pixel says where it is."""
    rows = np.arange(window.y, window.y + window.height)[:, None]
    cols = np.arange(window.x, window.x + window.width)
    return ((rows * 31 + cols * 7 + window.scale) % 251).astype(np.uint8)


def made(size=(1300, 900), **more) -> ImagePyramid:
    return ImagePyramid(size, numbered, colours=False, cache_bytes=more.pop("cache_bytes", 1 << 20), chunk_px=64)


@settings(max_examples=60)
@given(st.data())
def test_a_level_is_indexed_like_an_array(data):
    """Whatever box is asked for, in whatever order of calls, is what the whole holds there."""
    level = made()[data.draw(st.integers(0, 1))]
    whole = np.asarray(level)
    rows, cols = (sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in level.shape)
    assert np.array_equal(level[rows[0] : rows[1], cols[0] : cols[1]], whole[rows[0] : rows[1], cols[0] : cols[1]])


@pytest.mark.parametrize("index", [5, -1, (3, 4), (slice(None), 7), (slice(2, 90, 3), slice(5, 60, 2)), (..., 9)])
def test_all_kinds_of_indices(index):
    """Numbers, steps, ellipses."""
    level = made()[1]
    assert np.array_equal(level[index], np.asarray(level)[index])


@settings(max_examples=100)
@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_levels_divide_exactly(width, height):
    """The ratio of shapes, from which napari places levels, is their scale, and the coarsest is small."""
    levels = ImagePyramid((width, height), numbered, colours=False, cache_bytes=1)
    finest = levels[0].shape
    for level in levels:
        assert (level.shape[0] * level.scale, level.shape[1] * level.scale) == finest
    assert max(levels[-1].shape) <= COARSEST_PX
    assert finest[0] - height < levels[-1].scale > finest[1] - width
    assert display_scales((width, height)) == [level.scale for level in levels]


def test_the_cache_is_bounded():
    """However much is looked at, no more bytes are held than agreed, and what was used last stays."""
    cache = Cache(10_000)
    for n in range(50):
        cache.put(Window(1, n, 0, 30, 30), np.zeros((30, 30), np.uint8))
        assert cache.nbytes <= 10_000
    assert cache.get(Window(1, 49, 0, 30, 30)) is not None
    assert cache.get(Window(1, 0, 0, 30, 30)) is None


def test_threads_read_the_same():
    """Many threads at once get what one gets."""
    level = made(cache_bytes=20_000)[0]
    whole = numbered(Window(1, 0, 0, level.shape[1], level.shape[0]))
    wrong = []

    def look(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(30):
            y, x = rng.integers(0, 800), rng.integers(0, 1100)
            if not np.array_equal(level[y : y + 90, x : x + 170], whole[y : y + 90, x : x + 170]):
                wrong.append((x, y))

    threads = [threading.Thread(target=look, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_slide_is_its_own_pixels_and_averages(tmp_path):
    """Where the slide has a level it is shown bit for bit; the others are `Slide.read`'s."""
    image, _ = tissue_image(1500, 1100)
    path = write_pyramid(tmp_path / "a.svs", image, scales=(1, 4))
    with open_slide(path) as slide:
        expected = {s: slide.read(Box(256, 512, 256, 256), slide.mpp * s) for s in (1, 2, 4)}
    levels = slide_pyramid(open_slide(path), pytest.fail)
    for level in levels:
        s = level.scale
        found = level[512 // s : 768 // s, 256 // s : 512 // s]
        assert np.array_equal(found, expected[s]), f"1:{s}"
    assert (np.asarray(levels[0])[1100:] == 255).all()


def test_damage_is_grey_and_told(tmp_path):
    """A tile that cannot be decoded is grey, all around it is seen, and the reason is reported."""
    image, _ = tissue_image(1024, 1024)
    path = write_pyramid(tmp_path / "a.svs", image, scales=(1, 4))
    with open_slide(path) as slide:
        offset = int(slide.native_tiles(0)._offsets[5])
        good = slide.read(Box(0, 0, 256, 256))
    told = []
    flip_bytes(path, range(offset, offset + 900), np.random.default_rng(0))
    levels = slide_pyramid(open_slide(path), told.append)
    seen = np.asarray(levels[0])
    assert told
    assert "a.svs" in str(told[0])
    assert (seen[256:512, 256:512] == 150).all()
    assert np.array_equal(seen[:256, :256], good)


def test_slides_without_overview_are_refused(tmp_path, monkeypatch):
    """Minutes of reading for a thumbnail are not begun; the message says what to do."""
    monkeypatch.setattr("napari_wsi_umedpt.layers.multiscale._MOST_READ_PX", 1_000_000)
    image, _ = tissue_image(1500, 1100)
    path = write_pyramid(tmp_path / "flat.svs", image, scales=(1,))
    with open_slide(path) as slide, pytest.raises(SlideError, match=r"no overview.*vips tiffsave"):
        slide_pyramid(slide, pytest.fail)


def test_the_file_is_closed_with_the_layer(tmp_path):
    """Nothing holds a slide open once its pyramid is gone."""
    image, _ = tissue_image(700, 600)
    slide = open_slide(write_pyramid(tmp_path / "a.svs", image))
    levels = slide_pyramid(slide, pytest.fail)
    assert np.asarray(levels[-1]).size
    del levels
    gc.collect()
    with pytest.raises(OSError):  # noqa: PT011 - a closed file's own
        slide.read(Box(0, 0, 9, 9))
