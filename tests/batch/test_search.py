"""Folders as users have them: loops of links, trash, folders that may not be listed, previews beside slides."""

import os
import time
from pathlib import Path

import pytest

from tests.support.drawn_stores import draw_store
from wsi_umedpt.batch.jobs.manifest import list_slides
from wsi_umedpt.errors import StoreError
from wsi_umedpt.io.files import is_clutter
from wsi_umedpt.io.paths import find_stores
from wsi_umedpt.testing import tissue_image, write_pyramid


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"-")


def ids(inputs: list[str]) -> list[str]:
    return sorted(job.slide_id for job in list_slides(inputs)[0])


@pytest.mark.parametrize("pattern", ["", "/**/*.svs", "/*/../**/*.svs"], ids=["folder", "glob", "glob-upwards"])
def test_links_that_lead_round_are_followed_once(pattern, tmp_path):
    """Two links to the parent in every folder would be without end, and were exponential."""
    root = tmp_path / "slides"
    make(root, "a.svs", "deep/b.svs", "deep/er/c.svs")
    for folder in (root, root / "deep", root / "deep" / "er"):
        (folder / "up").symlink_to(root)
        (folder / "again").symlink_to(root / "deep")
    began = time.process_time()
    jobs, failures = list_slides([f"{root}{pattern}"])
    assert time.process_time() - began < 5
    assert sorted(job.slide_id for job in jobs) == ["a", "b", "c"]
    assert failures == []


def test_a_folder_of_links_is_a_cohort(tmp_path):
    """Links to folders and files elsewhere are followed, and a slide is one however many lead to it."""
    make(tmp_path, "archive/a.svs", "archive/sub/b.svs")
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    (chosen / "all").symlink_to(tmp_path / "archive")
    (chosen / "sub").symlink_to(tmp_path / "archive" / "sub")
    assert ids([str(chosen)]) == ["a", "b"]


@pytest.mark.parametrize("named", ["folder", "file", "glob", "table"])
def test_a_link_to_itself_is_a_failure_and_stops_nothing(named, tmp_path):
    """However it is named; one to nothing likewise."""
    make(tmp_path, "good.svs")
    (tmp_path / "me.svs").symlink_to("me.svs")
    (tmp_path / "gone.svs").symlink_to("nowhere.svs")
    (tmp_path / "t.csv").write_text("slide\ngood.svs\nme.svs\ngone.svs\n")
    inputs = {
        "folder": [str(tmp_path)],
        "file": [str(tmp_path / name) for name in ("good.svs", "me.svs", "gone.svs")],
        "glob": [str(tmp_path / "*.svs")],
        "table": [str(tmp_path / "t.csv")],
    }
    jobs, failures = list_slides(inputs[named])
    assert "good" in [job.slide_id for job in jobs]
    told = {Path(f.name).name for f in failures} | {job.path.name for job in jobs if not job.path.exists()}
    assert told == {"me.svs", "gone.svs"}


def test_a_folder_that_may_not_be_listed_is_a_failure(tmp_path, monkeypatch):
    """The others are searched; also where a pattern leads through it, and where an input lies in one."""
    make(tmp_path, "open/a.svs", "shut/b.svs")
    real = Path.iterdir

    def iterdir(self: Path):
        if self.name == "shut":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    for text in (str(tmp_path), f"{tmp_path}/**/*.svs"):
        jobs, failures = list_slides([text])
        assert [job.slide_id for job in jobs] == ["a"]
        assert [(f.name, f.reason) for f in failures] == [
            (str(tmp_path / "shut"), "the folder cannot be searched: Permission denied")
        ]
    with pytest.raises(StoreError, match="cannot be searched for stores: Permission denied"):
        find_stores(tmp_path / "shut")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list everything")
def test_a_folder_without_permission_is_a_failure(tmp_path):
    """As the system says it."""
    make(tmp_path, "open/a.svs", "shut/b.svs")
    (tmp_path / "shut").chmod(0)
    try:
        jobs, failures = list_slides([str(tmp_path), str(tmp_path / "shut" / "b.svs")])
    finally:
        (tmp_path / "shut").chmod(0o700)
    assert [job.slide_id for job in jobs] == ["a"]
    assert len(failures) == 2


CLUTTER = [
    "$RECYCLE.BIN", "$Recycle.Bin", "@eaDir", ".Trash-1000", ".Trashes", "lost+found", ".hidden",
    "System Volume Information", "__MACOSX", "#recycle",
]  # fmt: skip


@pytest.mark.parametrize("name", CLUTTER)
def test_what_systems_put_beside_slides_is_none(name, tmp_path):
    """Neither in folders, nor by patterns, nor among stores."""
    make(tmp_path, "a.svs", f"{name}/gone.svs", f"{name}/s.zarr/zarr.json", "._a.svs", ".b.svs")
    make(tmp_path, "s.zarr/zarr.json", "._s.zarr/zarr.json")
    assert is_clutter(name)
    assert ids([str(tmp_path)]) == ["a", "s"]
    assert ids([f"{tmp_path}/**/*.svs"]) == ["a"]
    assert [p.name for p in find_stores(tmp_path)] == ["s.zarr"]


@pytest.mark.parametrize(
    "preview", [["a.jpg"], ["a.png", "a.JPEG"], ["A.jpg"]], ids=["jpeg", "two", "other-case"]
)  # fmt: skip
@pytest.mark.parametrize("named", ["folder", "glob", "files"])
def test_a_picture_beside_a_slide_is_its_preview(preview, named, tmp_path):
    """Where exactly one of the names is of a slide format it is the slide, and that is said."""
    make(tmp_path, "a.svs", "b.svs", *preview)
    names = {
        "folder": [str(tmp_path)],
        "glob": [f"{tmp_path}/*"],
        "files": [str(tmp_path / n) for n in ("a.svs", "b.svs", *preview)],
    }
    told: list[str] = []
    jobs, failures = list_slides(names[named], told.append)
    assert sorted(job.path.name for job in jobs) == ["a.svs", "b.svs"]
    assert failures == []
    (line,) = told
    assert "a.svs, which lies beside it" in line
    assert all(name in line for name in preview)


def test_info_takes_folders(say, tmp_path):
    """Slides and stores below them, each once; what is wrong with one does not hide the others."""
    folder = tmp_path / "all"
    (folder / "deep").mkdir(parents=True)
    write_pyramid(folder / "deep" / "good.svs", tissue_image(256, 256)[0], tile=128)
    draw_store(folder / "store.zarr")
    make(folder, "bad.svs", "._good.svs")
    (folder / "deep" / "up").symlink_to(folder)
    (folder / "me.svs").symlink_to("me.svs")
    code, out, err = say("info", folder)
    assert code == 1
    assert out.count("deep/good.svs\n  size        256 x 256 px") == 1
    assert out.count("store.zarr\n  slide") == 1
    assert "bad.svs: no reader opens bad.svs" in out
    assert err == f"{folder}/me.svs: it is a link that leads back to itself\n"
    assert say("info", folder / "deep" / "good.svs")[0] == 0


def test_previews_of_a_whole_folder_cost_no_slide(tmp_path):
    """As a scanner's export lays them."""
    make(tmp_path, *(f"s{n}{suffix}" for n in range(20) for suffix in (".ndpi", ".jpg")))
    assert ids([str(tmp_path)]) == sorted(f"s{n}" for n in range(20))


def test_what_is_no_preview_is_refused_or_a_slide(tmp_path):
    """Two slide formats, two pictures, a picture elsewhere, ids that the user gave."""
    make(tmp_path, "two/a.svs", "two/a.ndpi", "two/a.jpg", "flat/b.png", "flat/b.jpg", "here/c.svs", "there/c.jpg")
    make(tmp_path, "d.svs", "e.jpg", "only/f.png")
    for folder, bad in (("two", 3), ("flat", 2)):
        jobs, failures = list_slides([str(tmp_path / folder)])
        assert (jobs, len(failures)) == ([], bad)
    assert len(list_slides([str(tmp_path / "here"), str(tmp_path / "there")])[1]) == 2
    (tmp_path / "t.csv").write_text("slide,slide_id\nd.svs,x\ne.jpg,x\n")
    assert len(list_slides([str(tmp_path / "t.csv")])[1]) == 2
    assert ids([str(tmp_path / "only")]) == ["f"]
