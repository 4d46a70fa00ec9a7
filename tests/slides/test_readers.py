"""Every reader against OpenSlide, or against the array that the file was written from."""

import itertools
import json
import shutil
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
import zarr
from PIL import Image

from tests.support.jpeg2000_slides import write_rgb, write_ycbcr
from wsi_umedpt.errors import PixelError, SlideError, UnsupportedSlideError
from wsi_umedpt.geometry import Box
from wsi_umedpt.slides.readers.direct import SlowPathWarning, compared_before
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.slide_fingerprint import fingerprint
from wsi_umedpt.testing import tissue_image, write_pyramid

IMAGE, _ = tissue_image(1100, 900)


def through_openslide(path: Path, level: int) -> np.ndarray:
    with openslide.OpenSlide(path) as handle:
        pixels = np.asarray(handle.read_region((0, 0), level, handle.level_dimensions[level]))
    assert set(np.unique(pixels[..., 3])) <= {0, 255}
    return np.where(pixels[..., 3:] == 255, pixels[..., :3], 255)


VARIANTS = [
    pytest.param(vendor, colour, sub, tile, tables, big, sparse, id=f"{vendor}-{colour}-{sub}-{tile}-{extra}")
    for vendor, (colour, sub), tile, (extra, tables, big, sparse) in itertools.product(
        ["aperio", "generic"],
        [("ycbcr", "420"), ("ycbcr", "422"), ("ycbcr", "444"), ("rgb", "444")],
        [240, 256, 512],
        [("tables", True, False, False), ("bigtiff", False, True, False), ("sparse", True, False, True)],
    )
]


@pytest.mark.parametrize(("vendor", "colour", "sub", "tile", "tables", "big", "sparse"), VARIANTS)
def test_direct_reading_equals_openslide(tmp_path, vendor, colour, sub, tile, tables, big, sparse):
    """On every pixel of every level, in every variant of tiled JPEG that scanners write."""
    path = write_pyramid(
        tmp_path / f"slide.{'svs' if vendor == 'aperio' else 'tif'}",
        IMAGE,
        vendor=vendor,
        colour=colour,
        subsampling=sub,
        tile=tile,
        tables=tables,
        bigtiff=big,
        # Around a tile left out, OpenSlide repaints an Aperio slide's coarser levels.
        scales=(1,) if sparse and vendor == "aperio" else (1, 4),
        sparse=frozenset({(1, 1)}) if sparse else frozenset(),
    )
    with open_slide(path) as slide:
        assert slide.reader == "tiff", "the fast path was not taken"
        for number, level in enumerate(slide.levels):
            found = slide.read(Box(0, 0, *slide.size), slide.mpp * level.scale)[: level.height, : level.width]
            assert np.array_equal(found, through_openslide(path, number))


def test_direct_reading_equals_openslide_on_a_whole_real_slide(real_slide):
    """No pixel of CMU-1-Small-Region.svs differs."""
    with open_slide(real_slide) as slide:
        assert slide.reader == "tiff"
        assert np.array_equal(slide.read(Box(0, 0, *slide.size)), through_openslide(real_slide, 0))


def test_sparse_aperio_pyramid_falls_back_loudly(tmp_path):
    """Where OpenSlide composes pixels that no tile holds, it reads the slide, and we say so."""
    path = write_pyramid(tmp_path / "slide.svs", IMAGE, sparse=frozenset({(1, 1)}))
    with pytest.warns(SlowPathWarning, match="leaves tiles out"):
        slide = open_slide(path)
    with slide:
        assert slide.reader == "openslide"
        found = slide.read(Box(0, 0, *slide.size), slide.mpp * 4)[: slide.levels[1].height, : slide.levels[1].width]
    assert np.array_equal(found, through_openslide(path, 1))


def test_wrong_colour_tag_falls_back_loudly(tmp_path):
    """A stream whose own marker contradicts its TIFF tag is decoded as OpenSlide decodes it."""
    path = write_pyramid(tmp_path / "slide.tif", IMAGE, vendor="generic", colour="rgb", tables=False)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for page in tif.pages:
            page.tags["PhotometricInterpretation"].overwrite(6)  # YCbCr, which it is not
    with pytest.warns(SlowPathWarning, match="differs by up to"):
        slide = open_slide(path)
    with slide:
        assert slide.reader == "openslide"
    with compared_before(), open_slide(path) as slide:  # as a reader does of a slide that its parent reads directly
        assert slide.reader == "tiff"
    with pytest.warns(SlowPathWarning, match="differs by up to"):
        open_slide(path).close()


def test_one_damaged_tile_does_not_spoil_the_next_read(tmp_path):
    """OpenSlide's handle answers only errors after the first one; ours goes on."""
    path = tmp_path / "slide.tif"
    tifffile.imwrite(
        path, IMAGE, tile=(256, 256), compression="deflate", photometric="rgb", resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
    )  # fmt: skip
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages[0].dataoffsets[0], tif.pages[0].databytecounts[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * count)
    with open_slide(path) as slide:
        assert slide.reader == "openslide"
        with pytest.raises(PixelError):
            slide.read(Box(0, 0, 10, 10))
        assert np.array_equal(slide.read(Box(512, 512, 50, 50)), IMAGE[512:562, 512:562])


@pytest.mark.parametrize("compression", ["jpeg", "deflate", "lzw", None])
def test_ome_tiff_pyramid_in_subifds(tmp_path, compression):
    """All levels are found, which OpenSlide does not, and level 0 is what was written."""
    path = tmp_path / "slide.ome.tif"
    half = np.asarray(Image.fromarray(IMAGE).reduce(2))
    options = {"tile": (256, 256), "compression": compression, "photometric": "rgb"}
    with tifffile.TiffWriter(path) as writer:
        metadata = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 250.0, "PhysicalSizeYUnit": "nm"}
        writer.write(IMAGE, subifds=1, metadata=metadata, **options)
        writer.write(half, subfiletype=1, **options)
    with open_slide(path) as slide:
        assert [(level.width, level.height) for level in slide.levels] == [(1100, 900), (550, 450)]
        assert (slide.mpp, slide.mpp_source) == (0.25, "ome")
        error = slide.read(Box(0, 0, 1100, 900)).astype(int) - IMAGE
        assert np.abs(error).mean() < (3 if compression == "jpeg" else 1e-9)
        assert np.abs(slide.read(Box(0, 0, 1100, 900), 0.5).astype(int) - half).mean() < 3


def write_ome_zarr(path: Path, version: str, axes: str = "cyx") -> Path:
    shape = {"c": 3, "y": 900, "x": 1100, "z": 1, "t": 1}
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    for number, scale in enumerate((1, 2)):
        pixels = np.asarray(Image.fromarray(IMAGE).reduce(scale)) if scale > 1 else IMAGE
        rows, cols = pixels.shape[:2]
        size = [{**shape, "y": rows, "x": cols}[a] for a in axes]
        order = np.moveaxis(pixels, -1, 0) if axes.index("c") < axes.index("y") else pixels
        array = group.create_array(str(number), shape=size, chunks=[min(n, 256) for n in size], dtype="uint8")
        array[...] = order.reshape(size)
    units = {"y": "micrometer", "x": "micrometer"}
    listed = [
        {"name": a, "type": "channel" if a == "c" else "space"} | ({"unit": units[a]} if a in units else {})
        for a in axes
    ]
    datasets = [
        {
            "path": str(n),
            "coordinateTransformations": [{"type": "scale", "scale": [0.5 * s if a in "yx" else 1.0 for a in axes]}],
        }
        for n, s in enumerate((1, 2))
    ]
    multiscales = [{"axes": listed, "datasets": datasets, "version": version}]
    group.attrs.update(
        {"ome": {"version": "0.5", "multiscales": multiscales}} if version == "0.5" else {"multiscales": multiscales}
    )
    return path


@pytest.mark.parametrize("axes", ["cyx", "tczyx", "yxc"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_of_both_versions(tmp_path, version, axes):
    """Pixels, levels and scale are those that were written, whatever the order of the axes."""
    with open_slide(write_ome_zarr(tmp_path / "slide.zarr", version, axes)) as slide:
        assert (slide.mpp, slide.mpp_source, len(slide.levels)) == (0.5, "ome", 2)
        assert np.array_equal(slide.read(Box(30, 40, 500, 600)), IMAGE[40:640, 30:530])


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        pytest.param("0/.zarray", {"filters": [{"id": "pickle"}]}, "not trusted.*pickle", id="pickle-codec"),
        pytest.param("0/.zarray", {"dtype": "|O"}, r"needs uint8 or uint16, found \|O", id="object-array"),
        pytest.param("0/.zarray", {"compressor": {"id": "evil"}}, "not trusted.*evil", id="unknown-codec"),
    ],
)
def test_ome_zarr_that_could_run_code_is_refused_unread(tmp_path, file, change, reason):
    """A codec that is not on the list is never asked to decode anything."""
    path = write_ome_zarr(tmp_path / "slide.zarr", "0.4")
    meta = json.loads((path / file).read_text())
    (path / file).write_text(json.dumps({**meta, **change}))
    with pytest.raises(UnsupportedSlideError, match=reason):
        open_slide(path)


def test_ome_zarr_level_outside_its_folder_is_refused(tmp_path):
    """A dataset path that climbs out of the folder is not followed."""
    write_ome_zarr(tmp_path / "secret.zarr", "0.4")
    path = write_ome_zarr(tmp_path / "slide.zarr", "0.4")
    attrs = json.loads((path / ".zattrs").read_text())
    attrs["multiscales"][0]["datasets"][0]["path"] = "../secret.zarr/0"
    (path / ".zattrs").write_text(json.dumps(attrs))
    with pytest.raises(UnsupportedSlideError, match="lies outside the folder"):
        open_slide(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_flat_image_needs_its_scale(tmp_path, suffix):
    """A flat image is refused without mpp, with the remedy, and read with it."""
    path = tmp_path / f"flat.{suffix}"
    Image.fromarray(IMAGE).save(path, quality=95)
    with pytest.raises(SlideError, match="`mpp`"):
        open_slide(path)
    with open_slide(path, mpp=0.5) as slide:
        assert (slide.size, slide.mpp_source) == ((1100, 900), "user")
        assert np.abs(slide.read(Box(0, 0, 1100, 900)).astype(int) - IMAGE).mean() < 4


def test_transparent_is_white(tmp_path):
    """Never black, which a network would take for something."""
    pixels = np.dstack([IMAGE, np.full(IMAGE.shape[:2], 255, np.uint8)])
    pixels[:100, :100] = 0
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    with open_slide(tmp_path / "clear.png", mpp=1) as slide:
        assert (slide.read(Box(0, 0, 100, 100)) == 255).all()
        assert np.array_equal(slide.read(Box(100, 0, 50, 50)), IMAGE[:50, 100:150])


def test_every_reader_gives_its_reason(tmp_path):
    """The error for a file that nothing opens names each reader that was asked."""
    path = tmp_path / "note.tif"
    path.write_text("not a slide")
    with pytest.raises(UnsupportedSlideError) as caught:
        open_slide(path)
    for reader in ("tiff", "openslide", "image"):
        assert f"  {reader}: " in str(caught.value)


def test_missing_file_is_said_to_be_missing(tmp_path):
    """Not that its format is unknown."""
    with pytest.raises(FileNotFoundError, match="there is no slide"):
        open_slide(tmp_path / "nowhere.svs")


def set_resolution(path: Path, x: float, y: float) -> Path:
    """Overwrite a TIFF's resolution, pixels per centimetre."""
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for page in tif.pages:
            page.tags["XResolution"].overwrite((round(x * 1000), 1000))
            page.tags["YResolution"].overwrite((round(y * 1000), 1000))
    return path


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        pytest.param(28.346, 28.346, "352.* no slide scanner has", id="72-dpi"),
        pytest.param(20000, 10000, "not square", id="anisotropic"),
        pytest.param(1e6, 1e6, "no slide scanner has", id="atoms"),
    ],
)
def test_absurd_scale_is_refused_with_the_remedy(tmp_path, x, y, reason):
    """A scale that no microscope has is not believed; the user's is."""
    path = set_resolution(write_pyramid(tmp_path / "slide.tif", IMAGE, vendor="generic"), x, y)
    with pytest.raises(SlideError, match=reason) as caught:
        open_slide(path)
    assert "`mpp`" in str(caught.value)
    with open_slide(path, mpp=0.25) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "user")


@pytest.mark.parametrize(
    ("vendor", "description", "expected"),
    [
        pytest.param("aperio", "|AppMag = 20|MPP = 0.4990", (0.499, "vendor"), id="vendor"),
        pytest.param("aperio", "|AppMag = 40", (0.25, "objective power"), id="objective-power"),
        pytest.param("generic", "", (0.5, "tiff resolution"), id="tiff-resolution"),
    ],
)
def test_scale_says_where_it_comes_from(tmp_path, vendor, description, expected):
    """The provenance of mpp is part of the slide."""
    path = write_pyramid(tmp_path / f"slide.{'svs' if vendor == 'aperio' else 'tif'}", IMAGE, vendor=vendor)
    if description:
        with tifffile.TiffFile(path, mode="r+b") as tif:
            tif.pages[0].tags["ImageDescription"].overwrite(f"Aperio Image Library v11.2.1 \r\n1100x900 {description}")
    with open_slide(path) as slide:
        assert (slide.mpp, slide.mpp_source) == expected


def test_fingerprint_follows_content_not_name(tmp_path, small_svs):
    """A copy has the same fingerprint; one changed byte at the end gives another."""
    copy = tmp_path / "other-name.svs"
    shutil.copy(small_svs, copy)
    assert fingerprint(copy) == fingerprint(small_svs)
    with copy.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(struct.pack("B", last[0] ^ 1))
    assert fingerprint(copy) != fingerprint(small_svs)


def test_opening_warns_of_nothing(small_svs):
    """A slide that takes the fast path opens in silence."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_slide(small_svs).close()


def test_a_picture_far_too_large_is_no_attack(tmp_path):
    """Pillow calls it a decompression bomb; it is refused with what to do about it, and not read."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    path = tmp_path / "large.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    with pytest.raises(SlideError, match=r"900,000,000 px; over 170,000,000 px it must be a tiled pyramid") as refused:
        open_slide(path, mpp=0.5)
    assert "bomb" not in str(refused.value)


JPEG_2000 = [
    pytest.param(write_rgb, {}, id="33005"),
    pytest.param(write_ycbcr, {"half": True}, id="33003"),
    pytest.param(write_ycbcr, {"half": False}, id="33003-whole"),
]


@pytest.mark.parametrize(("write", "options"), JPEG_2000)
def test_aperio_jpeg_2000_is_decoded_directly(tmp_path, monkeypatch, write, options):
    """Compressions 33005 and 33003: each tile once, and the pixels that OpenSlide gives, of colours as of noise."""
    image, _ = tissue_image(700, 600)
    image[:256, :256] = np.random.default_rng(0).integers(0, 256, (256, 256, 3))
    path = tmp_path / "slide.svs"
    write(path, image, **options)
    with open_slide(path) as slide:
        assert slide.reader == "tiff"
        direct = slide.read(Box(0, 0, *slide.size))
    monkeypatch.setattr("wsi_umedpt.slides.readers.direct._DIRECT", ())
    with open_slide(path) as slide:
        assert slide.reader == "openslide"
        assert np.array_equal(slide.read(Box(0, 0, *slide.size)), direct)
    assert np.abs(direct[256:].astype(int) - image[256:]).mean() < 6


def test_aperio_ycbcr_means_the_same_in_any_tiff(tmp_path):
    """33003 in a TIFF that is not Aperio's, which OpenSlide does not read: the same pixels."""
    image, _ = tissue_image(300, 280)
    pixels = []
    for name, aperio in (("slide.svs", True), ("slide.tif", False)):
        write_ycbcr(tmp_path / name, image, aperio=aperio)
        with open_slide(tmp_path / name) as slide:
            pixels.append(slide.read(Box(0, 0, *slide.size)))
    assert np.array_equal(*pixels)


def test_a_damaged_tile_of_jpeg_2000_is_an_error_of_that_tile(tmp_path):
    """A stream that is cut short gives no picture, and its neighbours are read."""
    image, _ = tissue_image(700, 300)
    write_ycbcr(tmp_path / "slide.svs", image, broken=1)
    with open_slide(tmp_path / "slide.svs") as slide:
        assert slide.reader == "tiff"
        slide.read(Box(0, 0, 256, 256))
        with pytest.raises(PixelError, match=r"tile \(1, 0\)"):
            slide.read(Box(256, 0, 256, 256))
