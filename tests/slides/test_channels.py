"""Slides that are not in colour: what is chosen of them is what is stored, stretched as the store says."""

import json

import numpy as np
import pytest
import tifffile

from tests.support.channel_slides import (
    MPP,
    NAMES,
    odd_slide,
    planes,
    write_ome_channels,
    write_qptiff,
    write_zarr_channels,
)
from tests.support.encoders import mean_encoder
from wsi_umedpt import embed
from wsi_umedpt.batch.jobs.manifest import list_slides
from wsi_umedpt.batch.run import Batch, run_slides
from wsi_umedpt.errors import ChannelError, PixelError, StoreError, UnsupportedSlideError
from wsi_umedpt.geometry import Box
from wsi_umedpt.interop.feature_sources import StoreSource
from wsi_umedpt.pipeline.embed import EmbedTask
from wsi_umedpt.settings import RunSettings, TileOptions, TissueParameters
from wsi_umedpt.slides import reader_processes
from wsi_umedpt.slides.channels import HIGH_PERCENT, LOW_PERCENT, ChannelChoice
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.slide_job import SlideJob
from wsi_umedpt.slides.tile_loader import close_readers, read_tiles
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.slides.tissue import find_tissue
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.testing import tissue_image, write_pyramid

FORMATS = {
    "ome-tiles": ("a.ome.tif", write_ome_channels),
    "ome-strips": ("b.ome.tif", lambda path, stored: write_ome_channels(path, stored, tiled=False)),
    "qptiff": ("c.qptiff", write_qptiff),
    "ome-zarr": ("d.zarr", write_zarr_channels),
}


def stretched(plane: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.floor(np.clip((plane.astype(float) - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)


@pytest.fixture(scope="module")
def slide_file(tmp_path_factory):
    return write_ome_channels(tmp_path_factory.mktemp("fluorescence") / "slide.ome.tif", planes())


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("name", FORMATS)
def test_chosen_channels_are_what_is_stored(tmp_path, name, dtype):
    """Every pixel of every level, between the window's ends; the scale is the one that was written."""
    file, write = FORMATS[name]
    stored = planes(dtype=dtype)
    path = write(tmp_path / file, stored)
    with open_slide(path, channels="PanCK:3-200,0:0-255,cd8:10-77") as slide:
        assert slide.mpp == pytest.approx(MPP, rel=1e-6)
        assert [one.name for one in slide.channels] == ["PanCK", "DAPI", "CD8"]
        whole = Box(0, 0, *slide.size)
        expected = [stretched(stored[n], *w) for n, w in ((3, (3, 200)), (0, (0, 255)), (2, (10, 77)))]
        assert np.array_equal(slide.read(whole), np.stack(expected, axis=-1))
        for number, level in enumerate(slide.levels):
            step = round(level.scale)
            pixels = slide._reader.read_level(number, 0, 0, level.width, level.height)
            assert np.array_equal(pixels, np.stack(expected, axis=-1)[::step, ::step])
        assert (slide.read(Box(-20, -20, 20, 20)) == 0).all()  # beyond a slide of fluorescence it is dark
    with open_slide(path, channels="CD3:0-99") as slide:
        assert np.array_equal(slide.read(whole), np.repeat(stretched(stored[1], 0, 99)[..., None], 3, axis=-1))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("spec", [TileSpec(size_px=64, min_tissue=0), TileSpec(size_px=50, mpp=0.7, stride_px=40)])
def test_tiles_of_channels_are_read_alike_in_processes(tmp_path, monkeypatch, name, spec):
    """By readers that are told the windows, and take no percentiles of their own."""
    monkeypatch.setattr(reader_processes, "_FEWEST", 2)
    file, write = FORMATS[name]
    with open_slide(write(tmp_path / file, planes()), channels=["DAPI", "CD3", "CD8"]) as slide:
        grid = lay_grid(slide.size, slide.mpp, spec)
        expected = np.stack([slide.read_tile(tuple(xy), (spec.size_px,) * 2, slide.plan(grid.scale, spec.size_px))
                             for xy in grid.xy.tolist()])  # fmt: skip
        try:
            for readers in (0, 2):
                found = np.concatenate(
                    [b.pixels.copy() for b in read_tiles(slide, grid, batch_size=8, readers=readers)]
                )
                assert np.array_equal(found, expected)
        finally:
            close_readers()


def test_a_window_is_percentiles_of_the_slide(slide_file):
    """Of the coarsest level, the same in every opening."""
    stored = planes()[:, ::2, ::2]
    with open_slide(slide_file, channels="0,1,2") as slide, open_slide(slide_file, channels="DAPI,CD3,CD8") as other:
        assert slide.channels == other.channels
        for plane, shown in zip(stored, slide.channels, strict=False):
            expected = np.percentile(plane, (LOW_PERCENT, HIGH_PERCENT))
            assert np.abs(np.array([shown.low, shown.high]) - expected).max() <= 1


@pytest.mark.parametrize(
    ("channels", "reason"),
    [
        pytest.param((), "has channels 0 DAPI, 1 CD3, 2 CD8, 3 PanCK", id="none"),
        pytest.param("DAPI,CD3", "which three are red, green and blue.*not DAPI, CD3", id="two"),
        pytest.param("DAPI,CD3,CD20", "no channel of the name 'CD20': its channels are 0 DAPI", id="unknown"),
        pytest.param("4", "no channel of the name '4'", id="number-beyond"),
        pytest.param("DAPI:90-20", "lower one first", id="window-inverted"),
        pytest.param(" , ", "between commas", id="empty"),
    ],
)
def test_channels_that_are_not_chosen_well_are_named(slide_file, channels, reason):
    """The error says which there are."""
    with pytest.raises(ChannelError, match=reason):
        open_slide(slide_file, channels=channels)


def test_of_channels_with_one_name_the_number_decides(tmp_path):
    """As where a marker was stained twice."""
    path = write_ome_channels(tmp_path / "a.ome.tif", planes(), ("DAPI", "CD3", "DAPI", "CD8"))
    with pytest.raises(ChannelError, match="several channels of the name 'DAPI'"):
        open_slide(path, channels="DAPI")
    with open_slide(path, channels="2") as slide:
        assert [(one.name, one.index) for one in slide.channels] == [("DAPI", 2)]


def test_a_slide_in_colour_has_no_channels_to_choose(tmp_path):
    """Nor has the red of an H&E slide a name."""
    path = write_pyramid(tmp_path / "a.svs", tissue_image(500, 400)[0])
    with pytest.raises(ChannelError, match="is in colour"):
        open_slide(path, channels="DAPI")


def test_tissue_of_fluorescence_is_what_is_bright(slide_file):
    """A disc of tissue on black, whatever the colours that it is seen in."""
    for channels in ("DAPI", "PanCK,CD3,DAPI"):
        with open_slide(slide_file, channels=channels) as slide:
            tissue = find_tissue(slide, TissueParameters(min_area_um2=10_000))
        rows, cols = tissue.mask.shape
        y, x = (np.mgrid[:rows, :cols] + 0.5) * tissue.step
        truth = (x - 350) ** 2 + (y - 300) ** 2 < (0.35 * 600) ** 2
        assert (truth & tissue.mask).sum() / (truth | tissue.mask).sum() > 0.85
        assert tissue.method == "brightness.v1"
        assert not tissue.drawn


def embedded(path, channels: str, out) -> SlideStore:
    with open_slide(path, channels=channels) as slide:
        return embed(slide, out, encoder=mean_encoder(), tiles=TileOptions(size_px=64, tile_mpp=MPP, force=True))


def test_stores_of_other_channels_are_told_apart(slide_file, tmp_path):
    """By what they record; one is not added to the other, nor trained with it."""
    store = embedded(slide_file, "DAPI,CD3,CD8", tmp_path / "a.zarr")
    with open_slide(slide_file, channels="DAPI,CD3,CD8") as slide:
        assert store.channels == slide.channels
        assert json.loads(json.dumps(store.attrs["slide"]["channels"])) == [one.to_dict() for one in slide.channels]
    for other in ("DAPI,CD3,PanCK", "DAPI", "CD3,DAPI,CD8", "DAPI:0-100,CD3,CD8"):
        with pytest.raises(StoreError, match="was made of DAPI:"):
            embedded(slide_file, other, tmp_path / "a.zarr")
    embedded(slide_file, "0,1,2", tmp_path / "a.zarr")  # the same, by their numbers
    other = embedded(slide_file, "DAPI,CD3,PanCK", tmp_path / "b.zarr")
    kinds = [StoreSource.open(one.path).kind for one in (store, other)]
    assert kinds[0].differences(kinds[1]) == ["channels DAPI, CD3, PanCK instead of DAPI, CD3, CD8"]


def test_a_run_says_which_slides_have_other_channels(slide_file, tmp_path):
    """What is done is not done again, and names no channel that is not there; a table gives each slide its own."""
    task = EmbedTask(encoders=[mean_encoder()], tile_specs=[TileSpec(size_px=64)], settings=RunSettings())
    job = SlideJob(slide_file, "s", channels=ChannelChoice.parse("DAPI,CD3,CD8"))
    assert [o.status for o in run_slides([job], task, Batch(out=tmp_path))] == ["done"]
    assert [o.status for o in run_slides([job], task, Batch(out=tmp_path))] == ["already"]
    [outcome] = run_slides(
        [SlideJob(slide_file, "s", channels=ChannelChoice.parse("PanCK"))], task, Batch(out=tmp_path)
    )
    assert "was made of DAPI:" in outcome.reason
    [outcome] = run_slides([SlideJob(slide_file, "t")], task, Batch(out=tmp_path))
    assert "has channels 0 DAPI, 1 CD3" in outcome.reason
    table = tmp_path / "cohort.csv"
    table.write_text(f'slide,slide_id,channels\n{slide_file},x,"PanCK,CD3,0"\n')
    [listed], _ = list_slides([str(table)])
    assert listed.channels == ChannelChoice.parse("PanCK,CD3,0")


def test_info_lists_channels(slide_file, say):
    """With their numbers and how they are stored."""
    code, out, _ = say("info", slide_file)
    assert code == 0
    assert [line.split()[2] for line in out.splitlines() if line.startswith("  channel")] == [f"{n}," for n in NAMES]
    code, out, _ = say("info", slide_file, "--json")
    assert json.loads(out)[0]["channels"][3] == {"name": "PanCK", "dtype": "uint16"}


def test_a_damaged_tile_of_a_channel_is_unreadable_and_dark(tmp_path):
    """Its neighbours are read; it is recorded as unreadable."""
    path = write_ome_channels(tmp_path / "a.ome.tif", planes())
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[1]
        at, count = page.dataoffsets[8], page.databytecounts[8]
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * count)
    with open_slide(path, channels="0,1,2") as slide:
        with pytest.raises(PixelError, match=r"tile \(2, 1\)"):
            slide.read(Box(256, 128, 128, 128))
        grid = lay_grid(slide.size, slide.mpp, TileSpec(size_px=128, min_tissue=0))
        batch = next(iter(read_tiles(slide, grid, batch_size=64, readers=0)))
        [bad] = np.flatnonzero(~batch.ok)
        assert grid.xy[bad].tolist() == [256, 128]
        assert (batch.pixels[bad] == 0).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(
            lambda xml: xml.replace("ReducedResolution", "FullResolution"), "full resolution", id="another-size"
        ),
        pytest.param(lambda xml: xml.replace("<ImageType>", "<ImageTyp"), "cannot be used", id="broken-xml"),
        pytest.param(lambda xml: xml.replace("ReducedResolution", "Something"), None, id="one-level"),
    ],
)
def test_a_qptiff_whose_xml_lies_is_refused(tmp_path, change, reason):
    """And one that lacks its levels is read from what it has."""
    path = write_qptiff(tmp_path / "a.qptiff", planes())
    data = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        for page in tif.pages:
            tag = page.tags["ImageDescription"]
            new = change(page.description).encode()[: tag.count].ljust(tag.count, b" ")
            data = data[: tag.valueoffset] + new + data[tag.valueoffset + tag.count :]
    path.write_bytes(data)
    if reason:
        with pytest.raises(UnsupportedSlideError, match=reason):
            open_slide(path, channels="0")
    else:
        with open_slide(path, channels="0") as slide:
            assert len(slide.levels) == 1


def test_a_real_qptiff_is_its_own_pages():
    """A field of Vectra Polaris, of 1,920 x 1,440 px: DAPI, FITC and Cy3."""
    path = odd_slide("small_vectra.qptiff")
    with open_slide(path, channels="Cy3:0-255,DAPI:0-255,FITC:0-255") as slide:
        found = slide.read(Box(0, 0, *slide.size))
        assert (slide.vendor, round(slide.mpp, 4)) == ("qptiff", 0.4965)
    assert np.array_equal(found, np.stack([tifffile.imread(path, key=n) for n in (2, 0, 1)], axis=-1))
