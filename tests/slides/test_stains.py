"""Stains seen apart: what was mixed comes out again, as another implementation has it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import hed_from_rgb

from wsi_umedpt.errors import OptionError
from wsi_umedpt.slides.stains import DENSITY, STAININGS, STAINS, stain_colour, stain_density, unmixing


@given(
    first=st.floats(0, 0.8), second=st.floats(0, 0.8), stains=st.sampled_from([*STAININGS.values()]),
)  # fmt: skip
def test_dyes_over_each_other_come_apart(first, second, stains):
    """Their densities are found again but for what 8 bits round."""
    colours = np.array([STAINS[name] for name in stains])
    colours /= np.linalg.norm(colours, axis=1, keepdims=True)
    pixel = np.rint(255 * 10 ** -(np.array([first, second]) @ colours)).astype(np.uint8)
    for name, density in zip(stains, (first, second), strict=True):
        assert stain_density(pixel[None], name, stains)[0] == pytest.approx(density, abs=0.05)


def test_three_dyes_are_those_of_scikit_image():
    """Its matrix has the same colours, and the same way."""
    assert unmixing(["hematoxylin", "eosin", "dab"]) == pytest.approx(
        hed_from_rgb / np.linalg.norm(hed_from_rgb, axis=0) * np.linalg.norm(unmixing([*STAINS]), axis=0), abs=1e-6
    )


def test_white_has_no_dye_and_each_dye_its_colour():
    """In a picture of any shape; a single dye has no other in it."""
    white = np.full((2, 3, 3), 255, np.uint8)
    assert stain_density(white, "eosin").shape == (2, 3)
    assert (stain_density(white, "eosin") == 0).all()
    dab = np.array(stain_colour("dab", 0.7), np.uint8)
    assert stain_density(dab, "dab", STAININGS["H-DAB"]) == pytest.approx(0.7, abs=0.01)
    assert stain_density(dab, "hematoxylin", STAININGS["H-DAB"]) == pytest.approx(0, abs=0.02)
    assert DENSITY[0] == DENSITY[1]


@pytest.mark.parametrize(
    ("stain", "stains", "said"),
    [
        pytest.param("dab", ("hematoxylin", "eosin"), "none of the dyes of the slide", id="another"),
        pytest.param("dab", ("dab",), "1 dyes were named", id="alone"),
        pytest.param("fuchsin", ("fuchsin", "dab"), "'fuchsin' is no dye that is known", id="unknown"),
    ],
)
def test_dyes_that_cannot_be_told_apart_are_refused(stain, stains, said):
    """With those that there are."""
    with pytest.raises(OptionError, match=said):
        stain_density(np.zeros((1, 3), np.uint8), stain, stains)
