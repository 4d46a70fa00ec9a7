"""Slides that have no suffix of slides, and images within an OME-Zarr: found, named, and once."""

import struct
from pathlib import Path

import numpy as np
import pytest
import zarr

from wsi_umedpt.batch.jobs.manifest import default_id, list_slides
from wsi_umedpt.batch.jobs.slide_files import files_of
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.slide_fingerprint import fingerprint
from wsi_umedpt.testing import tissue_image, write_dicom

IMAGE, _ = tissue_image(600, 500)


def renamed(folder: Path, names: list[str], series: str = "1.2.3") -> list[Path]:
    """A DICOM slide whose files have other names."""
    return [
        path.rename(path.with_name(name))
        for path, name in zip(write_dicom(folder, IMAGE, series=series), names, strict=True)
    ]


@pytest.mark.parametrize(
    "names", [["IM00001", "IM00002"], ["1.2.3.0", "1.2.3.1"], ["a.dicom", "b.DCM"], ["a.dcm", "b"]]
)
def test_a_dicom_folder_without_suffixes_is_one_slide(tmp_path, names):
    """Found in the folder, once, under the folder's name; any of its files stands for it."""
    paths = renamed(tmp_path / "case 7", names)
    (tmp_path / "case 7" / "DICOMDIR").write_bytes(
        bytes(128) + b"DICM" + struct.pack("<HH2sHI", 4, 0x1220, b"SQ", 0, 0)
    )
    (tmp_path / "case 7" / "README").write_text("no slide")
    jobs, failures = list_slides([str(tmp_path)])
    assert ([job.slide_id for job in jobs], failures) == (["case 7"], [])
    for path in paths:
        assert default_id(path) == "case 7"
        jobs, failures = list_slides([str(path), str(tmp_path / "case 7")])
        assert (len(jobs), failures) == (1, [])
    with open_slide(jobs[0].path) as slide:
        assert (slide.size, len(slide.levels)) == ((600, 500), 2)


def test_other_dicom_files_without_suffix_are_no_slides(tmp_path):
    """A computed tomography beside the slides is not listed; a slide's file that is named is."""
    [ct] = [path for path in renamed(tmp_path / "ct", ["IM1", "IM2"]) if path.name == "IM1"]
    for path in ct.parent.iterdir():
        path.write_bytes(path.read_bytes().replace(b"5.1.4.1.1.77.1.6", b"5.1.4.1.1.2\0\0\0\0\0"))
    jobs, failures = list_slides([str(tmp_path)])
    assert jobs == []
    assert "no slide found" in failures[0].reason


def test_a_fingerprint_does_not_follow_the_names_of_a_series(tmp_path):
    """Nor what else lies in the folder."""
    one = write_dicom(tmp_path / "one", IMAGE)
    two = renamed(tmp_path / "two", ["IM1", "x.dcm"])
    renamed(tmp_path / "two", ["IM3", "IM4"], series="1.9")
    assert {fingerprint(path) for path in (*one, *two)} == {fingerprint(one[0])}


def write_image(path: Path) -> Path:
    """An OME-Zarr of one level."""
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", shape=(3, 500, 600), chunks=(3, 256, 256), dtype="uint8")[...] = np.moveaxis(IMAGE, -1, 0)
    axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space", "unit": "micrometer"} for a in "yx")]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 0.5, 0.5]}]}]
    group.attrs["multiscales"] = [{"axes": axes, "datasets": datasets, "version": "0.4"}]
    return path


def test_an_image_within_an_ome_zarr_is_a_slide_of_its_own(tmp_path):
    """Named by both, as the refusal of the whole says; the folder is searched for slides no deeper."""
    path = tmp_path / "a.zarr"
    zarr.open_group(path, mode="w", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    for number in range(2):
        write_image(path / str(number))
    jobs, failures = list_slides([str(path / "0"), str(path / "1")])
    assert ([job.slide_id for job in jobs], failures) == (["a-0", "a-1"], [])
    with open_slide(jobs[1].path) as slide:
        assert slide.size == (600, 500)
    assert [job.path for job in list_slides([str(tmp_path)])[0]] == [path]
    copied = files_of(jobs[0])
    copied.copy(tmp_path / "stage", lambda: None)
    with open_slide(tmp_path / "stage" / copied.opened) as slide:  # by a name that says what it is
        assert slide.size == (600, 500)
