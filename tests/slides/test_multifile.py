"""Slides of several files: which files are one slide, and that their fingerprint follows the content of all."""

import random
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from wsi_umedpt.errors import UnsupportedSlideError
from wsi_umedpt.slides.readers.dicom import dicom_series
from wsi_umedpt.slides.readers.multifile import parts
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.slide_fingerprint import fingerprint
from wsi_umedpt.testing import tissue_image, write_dicom

IMAGE, _ = tissue_image(1100, 900)


def write_vms(folder: Path) -> Path:
    """A Hamamatsu VMS slide as far as its file names go."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {"ImageFile": "a_0.jpg", "ImageFile(1,0)": "a_1.jpg", "MapFile": "a_map2.jpg", "Lost": "gone.jpg"}
    lines = ["[Virtual Microscope Specimen]", *(f"{key}={name}" for key, name in names.items())]
    (folder / "a.vms").write_text("\n".join(lines))
    for name in ("a_0.jpg", "a_1.jpg", "a_map2.jpg", "other.jpg"):
        (folder / name).write_bytes(name.encode() * 9)
    return folder / "a.vms"


def write_mrxs(folder: Path) -> Path:
    """An MRXS slide as far as its file names go."""
    (folder / "a").mkdir(parents=True)
    for name in ("a.mrxs", "a/Slidedat.ini", "a/Data0000.dat", "other.mrxs"):
        (folder / name).write_bytes(name.encode() * 9)
    return folder / "a.mrxs"


def write_zarr(folder: Path) -> Path:
    """An OME-Zarr slide as far as its file names go, of more chunks than are read."""
    path = folder / "a.zarr"
    for name in ("zarr.json", "0/zarr.json", *(f"0/c/{n}/0/0" for n in range(40))):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(random.Random(name).randbytes(200 if name.endswith("json") else 60_000))
    return path


def write_series(folder: Path) -> Path:
    """A DICOM slide, beside one of another series."""
    write_dicom(folder, IMAGE, series="1.9")
    return write_dicom(folder, IMAGE)[0]


KINDS = [write_vms, write_mrxs, write_zarr, write_series]


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        pytest.param(write_vms, ["a.vms", "a_0.jpg", "a_1.jpg", "a_map2.jpg"], id="vms"),
        pytest.param(write_mrxs, ["a.mrxs", "a/Data0000.dat", "a/Slidedat.ini"], id="mrxs"),
        pytest.param(write_series, ["level-1.2.3-0.dcm", "level-1.2.3-1.dcm"], id="dicom"),
    ],
)
def test_parts_are_the_files_of_one_slide(tmp_path, write, expected):
    """And none of another slide in the same folder."""
    assert [p.relative_to(tmp_path).as_posix() for p in parts(write(tmp_path))] == expected


def test_any_file_of_a_dicom_series_opens_the_whole_slide(tmp_path):
    """OpenSlide finds the other levels; the pixels are those that were written."""
    for path in write_dicom(tmp_path, IMAGE):
        with open_slide(path) as slide:
            assert (slide.size, slide.mpp, len(slide.levels)) == ((1100, 900), 0.5, 2)
            tile = slide.read_tile((256, 256), (512, 512), slide.plan(1.0, 512))
        assert np.abs(tile.astype(int) - IMAGE[256:768, 256:768]).mean() < 3


@pytest.mark.parametrize("write", KINDS, ids=lambda f: f.__name__)
def test_a_fingerprint_follows_the_content_of_every_part(tmp_path, write):
    """A copy elsewhere has the same; a changed byte in any part gives another."""
    path = write(tmp_path / "one")
    copy = shutil.copytree(tmp_path / "one", tmp_path / "two") / path.name
    assert fingerprint(copy) == fingerprint(path)
    if write is write_zarr:  # of its chunks, 16 are read, the first and the last by name among them
        files = [copy / "zarr.json", copy / "0/zarr.json", copy / "0/c/0/0/0", copy / "0/c/9/0/0"]
    else:
        files = parts(copy)
    for file in files:
        before = file.read_bytes()
        file.write_bytes(bytes([before[0] ^ 1]) + before[1:])
        assert fingerprint(copy) != fingerprint(path), file
        file.write_bytes(before)
    assert fingerprint(copy) == fingerprint(path)


def test_a_dicom_fingerprint_is_that_of_the_series(tmp_path):
    """Whichever of its files is named, and whatever they are called."""
    first, second = write_dicom(tmp_path / "one", IMAGE)
    expected = fingerprint(first)
    assert fingerprint(second) == expected
    write_dicom(tmp_path / "one", IMAGE[::-1], series="1.9")
    assert fingerprint(first) == expected
    assert fingerprint(shutil.move(first, first.with_name("z.dcm"))) == expected


def element(tag: int, kind: bytes, value: bytes) -> bytes:
    """A data element as `write_dicom` writes it."""
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, kind, len(value)) + value


def change(path: Path, tag: int, kind: bytes, old: bytes, new: bytes) -> None:
    """Give an element of a DICOM file another value."""
    data = path.read_bytes()
    assert data.count(element(tag, kind, old)) == 1
    path.write_bytes(data.replace(element(tag, kind, old), element(tag, kind, new)))


def total(n: int) -> bytes:
    return struct.pack("<I", n)


CONTRADICTIONS = [
    pytest.param(0x00480006, b"UL", total(1100), total(1500), "6 x 900|1500 x 900", id="wider"),
    pytest.param(0x00480006, b"UL", total(1100), total(600), "600 x 900", id="narrower"),
    pytest.param(0x00480007, b"UL", total(900), total(1900), "1100 x 1900", id="higher"),
    pytest.param(0x00280008, b"IS", b"20", b"19", "it holds 19", id="frame-lost"),
    pytest.param(0x00480303, b"UL", total(1), total(3), "3 focal planes", id="z-stack"),
    pytest.param(0x00209311, b"CS", b"TILED_FULL", b"TILED_SPARSE", "do not say where", id="sparse-without-positions"),
]


@pytest.mark.parametrize(("tag", "kind", "old", "new", "reason"), CONTRADICTIONS)
@pytest.mark.parametrize("opened", [0, 1])
def test_dicom_frames_that_contradict_their_header_are_refused(tmp_path, tag, kind, old, new, reason, opened):
    """Rows would shift, and without positions OpenSlide crashes; whichever file of the series is named."""
    paths = write_dicom(tmp_path, IMAGE)
    change(paths[0], tag, kind, old, new)
    with pytest.raises(UnsupportedSlideError, match=reason):
        open_slide(paths[opened])


def test_a_dicom_instance_of_another_shape_is_no_level(tmp_path):
    """Its height is 8 % less than its width asks for."""
    paths = write_dicom(tmp_path, IMAGE)
    change(paths[1], 0x00480007, b"UL", total(225), total(207))
    with open_slide(paths[0]) as slide:
        assert [(level.width, level.height) for level in slide.levels] == [(1100, 900)]


@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
def test_a_dicom_file_that_is_cut_short_is_refused(tmp_path, share):
    """Also if it is another level than the one that was named."""
    paths = write_dicom(tmp_path, IMAGE)
    data = paths[0].read_bytes()
    paths[0].write_bytes(data[: int(len(data) * share)])
    for path in paths:
        with pytest.raises(UnsupportedSlideError, match="cut short"):
            open_slide(path)


@pytest.mark.parametrize("names", [("IM0", "IM1"), ("1.2.3.4", "1.2.3.5"), ("a.DCM", "b")])
def test_a_dicom_slide_is_one_whatever_its_files_are_called(tmp_path, names):
    """All its levels, and one fingerprint."""
    written = write_dicom(tmp_path / "one", IMAGE)
    expected = fingerprint(written[0])
    paths = [path.rename(path.with_name(name)) for path, name in zip(written, names, strict=True)]
    (tmp_path / "one" / "notes.txt").write_text("no DICOM")
    for path in paths:
        assert parts(path) == sorted(paths)
        assert fingerprint(path) == expected
        with open_slide(path) as slide:
            assert (slide.vendor, len(slide.levels)) == ("dicom", 2)


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_dicom_header_is_no_series(tmp_path, seed):
    """Whatever stands there: an answer, not an error, and soon."""
    [path] = write_dicom(tmp_path, IMAGE[:300, :300], scales=(1,))
    sound, rng = path.read_bytes(), random.Random(seed)
    for _ in range(100):
        data = bytearray(sound[: rng.randrange(130, 900)])
        for _ in range(rng.randrange(6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        assert isinstance(dicom_series(path), str | None)
    path.write_bytes(bytes(128) + b"DICM" + bytes(10_000_000))
    assert dicom_series(path) is None
