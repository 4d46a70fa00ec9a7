"""One picture in every way that a TIFF, PNG or JPEG can hold it: the same pixels, or a refusal in words."""

from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from wsi_umedpt.errors import ChannelError, UnsupportedSlideError
from wsi_umedpt.geometry import Box
from wsi_umedpt.slides.readers.colour import to_eight_bits
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.testing import tissue_image, write_pyramid

RGB, _ = tissue_image(520, 390)
PIL = Image.fromarray(RGB)
GREY = np.asarray(PIL.convert("L"))
PALETTE = PIL.quantize(256)
INDEX = np.asarray(PALETTE)
COLOURS = np.asarray(PALETTE.getpalette(), np.uint16).reshape(-1, 3)
COLOURS = np.pad(COLOURS, ((0, 256 - len(COLOURS)), (0, 0))).T * 257
CLEAR = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
CLEAR[:, :130] = 0  # black where it is transparent, as most programs leave it
ON_WHITE = RGB.copy()
ON_WHITE[:, :130] = 255
HALF = np.dstack([RGB // 2, np.full(RGB.shape[:2], 128, np.uint8)])  # premultiplied: white shines through

SCALE = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER", "metadata": None}
STORED = {"strips": {"compression": "lzw"}, "tiles": {"tile": (128, 128), "compression": "deflate"}}


def grey3(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


def through(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def ome_xml(pixels: str, data: str, channels: int) -> str:
    """An OME-XML of one image of the size of `RGB`, in one page or one a channel."""
    channel = f'<Channel SamplesPerPixel="{4 - channels}"/>' if channels == 3 else '<Channel SamplesPerPixel="3"/>'
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="{RGB.shape[1]}" '
        f'SizeY="{RGB.shape[0]}" SizeZ="1" SizeT="1" {pixels}>{channel * channels}{data}</Pixels></Image></OME>'
    )


YCC = {"photometric": "ycbcr", "subsampling": (1, 1)}
# name: pixels, tags, what is right, how far from it (grey values, mean)
EXACT = {
    "rgb": (RGB, {"photometric": "rgb"}, RGB, 0),
    "grey": (GREY, {"photometric": "minisblack"}, grey3(GREY), 0),
    "white-is-zero": (255 - GREY, {"photometric": "miniswhite"}, grey3(GREY), 0),
    "palette": (INDEX, {"photometric": "palette", "colormap": COLOURS}, through(PALETTE), 0),
    "cmyk": (np.asarray(PIL.convert("CMYK")), {"photometric": "separated"}, RGB, 1),
    "ycbcr": (np.asarray(PIL.convert("YCbCr")), YCC, RGB, 1),
    "alpha": (CLEAR, {"photometric": "rgb", "extrasamples": ["unassalpha"]}, ON_WHITE, 0),
    "premultiplied": (HALF, {"photometric": "rgb", "extrasamples": ["assocalpha"]}, RGB // 2 + 127, 0),
    "rgb-16": (RGB.astype(np.uint16) * 257, {"photometric": "rgb"}, RGB, 0.5),
    "planes": (np.moveaxis(RGB, -1, 0).copy(), {"photometric": "rgb", "planarconfig": "separate"}, RGB, 0),
}


def read(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        return slide.read(Box(0, 0, *slide.size))


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found.astype(int) - expected).mean())


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("name", EXACT)
def test_a_tiff_shows_what_was_put_in(tmp_path, name, stored):
    """Whatever its photometric interpretation, bits, alpha and planes, in strips and in tiles."""
    pixels, tags, expected, most = EXACT[name]
    tifffile.imwrite(tmp_path / "a.tif", pixels, **SCALE, **STORED[stored], **tags)
    assert distance(read(tmp_path / "a.tif"), expected) <= most


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("file", ["a.ome.tif", "a.tif"])
def test_an_ome_tiff_shows_what_was_put_in(tmp_path, name, file):
    """The same through OME-XML, which is found in the file, not by its name."""
    pixels, tags, expected, most = EXACT[name]
    size = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    axes = {2: "YX", 3: "SYX" if name == "planes" else "YXS"}[pixels.ndim]
    tifffile.imwrite(
        tmp_path / file, pixels, ome=True, metadata={"axes": axes, **size}, tile=(128, 128), compression="lzw", **tags
    )
    with open_slide(tmp_path / file) as slide:
        assert (slide.vendor, slide.mpp) == ("ome-tiff", 0.5)
    assert distance(read(tmp_path / file), expected) <= most


@pytest.mark.parametrize("tiled", [True, False], ids=["tiles", "strips"])
@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_an_ome_tiff_of_three_planes_is_in_colour(tmp_path, compression, tiled):
    """As libvips writes RGB: a page a colour, each with a pyramid of its own. OpenSlide sees the red one as grey."""
    path = tmp_path / "a.ome.tif"
    options = {"tile": (128, 128)} if tiled else {}
    options |= {"compression": compression, "photometric": "minisblack", "metadata": None}
    xml = ome_xml('SizeC="3" PhysicalSizeX="0.5" PhysicalSizeY="0.5"', '<TiffData IFD="0" PlaneCount="3"/>', channels=3)
    with tifffile.TiffWriter(path) as writer:
        for number, plane in enumerate(np.moveaxis(RGB, -1, 0)):
            description = xml if number == 0 else None
            writer.write(plane.copy(), subifds=1 if tiled else 0, description=description, **options)
            if tiled:
                writer.write(plane[::2, ::2].copy(), subfiletype=1, **options)
    with open_slide(path) as slide:
        assert [level.scale for level in slide.levels] == ([1, 2] if tiled else [1])
        found = slide.read(Box(0, 0, *slide.size))
        half = slide.read(Box(0, 0, *slide.size), 1.0)
    assert distance(found, RGB) <= (3 if compression == "jpeg" else 0)
    assert not np.array_equal(found[..., 0], found[..., 1])
    if tiled and compression == "deflate":
        assert np.array_equal(half, RGB[::2, ::2])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"photometric": "cielab"}, "CIE", id="lab"),
        pytest.param(
            {"photometric": "minisblack", "planarconfig": "contig"}, "no known meaning", id="grey-and-two-more"
        ),
        pytest.param({"pixels": RGB.astype(np.int16), "photometric": "rgb"}, "signed", id="signed"),
        pytest.param({"pixels": RGB.astype(np.float32), "photometric": "rgb"}, "floating", id="float"),
        pytest.param({"pixels": RGB.astype(np.uint16), "photometric": "rgb"}, "reach to", id="8-bits-of-16"),
        pytest.param({"pixels": RGB.astype(np.uint16) * 16, "photometric": "rgb"}, "reach to", id="12-bits-of-16"),
        pytest.param(
            {"pixels": CLEAR, "photometric": "rgb", "extrasamples": ["unspecified"]},
            "does not name",
            id="fourth-channel",
        ),
        pytest.param(
            {"pixels": np.asarray(PIL.convert("CMYK")), "photometric": "separated", "iccprofile": b"x" * 200},
            "colour profile",
            id="cmyk-with-profile",
        ),
    ],
)
@pytest.mark.parametrize("stored", STORED)
def test_what_cannot_be_converted_is_refused(tmp_path, change, reason, stored):
    """With the reason, and by all readers: none shows it as something else."""
    change = dict(change)
    pixels = change.pop("pixels", RGB)
    tifffile.imwrite(tmp_path / "a.tif", pixels, **SCALE, **STORED[stored], **change)
    with pytest.raises(UnsupportedSlideError, match=reason):
        open_slide(tmp_path / "a.tif")


def test_a_fourth_channel_that_is_even_is_ignored(tmp_path):
    """Nothing is lost, whatever it was meant for."""
    padded = np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)])
    tags = {"photometric": "rgb", "extrasamples": ["unspecified"], "compression": "lzw"}
    tifffile.imwrite(tmp_path / "a.tif", padded, **SCALE, **tags)
    assert np.array_equal(read(tmp_path / "a.tif"), RGB)


ORIENTED = {
    1: RGB,
    2: RGB[:, ::-1],
    3: RGB[::-1, ::-1],
    4: RGB[::-1],
    5: np.swapaxes(RGB, 0, 1),
    6: np.rot90(RGB, 1),
    7: np.swapaxes(RGB[::-1, ::-1], 0, 1),
    8: np.rot90(RGB, -1),
}


@pytest.mark.parametrize("orientation", ORIENTED)
def test_a_flat_image_is_upright(tmp_path, orientation):
    """TIFF's tag and EXIF's; turned tiles, of which OpenSlide mirrors each, are refused."""
    stored = np.ascontiguousarray(ORIENTED[orientation])
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extratags=tag, **SCALE)
    assert np.array_equal(read(tmp_path / "a.tif"), RGB)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    with open_slide(tmp_path / "a.png", mpp=0.5) as slide:
        assert np.array_equal(slide.read(Box(0, 0, *slide.size)), RGB)
    tifffile.imwrite(tmp_path / "b.tif", stored, photometric="rgb", extratags=tag, tile=(128, 128), **SCALE)
    if orientation == 1:
        assert np.array_equal(read(tmp_path / "b.tif"), RGB)
    else:
        with pytest.raises(UnsupportedSlideError, match="turned or mirrored"):
            open_slide(tmp_path / "b.tif")


@pytest.mark.parametrize("kind", ["grey16", "rgb16", "palette", "alpha", "grey", "cmyk"])
def test_a_flat_picture_shows_what_was_put_in(tmp_path, kind):
    """PNG and JPEG, of which Pillow alone makes 16-bit grey white."""
    path = tmp_path / ("a.jpg" if kind == "cmyk" else "a.png")
    expected = {"grey16": grey3(GREY), "grey": grey3(GREY), "alpha": ON_WHITE, "palette": through(PALETTE)}.get(
        kind, RGB
    )
    if kind == "grey16":
        cv2.imwrite(str(path), GREY.astype(np.uint16) * 257)
    elif kind == "rgb16":
        cv2.imwrite(str(path), RGB[..., ::-1].astype(np.uint16) * 257)
    else:
        made = {"palette": PALETTE, "alpha": Image.fromarray(CLEAR), "grey": PIL.convert("L")}
        made.get(kind, PIL.convert("CMYK")).save(path, quality=98)
    with open_slide(path, mpp=0.5) as slide:
        found = slide.read(Box(0, 0, *slide.size))
    assert distance(found, expected) <= (2 if kind == "cmyk" else 0)


def test_a_flat_picture_of_twelve_bits_in_sixteen_is_refused(tmp_path):
    """How bright white is, is not said: it would be nearly black."""
    cv2.imwrite(str(tmp_path / "a.png"), GREY.astype(np.uint16) * 16)
    with pytest.raises(UnsupportedSlideError, match="reach to"):
        open_slide(tmp_path / "a.png", mpp=0.5)


@pytest.mark.parametrize("tiled", [True, False], ids=["tiles", "strips"])
def test_the_slide_is_the_largest_page(tmp_path, tiled):
    """Where a thumbnail comes first, in tiles or strips, OpenSlide takes it for the slide."""
    options = {**SCALE, **(STORED["tiles"] if tiled else {}), "photometric": "rgb"}
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(RGB[::4, ::4].copy(), **options)
        writer.write(RGB, **options)
    assert np.array_equal(read(tmp_path / "a.tif"), RGB)


def write_aperio_stack(path):
    write_pyramid(path, RGB, tile=128, scales=(1, 1))


STACKS = {
    "ome-z": lambda path: tifffile.imwrite(
        path, np.stack([255 - RGB, RGB]), ome=True, metadata={"axes": "ZYXS"}, photometric="rgb", tile=(128, 128)
    ),
    "ome-t": lambda path: tifffile.imwrite(
        path, np.stack([255 - RGB, RGB]), ome=True, metadata={"axes": "TYXS"}, photometric="rgb"
    ),
    "tiled-pages": lambda path: tifffile.imwrite(
        path, np.stack([RGB, RGB]), photometric="rgb", tile=(128, 128), **SCALE
    ),
    "strip-pages": lambda path: tifffile.imwrite(path, np.stack([RGB, RGB]), photometric="rgb", **SCALE),
    "aperio": write_aperio_stack,
    "imagej": lambda path: tifffile.imwrite(path, np.stack([RGB, RGB]), imagej=True, photometric="rgb"),
}


@pytest.mark.parametrize("kind", STACKS)
def test_a_stack_is_refused(tmp_path, kind):
    """Its first plane would be shown unmentioned; which plane is the slide, the user says."""
    STACKS[kind](tmp_path / "a.tif")
    with pytest.raises(UnsupportedSlideError, match=r"stack|times"):
        open_slide(tmp_path / "a.tif", mpp=0.5)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        pytest.param({"Channel": {"Name": ["DAPI", "FITC", "Cy5"]}}, "DAPI", id="stains"),
        pytest.param({"Channel": {"Name": ["blue", "green", "red"]}}, "0 blue, 1 green, 2 red", id="another-order"),
    ],
)
def test_channels_that_are_no_colours_are_not_seen_as_such(tmp_path, metadata, reason):
    """Three stains of fluorescence are not red, green and blue until somebody says so."""
    planes = np.moveaxis(RGB, -1, 0).copy()
    tifffile.imwrite(
        tmp_path / "a.ome.tif", planes, metadata={"axes": "CYX", **metadata}, photometric="minisblack", tile=(128, 128)
    )
    with pytest.raises(ChannelError, match=reason):
        open_slide(tmp_path / "a.ome.tif", mpp=0.5)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_rgb_page_is_in_colour_however_its_channels_are_counted(tmp_path, channels):
    """Writers call it one channel of three samples, or three channels."""
    path = tmp_path / "a.tif"
    xml = ome_xml('SizeC="3" PhysicalSizeX="0.5" PhysicalSizeY="0.5"', "<TiffData/>", channels)
    tifffile.imwrite(path, RGB, description=xml, metadata=None, photometric="rgb", tile=(128, 128))
    assert np.array_equal(read(path), RGB)


def test_a_stain_of_fluorescence_is_no_grey_slide(tmp_path):
    """One channel that names its dye."""
    path = tmp_path / "a.tif"
    xml = ome_xml('SizeC="1"', "<TiffData/>", 1).replace('SamplesPerPixel="3"', 'SamplesPerPixel="1" Fluor="DAPI"')
    tifffile.imwrite(path, GREY, description=xml, metadata=None, photometric="minisblack", tile=(128, 128))
    with pytest.raises(ChannelError, match="DAPI"):
        open_slide(path, mpp=0.5)


def test_two_channels_are_not_read_as_grey(tmp_path):
    """Nor handed on to OpenSlide, which would show the first."""
    planes = np.moveaxis(RGB, -1, 0)[:2].copy()
    tifffile.imwrite(
        tmp_path / "a.ome.tif", planes, metadata={"axes": "CYX"}, photometric="minisblack", tile=(128, 128)
    )
    assert openslide.OpenSlide.detect_format(tmp_path / "a.ome.tif")
    with pytest.raises(ChannelError, match="channels 0, 1"):
        open_slide(tmp_path / "a.ome.tif", mpp=0.5)


def test_an_ome_tiff_whose_xml_contradicts_its_pages_is_refused(tmp_path):
    """A crop that kept the metadata of the whole states another size."""
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, RGB, metadata={"axes": "YXS"}, photometric="rgb", tile=(128, 128))
    path.write_bytes(path.read_bytes().replace(b'SizeX="520"', b'SizeX="500"'))
    with pytest.raises(UnsupportedSlideError, match="says 500 x 390 px"):
        open_slide(path, mpp=0.5)


def test_a_part_of_an_image_of_several_files_is_refused(tmp_path):
    """Its XML names the others."""
    path = tmp_path / "a.ome.tif"
    where = '<TiffData IFD="0"><UUID FileName="b.ome.tif">urn:uuid:2</UUID></TiffData>'
    xml = ome_xml('SizeC="3"', where, channels=1)
    tifffile.imwrite(path, RGB, description=xml, metadata=None, photometric="rgb", tile=(128, 128))
    with pytest.raises(UnsupportedSlideError, match="several files"):
        open_slide(path, mpp=0.5)


def test_sixteen_bits_are_rounded_to_eight():
    """65,535 is white, and 257 grey values are one."""
    values = np.array([0, 128, 129, 257, 65_535], np.uint16)
    assert to_eight_bits(values).tolist() == [0, 0, 1, 1, 255]
