"""Pictures and volumes arrive as uint8 (h, w, 3) and masks as int32 (h, w), whatever they were on disk."""

import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from wsi_umedpt.datasets.images import count_slices, read_image, read_labels, read_mask, read_volume, stretch
from wsi_umedpt.errors import DataError

RAMP = np.arange(32 * 40, dtype=np.float32).reshape(32, 40)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.PNG"])
def test_colours_arrive_in_order(folder, name):
    """Red is first in memory whatever is first on disk."""
    wrote = folder.picture(name)
    assert np.array_equal(read_image(folder.path / name), wrote)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        pytest.param(np.uint8([[0, 7], [200, 255]]), [[0, 7], [200, 255]], id="grey"),
        pytest.param(np.uint16([[256, 257], [51400, 65535]]), [[0, 1], [200, 255]], id="16-bit-grey"),
    ],
)
def test_grey_repeats_its_channel(folder, array, expected):
    """Grey pictures have three equal channels; 16 bits are scaled so that white stays white."""
    folder.array("a.png", array)
    assert np.array_equal(read_image(folder.path / "a.png"), np.repeat(np.uint8(expected)[:, :, None], 3, 2))


def test_sixteen_bit_colours_are_scaled(folder):
    """16-bit colour becomes its upper byte within one part in 257."""
    wrote = folder.picture("a.png", dtype=np.uint16)
    found = read_image(folder.path / "a.png")
    assert found.dtype == np.uint8
    assert np.abs(found * 257.0 - wrote).max() < 257


def test_transparency_is_left_out(folder):
    """Of four channels the first three are the image."""
    bgra = np.random.default_rng(0).integers(0, 256, (8, 9, 4), np.uint8)
    import cv2

    assert cv2.imwrite(str(folder.path / "a.png"), bgra)
    assert np.array_equal(read_image(folder.path / "a.png"), bgra[:, :, 2::-1])


def test_masks_keep_their_numbers(folder):
    """A mask of many instances keeps numbers above 255; grey saved as colour counts as grey; colours are refused."""
    wrote = folder.blobs("m.png", ids=(300, 65535))
    found = read_mask(folder.path / "m.png")
    assert found.dtype == np.int32
    assert np.array_equal(found, wrote)
    folder.array("grey.png", np.repeat(np.uint8([[0, 3]])[:, :, None], 3, 2))
    assert read_mask(folder.path / "grey.png").tolist() == [[0, 3]]
    folder.picture("colour.png")
    with pytest.raises(DataError, match=r"colour\.png is a colour picture"):
        read_mask(folder.path / "colour.png")


def grey_png(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of so many bits a pixel, as its specification lays it out."""
    height, width = values.shape
    rows = [np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel() for row in values]

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + np.packbits(row).tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_masks_of_few_bits_hold_the_numbers_that_are_stored(tmp_path, bits):
    """A PNG of 1, 2 or 4 bits a pixel: 0, 1, ... and not the greys up to 255 that viewers show."""
    wrote = np.random.default_rng(bits).integers(0, 1 << bits, (13, 21), np.uint8)
    wrote[0, :2] = 0, (1 << bits) - 1
    (tmp_path / "m.png").write_bytes(grey_png(wrote, bits))
    assert np.array_equal(read_mask(tmp_path / "m.png"), wrote)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_masks_of_one_bit_are_0_and_1_in_every_format(tmp_path, suffix):
    """As paint programs and ImageJ save what is black and white, with a palette or without."""
    wrote = np.random.default_rng(0).integers(0, 2, (13, 21), np.uint8)
    PIL.Image.fromarray(wrote * np.uint8(255)).convert("1").save(tmp_path / f"m{suffix}")
    assert np.array_equal(read_mask(tmp_path / f"m{suffix}"), wrote)
    picture = PIL.Image.fromarray(wrote, "P")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.save(tmp_path / f"p{suffix}")
    greys = 255 if suffix == ".bmp" else 1  # of 8 bits, where the greys of a palette are the numbers
    assert np.array_equal(read_mask(tmp_path / f"p{suffix}"), wrote * greys)


def test_a_palette_in_colour_stands_for_its_numbers(tmp_path):
    """As VOC's masks are; one in grey stands for its greys, as before."""
    wrote = np.random.default_rng(0).integers(0, 4, (13, 21), np.uint8)
    for colours, expected in (
        ([0, 0, 0, 128, 0, 0, 0, 128, 0, 224, 224, 192], wrote),
        ([0, 0, 0, 3, 3, 3, 7, 7, 7, 9, 9, 9], np.array([0, 3, 7, 9])[wrote]),
    ):
        picture = PIL.Image.fromarray(wrote, "P")
        picture.putpalette(colours)
        picture.save(tmp_path / "m.png")
        assert np.array_equal(read_mask(tmp_path / "m.png"), expected)


def test_pictures_of_one_bit_stay_black_and_white(tmp_path):
    """What is an image and no mask is as it looks."""
    PIL.Image.fromarray(np.uint8([[0, 255]])).convert("1").save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 255]


def test_a_mask_that_is_cut_short_is_refused(tmp_path):
    """Of one bit, with a palette, or neither."""
    wrote = np.random.default_rng(0).integers(0, 2, (130, 210), np.uint8)
    PIL.Image.fromarray(wrote * np.uint8(255)).convert("1").save(tmp_path / "m.png")
    whole = (tmp_path / "m.png").read_bytes()
    for size in (0, 8, 30, len(whole) // 2):
        (tmp_path / "m.png").write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"m\.png"):
            read_mask(tmp_path / "m.png")


def dicom(path, values, photometric="MONOCHROME2", **more):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.PhotometricInterpretation = photometric
    data.SamplesPerPixel = 1
    data.Rows, data.Columns = values.shape[-2:]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    for key, value in more.items():
        setattr(data, key, value)
    data.PixelData = values.astype("<u2").tobytes()
    pydicom.dcmwrite(path, data, enforce_file_format=True)


def test_an_x_ray_is_white_where_it_says(tmp_path):
    """MONOCHROME1 shows low values white, MONOCHROME2 high ones; both are stretched to the whole range."""
    for name in ("MONOCHROME1", "MONOCHROME2"):
        dicom(tmp_path / f"{name}.dcm", RAMP, name)
    bright, dark = read_image(tmp_path / "MONOCHROME2.dcm"), read_image(tmp_path / "MONOCHROME1.dcm")
    assert bright.shape == (32, 40, 3)
    assert (bright[0, 0].tolist(), bright[-1, -1].tolist()) == ([0, 0, 0], [255, 255, 255])
    assert (np.diff(bright[:, :, 0].ravel().astype(int)) >= 0).all()
    assert np.array_equal(dark, 255 - bright)


def test_a_dicom_of_several_frames_is_refused(tmp_path):
    """One picture is asked for; a film is not one."""
    dicom(tmp_path / "film.dcm", np.stack([RAMP, RAMP]), NumberOfFrames=2)
    with pytest.raises(DataError, match=r"film\.dcm has pixels of shape \(2, 32, 40\)"):
        read_image(tmp_path / "film.dcm")


def test_stretching_clips_the_tails():
    """Percentiles 2.5 and 97.5 become 0 and 255; one value everywhere is black, not an error."""
    found = stretch(np.arange(1001, dtype=np.float32))
    assert found[[25, 500, 975]].tolist() == [0, 128, 255]
    assert found[[28, 972]].tolist() == [1, 254]
    assert stretch(np.full((3, 3), 5, np.float32)).max() == 0


DAMAGED = ["a.png", "a.jpg", "a.tif", "a.bmp", "v.nii", "v.nii.gz", "x.dcm"]


@pytest.mark.parametrize(
    "keep", [pytest.param(0, id="empty"), pytest.param(0.6, id="cut"), pytest.param(None, id="text")]
)
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused_by_name(folder, name, keep):
    """An empty file, one that was cut short, and a text under an image's name are refused, and named."""
    path = folder.path / name
    if name.startswith("v"):
        folder.volume(name, np.random.default_rng(0).normal(size=(6, 32, 40)).astype(np.float32))
    elif name.startswith("x"):
        dicom(path, RAMP)
    else:
        folder.picture(name)
    whole = path.read_bytes()
    path.write_bytes(b"this is not an image" if keep is None else whole[: int(len(whole) * keep)])
    with pytest.raises(DataError, match=name):
        (read_volume if name.startswith("v") else read_image)(path)


def test_volumes_are_slices_of_rows(folder):
    """The last axis on disk is the slice, the first the column; the header alone tells how many slices."""
    values = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    folder.volume("v.nii.gz", values)
    found, affine = read_volume(folder.path / "v.nii.gz")
    assert np.array_equal(found, values)
    assert np.diag(affine).tolist() == [0.5, 0.75, 2.0, 1.0]
    assert count_slices(folder.path / "v.nii.gz") == 5


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param(np.zeros((2, 3, 4, 5), np.float32), "4 axes, expected 3", id="4-axes"),
        pytest.param(np.float32([[[0, np.nan]]]), "not finite", id="nan"),
        pytest.param(np.float32([[[0, 1.5]]]), "between whole numbers", id="half-a-class"),
    ],
)
def test_volumes_that_hold_no_classes_are_refused(folder, values, said):
    """Labels are finite whole numbers on three axes."""
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder.path / "m.nii")
    with pytest.raises(DataError, match=said):
        read_labels(folder.path / "m.nii")


def test_classes_that_were_scaled_on_disk_are_rounded(folder):
    """A class that became 0.99999 by scaling is class 1, not 0."""
    folder.volume("m.nii", np.float32([[[0, 0.99999, 2.00001]]]))
    assert read_labels(folder.path / "m.nii")[0].tolist() == [[[0, 1, 2]]]
