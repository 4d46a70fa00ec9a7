"""Slides of several files: which files are one slide, and that their fingerprint follows the content of all."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from wsi_umedpt.readers.parts import dicom_series, parts
from wsi_umedpt.slide import fingerprint, open_slide
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
