"""Encoders of different scale share one decoding of a slide; their features are those of separate runs, to the bit."""

import itertools
from pathlib import Path

import pytest

from tests.support.encoders import mean_encoder
from wsi_umedpt.pipeline import embed as embedding
from wsi_umedpt.pipeline.embed import EmbedTask
from wsi_umedpt.pipeline.prepare import PreparedSlide
from wsi_umedpt.pipeline.task import Progress
from wsi_umedpt.settings import RunSettings
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tile_loader import close_readers
from wsi_umedpt.slides.tiling import TileSpec
from wsi_umedpt.slides.tissue import find_tissue
from wsi_umedpt.store.partial import FeatureWriter
from wsi_umedpt.store.verify import problems_of

SPECS = (TileSpec(size_px=64), TileSpec(size_px=50, mpp=1.0), TileSpec(size_px=48, mpp=2.0), TileSpec(size_px=100))
"""Three of level 0, and one of another level in between."""


@pytest.fixture(autouse=True, scope="module")
def _small_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsi_umedpt.store.slide_store.CHUNK_ROWS", 16)
        yield
    close_readers()


class StopAfter(Progress):
    """Interrupts like Ctrl-C when told of so many batches."""

    def __init__(self, batches: int) -> None:
        self._left = itertools.count(batches, -1)
        self.told: list[int] = []

    def tiles_done(self, done: int, total: int) -> None:
        """Count it."""
        self.told.append(done)
        if not next(self._left):
            raise KeyboardInterrupt


def run(slide_path: Path, store: Path, specs, *, progress=None, readers=0, ahead=False):
    """Embed one slide, with an encoder for each spec."""
    task = EmbedTask(
        encoders=[mean_encoder(f"of_{spec.size_px}") for spec in specs], tile_specs=specs,
        settings=RunSettings(batch_size=8, readers=readers),
    )  # fmt: skip
    with (
        open_slide(slide_path) as slide,
        PreparedSlide(slide, store, find_tissue(slide), task.specs(slide.mpp), readers) as prepared,
    ):
        if ahead:
            prepared.read_ahead(task)
        return task.run(prepared, progress or Progress())


def grids_of(store: Path) -> dict[str, bytes]:
    """All files of the grids."""
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in (store / "grids").rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def separate(small_svs, tmp_path_factory, _small_chunks):
    """A store to which each encoder was added by a run of its own."""
    path = tmp_path_factory.mktemp("separate") / "a.zarr"
    for spec in SPECS:
        run(small_svs, path, [spec])
    return grids_of(path)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("readers", [0, 1, 2])
def test_one_run_gives_what_separate_runs_give(small_svs, tmp_path, separate, readers, ahead):
    """Grids, features and what is said of them, whoever reads."""
    progress = StopAfter(10**9)
    result = run(small_svs, tmp_path / "a.zarr", SPECS, readers=readers, ahead=ahead, progress=progress)
    assert grids_of(tmp_path / "a.zarr") == separate
    assert problems_of(tmp_path / "a.zarr") == []
    assert sum(result.tiles_by_grid) == result.tiles == result.fresh
    assert progress.told == sorted(set(progress.told))
    assert progress.told[-1] == result.tiles


@pytest.mark.parametrize("stops", [[1], [9, 1, 7], [25], [35, 4], [36]], ids=str)
def test_stopped_and_run_again_is_the_same_to_the_byte(small_svs, tmp_path, separate, stops):
    """Wherever each of the grids was; nothing of the stop is left."""
    path = tmp_path / "a.zarr"
    for batches in stops:
        with pytest.raises(KeyboardInterrupt):
            run(small_svs, path, SPECS, progress=StopAfter(batches))
    result = run(small_svs, path, SPECS)
    assert result.fresh < result.tiles
    assert grids_of(path) == separate
    assert not path.with_name("a.zarr.partial").exists()


@pytest.mark.parametrize("batches", [9, 30])
def test_killed_and_run_again_is_the_same_to_the_byte(small_svs, tmp_path, separate, monkeypatch, batches):
    """What was not durable yet is lost, of each grid for itself."""
    with monkeypatch.context() as patch:
        patch.setattr(embedding, "_keep", lambda *_: None)  # SIGKILL leaves no time for it
        with pytest.raises(KeyboardInterrupt):
            run(small_svs, tmp_path / "a.zarr", SPECS, progress=StopAfter(batches))
    run(small_svs, tmp_path / "a.zarr", SPECS)
    assert grids_of(tmp_path / "a.zarr") == separate


@pytest.mark.parametrize("whole", [0, 1, 2])
def test_killed_between_the_grids_of_one_decoding(small_svs, tmp_path, separate, monkeypatch, whole):
    """Some are whole, none has entered the store: those that are whole are not read again."""
    finish, done = FeatureWriter.finish, []

    def killed(writer: FeatureWriter) -> None:
        if len(done) == whole:
            raise KeyboardInterrupt
        done.append(finish(writer))

    with monkeypatch.context() as patch:
        patch.setattr(FeatureWriter, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            run(small_svs, tmp_path / "a.zarr", SPECS)
    assert not (tmp_path / "a.zarr").exists()
    result = run(small_svs, tmp_path / "a.zarr", SPECS)
    assert result.fresh == result.tiles_by_grid[2]  # of another level, which was not begun
    assert grids_of(tmp_path / "a.zarr") == separate


def test_an_encoder_that_joins_later_leaves_the_others_alone(small_svs, tmp_path, separate):
    """What is whole is not read again."""
    path = tmp_path / "a.zarr"
    run(small_svs, path, SPECS[:1])
    result = run(small_svs, path, SPECS)
    assert result.fresh == sum(result.tiles_by_grid[1:])
    assert grids_of(path) == separate
