"""Two slides side by side, linked by three clicks on each."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_umedpt.errors import OptionError
from wsi_umedpt.testing import write_pyramid

from napari_wsi_umedpt.logic.registration import rigid
from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.window.clicks import on_click
from napari_wsi_umedpt.window.viewer import add_layers, camera, current_place, look_at, on_slide, turn_of
from napari_wsi_umedpt.window.window import window_beside
from tests.support.hands import MONITOR, Hands
from tests.support.planted import MPP, SIZE, TUMOUR, TUMOUR_COLOUR, picture

ONTO = cv2.getRotationMatrix2D((1150, 850), 30, 1) + np.array([[0, 0, 120], [0, 0, 60]])
"""From this slide to the other, (2, 3), level-0 px: its tissue is turned by 30 degrees, and lies elsewhere."""
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


def overlap(*viewers) -> float:
    """Share of the tumour on the canvases of two windows, around their middles, that is in both."""
    masks = []
    for viewer in viewers:
        pixels = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
        height, width = (side // 2 for side in pixels.shape[:2])
        middle = pixels[height - 250 : height + 250, width - 180 : width + 180]
        masks.append(np.abs(middle - TUMOUR_COLOUR).max(axis=2) < 40)
    return float((masks[0] & masks[1]).sum() / max((masks[0] | masks[1]).sum(), 1))


def test_two_windows_move_together_after_three_clicks_on_each(hands, planted, tmp_path, qtbot, told):
    """The other is turned as this one lies, goes where this one goes, at the same zoom; and the other way around."""
    moved = cv2.warpAffine(picture(), ONTO, SIZE, borderValue=(240, 240, 240))
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
        right.click(right.on_canvas(*(ONTO @ (x, y, 1)).tolist()))
    hands.until(lambda: dock.link is not None)
    assert "turned on the screen by" in dock.words.text()
    found = dock.link.registration
    assert found.residual_um < 3
    assert abs(found.degrees) == pytest.approx(30, abs=0.5)
    seen, follows = camera(hands.viewer), camera(beside)
    middle = np.array(TUMOUR).reshape(2, 2).mean(axis=0)
    look_at(hands.viewer, current_place(hands.viewer).to_world(middle))
    seen.zoom = 1.5
    assert follows.zoom == 1.5
    assert follows.center[-2:] == seen.center[-2:]
    expected = current_place(beside).to_world((ONTO @ (*middle, 1))[None])[0]
    assert on_slide(beside, follows.center[-2:]) == pytest.approx(expected, abs=2)
    # What is seen is the same, not only where it is: the square stands upright in both.
    hands.until(lambda: overlap(hands.viewer, beside) > 0.95)
    hands.keep_picture("two-slides")
    right.keep_picture("two-slides-beside")
    # A click there is at the place of its own slide, and the other way around the first follows.
    clicked = []
    beside.mouse_drag_callbacks.append(on_click(clicked.append))
    at = (ONTO @ (1100, 500, 1)).tolist()
    right.click(right.on_canvas(*at))
    assert current_place(beside).to_slide(np.array(clicked)) == pytest.approx(np.array([at]), abs=3)
    look_at(beside, current_place(beside).to_world(np.array(at)))
    assert current_place(hands.viewer).to_slide(np.array(seen.center[-2:])) == pytest.approx([1100, 500], abs=3)
    hands.click(dock.unlink_button)
    assert turn_of(beside) == pytest.approx(np.eye(3))
    assert current_place(beside).to_slide(np.array(follows.center[-2:])) == pytest.approx(at, abs=3)
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


def test_windows_that_are_linked_close_in_any_order(hands, planted, qtbot, capsys):
    """The second goes on alone, lying as it was scanned, when the first is closed."""
    add_layers(hands.viewer, open_path(planted.slide, pytest.fail))
    dock = hands.dock("Two slides")
    beside = window_beside(hands.viewer)
    add_layers(beside, open_path(planted.slide, pytest.fail))
    hands.wait(200)
    dock.pick_button.click()
    dock.points = [[(10.0, 10.0), (10.0, 300.0), (300.0, 10.0)], [(10.0, 10.0), (300.0, 10.0), (10.0, -280.0)]]
    dock._register()
    assert abs(turn_of(beside)[0, 1]) == pytest.approx(1)
    hands.viewer.close()
    hands.until(lambda: turn_of(beside) == pytest.approx(np.eye(3)))
    camera(beside).center = (0, 20.0, 30.0)
    assert "Traceback" not in capsys.readouterr().err
    beside.close()
