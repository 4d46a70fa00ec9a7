"""Formats that an extra opens: the library's own pixels, the scale of the file, and what is said without the extra."""

import struct
import sys

import numpy as np
import pytest

from tests.support.channel_slides import odd_slide
from wsi_umedpt.errors import ChannelError, SlideError, UnsupportedSlideError
from wsi_umedpt.geometry import Box
from wsi_umedpt.slides import reader_processes
from wsi_umedpt.slides.readers.base import ContentRefused, Refused
from wsi_umedpt.slides.readers.czi import layers, open_czi
from wsi_umedpt.slides.readers.czi_directory import check_czi
from wsi_umedpt.slides.readers.wsidicom import open_wsidicom
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tile_loader import close_readers, read_tiles
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.testing import tissue_image, write_dicom

RGB, _ = tissue_image(700, 600)
CORNER = (-100, 50)
EMPTY_CZI = (b"ZISRAWFILE".ljust(84, b"\0") + struct.pack("<q", 600)).ljust(600, b"\0")
EMPTY_CZI += struct.pack("<16sqq", b"ZISRAWDIRECTORY", 128, 128) + bytes(128)
NAMES = {0: "DAPI", 1: "CD3", 2: "CD8"}


@pytest.fixture(scope="module")
def libczi():
    return pytest.importorskip("pylibCZIrw.czi", reason="needs the extra czi (pylibCZIrw)")


@pytest.fixture(scope="module")
def wsidicom():
    return pytest.importorskip("wsidicom", reason="needs the extra dicom (wsidicom)")


def write_czi(libczi, path, planes: np.ndarray, *, z: int = 1, um: float | None = 0.25):
    """Two scenes side by side, of planes (channel, rows, cols, 1 or 3), whose corner is not (0, 0)."""
    with libczi.create_czi(str(path), exist_ok=True) as document:
        half = planes.shape[2] // 2
        for n, plane in enumerate(planes):
            for k in range(z):
                for scene, left in enumerate((0, half)):
                    part = np.ascontiguousarray(plane[:, left : left + half if scene == 0 else None])
                    at = (CORNER[0] + left, CORNER[1])
                    document.write(part, plane={"C": n, "Z": k, "T": 0}, location=at, scene=scene)
        metres = {} if um is None else {"scale_x": um * 1e-6, "scale_y": um * 1e-6}
        document.write_metadata("slide", channel_names={n: NAMES[n] for n in range(len(planes))}, **metres)
    return path


def test_a_czi_in_colour_is_what_was_written(tmp_path, libczi):
    """Both of its scenes, from the corner of their bounds, at the scale that it states."""
    path = write_czi(libczi, tmp_path / "a.czi", RGB[None, :, :, ::-1])  # BGR
    reader = open_czi(path)
    try:
        assert (reader.info.mpp.x, reader.info.mpp.y) == pytest.approx((0.25, 0.25), rel=1e-12)
        assert [(level.width, level.height) for level in reader.levels] == [(700, 600)]
        assert np.array_equal(reader.read_level(0, 0, 0, 700, 600), RGB)
        assert np.array_equal(reader.read_level(0, 333, 40, 99, 77), RGB[40:117, 333:432])
    finally:
        reader.close()
    with open_slide(path) as slide:  # whoever opens it
        assert slide.mpp == pytest.approx(0.25, rel=1e-9)
        assert np.array_equal(slide.read(Box(0, 0, *slide.size)), RGB)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_czi_of_channels_is_what_was_written(tmp_path, libczi, monkeypatch, dtype):
    """And in processes, which open it themselves."""
    monkeypatch.setattr(reader_processes, "_FEWEST", 2)
    stored = np.random.default_rng(1).integers(0, np.iinfo(dtype).max // 16, (3, 600, 700, 1)).astype(dtype)
    path = write_czi(libczi, tmp_path / "a.czi", stored)
    with pytest.raises(ChannelError, match="channels 0 DAPI, 1 CD3, 2 CD8"):
        open_slide(path)
    most = float(stored.max())
    with open_slide(path, channels=f"CD8:0-{most:g},DAPI:0-{most:g},CD3:0-{most:g}") as slide:
        expected = np.floor(stored[[2, 0, 1], ..., 0] / most * 255 + 0.5).astype(np.uint8)
        assert np.array_equal(slide.read(Box(0, 0, *slide.size)), np.moveaxis(expected, 0, -1))
        grid = lay_grid(slide.size, slide.mpp, TileSpec(size_px=64, mpp=0.5, min_tissue=0))
        try:
            inline, apart = (
                np.concatenate([batch.pixels.copy() for batch in read_tiles(slide, grid, readers=readers)])
                for readers in (0, 2)
            )
        finally:
            close_readers()
        assert np.array_equal(inline, apart)


def test_a_czi_without_a_scale_needs_one(tmp_path, libczi):
    """Nothing is guessed."""
    path = write_czi(libczi, tmp_path / "a.czi", RGB[None, :, :, ::-1], um=None)
    with pytest.raises(SlideError, match="`mpp`"):
        open_slide(path)


def test_a_czi_stack_is_refused(tmp_path, libczi):
    """Which plane is the slide, the user says."""
    path = write_czi(libczi, tmp_path / "a.czi", np.zeros((1, 64, 64, 1), np.uint8), z=3)
    with pytest.raises(UnsupportedSlideError, match=r"stack of 3 focal planes"):
        open_slide(path, channels="0")


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7, 0.99])
def test_a_czi_that_is_cut_short_fails_with_a_reason(tmp_path, libczi, kept):
    """In words, and without a crash."""
    path = write_czi(libczi, tmp_path / "a.czi", np.zeros((2, 300, 300, 1), np.uint16))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(SlideError, match=r"no reader opens a\.czi"), open_slide(path, channels="0"):
        pass


@pytest.mark.parametrize(
    ("at", "value", "error", "reason"),
    [
        pytest.param(28, 2**31 - 1, ContentRefused, "damaged", id="axes"),
        pytest.param(-1, 2**31 - 1, ContentRefused, "lists a channel of number 2,147,483,647", id="channel"),
        pytest.param(32 + 16, 0, Refused, "stored without pixels", id="stored-size"),
    ],
)
def test_a_directory_that_lies_is_refused_before_it_is_believed(tmp_path, libczi, at, value, error, reason):
    """Of the first, libCZI crashes; of the second, it never comes back; of the third, OpenSlide crashes."""
    path = write_czi(libczi, tmp_path / "a.czi", RGB[None, :, :, ::-1])
    check_czi(path)
    data = bytearray(path.read_bytes())
    entry = data.index(b"DV", data.index(b"ZISRAWDIRECTORY"))
    (axes,) = struct.unpack_from("<i", data, entry + 28)
    names = [data[entry + 32 + 20 * n : entry + 33 + 20 * n] for n in range(axes)]
    assert names[0] == b"X"
    place = entry + (at if at > 0 else 32 + 20 * names.index(b"C") + 4)
    data[place : place + 4] = struct.pack("<i", value)
    path.write_bytes(data)
    with pytest.raises(error, match=reason) as refused:
        check_czi(path)
    assert refused.type is error


def test_layers_of_a_pyramid_are_levels_where_they_cover_the_slide():
    """Overlap at full resolution counts twice there; a layer of one scene alone is none."""
    full = [(1.0, 110.0)] * 10
    assert layers([*full, *[(2.0, 200.0)] * 5, *[(4.01, 500.0)] * 2, (8.0, 100.0)]) == [1, 2, 4]
    assert layers([*full, (3.0, 1000.0), (8.98, 1000.0)]) == [1, 3, 9]
    assert layers([]) == [1]


@pytest.mark.parametrize(
    ("name", "begin", "module", "extra"),
    [
        pytest.param("a.czi", EMPTY_CZI, "pylibCZIrw", "czi", id="czi"),
        pytest.param("a.dcm", None, "wsidicom", "dicom", id="dicom"),
    ],
)
def test_the_extra_that_would_open_a_file_is_named(tmp_path, monkeypatch, name, begin, module, extra):
    """In the error that no reader opens it, beside the reason of the reader that is there."""
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / name
    if begin is None:
        path = write_dicom(tmp_path / "s", RGB, scales=(1,))[0]
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.80"))
    else:
        path.write_bytes(begin)
    with pytest.raises(UnsupportedSlideError, match=rf"pip install 'wsi-umedpt\[{extra}\]'") as refused:
        open_slide(path)
    assert "  openslide: " in str(refused.value)


@pytest.mark.parametrize("name", ["a.vsi", "a.isyntax"])
def test_slides_that_nothing_reads_are_said(tmp_path, name):
    """An index of Olympus begins as a TIFF of a thumbnail, which is not the slide."""
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", RGB, tile=(128, 128), photometric="rgb")
    (tmp_path / name).write_bytes((tmp_path / "a.tif").read_bytes())
    with pytest.raises(UnsupportedSlideError, match=r"which is not read\. Convert it to OME-TIFF"):
        open_slide(tmp_path / name, mpp=0.5)


@pytest.mark.parametrize("codec", ["jpeg", "jpeg2000"])
def test_dicom_through_either_library_is_the_same(wsidicom, codec):
    """But for the rounding of two JPEG decoders."""
    path = odd_slide(f"multi_frame_{codec}_camelyon_challenge_image.dcm")
    reader = open_wsidicom(path)
    try:
        with open_slide(path) as slide:
            assert slide.reader == "openslide"
            assert [(one.width, one.height) for one in reader.levels] == [slide.size]
            assert reader.info.mpp.x == pytest.approx(slide.mpp, rel=1e-4)
            found = reader.read_level(0, 0, 0, *slide.size).astype(int)
            assert np.abs(found - slide.read(Box(0, 0, *slide.size))).max() <= (6 if codec == "jpeg" else 0)
    finally:
        reader.close()


def test_dicom_that_openslide_refuses_is_read(wsidicom):
    """One picture as it is, of JPEG-LS, and in grey of 16 bits."""
    with open_slide(odd_slide("highdicom_sm_image.dcm")) as plain:
        assert plain.reader == "openslide"
        expected = plain.read(Box(0, 0, *plain.size))
    with open_slide(odd_slide("highdicom_sm_image_jpegls.dcm")) as slide:
        assert (slide.reader, slide.mpp) == ("wsidicom", 0.499)
        assert np.array_equal(slide.read(Box(0, 0, *slide.size)), expected)
    import pydicom

    path = odd_slide("highdicom_sm_image_grayscale.dcm")
    frames = pydicom.dcmread(path).pixel_array
    with open_slide(path, channels="0:0-255") as slide:
        found = slide.read(Box(0, 0, 10, 10))[..., 0]
        assert np.array_equal(found, np.minimum(frames[0], 255))


def test_real_czi_files_are_their_own_pixels(libczi):
    """Which OpenSlide refuses for their dimensions T and Z, of one plane each."""
    with libczi.open_czi(str(odd_slide("RGB-8bit.czi"))) as document:
        expected = document.read()[..., ::-1]
    with open_slide(odd_slide("RGB-8bit.czi")) as slide:
        assert slide.mpp == pytest.approx(1.0833333333333333, rel=1e-9)
        assert np.array_equal(slide.read(Box(0, 0, *slide.size)), expected)
    with libczi.open_czi(str(odd_slide("mosaic_test.czi"))) as document:
        expected = document.read()[..., 0]
    with open_slide(odd_slide("mosaic_test.czi"), channels="EGFP:0-65535") as slide:
        found = slide.read(Box(0, 0, *slide.size))[..., 0]
        assert np.array_equal(found, np.floor(expected / 65535 * 255 + 0.5).astype(np.uint8))
