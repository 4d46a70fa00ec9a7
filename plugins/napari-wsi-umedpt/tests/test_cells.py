"""Cells by few clicks, without a window: what is learned equals what the command line learns."""

import numpy as np
import pytest
from wsi_umedpt.cli import app
from wsi_umedpt.errors import StoreError
from wsi_umedpt.mil import Probe
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileSpec
from wsi_umedpt.store import SlideStore, read_object_scores

from napari_wsi_umedpt.logic.cells import TeachableCells, classify_slides, open_cells
from napari_wsi_umedpt.logic.teachable import save_probe
from napari_wsi_umedpt.logic.tile_labels import write_points
from tests.support.cells import cell_store, types
from tests.support.planted import MPP
from tests.support.tiny import colour_store


@pytest.fixture(params=[True, False], ids=["vectors", "measures"])
def store(request, planted, tmp_path):
    with open_slide(planted.slide) as slide:
        return cell_store(tmp_path / "planted.zarr", slide, vectors=request.param)


def few(count: int = 8, seed: int = 0) -> dict[int, str]:
    """So many labelled cells of each type."""
    kinds = types(seed)
    return {int(row): name for k, name in enumerate(("small", "large")) for row in np.flatnonzero(kinds == k)[:count]}


def learn(slide: TeachableCells, labels: dict[int, str]):
    return slide.teach([slide.labelled(labels)], labels)


def test_a_few_clicks_tell_all_cells(store):
    """Of a hundred nearly all are right, from vectors or from measures; the least sure are no labelled ones."""
    slide, labels = open_cells(store), few()
    taught = learn(slide, labels)
    right = np.array(taught.probe.classes)[taught.chances.argmax(1)] == np.where(types() == 1, "large", "small")
    assert right.mean() > 0.95
    assert not {*taught.next} & {*labels}
    assert "8 large, 8 small" in taught.words


def test_the_command_line_learns_the_same(store, tmp_path):
    """From the saved labels: the same probe, the same probabilities in the store, the same detections."""
    slide, labels = open_cells(store), few()
    taught = learn(slide, labels)
    write_points(tmp_path / "labels.csv", slide.points_of(labels), "planted")
    app(["probe", "fit", str(store), "--objects", "nuclei", "-l", str(tmp_path / "labels.csv"), "-o",
         str(tmp_path / "cells.json")], result_action="return_value")  # fmt: skip
    (tmp_path / "window").mkdir()
    save_probe(taught, tmp_path / "window" / "cells.json")
    theirs, ours = (Probe.load(tmp_path / name) for name in ("cells.json", "window/cells.json"))
    assert np.array_equal(theirs.weight, ours.weight)
    assert np.array_equal(theirs.bias, ours.bias)
    told = [{k: v for k, v in one.about.items() if k != "tensors"} for one in (theirs, ours)]
    assert told[0] == told[1]
    slide.keep_scores(taught)
    kept, _ = read_object_scores(SlideStore.open(store), "cells")
    counts, failed = classify_slides([store], theirs)
    again, _ = read_object_scores(SlideStore.open(store), "cells")
    assert np.array_equal(kept, again)
    assert (sum(counts["planted"].values()), failed) == (len(kept), {})
    slide.export(taught, tmp_path / "ours.geojson", {})
    app(["export", str(store), "--scores", "cells", "-o", str(tmp_path / "theirs.geojson")],
        result_action="return_value")  # fmt: skip
    assert (tmp_path / "ours.geojson").read_bytes() == (tmp_path / "theirs.geojson").read_bytes()


def test_labels_are_read_again(store, tmp_path):
    """From a table, and from outlines as QuPath has them."""
    slide, labels = open_cells(store), few()
    write_points(tmp_path / "labels.csv", slide.points_of(labels), "planted")
    slide.write_regions(tmp_path / "planted.geojson", labels, {})
    for name in ("labels.csv", "planted.geojson"):
        assert slide.read_labels(tmp_path / name) == labels
    assert slide.at(slide.points_of(labels)) == (labels, [])


def test_a_store_without_cells_is_refused_in_words(planted, tmp_path):
    """It says where they are found."""
    path = colour_store(tmp_path / "planted.zarr", planted.slide, TileSpec(size_px=100, mpp=MPP))
    with pytest.raises(StoreError, match="Find nuclei first, in the dock Analyse"):
        open_cells(path)
