"""The window that is shown takes real clicks and keys: what all stories of the docks rest on."""

import numpy as np
import pytest

from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.window.viewer import add_layers, camera, current_place
from tests.support.hands import BOTH_SCREENS
from tests.support.planted import NUCLEUS


@BOTH_SCREENS
def test_a_real_click_arrives_where_it_is_meant(hands, planted, window_size):
    """A click on a nucleus of the canvas is described in the legend, and the window is as large as its screen."""
    add_layers(hands.viewer, open_path(planted.store, pytest.fail))
    hands.wait(200)
    size = hands.window.size()
    assert (size.width(), size.height()) == window_size
    legend = hands.dock("Legend")
    middle = np.array([(NUCLEUS[0] + NUCLEUS[2]) / 2, (NUCLEUS[1] + NUCLEUS[3]) / 2])
    camera(hands.viewer).center = (0, *current_place(hands.viewer).to_world(middle + 60))
    camera(hands.viewer).zoom = 2
    hands.wait(100)
    hands.click(hands.on_canvas(*middle))
    hands.until(lambda: "stroma" in legend.here.text())
    hands.keep_picture("legend")


def test_real_keys_arrive(hands, planted):
    """Alt-3 is 5x, whatever dock was clicked on last."""
    add_layers(hands.viewer, open_path(planted.store, pytest.fail))
    navigator = hands.dock("Navigator")
    hands.click(navigator.place)
    hands.write("900, 500")
    hands.press("Return")
    hands.until(
        lambda: np.allclose(
            current_place(hands.viewer).to_slide(np.array(camera(hands.viewer).center[-2:])), (900, 500)
        )
    )
    hands.click(hands.on_canvas(900, 500))
    hands.press("alt+3")
    hands.until(lambda: "5x" in navigator.magnification.text())
