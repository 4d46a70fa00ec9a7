"""Laws of `Slide.read`: scale, crops, what lies outside, and where magnifying is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_umedpt.errors import SlideError
from wsi_umedpt.geometry import Box, level_scale, snap_scale
from wsi_umedpt.slides.area import shrink
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.testing import tissue_image, write_pyramid


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    image, _ = tissue_image(1500, 1100)
    path = write_pyramid(tmp_path_factory.mktemp("fine") / "fine.svs", image, quality=97)
    with open_slide(path) as opened:
        yield opened


@given(x=st.integers(-300, 1700), y=st.integers(-300, 1300), width=st.integers(1, 400), height=st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_a_box_is_the_crop_of_the_whole(slide, x, y, width, height):
    """Whatever the box, also where it leaves the slide, which reads white."""
    whole = np.full((1100 + 1200, 1500 + 1200, 3), 255, np.uint8)
    whole[600:1700, 600:2100] = slide.read(Box(0, 0, 1500, 1100))
    expected = whole[y + 600 : y + 600 + height, x + 600 : x + 600 + width]
    assert np.array_equal(slide.read(Box(x, y, width, height)), expected)


def exact_area(pixels: np.ndarray, size: int, factor: float) -> np.ndarray:
    """Average the area under each output pixel by the definition, in float64."""
    edges = np.arange(size + 1) * factor
    weights = np.zeros((size, pixels.shape[0]))
    for i in range(size):
        for j in range(int(edges[i]), min(int(np.ceil(edges[i + 1])), pixels.shape[0])):
            weights[i, j] = min(edges[i + 1], j + 1) - max(edges[i], j)
    weights /= factor
    return np.einsum("ij,jkc,lk->ilc", weights, pixels.astype(float), weights)


@pytest.mark.parametrize("factor", [1.0, 2.0, 4.0, 1.9786, 1.25, 3.3, 1.0136])
def test_shrinking_is_exact_area_averaging(rng, factor):
    """Also by fractions; 8-bit rounding is all that differs from the definition."""
    size = 40
    pixels = rng.integers(0, 256, (int(np.ceil(size * factor)),) * 2 + (3,), dtype=np.uint8)
    found = shrink(pixels, (size, size), factor)
    assert np.abs(found - exact_area(pixels, size, factor)).max() <= 0.501


@pytest.mark.parametrize("mpp", [0.5, 0.7, 1.0, 1.3, 2.0, 2.9, 4.0, 8.0])
def test_read_has_the_size_that_the_scale_says(slide, mpp):
    """No bucketing to levels or objectives: 700 px at 0.5 um/px are 350 um at any mpp."""
    pixels = slide.read(Box(100, 100, 700, 500), mpp)
    assert pixels.shape == (round(500 * 0.5 / mpp), round(700 * 0.5 / mpp), 3)


@pytest.mark.parametrize("mpp", [2.0, 3.1, 4.0])
def test_levels_agree_with_level_0(slide, mpp):
    """Reading from a coarser level shows the same place as averaging level 0."""
    box = Box(200, 160, 1024, 640)
    found = slide.read(box, mpp).astype(float)
    expected = shrink(slide.read(box), found.shape[1::-1], mpp / slide.mpp).astype(float)
    assert np.abs(found - expected).mean() < 2.5
    shifted = np.abs(found[:, 1:] - expected[:, :-1]).mean()
    assert np.abs(found - expected).mean() < 0.7 * shifted, "no better than one pixel off"


def test_magnifying_is_refused_unless_asked_for(slide):
    """We never invent detail; the message says what to ask for."""
    with pytest.raises(SlideError, match=r"Ask for mpp >= 0.5"):
        slide.read(Box(0, 0, 100, 100), 0.25)
    assert slide.read(Box(0, 0, 100, 100), 0.25, upsample=True).shape == (200, 200, 3)


@pytest.mark.parametrize(
    ("size_0", "size_level", "scale"),
    [
        pytest.param((46000, 32914), (11500, 8228), 4.0, id="truncated"),
        pytest.param((46000, 32914), (2875, 2057), 16.0, id="truncated-16"),
        pytest.param((1000, 1000), (500, 500), 2.0, id="exact"),
        pytest.param((1000, 1000), (330, 330), 1000 / 330, id="not-whole"),
    ],
)
def test_a_levels_scale_is_the_scanners_whole_number(size_0, size_level, scale):
    """Truncated level sizes do not make a level 4.0002 times smaller."""
    assert level_scale(size_0, size_level) == pytest.approx(scale, abs=1e-12)


@given(scale=st.floats(1, 40), size=st.integers(16, 4096))
def test_snapping_moves_no_pixel_by_half(scale, size):
    """The scale used differs from the scale asked for by less than half a pixel over a tile."""
    assert abs(snap_scale(scale, size) * size - scale * size) < 0.5 * max(scale, 1)


def test_closed_slide_can_be_closed_again(small_svs):
    """Closing twice is no error."""
    slide = open_slide(small_svs)
    slide.close()
    slide.close()
