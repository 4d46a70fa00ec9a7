"""Tiles in bulk are the pixels of `Slide.read_tile`, in order, in bounded memory, damage recorded."""

import threading
import time

import numpy as np
import pytest
import tifffile

from wsi_umedpt.errors import SlideError
from wsi_umedpt.slides.read_order import ReadOrder
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tile_loader import read_grids, read_tiles
from wsi_umedpt.slides.tile_source import open_source, sharing
from wsi_umedpt.slides.tiling import TileGrid, TileSpec, lay_grid
from wsi_umedpt.testing import tissue_image, write_pyramid


def collect(slide, grid, **options) -> tuple[np.ndarray, np.ndarray]:
    batches = [(b.pixels.copy(), b.index, b.ok) for b in read_tiles(slide, grid, batch_size=16, **options)]
    assert np.array_equal(np.concatenate([i for _, i, _ in batches]), np.arange(options.get("start", 0), len(grid)))
    return np.concatenate([p for p, _, _ in batches]), np.concatenate([ok for _, _, ok in batches])


SPECS = [
    pytest.param(TileSpec(), id="level-0"),
    pytest.param(TileSpec(size_px=256), id="aligned"),
    pytest.param(TileSpec(mpp=1.0), id="half"),
    pytest.param(TileSpec(mpp=0.9, size_px=100), id="fraction"),
    pytest.param(TileSpec(mpp=0.64, size_px=200), id="fraction-of-whole-native-tiles"),
    pytest.param(TileSpec(mpp=2.0, size_px=96), id="level-1"),
    pytest.param(TileSpec(mpp=3.0, size_px=64, stride_px=32), id="overlap-between-levels"),
    pytest.param(TileSpec(mpp=0.25, upsample=True), id="magnified"),
    pytest.param(TileSpec(edge="pad"), id="padded"),
    pytest.param(TileSpec(mpp=0.9, size_px=100, edge="pad"), id="padded-fraction"),
]


@pytest.mark.parametrize("readers", [0, 1, 3])
@pytest.mark.parametrize("spec", SPECS)
def test_bulk_reading_equals_reading_one_by_one(small_svs, spec, readers):
    """Whatever the scale, and however many readers."""
    with open_slide(small_svs) as slide:
        grid = lay_grid(slide.size, slide.mpp, spec)
        pixels, ok = collect(slide, grid, readers=readers)
        plan = slide.plan(grid.scale, spec.size_px, upsample=spec.upsample)
        for tile, xy in zip(pixels, grid.xy.tolist(), strict=True):
            assert np.array_equal(tile, slide.read_tile(tuple(xy), (spec.size_px,) * 2, plan))
        assert ok.all()


GRIDS = [
    pytest.param([TileSpec(), TileSpec(size_px=64)], id="sizes"),
    pytest.param([TileSpec(), TileSpec(mpp=1.0), TileSpec(mpp=0.9, size_px=100, edge="pad")], id="scales"),
    pytest.param(
        [TileSpec(size_px=256), TileSpec(size_px=128, mpp=1.0), TileSpec(size_px=32, stride_px=16)], id="apart"
    ),
]


@pytest.mark.parametrize("readers", [0, 1, 3])
@pytest.mark.parametrize("specs", GRIDS)
def test_grids_that_share_a_decoding_have_the_batches_of_each_alone(small_svs, specs, readers):
    """The same tiles in the same batches, to the bit, from wherever each begins."""
    with open_slide(small_svs) as slide:
        grids = [lay_grid(slide.size, slide.mpp, spec) for spec in specs]
        assert sharing(slide, grids) == [list(range(len(grids)))]
        for starts in ([0] * len(grids), [8 * n for n in range(len(grids))], [0, *map(len, grids[1:])]):
            found = read_grids(slide, grids, starts=starts, batch_size=8, readers=readers)
            alone = [
                read_tiles(slide, grid, start=start, batch_size=8, readers=0)
                for grid, start in zip(grids, starts, strict=True)
            ]
            for batch in found:
                expected = next(alone[batch.grid])
                assert np.array_equal(batch.pixels, expected.pixels)
                assert np.array_equal(batch.index, expected.index)
                assert np.array_equal(batch.ok, expected.ok)
            assert [next(rest, None) for rest in alone] == [None] * len(grids)


def test_a_shared_native_tile_is_decoded_once(small_svs, monkeypatch):
    """Whichever grids it lies in; separate runs decode each once a grid."""
    decoded = []
    with open_slide(small_svs) as slide:
        grids = [lay_grid(slide.size, slide.mpp, spec) for spec in (TileSpec(size_px=256), TileSpec(mpp=1.0))]
        decode = slide.native_tiles(0).decode
        monkeypatch.setattr(
            type(slide.native_tiles(0)), "decode", lambda s, *at, **k: (decoded.append(at), decode(*at, **k))[1]
        )
        for _ in read_grids(slide, grids, readers=0):
            pass
    assert len(decoded) == len(set(decoded)) > 20


def test_what_a_shared_decoding_keeps_does_not_grow_with_the_slide(tmp_path):
    """Native tiles under the highest tile of any grid, of a slide of 80: 3 across, 4 down, and room to spare."""
    path = write_pyramid(tmp_path / "tall.svs", tissue_image(700, 6800)[0])
    with open_slide(path) as slide:
        grids = [lay_grid(slide.size, slide.mpp, TileSpec(size_px=side)) for side in (64, 600)]
        order, source = ReadOrder(grids, [0, 0], 8), open_source(slide, grids)
        places = [np.empty((grid.spec.size_px, grid.spec.size_px, 3), np.uint8) for grid in grids]
        read = source.tiles(order.grid.tolist(), order.row.tolist(), lambda n: places[order.grid[n]])
        assert sum(read) == sum(map(len, grids))
        assert len(source._native.pixels) == 32  # as many as at first


def test_grids_of_other_levels_share_nothing(small_svs):
    """Nor do those of which one is shrunk while it is decoded."""
    specs = [
        TileSpec(),
        TileSpec(mpp=2.0),
        TileSpec(mpp=1.0, resampling="dct"),
        TileSpec(size_px=99),
        TileSpec(mpp=2.5),
    ]
    with open_slide(small_svs) as slide:
        grids = [lay_grid(slide.size, slide.mpp, spec) for spec in specs]
        assert sharing(slide, grids) == [[0, 3], [1, 4], [2]]


def test_tiles_over_the_edge_end_in_white_at_odd_sizes(tmp_path):
    """An output pixel that the edge cuts holds the white beyond it, not what fills up the last native tile."""
    path = write_pyramid(tmp_path / "odd.svs", tissue_image(1001, 701)[0])
    with open_slide(path) as slide:
        spec = TileSpec(mpp=1.0, size_px=128, edge="pad")
        grid = lay_grid(slide.size, slide.mpp, spec)
        plan = slide.plan(grid.scale, spec.size_px)
        for tile, xy in zip(collect(slide, grid)[0], grid.xy.tolist(), strict=True):
            assert np.array_equal(tile, slide.read_tile(tuple(xy), (128, 128), plan))


def test_direct_and_openslide_give_the_same_tiles(tmp_path, small_svs, monkeypatch):
    """The fast path is invisible in the pixels."""
    spec = TileSpec(mpp=1.0)
    with open_slide(small_svs) as slide:
        grid = lay_grid(slide.size, slide.mpp, spec)
        direct, _ = collect(slide, grid)
        assert slide.reader == "tiff"
    monkeypatch.setattr("wsi_umedpt.slides.readers.direct._VENDORS", ())
    with open_slide(small_svs) as slide:
        assert slide.reader == "openslide"
        assert np.array_equal(collect(slide, grid)[0], direct)


def test_dct_scaling_is_near_area_averaging(small_svs):
    """At least 30 dB on this noisy texture, on the same place; docs/measured/speed.md measures a real slide."""
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
        for batch in read_tiles(slide, grid, batch_size=8, readers=1):
            kept.append(batch.pixels[3:5, ::2])
            copies.append(kept[-1].copy())
        for view, copy in zip(kept, copies, strict=True):
            assert np.array_equal(view, copy)


def test_memory_is_used_again(small_svs):
    """A run over many batches that are let go needs those of two rows of native tiles, and no more."""
    with open_slide(small_svs) as slide:
        grid = lay_grid(slide.size, slide.mpp, TileSpec(size_px=64, stride_px=32))
        places = set()
        for batch in read_tiles(slide, grid, batch_size=8, readers=0):
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
        batches = read_tiles(slide, grid, batch_size=16, readers=1, ahead=2)
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
        batches = read_tiles(slide, grid, batch_size=8, readers=1)
        next(batches)
        batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith(("read-ahead", "tiles"))]


def test_an_error_while_reading_reaches_the_caller(small_svs, monkeypatch):
    """Not only the thread that reads."""
    with open_slide(small_svs) as slide:
        grid = lay_grid(slide.size, slide.mpp, TileSpec())
        monkeypatch.setattr("wsi_umedpt.slides.tile_source._Decoded._decode", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(read_tiles(slide, grid, readers=1))
