"""A slide that is not in colour: its channels are layers, and what is seen of them is what is analysed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Layer
from wsi_umedpt.errors import OptionError
from wsi_umedpt.slides import open_slide, slide_channels

from napari_wsi_umedpt.layers.build import shown_by
from napari_wsi_umedpt.logic.analysis import AnalysisProgress, Request, analyse
from napari_wsi_umedpt.logic.field import seen_channels
from napari_wsi_umedpt.opening.load import open_path, open_with_results
from napari_wsi_umedpt.reader import get_reader
from tests.support.hands import Hands
from tests.support.planted import NUCLEUS, SIZE, make_store, squares
from tests.test_one_slide import drop

NAMES = ["DAPI", "CD3", "CD8", "PanCK"]


@pytest.fixture(scope="module")
def stored() -> np.ndarray:
    """(channel, rows, cols), of bright nuclei on black."""
    y, x = np.mgrid[:640, :700]
    nuclei = (np.hypot(x % 24 - 12, y % 24 - 12) < 5) & (np.hypot(x - 350, y - 320) < 250)
    noise = np.random.default_rng(3).integers(0, 60, (4, 640, 700))
    return (noise + nuclei * np.array([2000, 1000, 500, 250])[:, None, None]).astype(np.uint16)


@pytest.fixture(scope="module")
def fluorescence(stored, tmp_path_factory):
    """An OME-TIFF of four channels."""
    return write_fluorescence(tmp_path_factory.mktemp("fluorescence") / "slide.ome.tif", stored)


def write_fluorescence(path: Path, stored: np.ndarray) -> Path:
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "Channel": {"Name": NAMES}}
    tifffile.imwrite(path, stored, metadata=metadata, photometric="minisblack", tile=(128, 128), compression="lzw")
    return path


def shown_in(viewer: ViewerModel, layers) -> list[Layer]:
    return [viewer.add_layer(Layer.create(*layer)) for layer in layers]


def test_each_channel_is_a_layer_of_its_own_colour(fluorescence, stored):
    """Added to one another, and in grey what the file holds, between the same percentiles."""
    assert [one.name for one in slide_channels(fluorescence)] == NAMES
    assert get_reader(fluorescence) is not None
    layers = open_path(fluorescence, pytest.fail)
    metas = [meta for _, meta, _ in layers]
    assert [meta["name"] for meta in metas] == [f"slide {name}" for name in NAMES]
    assert [meta["colormap"] for meta in metas] == ["blue", "red", "cyan", "magenta"]
    assert {meta["blending"] for meta in metas} == {"additive"}
    viewer = ViewerModel()
    for layer, plane in zip(shown_in(viewer, layers), stored, strict=True):
        choice = shown_by(layer).slide.channels[0]
        expected = np.floor(np.clip((plane - choice.low) / (choice.high - choice.low), 0, 1) * 255 + 0.5)
        found = np.asarray(layer.data[0])[:640, :700]
        assert found.shape == plane.shape
        assert np.array_equal(found, expected)


def test_what_is_seen_is_what_is_analysed(fluorescence, tmp_path):
    """One channel, or three; the store says which, and is then opened in their colours."""
    path = shutil.copy(fluorescence, tmp_path / "slide.ome.tif")
    viewer = ViewerModel()
    layers = shown_in(viewer, open_with_results(path, pytest.fail))
    with pytest.raises(OptionError, match="seen in 4 channels: DAPI, CD3, CD8, PanCK"):
        seen_channels(viewer)
    layers[1].visible = False
    assert [one.name for one in seen_channels(viewer)] == ["DAPI", "CD8", "PanCK"]
    layers[2].visible = layers[3].visible = False
    chosen = seen_channels(viewer)
    assert [one.name for one in chosen] == ["DAPI"]
    request = Request(
        slide=path, channels=chosen, out=tmp_path / "out", model="umedpt_lite0.v2", embed=False,
        heads=("nuclei_fluorescence",), device="cpu",
    )  # fmt: skip
    analyse(request, AnalysisProgress())
    opened = open_with_results(path, pytest.fail)
    assert opened[0][1]["rgb"]
    assert opened[0][1]["metadata"]["wsi_umedpt"].slide.channels == chosen


def names_of(hands: Hands) -> list[str]:
    return [layer.name for layer in hands.viewer.layers]


def test_channels_lie_in_the_slides_order_whatever_comes(hands, planted, tmp_path):
    """First of the file lowest, below results; as they were after another slide; a message lists what was moved."""
    stored = np.zeros((4, SIZE[1], SIZE[0]), np.uint16)
    stored[:, 400:900, 400:1200] = np.array([2000, 1000, 500, 250])[:, None, None]
    path = write_fluorescence(tmp_path / "slide.ome.tif", stored)
    (tmp_path / "results").mkdir()
    with open_slide(path, channels="DAPI") as slide:
        store = make_store(tmp_path / "results" / "slide.zarr", slide, squares([NUCLEUS], [1]))
    in_order = [f"slide {name}" for name in NAMES]
    drop(hands, path)
    hands.until(lambda: names_of(hands) == in_order)
    drop(hands, store)
    hands.until(lambda: len(hands.viewer.layers) > len(NAMES))
    hands.wait(150)
    assert names_of(hands)[: len(NAMES)] == in_order
    drop(hands, planted.slide)
    hands.until(lambda: not set(in_order) & set(names_of(hands)))
    drop(hands, path)
    hands.until(lambda: names_of(hands)[: len(NAMES)] == in_order)
    hands.keep_picture("channels")
    layers = hands.viewer.layers
    layers[f"slide {NAMES[3]}"].visible = False
    layers.move(layers.index(f"slide {NAMES[2]}"), 0)  # as somebody drags it below the others
    assert [one.name for one in seen_channels(hands.viewer)] == ["CD8", "DAPI", "CD3"]
