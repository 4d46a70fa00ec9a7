"""Stains one by one, switched by mouse in a window that is shown."""

import numpy as np
import pytest
from wsi_umedpt.slides import STAININGS, stain_density
from wsi_umedpt.testing import write_pyramid

from napari_wsi_umedpt.layers.build import KEY
from napari_wsi_umedpt.layers.stains import PER_OD
from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.window.viewer import add_layers
from tests.support.planted import MPP, SIZE, TUMOUR

BROWN, BLUE = (137, 69, 43), (90, 80, 160)
"""DAB, and nuclei beside it."""


@pytest.fixture
def slide(tmp_path):
    """A slide of an IHC staining: a brown square, and blue beside it."""
    image = np.full((SIZE[1], SIZE[0], 3), 255, np.uint8)
    left, top, right, bottom = TUMOUR
    image[top:bottom, left:right] = BROWN
    image[top:bottom, right : right + 400] = BLUE
    return write_pyramid(tmp_path / "ihc.svs", image, mpp=MPP, quality=98, subsampling="444")


def colour_at(hands, x: float, y: float) -> np.ndarray:
    """What is on the screen at a place of the slide."""
    at = hands.window.mapFromGlobal(hands.on_canvas(x, y))
    return hands.picture()[at.y(), at.x()].astype(int)


def test_dab_is_seen_without_the_nuclei_and_nuclei_without_dab(hands, slide):
    """By one click each: what is of the dye has its colour, all else is white; then as scanned again."""
    add_layers(hands.viewer, open_path(slide, pytest.fail))
    hands.viewer.reset_view()
    dock = hands.dock("Stains")
    dock.staining.setCurrentText("H-DAB")
    hands.wait(200)
    brown, blue = (1200, 600), (1600, 600)
    hands.click(dock.buttons["dab"])
    layer = hands.viewer.layers["DAB"]
    assert hands.viewer.layers.index(layer) == 1
    hands.until(lambda: colour_at(hands, *blue).min() > 225)
    assert colour_at(hands, *brown).max() < 200
    hands.keep_picture("dab")
    level = layer.data[0]
    expected = stain_density(np.array(BROWN, np.uint8), "dab", STAININGS["H-DAB"]) * PER_OD
    assert int(level[600:601, 1200:1201][0, 0]) == pytest.approx(expected, abs=4)
    before = colour_at(hands, *brown)
    dock.contrast.setValue(220)
    hands.until(lambda: colour_at(hands, *brown).sum() > before.sum() + 40)
    hands.click(dock.buttons["hematoxylin"])
    assert [one.metadata[KEY].name for one in hands.viewer.layers if one.metadata[KEY].kind == "stain"] == [
        "hematoxylin"
    ]
    hands.until(lambda: colour_at(hands, *brown).min() > 225)
    assert colour_at(hands, *blue).max() < 240
    hands.click(dock.buttons[""])
    hands.until(lambda: abs(colour_at(hands, *brown) - BROWN).max() < 12)
    assert dock.buttons[""].isChecked()


def test_without_pixels_there_are_no_stains(hands, planted, told):
    """Of results alone: it is said what to open."""
    add_layers(hands.viewer, open_path(planted.store, pytest.fail))
    dock = hands.dock("Stains")
    if any(layer.metadata[KEY].kind == "slide" for layer in hands.viewer.layers):
        hands.viewer.layers.remove(next(one for one in hands.viewer.layers if one.metadata[KEY].kind == "slide"))
    dock.show_stain("eosin")
    assert "Open the slide itself" in told[-1].message
    assert dock.chosen == ""
