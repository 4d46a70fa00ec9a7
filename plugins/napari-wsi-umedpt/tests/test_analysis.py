"""Analysing a slide as the viewer does it is analysing it as the command line does; without a window."""

from pathlib import Path

import numpy as np
import pytest
import shapely
from wsi_umedpt.annotations.labels import read_drawn_labels
from wsi_umedpt.cli import app
from wsi_umedpt.errors import EncoderError, OptionError, SlideError, StoreError, WsiError
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.verify import problems_of
from wsi_umedpt.testing import write_pyramid

from napari_wsi_umedpt.layers.build import KEY, Place
from napari_wsi_umedpt.layers.run_results import DONE, WAITING, Status, layers_of
from napari_wsi_umedpt.logic.analysis import AnalysisProgress, Made, Request, analyse, models, own_model, region_of
from tests.support.tiny import release, tissue_slide

SIDE = 1000
"""Of the slide, px: about 400 tiles."""
CHUNK = 128
"""Rows of a chunk in these tests, so that a small slide has several."""
SQUARE = ((200.0, 200.0), (800.0, 200.0), (800.0, 800.0), (200.0, 800.0))


@pytest.fixture(scope="module", autouse=True)
def small_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsi_umedpt.store.slide_store.CHUNK_ROWS", CHUNK)
        yield


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Path:
    return tissue_slide(tmp_path_factory.mktemp("slides") / "tissue.svs", SIDE)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return f"umedpt:{release(tmp_path_factory.mktemp('release') / 'tiny.v1.json')}"


def run(*words: object) -> int:
    try:
        return int(app([str(word) for word in words], exit_on_error=False) or 0)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture(scope="module")
def by_hand(slide, model, tmp_path_factory) -> Path:
    """The store that the command line makes."""
    out = tmp_path_factory.mktemp("by-hand")
    assert run("embed", slide, "-o", out, "-m", model, "--device", "cpu") == 0
    assert run("segment", slide, "-o", out, "-m", model, "--heads", "nuclei", "--device", "cpu") == 0
    return out / "tissue.zarr"


def content(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def asked(slide, model, out, **more) -> Request:
    return Request(**{"slide": slide, "out": out, "model": model, "heads": ("nuclei",), "device": "cpu", **more})


class Stopping(AnalysisProgress):
    """Is asked to stop once so many tiles of a stage are done; remembers all progress."""

    def __init__(self, stage: str = "", at: int = 0) -> None:
        super().__init__()
        self.told = []
        self._when = stage, at

    def tiles_done(self, done, total):
        """The library's."""
        self.told.append((self.stage, done))
        if self._when[0] and self.stage.startswith(self._when[0]) and done >= self._when[1]:
            self.stop()
        super().tiles_done(done, total)

    def looked_at(self, tiles):
        """Of a part of a batch."""
        super().looked_at(tiles)
        if self._when[0] and self.stage.startswith(self._when[0]) and self.done >= self._when[1]:
            self.stop()


def test_the_whole_slide_is_what_the_command_line_makes(slide, model, by_hand, tmp_path):
    """Every byte of the store."""
    progress = Stopping()
    done = analyse(asked(slide, model, tmp_path), progress)
    assert (done.store, done.stopped) == (tmp_path / "tissue.zarr", False)
    assert content(done.store) == content(by_hand)
    assert problems_of(done.store) == []
    grid = SlideStore.open(done.store).grid()
    assert done.tiles == len(grid) > 2 * CHUNK
    assert done.words.startswith("Done: ")
    assert f"features of {len(grid):,} tiles" in done.words
    assert [made.kind for made in progress.made] == ["features", "objects"]
    assert analyse(asked(slide, model, tmp_path), AnalysisProgress()).tiles == done.tiles


@pytest.mark.parametrize(
    ("stage", "at"),
    [
        pytest.param("Computing features", 64, id="after-one-batch"),
        pytest.param("Computing features", 220, id="embedding"),
        pytest.param("Looking", 8, id="objects"),
    ],
)
def test_what_was_stopped_is_gone_on_with(slide, model, by_hand, tmp_path, stage, at):
    """Nothing of it is a store before it is whole; afterwards it is the same, bit for bit."""
    stopped = analyse(asked(slide, model, tmp_path), Stopping(stage, at))
    assert stopped.stopped
    assert "Stopped." in stopped.words
    assert (tmp_path / "tissue.zarr").exists() is (stage == "Looking")
    again = Stopping()
    assert not analyse(asked(slide, model, tmp_path), again).stopped
    if stage == "Computing features":
        assert stopped.words.startswith(f"Stopped. {at // 64 * 64:,} of ")
        assert again.told[0] == ("Computing features of tiles:", at // 64 * 64)
    assert content(tmp_path / "tissue.zarr") == content(by_hand)


def test_a_region_has_a_store_of_its_own(slide, model, by_hand, tmp_path):
    """Its tiles are those of the slide that lie in it; its outline lies beside it; the slide's store is as it was."""
    whole = analyse(asked(slide, model, tmp_path), AnalysisProgress())
    before = content(whole.store)
    request = asked(slide, model, tmp_path, region=(SQUARE,))
    done = analyse(request, AnalysisProgress())
    assert done.store.name == f"tissue.region-{request.digest}.zarr"
    assert content(whole.store) == before
    small, large = SlideStore.open(done.store), SlideStore.open(whole.store)
    middles = small.grid().xy + 16
    assert ((middles > 180) & (middles < 820)).all()
    both = {tuple(xy): row for row, xy in enumerate(large.grid().xy.tolist())}
    rows = [(row, both[tuple(xy)]) for row, xy in enumerate(small.grid().xy.tolist()) if tuple(xy) in both]
    assert len(rows) > 100
    ours, theirs = zip(*rows, strict=True)
    assert np.allclose(small.features().features[[*ours]], large.features().features[[*theirs]], atol=0.05)
    (region,) = read_drawn_labels(done.store.with_suffix(".geojson"), "planted").regions
    assert region.area.equals(shapely.Polygon(SQUARE))
    assert {path.suffix for path in tmp_path.iterdir() if not path.name.startswith(".")} == {".zarr", ".geojson"}


def test_the_same_region_is_the_same_store(slide, model, tmp_path):
    """Stopped and gone on with, then asked for again; another region is another store."""
    request = asked(slide, model, tmp_path, region=(SQUARE,), embed=False)
    assert analyse(request, Stopping("Looking", 1)).stopped
    first = analyse(request, AnalysisProgress())
    again = Stopping()
    assert analyse(request, again).objects == first.objects
    assert not again.told
    other = asked(slide, model, tmp_path, region=(tuple((x + 50, y) for x, y in SQUARE),))
    assert other.store != request.store
    by_mask = tmp_path / "by-mask"
    outline = request.store.with_suffix(".geojson")
    assert (
        run("segment", slide, "-o", by_mask, "-m", model, "--heads", "nuclei", "--mask", outline, "--device", "cpu")
        == 0
    )
    assert content(by_mask / "tissue.zarr") == content(request.store)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        pytest.param({"model": "nonsense"}, EncoderError, "there is no encoder 'nonsense'", id="model"),
        pytest.param({"heads": ("bones",), "embed": False}, EncoderError, "head 'bones' is not there", id="head"),
        pytest.param({"region": (((0, 0), (9, 0), (9, 9)),)}, WsiError, "nothing of the slide", id="tiny-region"),
        pytest.param({"region": (((-900, -900), (-1, -900), (-1, -1)),)}, WsiError, "marks nothing", id="outside"),
        pytest.param({"slide": Path("gone.svs")}, OSError, "gone.svs", id="slide"),
    ],
)
def test_what_cannot_be_done_is_refused(slide, model, tmp_path, change, error, words):
    """In the words of our errors."""
    with pytest.raises(error, match=words):
        analyse(asked(**{"slide": slide, "model": model, "out": tmp_path, **change}), AnalysisProgress())


def test_glass_has_nothing_to_analyse(model, tmp_path):
    """It is said why."""
    path = write_pyramid(tmp_path / "glass.svs", np.full((900, 900, 3), 243, np.uint8), mpp=0.5)
    with pytest.raises(OptionError, match="has enough tissue in this slide"):
        analyse(asked(path, model, tmp_path), AnalysisProgress())


def test_stores_of_other_slides_and_folders_that_are_files_are_refused(slide, model, tmp_path):
    """Nothing of them is touched."""
    (tmp_path / "b").mkdir()
    other = tissue_slide(tmp_path / "b" / "tissue.svs", 800)
    analyse(asked(other, model, tmp_path / "out", embed=True, heads=()), AnalysisProgress())
    before = content(tmp_path / "out" / "tissue.zarr")
    with pytest.raises(StoreError, match="is of another slide"):
        analyse(asked(slide, model, tmp_path / "out"), AnalysisProgress())
    assert content(tmp_path / "out" / "tissue.zarr") == before
    with pytest.raises(StoreError, match="cannot be made"):
        analyse(asked(slide, model, other), AnalysisProgress())
    with pytest.raises(OptionError, match="nothing is asked for"):
        asked(slide, model, tmp_path, embed=False, heads=())


def test_a_slide_too_coarse_is_refused(model, tmp_path):
    """Detail is never invented."""
    path = tissue_slide(tmp_path / "a.svs", 800)
    with pytest.raises(SlideError, match="um/px"):
        analyse(asked(path, model, tmp_path, mpp=2.0), AnalysisProgress())


def test_models_say_what_they_look_for(model):
    """Those of slides; not of X-rays."""
    found = {choice.name: choice for choice in models()}
    assert "nuclei_tnbc" in found["umedpt_lite0.v1"].heads
    assert "hippocampus" not in found["umedpt_lite0.v2"].heads
    assert not found["efficientnet_lite0.imagenet"].heads
    own = own_model(Path(model.removeprefix("umedpt:")))
    assert dict(own.heads) == {"nuclei": "nucleus"}
    assert (own.name, own.about) == (model, "a tiny model")


def test_progress_says_how_long_it_takes(monkeypatch):
    """From the first seconds on, and from the pace of this run alone, not of what an earlier one did."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    grid = range(2048)
    progress = AnalysisProgress()
    assert progress.words == "Opening the slide ..."
    progress.enter("Embedding tiles:", grid)
    assert progress.words == "Embedding tiles: 0 of 2,048"
    now[0] += 1
    progress.looked_at(8)
    assert progress.words == "Embedding tiles: 8 of 2,048, 4 min left"
    progress.enter("Embedding tiles:", grid)
    progress.tiles_done(1088, 2048)  # of an earlier run
    assert progress.words == "Embedding tiles: 1,088 of 2,048"
    now[0] += 10
    progress.tiles_done(1152, 2048)
    assert progress.seconds_left == pytest.approx(10 / 64 * 896)
    assert progress.words == "Embedding tiles: 1,152 of 2,048, 2 min left"
    progress.stop()
    assert "Stopping" in progress.words


def test_a_run_stops_within_a_batch(slide, model, tmp_path, monkeypatch):
    """Before the next layer of the network, however long a batch takes; what batches before it embedded is kept."""
    from torch import nn

    calls, progress, real = [], AnalysisProgress(), nn.Conv2d.forward

    def slow(layer, pixels):
        calls.append(1)
        if len(calls) > 100:
            progress.stop()  # as somebody does meanwhile, in another thread
        return real(layer, pixels)

    monkeypatch.setattr(nn.Conv2d, "forward", slow)
    assert analyse(asked(slide, model, tmp_path, heads=()), progress).stopped
    assert len(calls) == 101


def test_tiles_that_are_done_are_seen(slide, model, tmp_path):
    """In reading order, in their place."""
    request = asked(slide, model, tmp_path, heads=())
    analyse(request, AnalysisProgress())
    store = SlideStore.open(request.store)
    grid = store.grid()
    place = Place("tissue", (SIDE, SIDE), 0.5)
    picture = Status(grid, place).picture(10)
    assert (picture == DONE).sum() == 10
    assert (picture == WAITING).sum() == len(grid) - 10
    _, meta, kind = Status(grid, place).layer(3)
    assert (kind, meta["scale"], meta["metadata"][KEY].place) == ("labels", (16.0, 16.0), place)
    layers = layers_of(Made("features", store.encoder_ids()[0]), request)
    assert [layer[1]["metadata"][KEY].kind for layer in layers] == ["features", "tiles", "tissue"]


def test_regions_are_the_same_however_they_are_written():
    """To a tenth of a px."""
    assert region_of([np.array([[1.04, 2.0], [3, 4.06]])]) == (((1.0, 2.0), (3.0, 4.1)),)
