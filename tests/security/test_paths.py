"""Names that come from files never leave the folder that they belong to."""

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import ROOT
from wsi_umedpt.batch.jobs.manifest import list_slides
from wsi_umedpt.errors import CheckpointError, StoreError, UnsupportedSlideError
from wsi_umedpt.io.checkpoint import load
from wsi_umedpt.mil.inference.heatmaps import _safe
from wsi_umedpt.models.bundle import load_release, release_card, shipped
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.slide_id import default_id, safe_id, why_unsafe
from wsi_umedpt.slides.slide_job import SlideJob, store_path

HOSTILE = (
    "../evil", "..", ".", "", "/etc/passwd", "a/b", "a\\b", "C:\\x", "a\0b", "a\nb", " a", "a ", ".hidden", "con",
    "NUL.txt", "x" * 300, "\u202egpj.exe", "é" * 90, "~", "$(id)", "`id`", "a;b", "a|b", "<x>", "a:b", "*", "?", "%2e",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_ids_are_refused_where_they_are_given(tmp_path, name):
    """An id in a CSV that could leave the folder, hide, or mean something to a shell is a failure of its row."""
    assert why_unsafe(name)
    if "\n" in name or "\0" in name:
        return  # no cell of a CSV that we read
    table = tmp_path / "cohort.csv"
    quoted = name.replace('"', '""')
    table.write_text(f'slide,slide_id\nx.svs,"{quoted}"\n')
    jobs, failures = list_slides([str(table)])
    if name.strip():  # an empty cell asks for the file's name, a cell of spaces too
        expected = why_unsafe(name.strip())
        assert (not jobs and failures) if expected else jobs[0].slide_id == name.strip()


@given(st.text(max_size=400))
def test_ids_made_of_file_names_are_safe(name):
    """Whatever a slide's file is called, its id is a plain name; another name is another id."""
    made = safe_id(name)
    assert why_unsafe(made) is None
    assert Path(made).name == made
    assert (made == name) == (why_unsafe(name) is None)


def test_a_store_never_lies_elsewhere(tmp_path):
    """What became of the checks before it: an id that leaves the folder is refused once more where it names a path."""
    (tmp_path / "elsewhere.zarr").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link.zarr").symlink_to(tmp_path / "elsewhere.zarr")
    for name in ("../evil", "/tmp/evil", "a/../../evil", "link"):  # noqa: S108
        with pytest.raises(StoreError, match="leave the folder"):
            store_path(tmp_path / "out", SlideJob(tmp_path / "x.svs", name))


def test_the_name_of_a_slides_file_is_its_id_and_a_csv_gives_others(tmp_path):
    """The file's name is the one thing of a slide that outputs bear, and the user can choose another."""
    assert default_id(Path("Doe_Jane.svs")) == "Doe_Jane"
    (tmp_path / "c.csv").write_text("slide,slide_id\nDoe_Jane.svs,s001\n")
    assert list_slides([str(tmp_path / "c.csv")])[0][0].slide_id == "s001"


@pytest.mark.parametrize("name", ["../t.safetensors", "/etc/passwd", "a/t.safetensors", "..", "", 7, None, "t\0"])
def test_a_model_names_only_tensors_beside_it(tmp_path, name):
    """A JSON file that names tensors elsewhere is refused, also if its own checksum is right and they are there."""
    (tmp_path / "m").mkdir()
    (tmp_path / "t.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    said = {"tensors": name, "tensors_sha256": hashlib.sha256((tmp_path / "t.safetensors").read_bytes()).hexdigest()}
    (tmp_path / "m" / "m.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError):
        load(tmp_path / "m" / "m.json")


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a/b", "", ".x", 5, None, "x" * 101])  # noqa: S108
@pytest.mark.parametrize("where", ["model", "head"])
def test_a_model_cannot_name_folders(tmp_path, name, where):
    """Names of a model and of its heads become folders of stores: a model whose names are no names is refused."""
    about = json.loads(next(iter(shipped().values())).read_text())
    del about["sha256"]
    (about if where == "model" else about["heads"][0])["name"] = name
    path = tmp_path / "m.json"
    path.write_text(json.dumps(about))
    for read in (release_card, load_release):
        with pytest.raises(CheckpointError, match=r"calls itself or a head|name is a text, got"):
            read(path)


def test_scores_cannot_be_called_a_path(tmp_path):
    """Names of tile classifiers come from files, too."""
    from tests.support.drawn_slides import draw_stored
    from wsi_umedpt.store.scores_io import write_scores

    store, grid_id = draw_stored(tmp_path / "s.zarr")
    for name in ("../../evil", "a/b", "", ".x"):
        with pytest.raises(StoreError, match="cannot be called"):
            write_scores(store, name, np.zeros((1, 1), np.float32), {"columns": ["a"]}, grid_id)


def test_files_of_maps_are_plain_names():
    """Classes of a slide classifier name pictures."""
    for name in HOSTILE:
        made = _safe(name)
        assert Path(made).name == made
        assert not made.startswith(".")


def _ome_zarr(folder, level="0"):
    import zarr

    root = zarr.open_group(folder, mode="w", zarr_format=3)
    axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space", "unit": "micrometer"} for a in "yx")]
    transform = [{"type": "scale", "scale": [1, 0.5, 0.5]}]
    datasets = [{"path": level, "coordinateTransformations": transform}]
    root.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    return root


@pytest.mark.parametrize("way", ["dots", "absolute", "link"])
def test_a_level_outside_its_slide_is_refused(tmp_path, way):
    """An OME-Zarr's level may be neither named nor linked out of the slide's folder."""
    import zarr

    array = zarr.create_array(tmp_path / "other", shape=(3, 64, 64), chunks=(3, 64, 64), dtype="uint8")
    array[...] = 7
    inside = tmp_path / "s.zarr"
    _ome_zarr(inside, {"dots": "../other", "absolute": str(tmp_path / "other"), "link": "0"}[way])
    if way == "link":
        (inside / "0").symlink_to(tmp_path / "other")
    with pytest.raises(UnsupportedSlideError, match="outside the folder"):
        open_slide(inside)


def test_zips_that_ship_hold_plain_names():
    """The demo's results are unpacked by the plugin: every member lies in the one folder that it is named after."""
    root = ROOT
    packed = list((root / "plugins").rglob("src/**/*.zip"))
    assert packed
    for path in packed:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                parts = Path(member.filename).parts
                assert ".." not in parts
                assert not Path(member.filename).is_absolute()
                assert parts[0].endswith(".zarr")
                assert (member.external_attr >> 16) & 0o170000 in (0, 0o100000, 0o040000), "no links"
            assert sum(m.file_size for m in archive.infolist()) < 64 << 20


def test_no_zip_of_others_is_unpacked():
    """Archives of others (npz, wheels) are read by member, into memory; the plugin's own alone is unpacked."""
    root = ROOT
    texts = [*(root / "wsi_umedpt").rglob("*.py"), *(root / "plugins").rglob("src/**/*.py")]
    unpacking = {p.name for p in texts if "extractall" in (text := p.read_text()) or "unpack_archive" in text}
    assert unpacking <= {"reader.py"}
