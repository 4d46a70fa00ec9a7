"""Levels that are none, scales that cannot be, and images that are not the slide, on every path."""

import json
import shutil

import numpy as np
import pytest
import tifffile
import zarr

from wsi_umedpt.errors import ChannelError, SlideError, UnsupportedSlideError
from wsi_umedpt.geometry import Box, Mpp, checked_mpp, is_level
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.testing import tissue_image, write_pyramid

IMAGE, _ = tissue_image(1024, 768)
MACRO, _ = tissue_image(400, 160, seed=2)
PLAIN = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER", "metadata": None, "photometric": "rgb"}
TILES = {"tile": (128, 128), **PLAIN}


def write_aperio_macro(path, macro):
    write_pyramid(path, IMAGE, tile=128)
    with tifffile.TiffWriter(path, append=True) as writer:
        writer.write(
            macro, tile=(128, 128), compression="jpeg", photometric="rgb", description="Aperio macro", metadata=None
        )


def write_plain_macro(path, macro, compression="jpeg"):
    with tifffile.TiffWriter(path) as writer:
        writer.write(IMAGE, compression=compression, **TILES)
        writer.write(IMAGE[::4, ::4].copy(), compression=compression, subfiletype=1, **TILES)
        writer.write(macro, compression=compression, subfiletype=1, **TILES)


def write_ome_macro(path, macro):
    with tifffile.TiffWriter(path, ome=True) as writer:
        options = {"tile": (128, 128), "compression": "deflate", "photometric": "rgb"}
        size = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        writer.write(IMAGE, subifds=2, metadata={"axes": "YXS", **size}, **options)
        writer.write(IMAGE[::4, ::4].copy(), subfiletype=1, **options)
        writer.write(macro, subfiletype=1, **options)


MACROS = {
    "aperio": ("a.svs", write_aperio_macro),
    "plain": ("a.tif", write_plain_macro),
    "plain-through-openslide": ("a.tif", lambda path, macro: write_plain_macro(path, macro, "deflate")),
    "ome": ("a.ome.tif", write_ome_macro),
}


@pytest.mark.parametrize("kind", MACROS)
@pytest.mark.parametrize(("width", "height"), [(300, 120), (200, 200), (250, 192)])
def test_a_macro_picture_is_no_level(tmp_path, kind, width, height):
    """Tiled as levels are, but wider or narrower for its height by over 1 %: tissue would be found on it."""
    name, write = MACROS[kind]
    write(tmp_path / name, np.ascontiguousarray(np.tile(MACRO, (2, 1, 1))[:height, :width]))
    with open_slide(tmp_path / name) as slide:
        assert [(level.width, level.height) for level in slide.levels] == [(1024, 768), (256, 192)]
        coarse = slide.read(Box(0, 0, 1024, 768), 4 * slide.mpp)
    assert np.abs(coarse.astype(int) - IMAGE[::4, ::4]).mean() < 12  # the slide, not the macro


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        pytest.param((256, 192), True, id="exact"),
        pytest.param((255, 192), True, id="rounded"),
        pytest.param((33, 24), True, id="rounded-up"),
        pytest.param((8, 7), True, id="tiny"),
        pytest.param((259, 192), False, id="two-percent"),
        pytest.param((1025, 768), False, id="larger"),
        pytest.param((400, 160), False, id="macro"),
    ],
)
def test_levels_are_as_wide_for_their_height(level, expected):
    """To 1 %, or to the rounding of whole pixels."""
    assert is_level((1024, 768), level) is expected


def write_zarr(path, *, scales=((0.5, 0.5), (1.0, 1.0)), shapes=None, whole=None, shifts=None, version="0.4"):
    """An OME-Zarr of two levels, whose metadata say what they are told."""
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for number, (scale_y, scale_x) in enumerate(scales):
        rows, cols = shapes[number] if shapes else (768 >> number, 1024 >> number)
        level = (
            np.resize(IMAGE[:: 1 << number, :: 1 << number], (rows, cols, 3))
            if shapes
            else IMAGE[:: 1 << number, :: 1 << number]
        )
        array = group.create_array(str(number), shape=(3, rows, cols), chunks=(3, 256, 256), dtype="uint8")
        array[...] = np.moveaxis(level, -1, 0)
        transforms = [{"type": "scale", "scale": [1.0, scale_y, scale_x]}]
        if shifts:
            transforms.append({"type": "translation", "translation": [0.0, *shifts[number]]})
        datasets.append({"path": str(number), "coordinateTransformations": transforms})
    axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space", "unit": "micrometer"} for a in "yx")]
    image = {"axes": axes, "datasets": datasets, "version": version}
    if whole:
        image["coordinateTransformations"] = whole
    attributes = {"multiscales": [image]}
    group.attrs.update(attributes if version == "0.4" else {"ome": {"version": version, **attributes}})
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_transformation_of_the_whole_image_is_applied(tmp_path, version):
    """Levels of 1 and 2, and 0.25 for all of them, is 0.25 um/px."""
    whole = [{"type": "scale", "scale": [1.0, 0.25, 0.25]}]
    path = write_zarr(tmp_path / "a.zarr", scales=((1, 1), (2, 2)), whole=whole, version=version)
    with open_slide(path) as slide:
        assert (slide.mpp, [level.scale for level in slide.levels]) == (0.25, [1, 2])


@pytest.mark.parametrize("shift", [0.0, 0.25], ids=["by-corners", "by-centres"])
def test_levels_whose_corners_agree_are_read(tmp_path, shift):
    """By centres of pixels, a level of half the size begins a quarter of a micron later. Where all lie is no matter."""
    shifts = ((100.0, 200.0), (100.0 + shift, 200.0 + shift))
    with open_slide(write_zarr(tmp_path / "a.zarr", shifts=shifts)) as slide:
        assert len(slide.levels) == 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param({"scales": ((0.5, 0.5), (2.0, 2.0))}, "states 4 times the scale", id="scale-contradicts-shape"),
        pytest.param({"scales": ((0.5, 0.5), (0.5, 0.5))}, "states 1 times the scale", id="scale-not-multiplied"),
        pytest.param({"shapes": ((768, 1024), (300, 512))}, "not the same picture", id="ratio"),
        pytest.param({"shapes": ((384, 512), (768, 1024))}, "not the same picture", id="coarsest-first"),
        pytest.param({"shifts": ((0.0, 0.0), (0.0, 40.0))}, "shifted along x", id="shifted-level"),
        pytest.param({"scales": ((0.5, -0.5), (1.0, -1.0))}, "not positive", id="mirrored"),
        pytest.param({"whole": [{"type": "affine", "affine": [[1]]}]}, "kind that is not known", id="affine"),
        pytest.param({"whole": [{"type": "scale", "path": "scales"}]}, "not known, or incomplete", id="in-an-array"),
    ],
)
def test_levels_that_contradict_each_other_are_refused(tmp_path, options, reason):
    """OME-Zarr lists its levels: one that is none is a mistake, not a macro."""
    with pytest.raises(UnsupportedSlideError, match=reason):
        open_slide(write_zarr(tmp_path / "a.zarr", **options))


@pytest.mark.parametrize("level", ["0", "1"])
@pytest.mark.parametrize(("version", "chunks"), [("0.4", "0.0.0"), ("0.5", "c")])
def test_an_ome_zarr_whose_chunks_are_missing_is_refused(tmp_path, version, chunks, level):
    """It would be black."""
    path = write_zarr(tmp_path / "a.zarr", version=version)
    for entry in (path / level).iterdir():
        if not entry.name.startswith(".z") and entry.name != "zarr.json":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    with pytest.raises(UnsupportedSlideError, match=f"chunks of level '{level}' are missing"):
        open_slide(path)


def write_series(path, count, *, listed=True):
    """As bioformats2raw lays images out: groups 0, 1, ... and OME beside them."""
    zarr.open_group(path, mode="w", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    for number in range(count):
        write_zarr(path / str(number))
    if listed:
        zarr.open_group(path / "OME", mode="w", zarr_format=2).attrs["series"] = [str(n) for n in range(count)]
    return path


@pytest.mark.parametrize("listed", [True, False])
def test_the_only_image_of_bioformats2raw_is_the_slide(tmp_path, listed):
    """A folder whose only series it is."""
    with open_slide(write_series(tmp_path / "a.zarr", 1, listed=listed)) as slide:
        assert (slide.size, slide.mpp) == ((1024, 768), 0.5)
        assert np.array_equal(slide.read(Box(0, 0, 1024, 768)), IMAGE)


def test_of_several_images_of_bioformats2raw_one_is_named(tmp_path):
    """The refusal lists them; each opens by its own path."""
    path = write_series(tmp_path / "a.zarr", 3)
    with pytest.raises(UnsupportedSlideError, match=r"3 images \(series\): 0, 1, 2.*a.zarr/0"):
        open_slide(path)
    with open_slide(path / "1") as slide:
        assert slide.size == (1024, 768)


def test_a_series_outside_the_folder_is_refused(tmp_path):
    """A name that climbs out is not followed."""
    write_zarr(tmp_path / "secret")
    path = write_series(tmp_path / "a.zarr", 1)
    (path / "OME" / ".zattrs").write_text(json.dumps({"series": ["../secret"]}))
    with pytest.raises(UnsupportedSlideError, match="outside the folder"):
        open_slide(path)


def test_an_ome_zarr_of_stains_is_refused(tmp_path):
    """Channels that are named as stains are not red, green and blue."""
    path = write_zarr(tmp_path / "a.zarr")
    group = zarr.open_group(path, mode="r+")
    group.attrs["omero"] = {"channels": [{"label": name} for name in ("DAPI", "FITC", "Cy5")]}
    with pytest.raises(ChannelError, match="not in colour: it has channels 0 DAPI, 1 FITC, 2 Cy5"):
        open_slide(path)


@pytest.mark.parametrize(
    ("mpp", "source", "size", "reason"),
    [
        pytest.param(0.0274, "vendor", (50_000, 50_000), "slip of the decimal", id="tenfold-slip"),
        pytest.param(0.05, "ome", None, "no slide scanner has", id="finer-than-light"),
        pytest.param(21.1667, "tiff resolution", (1000, 1000), "1,200 dpi", id="printer-1200"),
        pytest.param(25_400 / 600, "tiff resolution", (1000, 1000), "600 dpi", id="printer-600"),
        pytest.param(25_400 / 2880, "tiff resolution", (1000, 1000), "2,880 dpi", id="printer-2880"),
        pytest.param(20.0, "vendor", (100_000, 100_000), "2,000 mm long", id="two-metres"),
        pytest.param(20.0, "user", (100_000, 100_000), "2,000 mm long", id="two-metres-by-the-user"),
    ],
)
def test_a_scale_that_cannot_be_is_refused(mpp, source, size, reason):
    """With the remedy."""
    with pytest.raises(SlideError, match=reason) as caught:
        checked_mpp(Mpp(mpp, mpp, source), "a.svs", size)
    assert "`mpp`" in str(caught.value)


@pytest.mark.parametrize("mpp", [0.1, 0.25, 0.2527, 0.5, 1.0, 2.0, 4.0, 5.0, 8.0, 10.0, 20.0])
@pytest.mark.parametrize("source", ["tiff resolution", "vendor", "ome"])
def test_the_scales_of_scanners_are_believed(mpp, source):
    """Also coarse ones, in resolution tags too."""
    assert checked_mpp(Mpp(mpp, mpp, source), "a.svs", (2000, 2000)).value == mpp


def test_the_user_may_say_what_a_slide_may_not():
    """Super-resolution is rare, but a user knows it."""
    assert checked_mpp(Mpp(0.05, 0.05, "user"), "a.svs").value == 0.05


@pytest.mark.parametrize(("dpi", "tiled"), [(1200, False), (1200, True), (600, False), (4800, True)])
def test_the_resolution_of_a_printer_is_not_believed(tmp_path, dpi, tiled):
    """In strips and in tiles, where OpenSlide states it."""
    tags = {**PLAIN, "resolution": (dpi, dpi), "resolutionunit": "INCH"} | ({"tile": (128, 128)} if tiled else {})
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, **tags)
    with pytest.raises(SlideError, match=f"{dpi:,} dpi"):
        open_slide(tmp_path / "a.tif")
    with open_slide(tmp_path / "a.tif", mpp=0.5) as slide:
        assert slide.mpp_source == "user"


def test_the_microns_of_imagej_are_believed(tmp_path):
    """Which stand in its description, not in a resolution unit."""
    tifffile.imwrite(
        tmp_path / "a.tif", IMAGE, imagej=True, photometric="rgb", resolution=(4, 4), metadata={"unit": "micron"}
    )
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.mpp == 0.25
