"""Stopped anywhere and run again, a slide comes to the very bytes of an uninterrupted run."""

import dataclasses
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.painted_slides import ByColour, segment
from wsi_umedpt.models.cards import EncoderCard
from wsi_umedpt.models.encoder import Encoder
from wsi_umedpt.pipeline import segment as pipeline_segment
from wsi_umedpt.pipeline.embed import encode_slide
from wsi_umedpt.settings import RunSettings
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.store.objects_io import read_objects
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.verify import note_on_work, problems_of


@pytest.fixture(autouse=True, scope="module")
def _small_chunks():
    """Chunks of 8 tiles and of 128 px, so that a small slide has many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsi_umedpt.store.slide_store.CHUNK_ROWS", 8)
        patch.setattr("wsi_umedpt.store.label_pyramid.CHUNK_PX", 128)
        yield


def files_of(store: Path) -> dict[str, bytes]:
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}


def stop_after(batches: int) -> Callable[[int, int], None]:
    """A progress callback that interrupts like Ctrl-C when so many batches are done and kept."""
    calls = itertools.count(1)

    def progress(*_: int) -> None:
        if next(calls) >= batches:
            raise KeyboardInterrupt

    return progress


@pytest.fixture(
    scope="module", params=["pixels-and-boxes", "boxes", "embedding-too", "damaged", "damaged-embedding-too"]
)
def case(request, painted, damaged, tmp_path_factory, _small_chunks):
    """A slide, the head's outputs, whether tiles are embedded too; what an uninterrupted run says and writes."""
    name = request.param
    head = {"pixels": name != "boxes", "boxes": "boxes" in name}
    options = {"embed": "embedding" in name, "max_unreadable": 0.5, "batch_size": 2}
    slide = damaged if "damaged" in name else painted
    path = tmp_path_factory.mktemp("whole") / "a.zarr"
    done = segment(slide, path, ByColour(**head), **options)
    return slide, head, options, done, files_of(path)


@pytest.mark.parametrize(
    "stops",
    [
        pytest.param([1], id="at-the-first-batch"),
        pytest.param([8, 1], id="again-before-embeddings-are-where-objects-were"),
        pytest.param([3, 4, 1, 2], id="four-times"),
        pytest.param([11], id="at-the-last-batch"),
    ],
)
def test_stopped_and_run_again_is_the_same_to_the_byte(case, tmp_path, stops):
    """Objects, label chunks, embeddings and what is said of them; nothing of the stop is left."""
    slide, head, options, whole, expected = case
    path = tmp_path / "a.zarr"
    for batches in stops:
        with pytest.raises(KeyboardInterrupt):
            segment(slide, path, ByColour(**head), progress=stop_after(batches), **options)
        assert not path.exists()
    done = segment(slide, path, ByColour(**head), **options)
    assert files_of(path) == expected
    assert (done.tiles, done.unreadable, done.objects) == (whole.tiles, whole.unreadable, whole.objects)
    assert done.fresh <= whole.fresh
    assert not path.with_name("a.zarr.partial").exists()
    assert problems_of(path) == []


def test_what_was_done_is_not_done_again(painted, tmp_path):
    """A run that goes on runs the windows that are missing; the work folder says what grows in it."""
    path = tmp_path / "a.zarr"
    with pytest.raises(KeyboardInterrupt):
        segment(painted, path, ByColour(batches=4))
    assert "with nuclei that was interrupted" in note_on_work(path.with_name("a.zarr.partial"))
    done = segment(painted, path)
    assert done.fresh == done.tiles - 12  # the fourth batch was in flight


def test_other_settings_begin_anew(painted, tmp_path):
    """What another model found is not gone on with."""
    path = tmp_path / "a.zarr"
    with pytest.raises(KeyboardInterrupt):
        segment(painted, path, ByColour(batches=4), made_by="another")
    done = segment(painted, path)
    assert done.fresh == done.tiles
    segment(painted, tmp_path / "whole" / "a.zarr")
    assert files_of(path) == files_of(tmp_path / "whole" / "a.zarr")


@pytest.mark.parametrize("part", ["state", "objects", "vectors", "label image"])
def test_work_that_is_torn_is_begun_anew(painted, tmp_path, part):
    """A state that is half written, parts of the objects or vectors that are gone, a label image that is gone."""
    path = tmp_path / "a.zarr"
    with pytest.raises(KeyboardInterrupt):
        segment(painted, path, ByColour(batches=5))
    work = path.with_name("a.zarr.partial") / "objects" / "nuclei"
    if part == "state":
        [state] = work.glob("state-*.npz")
        state.write_bytes(state.read_bytes()[:1000])
    elif part in ("objects", "vectors"):
        next(work.glob(f"{part}-*.np*")).unlink()
    else:
        shutil.rmtree(work / "labels")
    segment(painted, path)
    segment(painted, tmp_path / "whole" / "a.zarr")
    assert files_of(path) == files_of(tmp_path / "whole" / "a.zarr")


@pytest.mark.parametrize("there", [False, True], ids=["new-store", "store-with-features"])
@pytest.mark.parametrize("moved", [0, 1, 2], ids=["before-both", "between-the-two", "after-both"])
def test_killed_while_results_enter_the_store(painted, tmp_path, monkeypatch, there, moved):
    """Before, between and after the moves of label image and objects: run again, all is there once."""
    path, whole = tmp_path / "a.zarr", tmp_path / "whole" / "a.zarr"
    for store in (path, whole):
        if there:
            segment(painted, store, spec=TileSpec(size_px=224, mpp=0.5), embed=True)
            shutil.rmtree(store / "labels")
            shutil.rmtree(store / "detections")
    segment(painted, whole)
    renames, moves = [], pipeline_segment.os.rename

    def rename(source, target):
        if Path(source).parent.parent.name == "objects":
            if len(renames) == moved:
                raise KeyboardInterrupt
            renames.append(target)
        moves(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_segment.os, "rename", rename)
        if moved == 2:
            patch.setattr(SlideStore, "commit", lambda self: rename(tmp_path / "objects" / "x" / "y", ""))
        with pytest.raises(KeyboardInterrupt):
            segment(painted, path)
    assert path.exists() == there
    segment(painted, path)
    assert files_of(path) == files_of(whole)
    assert not path.with_name("a.zarr.partial").exists()


class Means:
    """An engine that embeds a tile as its mean colour."""

    def submit(self, pixels, part_done=None):
        """Embed at once."""
        return lambda: pixels.mean(axis=(1, 2), dtype=np.float32)


def test_growing_objects_survive_an_embedding_run(painted, tmp_path):
    """Segmenting is stopped, the slide is embedded, segmenting goes on: only what was missing is run."""
    path = tmp_path / "a.zarr"
    with pytest.raises(KeyboardInterrupt):
        segment(painted, path, ByColour(batches=4))
    card = EncoderCard(
        name="m", architecture="", mpp=0.5, size_px=224, dim=3, mean=(0, 0, 0), std=(1, 1, 1), licence="-", source="-"
    )
    spec = TileSpec(size_px=224, mpp=0.5)
    with open_slide(painted.path) as slide:
        grid = lay_grid(slide.size, slide.mpp, spec, within=painted.tissue())
        with SlideStore.create(path, slide, painted.tissue(), grid) as store:
            encode_slide(
                slide,
                store,
                Encoder(card, "torch", "cpu", "fp32", Means()),
                grid_id=spec.grid_id,
                settings=RunSettings(batch_size=8),
            )
    assert problems_of(path) == []
    assert not (path / "detections").exists()
    done = segment(painted, path)
    assert done.fresh == done.tiles - 12
    segment(painted, tmp_path / "whole.zarr")
    one, other = (read_objects(SlideStore.open(p))[0] for p in (path, tmp_path / "whole.zarr"))
    for field in dataclasses.fields(one):
        assert np.array_equal(getattr(one, field.name), getattr(other, field.name), equal_nan=field.name == "measures")
    assert problems_of(path) == []
    assert not path.with_name("a.zarr.partial").exists()


def test_a_label_image_without_its_objects_is_replaced(painted, tmp_path):
    """As a kill between the two leaves it: another run's objects never stand beside it."""
    left, fresh = tmp_path / "left.zarr", tmp_path / "fresh.zarr"
    segment(painted, left)
    shutil.rmtree(left / "detections" / "nuclei")
    for path in (left, fresh):
        segment(painted, path, ByColour(boxes=True))
    assert problems_of(left) == []
    assert {n: b for n, b in files_of(left).items() if "nuclei/" in n} == {
        n: b for n, b in files_of(fresh).items() if "nuclei/" in n
    }
