"""Two slides side by side, linked by three clicks on each."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_umedpt.errors import OptionError
from wsi_umedpt.testing import write_pyramid

from napari_wsi_umedpt.logic.registration import rigid
from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.window.viewer import add_layers, camera
from napari_wsi_umedpt.window.window import window_beside
from tests.support.hands import MONITOR, Hands
from tests.support.planted import MPP, picture

SHIFT = 200, 120
"""By which the other slide's tissue lies further right and down, level-0 px."""
CORNERS = [(1000, 400), (1400, 400), (1400, 800)]
"""Of the square of tumour, level-0 px."""


@settings(max_examples=40)
@given(degrees=st.floats(-180, 180), y=st.floats(-1e4, 1e4), x=st.floats(-1e4, 1e4), seed=st.integers(0, 10**6))
def test_a_turn_and_a_shift_are_found_again(degrees, y, x, seed):
    """Of three points, exactly; there and back is where one was; noise is the residual."""
    rng = np.random.default_rng(seed)
    first = rng.random((3, 2)) * 5000
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    second = first @ turn.T + [y, x]
    found = rigid(first, second)
    assert found.residual_um < 1e-6
    assert found.to_second(first) == pytest.approx(second, abs=1e-6)
    assert found.to_first(second) == pytest.approx(first, abs=1e-6)
    assert np.cos(np.radians(found.degrees)) == pytest.approx(np.cos(angle), abs=1e-9)
    worse = rigid(first, second + rng.normal(0, 30, (3, 2)))
    assert 0 < worse.residual_um < 120


def test_points_that_say_nothing_are_refused():
    """One pair, or all at one place."""
    with pytest.raises(OptionError, match="two or more"):
        rigid(np.zeros((1, 2)), np.zeros((1, 2)))
    with pytest.raises(OptionError, match="far apart"):
        rigid(np.zeros((3, 2)), np.arange(6.0).reshape(3, 2) * 50)


def test_two_windows_move_together_after_three_clicks_on_each(hands, planted, tmp_path, qtbot, told):
    """The other goes where this one goes, shifted as the tissue is, at the same zoom; and the other way around."""
    moved = np.roll(picture(), (SHIFT[1], SHIFT[0]), axis=(0, 1))
    other = write_pyramid(tmp_path / "moved.svs", moved, mpp=MPP)
    add_layers(hands.viewer, open_path(planted.slide, pytest.fail))
    dock = hands.dock("Two slides")
    beside = window_beside(hands.viewer)
    add_layers(beside, open_path(other, pytest.fail))
    hands.wait(200)
    for viewer in (hands.viewer, beside):
        viewer.reset_view()
    hands.wait(300)
    hands.click(dock.pick_button)
    for x, y in CORNERS:
        hands.click(hands.on_canvas(x, y))
    hands.until(lambda: "3 of 3 on this slide, 0 of 3" in dock.words.text())
    right = Hands(beside, qtbot, MONITOR)
    for x, y in CORNERS:
        right.click(right.on_canvas(x + SHIFT[0], y + SHIFT[1]))
    hands.until(lambda: dock.link is not None)
    hands.keep_picture("two-slides")
    assert "Linked" in dock.words.text()
    assert dock.link.registration.residual_um < 3
    um = np.array(SHIFT[::-1]) * MPP
    assert dock.link.registration.shift == pytest.approx(um, abs=20)
    seen, follows = camera(hands.viewer), camera(beside)
    seen.center, seen.zoom = (0, 300.0, 600.0), 1.5
    expected = dock.link.registration.to_second(np.array([300.0, 600.0]))
    assert np.array(follows.center[-2:]) == pytest.approx(expected)
    assert follows.zoom == 1.5
    follows.center = (0, 400.0, 500.0)
    assert np.array(seen.center[-2:]) == pytest.approx(dock.link.registration.to_first(np.array([400.0, 500.0])))
    hands.click(dock.unlink_button)
    follows.center = (0, 10.0, 20.0)
    assert seen.center[-1] != 20.0
    hands.click(dock.lie_button)
    assert "as they lie" in dock.words.text()
    seen.center = (0, 50.0, 60.0)
    assert follows.center[-2:] != (10.0, 20.0)
    right.release()
    beside.close()
    hands.wait(200)
    seen.center = (0, 70.0, 80.0)  # nothing is left that would follow
    hands.click(dock.pick_button)
    assert "no second window" in told[-1].message
