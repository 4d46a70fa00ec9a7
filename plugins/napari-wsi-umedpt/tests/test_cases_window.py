"""The case list as a pathologist uses it, with a mouse and keys in a window that is shown."""

import pytest
from wsi_umedpt.testing import tissue_image, write_pyramid

from napari_wsi_umedpt.logic.cases import FILE, CaseList
from tests.support.hands import BOTH_SCREENS

NAMES = ("Präparat Nr 3 ü.svs", "a b.svs", "broken.svs", "c.svs")


@pytest.fixture
def dock(hands, tmp_path):
    """The dock over a folder of three slides and a broken one; the first is shown."""
    for name in NAMES:
        if name == "broken.svs":
            (tmp_path / name).write_bytes(b"no slide")
        else:
            write_pyramid(tmp_path / name, tissue_image(500, 400)[0], scales=(1, 4))
    dock = hands.dock("Case list")
    dock.open(tmp_path)
    hands.until(lambda: dock.number == 0 and len(hands.viewer.layers) == 1)
    return dock


def column(dock, number: int) -> list[str]:
    return [dock.table.item(row, number).text() for row in range(dock.table.rowCount())]


def written(tmp_path) -> dict[str, tuple[str, str]]:
    return {case.name: (case.state, case.note) for case in CaseList(tmp_path).cases}


@BOTH_SCREENS
def test_a_note_needs_no_enter(hands, dock, tmp_path):
    """Typed, then Alt-Right: it is the first slide's, in the list and on disk, and the next one's is empty."""
    hands.click(dock.note)
    hands.write("pale, stain again")
    hands.press("alt+Right")
    hands.until(lambda: dock.number == 1)
    assert dock.note.text() == ""
    assert column(dock, 2)[0] == "pale, stain again"
    hands.until(lambda: written(tmp_path)[NAMES[0]] == ("seen", "pale, stain again"))
    hands.press("alt+Left")
    hands.until(lambda: dock.number == 0)
    assert dock.note.text() == "pale, stain again"
    hands.keep_picture("cases")


def test_files_are_named_as_they_are(hands, dock):
    """With their umlauts and spaces, in the case list and among the layers."""
    assert column(dock, 0) == sorted(NAMES)
    assert [layer.name for layer in hands.viewer.layers] == ["Präparat Nr 3 ü"]


def test_one_click_opens_a_slide(hands, dock, tmp_path):
    """What is selected in the list is what is shown: a state that is chosen then is of no other slide."""
    hands.click(hands.on(dock.table.viewport(), dock.table.visualItemRect(dock.table.item(3, 1))))
    hands.until(lambda: dock.number == 3 and [layer.name for layer in hands.viewer.layers] == ["c"])
    hands.click(dock.states["done"])
    hands.until(lambda: [state for state, _ in written(tmp_path).values()] == ["seen", "unseen", "unseen", "done"])
    hands.press("Up")
    assert [index.row() for index in dock.table.selectionModel().selectedRows()] == [3]


def test_states_are_not_taken_for_each_other(hands, dock, tmp_path):
    """The key d in the dock is no state; a button is one state, and so is its key."""
    hands.click(dock.states["doubtful"])
    hands.until(lambda: written(tmp_path)[NAMES[0]][0] == "doubtful")
    hands.press("d")
    hands.press("alt+d")
    hands.until(lambda: written(tmp_path)[NAMES[0]][0] == "done")
    assert column(dock, 1)[0] == "done"
    assert [state for state, button in dock.states.items() if button.isChecked()] == ["done"]


@BOTH_SCREENS
def test_what_cannot_be_opened_is_marked_and_passed_over(hands, dock, tmp_path):
    """On the way forwards and back; its row says why, the dock too until the next step; nothing is written of it."""
    hands.press("alt+Right")
    hands.until(lambda: dock.number == 1)
    hands.press("alt+Right")
    hands.until(lambda: dock.number == 3)
    row = column(dock, 0).index("broken.svs")
    assert column(dock, 1)[row] == "cannot be opened"
    assert "no reader opens broken.svs" in column(dock, 2)[row]
    assert "no reader opens broken.svs" in dock.notice.words.text()
    assert dock.notice.isVisible()
    hands.press("alt+Left")
    hands.until(lambda: dock.number == 1)
    assert not dock.notice.isVisible()
    assert (tmp_path / FILE).exists()
    assert written(tmp_path)["broken.svs"] == ("unseen", "")
    hands.keep_picture("cases-broken")
