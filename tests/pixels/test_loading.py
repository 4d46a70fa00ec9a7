"""Tiles in bulk are the pixels of `Slide.read_tile`, in order, in bounded memory, damage recorded."""

import threading
import time

import numpy as np
import pytest
import tifffile

from wsi_umedpt.errors import SlideError
from wsi_umedpt.loading import read_tiles
from wsi_umedpt.slide import open_slide
from wsi_umedpt.testing import tissue_image, write_pyramid
from wsi_umedpt.tiling import TileGrid, TileSpec, lay_grid


def collect(slide, grid, **options) -> tuple[np.ndarray, np.ndarray]:
    batches = [(b.pixels.copy(), b.index, b.ok) for b in read_tiles(slide, grid, batch_size=16, **options)]
    assert np.array_equal(np.concatenate([i for _, i, _ in batches]), np.arange(options.get("start", 0), len(grid)))
    return np.concatenate([p for p, _, _ in batches]), np.concatenate([ok for _, _, ok in batches])


SPECS = [
    pytest.param(TileSpec(), id="level-0"),
    pytest.param(TileSpec(size_px=256), id="aligned"),
    pytest.param(TileSpec(mpp=1.0), id="half"),
    pytest.param(TileSpec(mpp=0.9, size_px=100), id="fraction"),
    pytest.param(TileSpec(mpp=2.0, size_px=96), id="level-1"),
    pytest.param(TileSpec(mpp=3.0, size_px=64, stride_px=32), id="overlap-between-levels"),
    pytest.param(TileSpec(mpp=0.25, upsample=True), id="magnified"),
    pytest.param(TileSpec(edge="pad"), id="padded"),
    pytest.param(TileSpec(mpp=0.9, size_px=100, edge="pad"), id="padded-fraction"),
]


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("spec", SPECS)
def test_bulk_reading_equals_reading_one_by_one(small_svs, spec, threads):
    """Whatever the scale, and however many threads."""
    with open_slide(small_svs) as slide:
        grid = lay_grid(slide.size, slide.mpp, spec)
        pixels, ok = collect(slide, grid, threads=threads)
        plan = slide.plan(grid.scale, spec.size_px, upsample=spec.upsample)
        for tile, xy in zip(pixels, grid.xy.tolist(), strict=True):
            assert np.array_equal(tile, slide.read_tile(tuple(xy), (spec.size_px,) * 2, plan))
        assert ok.all()


def test_direct_and_openslide_give_the_same_tiles(tmp_path, small_svs, monkeypatch):
    """The fast path is invisible in the pixels."""
    spec = TileSpec(mpp=1.0)
    with open_slide(small_svs) as slide:
        grid = lay_grid(slide.size, slide.mpp, spec)
        direct, _ = collect(slide, grid)
        assert slide.reader == "tiff"
    monkeypatch.setattr("wsi_umedpt.readers.direct._VENDORS", ())
    with open_slide(small_svs) as slide:
        assert slide.reader == "openslide"
        assert np.array_equal(collect(slide, grid)[0], direct)


def test_dct_scaling_is_near_area_averaging(small_svs):
    """At least 30 dB on this noisy texture, on the same place; docs/speed.md measures a real slide."""
    with open_slide(small_svs) as slide:
        area, dct = (
            collect(slide, lay_grid(slide.size, slide.mpp, TileSpec(mpp=1.0, resampling=r)))[0].astype(float)
            for r in ("area", "dct")
        )
    assert 20 * np.log10(255 / np.sqrt(((area - dct) ** 2).mean())) > 30
    assert not np.array_equal(area, dct)


def test_dct_scaling_is_refused_where_tiles_are_not_jpeg(tmp_path):
    """Never quietly another method."""
    image, _ = tissue_image(700, 700)
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, image, tile=(256, 256), compression="deflate", photometric="rgb")
    with open_slide(path, mpp=0.5) as slide, pytest.raises(SlideError, match="needs tiles that are JPEG"):
        list(read_tiles(slide, lay_grid(slide.size, 0.5, TileSpec(mpp=1.0, resampling="dct"))))


def damaged(tmp_path, *tiles: int):
    image, _ = tissue_image(1500, 1100)
    path = write_pyramid(tmp_path / "bad.svs", image)
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        places = [(page.dataoffsets[t], page.databytecounts[t]) for t in tiles]
    with path.open("r+b") as file:
        for offset, count in places:
            file.seek(offset)
            file.write(bytes(count))
    return path


def test_damage_is_data(tmp_path):
    """Tiles over a damaged JPEG tile are not ok; all others are what they were."""
    path = damaged(tmp_path, 9)  # column 3, row 1: x 768 to 1023, y 256 to 511
    with open_slide(path) as slide:
        grid = lay_grid(slide.size, slide.mpp, TileSpec())
        pixels, ok = collect(slide, grid)
    x, y = grid.xy.T
    over = (x < 1024) & (x + 224 > 768) & (y < 512) & (y + 224 > 256)
    assert np.array_equal(ok, ~over)
    assert (pixels[over] == 255).all()
    image, _ = tissue_image(1500, 1100)
    whole = write_pyramid(tmp_path / "good.svs", image)
    with open_slide(whole) as slide:
        assert np.array_equal(collect(slide, grid)[0][~over], pixels[~over])


def test_reading_can_begin_in_the_middle(small_svs):
    """As resuming does."""
    with open_slide(small_svs) as slide:
        grid = lay_grid(slide.size, slide.mpp, TileSpec(size_px=100))
        assert np.array_equal(collect(slide, grid, start=32)[0], collect(slide, grid)[0][32:])


def test_pixels_stay_those_of_their_batch(small_svs):
    """Memory is used again only when nobody holds it, views and slices included."""
    with open_slide(small_svs) as slide:
        grid = lay_grid(slide.size, slide.mpp, TileSpec(size_px=64))
        kept, copies = [], []
        for batch in read_tiles(slide, grid, batch_size=8, threads=2):
            kept.append(batch.pixels[3:5, ::2])
            copies.append(kept[-1].copy())
        for view, copy in zip(kept, copies, strict=True):
            assert np.array_equal(view, copy)


def test_memory_is_used_again(small_svs):
    """A run over many batches that are let go needs those of two rows of native tiles, and no more."""
    with open_slide(small_svs) as slide:
        grid = lay_grid(slide.size, slide.mpp, TileSpec(size_px=64, stride_px=32))
        places = set()
        for batch in read_tiles(slide, grid, batch_size=8, threads=0):
            places.add(batch.pixels.__array_interface__["data"][0])
            count = int(batch.index[-1])
            del batch
    batches, in_two_rows = -(-count // 8), 2 * 8 * 46 // 8
    assert len(places) <= in_two_rows + 4 < batches * 0.6


def test_reading_ahead_waits_for_the_caller(small_svs, monkeypatch):
    """Back-pressure: no more than `ahead` batches, and those in work, are read before they are taken."""
    read = []
    original = TileGrid.__len__
    with open_slide(small_svs) as slide:
        grid = lay_grid(slide.size, slide.mpp, TileSpec(size_px=32))
        decode = slide.native_tiles(0).decode
        monkeypatch.setattr(
            type(slide.native_tiles(0)), "decode", lambda s, c, r, **k: (read.append(r), decode(c, r, **k))[1]
        )
        batches = read_tiles(slide, grid, batch_size=16, threads=2, ahead=2)
        next(batches)
        time.sleep(0.3)
        # 5 batches of 16 tiles of 32 px are two rows of the grid: one row of native tiles
        assert max(read) == 0
        batches.close()
    assert original(grid) > 1000


def test_closing_early_leaves_no_thread(small_svs):
    """A reader that is let go stops."""
    with open_slide(small_svs) as slide:
        grid = lay_grid(slide.size, slide.mpp, TileSpec(size_px=32))
        batches = read_tiles(slide, grid, batch_size=8, threads=3)
        next(batches)
        batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith(("read-ahead", "tiles"))]


def test_an_error_while_reading_reaches_the_caller(small_svs, monkeypatch):
    """Not only the thread that reads."""
    with open_slide(small_svs) as slide:
        grid = lay_grid(slide.size, slide.mpp, TileSpec())
        monkeypatch.setattr("wsi_umedpt.loading._NativeSource._decode", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(read_tiles(slide, grid))
