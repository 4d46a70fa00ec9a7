"""What needs no screen: magnification, places, the case list."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_umedpt.errors import DataError, OptionError
from wsi_umedpt.testing import tissue_image, write_pyramid

from napari_wsi_umedpt.layers.build import Place
from napari_wsi_umedpt.logic.cases import FILE, STATES, CaseList
from napari_wsi_umedpt.logic.navigation import MAGNIFICATIONS, magnification_of, parse_place, viewport_of, zoom_of
from tests.support.planted import MPP, SIZE

PLACE = Place("a", SIZE, MPP)

# ---- navigation ----


@pytest.mark.parametrize("magnification", MAGNIFICATIONS)
def test_magnification_is_what_a_microscope_calls_it(magnification):
    """20x is half a um a pixel (to a hundredth, see `zoom_of`), and reads back as 20x."""
    assert 1 / zoom_of(magnification) == pytest.approx(10 / magnification, rel=0.011)
    assert magnification_of(zoom_of(magnification)) == magnification


def test_the_viewport_is_what_the_canvas_shows():
    """A canvas of 400 x 200 px at 2 px per um is 200 um wide: 400 px of this slide."""
    viewport = viewport_of((100 * MPP - MPP / 2, 300 * MPP - MPP / 2), 2.0, (200, 400), PLACE)
    assert (viewport.x, viewport.y, viewport.width, viewport.height) == (100, 0, 400, 200)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("1200, 850", (1200, 850), id="px"),
        pytest.param("1200 850", (1200, 850), id="spaces"),
        pytest.param("x 1,200  y 850 px", (1200, 850), id="as-the-navigator-writes-it"),
        pytest.param("600; 425.5 um", (1200, 851), id="um"),
        pytest.param("600 425 µm", (1200, 850), id="micro-sign"),
    ],
)
def test_places_as_people_type_them(text, expected):
    """Level-0 px, or um."""
    assert parse_place(text, PLACE) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "two numbers"), ("12", "two numbers"), ("9000, 10", "outside the slide"), ("-5 -5", "outside")],
)
def test_what_is_no_place_is_refused(text, words):
    """With an example, or the slide's size."""
    with pytest.raises(OptionError, match=words):
        parse_place(text, PLACE)


# ---- the case list ----


@pytest.fixture
def folder(tmp_path, planted) -> Path:
    """Two slides, one of them with a store, and a file that is no slide."""
    image, _ = tissue_image(600, 500)
    write_pyramid(tmp_path / "b.svs", image)
    shutil.copy(planted.slide, tmp_path / "planted.svs")
    shutil.copytree(planted.store, tmp_path / "planted.zarr")
    (tmp_path / "notes.txt").write_text("no slide")
    return tmp_path


def test_a_folder_is_a_list_of_cases(folder):
    """A case a slide id; a store and its slide are one; nothing is written by looking."""
    cases = CaseList(folder)
    assert [(c.slide_id, c.store is not None, c.slide is not None) for c in cases.cases] == [
        ("b", False, True), ("planted", True, True),
    ]  # fmt: skip
    assert not (folder / FILE).exists()
    assert (cases.next_of(0), cases.next_of(1), cases.next_of(0, -1)) == (1, None, None)


@settings(deadline=None)  # files are made durable, which takes a busy disk a while
@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(STATES), st.text(max_size=30)), max_size=8))
def test_states_and_notes_come_back(folder_once, changes):
    """Whatever is written into a note, also what a spreadsheet would run."""
    (folder_once / FILE).unlink(missing_ok=True)
    cases = CaseList(folder_once)
    for number, state, note in changes:
        note = note.replace("\r", " ").replace("\x00", " ").encode(errors="replace").decode()
        cases.review(number, state=state, note=note)
    again = CaseList(folder_once)
    assert [(c.state, c.note) for c in again.cases] == [(c.state, c.note) for c in cases.cases]


@pytest.fixture(scope="module")
def folder_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    image, _ = tissue_image(300, 300)
    for name in "ab":
        write_pyramid(folder / f"{name}.svs", image, scales=(1,))
    return folder


def test_formulas_are_not_handed_to_spreadsheets(folder):
    """A note that begins like one is written behind an apostrophe, and read without."""
    cases = CaseList(folder)
    cases.review(0, note="=1+1")
    assert "'=1+1" in (folder / FILE).read_text()
    assert CaseList(folder).cases[0].note == "=1+1"


def test_cases_that_are_gone_are_kept_in_the_file(folder):
    """Slides that lie elsewhere today keep their review."""
    (folder / FILE).write_text("slide_id,state,note\ngone,done,checked twice\n")
    CaseList(folder).review(0, state="seen")
    assert "gone,done,checked twice" in (folder / FILE).read_text()


def test_another_csv_is_never_written_over(folder):
    """A file of that name with other columns, or states that are none, is refused."""
    (folder / FILE).write_text("name,diagnosis\nb,1\n")
    with pytest.raises(DataError, match="needs the columns"):
        CaseList(folder)
    (folder / FILE).write_text("slide_id,state,note\nb,perhaps,\n")
    with pytest.raises(DataError, match="row 2: the state is 'perhaps'"):
        CaseList(folder)


def test_an_empty_folder_says_so(tmp_path):
    """Rather than showing an empty list."""
    with pytest.raises(DataError, match="no slides and no stores"):
        CaseList(tmp_path)


def test_a_list_that_cannot_be_written_stays_as_it_was(folder, own_folder):
    """The window must not show what is not on disk."""
    cases = CaseList(folder, file=folder / "missing" / "review.csv")
    own_folder.write_text("a file where the user's folder should be")
    with pytest.raises(OSError, match=r"user-data"):
        cases.review(0, state="done")
    assert cases.cases[0].state == "unseen"


def test_a_folder_that_cannot_be_written_keeps_its_reviews_elsewhere(folder):
    """In the user's own folder, found again with it; what a colleague writes into the folder later counts again."""
    file = folder / "missing" / "review.csv"
    cases = CaseList(folder, file=file)
    cases.review(0, state="doubtful", note="pale")
    assert cases.file != file
    assert CaseList(folder, file=file).cases[0].note == "pale"
    file.parent.mkdir()
    file.write_text("slide_id,state,note\nb,done,stained again\n")
    os.utime(file, (4e9, 4e9))
    assert CaseList(folder, file=file).cases[0].note == "stained again"


def test_cases_are_named_as_their_files_are(tmp_path):
    """Not by ids, which leave out what not every system takes."""
    write_pyramid(tmp_path / "Präparat Nr 3 ü.svs", tissue_image(300, 300)[0], scales=(1,))
    assert [case.name for case in CaseList(tmp_path).cases] == ["Präparat Nr 3 ü.svs"]
