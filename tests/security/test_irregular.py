"""Pipes, devices and files without end under the names of slides, chunks and masks: refused, never waited for."""

import json
import os
from pathlib import Path

import pytest
import zarr

from tests.support import GOLDEN, drawn_slides
from wsi_umedpt.batch.jobs.manifest import list_slides
from wsi_umedpt.batch.jobs.slide_files import files_of
from wsi_umedpt.errors import MaskError, NotAFileError, PixelError, SlideError, StoreError
from wsi_umedpt.geometry import Box
from wsi_umedpt.io.files import open_regular, read_regular
from wsi_umedpt.io.stalls import watched
from wsi_umedpt.slides.mask_file import drawn_by, mask_from_file
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.slide_fingerprint import fingerprint
from wsi_umedpt.slides.slide_job import SlideJob
from wsi_umedpt.store.layout import is_store
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.testing import tissue_image, write_dicom, write_pyramid

KINDS = {"pipe": "a named pipe", "device": "a device", "socket": "a socket"}
SECONDS = 20.0
"""Most that a refusal may take here; what is waited for fails the test instead of holding it."""

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")


def become(path: Path, kind: str) -> None:
    """Replace a file by what is none."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        import socket

        here = os.open(path.parent, os.O_RDONLY)  # a socket's name must be short
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(f"/proc/self/fd/{here}/{path.name}")
        finally:
            os.close(here)


def ome_zarr(path: Path, version: int) -> Path:
    """An image of 64 x 64 px in four chunks."""
    group = zarr.open_group(path, mode="w", zarr_format=version)
    scale = [{"type": "scale", "scale": [1, 0.5, 0.5]}]
    axes = [{"name": a, **({"unit": "micrometer"} if a != "c" else {})} for a in "cyx"]
    multiscales = [{"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]
    group.attrs.update({"multiscales": multiscales} if version == 2 else {"ome": {"multiscales": multiscales}})
    array = group.create_array("0", shape=(3, 64, 64), chunks=(3, 32, 32), dtype="uint8")
    array[:] = 200
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["a.svs", "a.tif", "a.ome.tif", "a.ndpi", "a.mrxs", "a.vms", "a.dcm", "a.png", "a.zarr", "a"]
)
def test_a_slide_that_is_no_file(name, kind, tmp_path):
    """Whatever its name says it is."""
    become(tmp_path / name, kind)
    with pytest.raises(SlideError, match=KINDS[kind]):
        watched(lambda _: open_slide(tmp_path / name), stall_s=SECONDS)
    with pytest.raises(NotAFileError, match=KINDS[kind]):
        watched(lambda _: fingerprint(tmp_path / name), stall_s=SECONDS)
    with pytest.raises(NotAFileError, match=KINDS[kind]):
        watched(lambda _: files_of(SlideJob(tmp_path / name, "a")), stall_s=SECONDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("slide", "part"),
    [("a.mrxs", "a/Data0000.dat"), ("a.dcm", "b.dcm"), ("a.vms", "part.jpg")],
)
def test_a_slide_of_several_files_one_of_which_is_none(slide, part, kind, tmp_path):
    """What its reader would open beside it."""
    if slide == "a.dcm":
        write_dicom(tmp_path, tissue_image(256, 256)[0])[0].rename(tmp_path / slide)
    else:
        (tmp_path / slide).write_text("Image=part.jpg\n")
    (tmp_path / part).parent.mkdir(exist_ok=True)
    become(tmp_path / part, kind)
    with pytest.raises(SlideError, match=KINDS[kind]):
        watched(lambda _: open_slide(tmp_path / slide), stall_s=SECONDS)


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("version", [2, 3])
def test_an_ome_zarr_with_a_part_that_is_no_file(version, kind, tmp_path):
    """Its metadata, or a chunk; a folder that holds it is searched all the same."""
    root, inner, chunk = (".zattrs", ".zarray", "0.0.0") if version == 2 else ("zarr.json", "zarr.json", "c/0/0/0")
    for n, part in enumerate((root, f"0/{inner}")):
        path = ome_zarr(tmp_path / f"s{n}.zarr", version)
        become(path / part, kind)
        with pytest.raises(SlideError, match=KINDS[kind]):
            watched(lambda _, path=path: open_slide(path), stall_s=SECONDS)
    path = ome_zarr(tmp_path / "chunk.zarr", version)
    become(path / "0" / chunk, kind)
    with open_slide(path) as slide:
        with pytest.raises(PixelError, match=KINDS[kind]):
            watched(lambda _: slide.read(Box(0, 0, 16, 16)), stall_s=SECONDS)
        assert slide.read(Box(40, 40, 8, 8)).mean() == 200
    jobs, failures = watched(lambda _: list_slides([str(tmp_path)]), stall_s=SECONDS)
    assert (len(jobs), failures) == (3, [])


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_store_with_a_part_that_is_no_file(kind, tmp_path):
    """Its root, an array's metadata, a chunk."""
    for n, part in enumerate(("zarr.json", "grids/{}/xy/zarr.json", "grids/{}/xy/c/0/0")):
        store, grid_id = drawn_slides.draw_stored(tmp_path / f"s{n}.zarr")
        become(store.path / part.format(grid_id), kind)
        assert is_store(store.path) == (n > 0)
        with pytest.raises(StoreError, match=KINDS[kind]):
            watched(lambda _, s=store: SlideStore.open(s.path).grid(), stall_s=SECONDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["m.geojson", "m.png"])
def test_a_mask_that_is_no_file(name, kind, tmp_path):
    """GeoJSON or a picture."""
    become(tmp_path / name, kind)
    for ask in (lambda _: mask_from_file(tmp_path / name, (64, 64), 0.5), lambda _: drawn_by(tmp_path / name, 16)):
        with pytest.raises(MaskError, match=KINDS[kind]):
            watched(ask, stall_s=SECONDS)


@pytest.mark.parametrize("name", ["zarr.json", "m.geojson", "m.png"])
def test_a_file_of_a_terabyte_is_not_read(name, tmp_path):
    """One without content, as file systems allow: metadata and masks are read up to a limit."""
    folder = tmp_path / "s.zarr"
    folder.mkdir()
    path = folder / name
    path.touch()
    os.truncate(path, 1 << 40)
    readers = {"zarr.json": [SlideStore.open, open_slide]}
    for read in readers.get(name, [lambda _: mask_from_file(path, (64, 64), 0.5)]):
        with pytest.raises((StoreError, MaskError, SlideError), match="bytes"):
            watched(lambda _, read=read: read(folder), stall_s=SECONDS)


def test_a_chunk_of_a_terabyte_is_not_read(tmp_path):
    """Of an OME-Zarr."""
    path = ome_zarr(tmp_path / "s.zarr", 2)
    os.truncate(path / "0" / "0.0.0", 1 << 40)
    with open_slide(path) as slide, pytest.raises(PixelError, match="bytes"):
        watched(lambda _: slide.read(Box(0, 0, 16, 16)), stall_s=SECONDS)


def test_a_run_lists_what_is_no_file_and_goes_on(tmp_path):
    """In a folder of slides, also where a store of its name is there."""
    write_pyramid(tmp_path / "good.svs", tissue_image(256, 256)[0], tile=128)
    out = tmp_path / "out"
    assert drawn_slides.embedded(tmp_path / "good.svs", "good", out).status == "done"
    (tmp_path / "good.svs").unlink()
    for name in ("good.svs", "bad.svs"):
        os.mkfifo(tmp_path / name)
        outcome = watched(lambda _, n=name: drawn_slides.embedded(tmp_path / n, n[:-4], out), stall_s=60)
        assert outcome.status == "failed"
        assert "a named pipe, not a file" in outcome.reason


def test_what_is_a_file_is_read(tmp_path):
    """Also through a link; one byte over the limit is not."""
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to("a")
    assert read_regular(tmp_path / "b", most=3) == b"abc"
    with open_regular(tmp_path / "b") as file:
        assert file.read() == b"abc"
    with pytest.raises(NotAFileError, match="has 3 bytes, and at most 2"):
        read_regular(tmp_path / "b", most=2)
    with pytest.raises(NotAFileError, match="a folder"):
        open_regular(tmp_path)
    assert json.loads(read_regular(GOLDEN / "store_v1.zarr" / "zarr.json"))
