"""A run over many slides: each is attempted, what is done is not done again, and all that was opened is closed."""

import threading
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from tests.support.encoders import mean_encoder
from wsi_umedpt.batch.coordination.result import Watcher
from wsi_umedpt.batch.jobs.manifest import list_slides
from wsi_umedpt.batch.run import Batch, run_slides
from wsi_umedpt.errors import ManifestError
from wsi_umedpt.pipeline.embed import EmbedTask
from wsi_umedpt.pipeline.prepare import PreparedSlide
from wsi_umedpt.settings import RunSettings
from wsi_umedpt.slides.slide_job import SlideJob
from wsi_umedpt.slides.tiling import TileSpec
from wsi_umedpt.testing import tissue_image, write_dicom


def mean_task(name: str = "mean", **settings) -> EmbedTask:
    return EmbedTask(encoders=[mean_encoder(name)], tile_specs=[TileSpec(size_px=64)], settings=RunSettings(**settings))


def test_a_slide_done_with_a_mask_of_ones_own_is_not_read_again(small_svs, tmp_path, monkeypatch):
    """Nor is its thumbnail when another encoder is added; another content under the mask's name is noticed."""
    mask = np.zeros((110, 150), np.uint8)
    mask[:, 75:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    job = SlideJob(small_svs, "s", mask=tmp_path / "mask.png")
    plans = [(mean_task(name), Batch(out=tmp_path)) for name in ("a", "b")]
    assert [o.status for o in run_slides([job], *plans[0])] == ["done"]

    def refuse(*_: object) -> None:
        raise AssertionError("the thumbnail is read again")

    monkeypatch.setattr("wsi_umedpt.pipeline.prepare.read_thumbnail", refuse)
    assert [o.status for o in run_slides([job], *plans[1])] == ["done"]
    monkeypatch.setattr("wsi_umedpt.batch.opening.PreparedSlide", refuse)
    assert [o.status for o in run_slides([job], *plans[0])] == ["already"]
    monkeypatch.undo()
    Image.fromarray(mask[:, ::-1].copy()).save(tmp_path / "mask.png")
    [outcome] = run_slides([job], *plans[0])
    assert "holds another tissue mask (png: sha256" in outcome.reason


class Interrupted(Watcher):
    """Presses Ctrl-C once some tiles are done and so many slides are being opened."""

    def __init__(self, opened: int = 0) -> None:
        super().__init__()
        self._opened = opened

    def tiles_done(self, job: SlideJob, done: int, total: int) -> None:
        """Press it."""
        until = time.monotonic() + 60
        while len(Noted.made) < self._opened and time.monotonic() < until:
            time.sleep(0.01)
        raise KeyboardInterrupt


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("read-ahead", "tiles"))]


def files(folder: Path, *names: str) -> Path:
    """A folder of files of these names, one byte each."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"-")
    return folder


def ids(*inputs: Path) -> dict[str, str]:
    jobs, _ = list_slides(map(str, inputs))
    return {job.path.name: job.slide_id for job in jobs}


@pytest.mark.parametrize("added", ["z.svs", "a/one.svs", "b/one.tif", "b/two.svs"])
def test_an_id_does_not_depend_on_other_slides(tmp_path, added):
    """Slides that are added leave every id as it was, or refuse what would share one; none is renamed."""
    folder = files(tmp_path, "one.svs", "b/deep/two.ome.tiff", "b/three.svs")
    before = ids(folder)
    assert before == {"one.svs": "one", "two.ome.tiff": "two", "three.svs": "three"}
    after = ids(files(folder, added))
    assert all(after.get(name, slide_id) == slide_id for name, slide_id in before.items())
    assert len(set(after.values())) == len(after)


def test_an_id_does_not_depend_on_how_the_slide_was_named(tmp_path, monkeypatch):
    """By a folder above it, its own folder, a glob, itself, or from another working folder: the same id."""
    files(tmp_path, "b/deep/two.svs")
    monkeypatch.chdir(tmp_path / "b")
    for words in (tmp_path, "deep", "deep/*.svs", "../b/deep/two.svs", tmp_path / "b" / "deep" / "two.svs"):
        assert ids(words) == {"two.svs": "two"}


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["x.svs", "a/x.svs"], id="in-two-folders"),
        pytest.param(["x.svs", "x.tif"], id="in-two-formats"),
        pytest.param(["x.svs", "a/X.svs"], id="but-for-case"),
        pytest.param(["x.svs", "a/x.svs", "b/x.ndpi"], id="three"),
    ],
)
def test_slides_that_would_share_an_id_are_refused(tmp_path, names):
    """All of them, each naming another and the remedy, which helps; other slides go on."""
    folder = files(tmp_path / "in", *names, "fine.svs")
    jobs, failures = list_slides([str(folder)])
    assert [job.slide_id for job in jobs] == ["fine"]
    assert {failure.name for failure in failures} == {str(folder / name) for name in names}
    for failure in failures:
        assert any(str(folder / name) in failure.reason for name in names if failure.name != str(folder / name))
        assert "a CSV with columns slide and slide_id" in failure.reason
    rows = [f"in/{name},case {n}" for n, name in enumerate(names)]
    (tmp_path / "cohort.csv").write_text("\n".join(["slide,slide_id", *rows]))
    jobs, failures = list_slides([str(tmp_path / "cohort.csv")])
    assert (len(jobs), failures) == (len(names), [])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("t.csv", "Slide,Slide_ID ,MPP\na.svs,A1,0.25\n", id="headers-in-any-case"),
        pytest.param("t.csv", "slide;slide_id;mpp\na.svs;A1;0.25\n", id="semicolons"),
        pytest.param("t.TSV", "slide\tslide-id\tmpp\na.svs\tA1\t0.25\n", id="tabs"),
        pytest.param("t.csv", "slide,patient,grade,slide_id,mpp\n\na.svs,P,high,A1,0.25\n,,,,\n", id="sheet-of-labels"),
    ],
)
def test_a_sheet_gives_scale_and_id_however_it_is_written(tmp_path, name, content):
    """A scale that is not used makes tiles of another size; an id that is not used shows a file's name."""
    files(tmp_path, "a.svs")
    (tmp_path / name).write_text(content)
    [job], failures = list_slides([str(tmp_path / name)])
    assert (job.path, job.slide_id, job.mpp, failures) == (tmp_path / "a.svs", "A1", 0.25, [])


@pytest.mark.parametrize(
    ("header", "meant"), [("mmp", "mpp"), ("mpp_x", "mpp"), ("slide_name", "slide_id"), ("masks", "mask")]
)
def test_a_sheet_whose_columns_are_nearly_right_is_refused(tmp_path, header, meant):
    """Before any slide is opened."""
    (tmp_path / "t.csv").write_text(f"slide,{header}\na.svs,1\n")
    with pytest.raises(ManifestError, match=f"'{header}', which is not read: did you mean '{meant}'"):
        list_slides([str(tmp_path / "t.csv")])


@pytest.mark.parametrize(
    ("row", "why"),
    [
        pytest.param('a.svs,,"0,25"', "mpp '0,25' is no number; write a decimal point, 0.25", id="decimal-comma"),
        pytest.param("a.svs,#N/A,", "slide_id '#N/A'", id="a-lookup-that-failed"),
        pytest.param("a.svs,NA,", "slide_id 'NA' says that there is none", id="no-id"),
    ],
)
def test_a_row_that_cannot_be_meant_fails_alone(tmp_path, row, why):
    """An id that is lacking is not made up from the file's name, which it may be to hide."""
    files(tmp_path, "a.svs", "b.svs")
    (tmp_path / "t.csv").write_text(f"slide,slide_id,mpp\n{row}\nb.svs,,NA\n")
    jobs, [failure] = list_slides([str(tmp_path / "t.csv")])
    assert [(job.slide_id, job.mpp) for job in jobs] == [("b", None)]
    assert failure.name == f"{tmp_path / 't.csv'}, row 2"
    assert why in failure.reason


def test_a_dicom_series_is_one_slide_and_has_its_folders_name(tmp_path):
    """Not a slide per level; by whatever file it is named."""
    image, _ = tissue_image(1100, 900)
    for name, series in {"one": "1.1", "two": "1.2"}.items():
        write_dicom(tmp_path / name, image, series=series)
    assert sorted(ids(tmp_path).values()) == ["one", "two"]
    for path in (tmp_path / "one").iterdir():
        assert ids(path) == {path.name: "one"}
    assert len(ids(*(tmp_path / "one").iterdir(), tmp_path / "one")) == 1
    [outcome] = run_slides(
        list_slides([str(tmp_path / "one")])[0],
        mean_task(),
        Batch(out=tmp_path / "out"),
    )
    assert (outcome.status, outcome.tiles > 10) == ("done", True)


def test_two_dicom_series_in_a_folder_need_ids(tmp_path):
    """They would both have the folder's name; a CSV that names a file of each gives them their own."""
    image, _ = tissue_image(600, 500)
    names = [write_dicom(tmp_path / "dcm", image, series=series)[1].name for series in ("1.1", "1.2")]
    jobs, failures = list_slides([str(tmp_path)])
    assert (len(jobs), len(failures)) == (0, 2)
    (tmp_path / "cohort.csv").write_text("\n".join(["slide,slide_id", *(f"dcm/{n},{n[:9]}" for n in names)]))
    jobs, failures = list_slides([str(tmp_path / "cohort.csv")])
    assert ([job.slide_id for job in jobs], failures) == (["level-1.1", "level-1.2"], [])


def test_a_broken_dicom_file_fails_alone(tmp_path):
    """It does not take its folder's name from the series beside it."""
    write_dicom(tmp_path / "case", tissue_image(600, 500)[0])
    (tmp_path / "case" / "broken.dcm").write_bytes(b"-")
    assert sorted(ids(tmp_path).values()) == ["broken", "case"]


def test_pictures_of_a_vms_slide_are_no_slides(tmp_path):
    """The index stands for them; a picture that it does not name is a slide of its own."""
    files(tmp_path, "a.jpg", "a_map.jpg", "b.jpg")
    (tmp_path / "slide.vms").write_text("[Virtual Microscope Specimen]\nImageFile=a.jpg\nMapFile=a_map.jpg\n")
    assert ids(tmp_path) == {"slide.vms": "slide", "b.jpg": "b"}


@pytest.mark.parametrize("resumed", [False, True], ids=["from-row-0", "gone-on-with"])
def test_ctrl_c_closes_all_that_was_opened(small_svs, tmp_path, resumed, monkeypatch):
    """The slide and the next one, whose tiles are being read already, even while the traceback is held."""
    monkeypatch.setattr("wsi_umedpt.store.slide_store.CHUNK_ROWS", 8)
    monkeypatch.setattr("wsi_umedpt.batch.opening.PreparedSlide", Noted)
    jobs = [SlideJob(small_svs, "first"), SlideJob(small_svs, "second")]
    for _ in range(1 + resumed):
        Noted.made.clear()
        with pytest.raises(KeyboardInterrupt) as caught:
            run_slides(jobs, mean_task(batch_size=8), Batch(out=tmp_path), Interrupted(opened=2))
        assert caught.tb
        assert [prepared.path.stem for prepared in Noted.made] == ["first", "second"]
        assert all(prepared.closed for prepared in Noted.made)
        assert readers() == []


class Noted(PreparedSlide):
    """Knows all of its kind, and whether they were closed."""

    made: ClassVar[list["Noted"]] = []
    closed = False

    def __init__(self, *args, **options) -> None:
        self.made.append(self)
        super().__init__(*args, **options)

    def close(self) -> None:
        """Take note, and close."""
        super().close()
        self.closed = True


def test_unfinished_work_of_another_encoder_is_left_alone(small_svs, tmp_path, monkeypatch):
    """What is done with one encoder is done, though another was stopped half way, and still goes on from there."""
    monkeypatch.setattr("wsi_umedpt.store.slide_store.CHUNK_ROWS", 8)
    job = SlideJob(small_svs, "s")
    a, b = ((mean_task(name, batch_size=8), Batch(out=tmp_path)) for name in "ab")
    assert [o.status for o in run_slides([job], *a)] == ["done"]
    with pytest.raises(KeyboardInterrupt):
        run_slides([job], *b, Interrupted())
    assert [o.status for o in run_slides([job], *a)] == ["already"]
    [outcome] = run_slides([job], *b)
    assert (outcome.status, outcome.tiles - outcome.fresh) == ("done", 8)
    assert not (tmp_path / "s.zarr.partial").exists()
