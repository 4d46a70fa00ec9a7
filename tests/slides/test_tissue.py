"""Does `find_tissue` find what is known to be there, on any background, and nothing else."""

import json

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from wsi_umedpt.errors import MaskError, SlideError
from wsi_umedpt.settings import TissueParameters
from wsi_umedpt.slides.mask_file import mask_from_file
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tissue import TissueMask, find_tissue
from wsi_umedpt.testing import tissue_image

MPP = 4.0  # the pictures below are whole slides seen from afar
SIZE = 1000


def found_on(tmp_path, image: np.ndarray, **parameters) -> tuple[np.ndarray, TissueMask]:
    """The mask found on a picture, at the picture's own resolution."""
    Image.fromarray(image).save(tmp_path / "slide.png")
    with open_slide(tmp_path / "slide.png", mpp=MPP) as slide:
        mask = find_tissue(slide, TissueParameters(**parameters))
    full = mask.mask.repeat(mask.step, axis=0).repeat(mask.step, axis=1)
    return full[: image.shape[0], : image.shape[1]], mask


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / max(1, a.sum() + b.sum())


def recoloured(glass: int, colour: tuple[int, int, int], contrast: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Tissue of another mean colour on another glass."""
    image, tissue = tissue_image(SIZE, SIZE, glass=glass)
    stain = (image.astype(float) - [185, 110, 165]) * contrast + colour
    return np.where(tissue[..., None], np.clip(stain, 0, 255), image).astype(np.uint8), tissue


@pytest.mark.parametrize(
    ("glass", "colour", "contrast"),
    [
        pytest.param(243, (185, 110, 165), 1.0, id="h-and-e"),
        pytest.param(243, (225, 200, 220), 0.3, id="pale-h-and-e"),
        pytest.param(240, (190, 195, 215), 0.4, id="ihc-negative-blue"),
        pytest.param(240, (150, 110, 80), 0.8, id="ihc-dab-brown"),
        pytest.param(200, (165, 100, 150), 1.0, id="grey-glass"),
        pytest.param(225, (205, 150, 190), 0.5, id="dim-glass"),
        pytest.param(243, (120, 120, 125), 1.0, id="colourless-but-textured"),
    ],
)
def test_tissue_is_found_whatever_stain_and_glass(tmp_path, glass, colour, contrast):
    """An ellipse of tissue is found to Dice 0.95."""
    image, tissue = recoloured(glass, colour, contrast)
    assert dice(found_on(tmp_path, image)[0], tissue) > 0.95


def test_black_filler_is_no_tissue(tmp_path):
    """Scanners fill what they did not scan with black."""
    image, tissue = tissue_image(SIZE, SIZE)
    image[:, :200] = 0
    tissue[:, :200] = False
    assert dice(found_on(tmp_path, image)[0], tissue) > 0.95


def test_slide_of_nothing_but_tissue_is_all_tissue(tmp_path):
    """Where no glass is seen, nothing is mistaken for it."""
    image, tissue = tissue_image(2400, 2400)
    inside = image[800:1600, 800:1600]
    assert tissue[800:1600, 800:1600].all()
    assert found_on(tmp_path, np.ascontiguousarray(inside))[0].mean() > 0.97


@pytest.mark.parametrize("shade", [0, 12], ids=["even", "vignetted"])
def test_empty_glass_holds_no_tissue(tmp_path, shade):
    """Nor does uneven light make any."""
    rng = np.random.default_rng(1)
    y, x = np.ogrid[:SIZE, :SIZE]
    fall = shade * (((x - SIZE / 2) ** 2 + (y - SIZE / 2) ** 2) / (SIZE**2 / 2))
    glass = 240 - fall[..., None] + rng.normal(0, 1, (SIZE, SIZE, 1))
    assert found_on(tmp_path, np.clip(glass, 0, 255).astype(np.uint8).repeat(3, axis=2))[0].mean() < 0.002


@pytest.mark.parametrize(
    "ink",
    [
        pytest.param((30, 60, 200), id="blue-pen"),
        pytest.param((20, 140, 60), id="green-pen"),
        pytest.param((25, 25, 28), id="black-pen"),
    ],
)
def test_ink_is_no_tissue(tmp_path, ink):
    """A marker's stroke on the glass is left out, and kept where that is asked for."""
    image, tissue = tissue_image(SIZE, SIZE)
    stroke = np.zeros((SIZE, SIZE), np.uint8)
    cv2.line(stroke, (60, 60), (60, 900), 1, 24)
    image[stroke > 0] = ink
    image = cv2.GaussianBlur(image, (5, 5), 0)
    found, _ = found_on(tmp_path, image)
    assert found[stroke > 0].mean() < 0.05
    assert dice(found, tissue) > 0.95
    if ink[0] != 25:
        assert found_on(tmp_path, image, reject_ink=False)[0][stroke > 0].mean() > 0.9


def test_dust_is_dropped_and_a_large_hole_stays(tmp_path):
    """Areas are physical: um2, not pixels."""
    image, _ = tissue_image(SIZE, SIZE)
    cv2.circle(image, (60, 60), 10, (150, 90, 150), -1)  # 5,000 um2 of dust
    cv2.circle(image, (500, 500), 60, (243, 243, 243), -1)  # a lumen of 180,000 um2
    found, _ = found_on(tmp_path, image)
    assert not found[40:80, 40:80].any()
    assert not found[480:520, 480:520].any()


def stranded(colour: tuple[int, int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Glass with tissue and a slanted strand two cells (32 um) wide, of the tissue's own stain or one colour."""
    image, _ = tissue_image(SIZE, SIZE)
    strand = np.zeros((SIZE, SIZE), np.uint8)
    cv2.line(strand, (30, 30), (960, 110), 1, 8)
    image[strand > 0] = tissue_image(3 * SIZE, 3 * SIZE)[0][SIZE:-SIZE, SIZE:-SIZE][strand > 0]
    if colour:
        image[strand > 0] = colour
    return image, strand > 0


def test_a_thin_strand_of_stained_tissue_is_tissue(tmp_path):
    """Two cells wide, as a septum in fat is."""
    image, strand = stranded(None)
    assert found_on(tmp_path, image)[0][strand].mean() > 0.9


def test_a_thin_colourless_line_is_no_tissue(tmp_path):
    """A fibre, a scratch or the coverslip's edge."""
    image, strand = stranded((150, 150, 152))
    assert found_on(tmp_path, image)[0][strand].mean() < 0.05


def test_specks_are_not_joined_into_tissue(tmp_path, rng):
    """Stained specks of two cells, so near each other that closing would join them, are dropped."""
    image, tissue = tissue_image(SIZE, SIZE)
    specks = np.zeros((SIZE, SIZE), bool)
    for x, y in rng.integers(0, 30, (80, 2)):
        specks[8 * y : 8 * y + 6, 8 * x : 8 * x + 6] = True
    specks &= ~cv2.dilate(tissue.astype(np.uint8), np.ones((40, 40), np.uint8)).astype(bool)
    image[specks] = (185, 110, 165)
    assert specks.sum() > 1000
    assert found_on(tmp_path, image)[0][specks].mean() < 0.02


def test_real_slide_matches_what_one_sees(real_slide):
    """CMU-1-Small-Region: 30 to 50 % tissue, none in the empty left margin, some in the dense epithelium.

    A thin strand of collagen reaches from the middle to a tenth of the width.
    """
    with open_slide(real_slide) as slide:
        mask = find_tissue(slide)
    assert 0.3 < mask.fraction < 0.5
    rows, cols = mask.mask.shape
    assert not mask.mask[:, : cols // 12].any()
    assert mask.mask[rows // 4 : rows // 2, cols // 8 : cols // 5].any(axis=0).all()
    assert mask.mask[rows // 2, cols * 4 // 9]


def test_covered_is_the_exact_area(rng):
    """A tile's tissue share equals counting pixels at level 0."""
    mask = TissueMask(rng.random((12, 15)) > 0.5, step=7)
    full = np.pad(mask.mask.repeat(7, axis=0).repeat(7, axis=1), ((0, 60), (0, 60)))
    x, y = rng.integers(0, 90, 50), rng.integers(0, 70, 50)
    expected = [full[b : b + 23, a : a + 23].mean() for a, b in zip(x, y, strict=True)]
    assert np.allclose(mask.covered(x.astype(float), y.astype(float), 23), expected, atol=1e-6)


def geojson(path, *rings):
    features = [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}} for ring in rings]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


SQUARE = [[1000, 2000], [3000, 2000], [3000, 4000], [1000, 4000], [1000, 2000]]


def test_a_drawn_polygon_is_the_mask(tmp_path):
    """GeoJSON in level-0 px, as QuPath writes it."""
    mask = mask_from_file(geojson(tmp_path / "roi.geojson", SQUARE), (8000, 6000), 0.5)
    assert mask.fraction == pytest.approx(2000 * 2000 / (8000 * 6000), rel=0.02)
    assert mask.covered(np.array([1500.0]), np.array([2500.0]), 1000)[0] == 1


def test_a_drawn_png_is_the_mask(tmp_path):
    """It is stretched over the whole slide."""
    drawn = np.zeros((60, 80), np.uint8)
    drawn[20:40, 10:30] = 255
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    mask = mask_from_file(tmp_path / "mask.png", (8000, 6000), 0.5)
    assert mask.covered(np.array([1000.0]), np.array([2000.0]), 2000)[0] > 0.99
    assert mask.fraction == pytest.approx(20 * 20 / (60 * 80), rel=0.03)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        pytest.param("a.geojson", "{", "cannot be read as GeoJSON", id="not-json"),
        pytest.param("a.geojson", '{"type": "FeatureCollection", "features": []}', "holds no polygon", id="empty"),
        pytest.param("a.png", "no picture", "neither GeoJSON nor a PNG", id="not-an-image"),
    ],
)
def test_a_bad_mask_is_refused(tmp_path, name, content, reason):
    """With what is wrong with it."""
    (tmp_path / name).write_text(content)
    with pytest.raises(MaskError, match=reason):
        mask_from_file(tmp_path / name, (8000, 6000), 0.5)


@pytest.mark.parametrize(
    "ring",
    [
        pytest.param([[x + 8000, y] for x, y in SQUARE], id="right-of-the-slide"),
        pytest.param([[x, -y] for x, y in SQUARE], id="y-upwards"),
        pytest.param([[4003, 3003], [4006, 3003], [4006, 3006], [4003, 3003]], id="between-the-centres-of-cells"),
    ],
)
def test_a_mask_that_misses_the_slide_is_refused(tmp_path, ring):
    """Where the polygons lie, how large the slide is, and the likely cause; not an empty result."""
    left, right = min(x for x, _ in ring), max(x for x, _ in ring)
    reason = rf"x {left} to {right} and y .*the slide is 8000 x 6000 px.*level-0 pixels, not microns"
    with pytest.raises(MaskError, match=reason):
        mask_from_file(geojson(tmp_path / "roi.geojson", ring), (8000, 6000), 0.5)


def test_a_black_mask_is_refused(tmp_path):
    """A PNG that marks nothing is a mistake, not a slide without tissue."""
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(MaskError, match="marks nothing of the slide: 0 of its 4800 pixels"):
        mask_from_file(tmp_path / "mask.png", (8000, 6000), 0.5)


def test_a_mask_knows_the_content_it_was_drawn_from(tmp_path):
    """The same name with another content is another mask; the same content is the same.

    Its name, which may be a patient's, is not kept.
    """
    path = tmp_path / "roi.geojson"
    first, again = (mask_from_file(geojson(path, SQUARE), (8000, 6000), 0.5) for _ in range(2))
    other = mask_from_file(geojson(path, [[x + 1, y] for x, y in SQUARE]), (8000, 6000), 0.5)
    assert first.parameters == again.parameters
    assert "roi" not in str(first.parameters)
    assert first.parameters["sha256"] != other.parameters["sha256"]


def test_a_mask_of_another_shape_is_refused(tmp_path):
    """Stretching a square mask over an oblong slide would put tissue elsewhere."""
    Image.fromarray(np.full((100, 100), 255, np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(MaskError, match="not the shape of the slide"):
        mask_from_file(tmp_path / "mask.png", (8000, 6000), 0.5)


def test_a_damaged_tile_does_not_cost_the_slide(tmp_path, small_svs):
    """Where the thumbnail's level cannot be read, tissue is assumed, so that its tiles are recorded as unreadable."""
    path = tmp_path / "bad.svs"
    path.write_bytes(small_svs.read_bytes())
    with tifffile.TiffFile(path) as tif:
        page = [page for page in tif.pages if page.is_tiled][-1]
        offset, count = page.dataoffsets[1], page.databytecounts[1]  # the right of level 1
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count))
    with open_slide(path) as slide, open_slide(small_svs) as whole:
        found, expected = find_tissue(slide), find_tissue(whole)
    cells = 256 * 4 // found.step
    assert found.mask[:cells, cells + 1 :].all()
    assert (found.mask[:, : cells - 4] == expected.mask[:, : cells - 4]).mean() > 0.98


def test_a_file_that_cannot_be_seen_at_all_fails(tmp_path, small_svs):
    """Rather than being all tissue."""
    path = tmp_path / "bad.svs"
    path.write_bytes(small_svs.read_bytes())
    with tifffile.TiffFile(path) as tif:
        page = [page for page in tif.pages if page.is_tiled][-1]
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with path.open("r+b") as file:
        for offset, count in places:
            file.seek(offset)
            file.write(bytes(count))
    with open_slide(path) as slide, pytest.raises(SlideError, match="file is damaged"):
        find_tissue(slide)
