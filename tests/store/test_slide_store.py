"""A store is whole or absent, reads back what was written, and refuses what does not belong to it."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.support import GOLDEN
from tests.support.encoders import MeanEngine, mean_encoder
from wsi_umedpt.errors import OptionError, SlideError, StoreBusyError, StoreError
from wsi_umedpt.models.encoder import Encoder
from wsi_umedpt.pipeline.embed import encode_slide
from wsi_umedpt.pipeline.task import Progress
from wsi_umedpt.settings import RunSettings
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.slides.tissue import TissueMask, find_tissue
from wsi_umedpt.store.partial import FeatureWriter
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.tissue_io import stored_tissue
from wsi_umedpt.store.verify import problems_of
from wsi_umedpt.store.zarr_io import read_array, write_array
from wsi_umedpt.testing import relist, tissue_image, write_pyramid

SPEC = TileSpec(size_px=64)


@pytest.fixture
def slide(small_svs):
    with open_slide(small_svs) as opened:
        yield opened


@pytest.fixture
def tissue(slide) -> TissueMask:
    return find_tissue(slide)


class Told(Progress):
    """Calls a function with tiles done and tiles in all."""

    def __init__(self, tell) -> None:
        self.tiles_done = tell


def embed(path: Path, slide, tissue, *encoders, spec: TileSpec = SPEC, progress=None, **settings):
    grid = lay_grid(slide.size, slide.mpp, spec, within=tissue)
    with SlideStore.create(path, slide, tissue, grid) as store:
        return encode_slide(
            slide, store, encoders or (mean_encoder(),), grid_id=spec.grid_id, settings=RunSettings(**settings),
            progress=Told(progress) if progress else None,
        )  # fmt: skip


def test_what_is_written_is_read_back(tmp_path, slide, tissue):
    """Grid, tissue, features and provenance, row for row."""
    result = embed(tmp_path / "a.zarr", slide, tissue)
    store = SlideStore.open(tmp_path / "a.zarr")
    grid = lay_grid(slide.size, slide.mpp, SPEC, within=tissue)
    bag = store.features("mean")
    assert (result.tiles, result.unreadable, result.fresh) == (len(grid), 0, len(grid))
    assert store.grid().spec == SPEC.from_dict(SPEC.to_dict())
    assert np.array_equal(store.grid().xy, grid.xy)
    assert np.array_equal(store.tissue().mask, tissue.mask)
    assert np.array_equal(store.tissue().thumbnail, tissue.thumbnail)
    plan = slide.plan(1.0, 64)
    for row in (0, 7, len(grid) - 1):
        tile = slide.read_tile(tuple(grid.xy[row].tolist()), (64, 64), plan)
        assert np.allclose(bag.features[row], mean_encoder().encode(tile[None])[0], rtol=1e-3)
    assert bag.slide_id == "a"
    made = store.feature_attrs("mean")
    assert {"card", "weights_sha256", "engine", "precision", "probe", "batch_size", "sha256"} <= set(made)
    assert store.attrs["slide"]["fingerprint"] == slide.fingerprint
    assert problems_of(store.path) == []


def test_any_zarr_reader_reads_it(tmp_path, slide, tissue):
    """It is plain zarr v3: zarr-python sees the arrays that `bag` reads."""
    embed(tmp_path / "a.zarr", slide, tissue)
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    bag = SlideStore.open(tmp_path / "a.zarr").features()
    found = group[f"grids/{SPEC.grid_id}/features/mean"]
    assert np.array_equal(found[...], bag.features)
    assert found.chunks == (1024, 48)
    assert dict(group.attrs)["schema"] == 2


@given(
    values=hnp.arrays(
        st.sampled_from(["float16", "float32", "int32", "uint8"]),
        hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=30),
    ),
)
@settings(max_examples=40, deadline=None)
def test_arrays_round_trip(tmp_path_factory, values):
    """Any shape, empty ones too."""
    path = tmp_path_factory.mktemp("array") / "a"
    write_array(path, values)
    found = read_array(path)
    assert found.dtype == values.dtype
    assert found.tobytes() == values.tobytes()
    assert np.array_equal(zarr.open_array(path, mode="r")[...], values, equal_nan=values.dtype.kind == "f")


def test_nothing_is_there_before_all_is(tmp_path, slide, tissue):
    """Until commit there is no .zarr folder; what is being made says so by its name."""
    grid = lay_grid(slide.size, slide.mpp, SPEC, within=tissue)
    with SlideStore.create(tmp_path / "a.zarr", slide, tissue, grid):
        assert not (tmp_path / "a.zarr").exists()
        assert (tmp_path / "a.zarr.partial").exists()
    with pytest.raises(StoreError, match=r"no store.*embed the slide again to resume it"):
        SlideStore.open(tmp_path / "a.zarr")


def test_a_renamed_partial_is_refused(tmp_path, slide, tissue):
    """Copying a half-made store to its final name does not make it whole."""
    grid = lay_grid(slide.size, slide.mpp, SPEC, within=tissue)
    with SlideStore.create(tmp_path / "a.zarr", slide, tissue, grid):
        shutil.copytree(tmp_path / "a.zarr.partial", tmp_path / "b.zarr")
        shutil.copytree(tmp_path / "a.zarr.partial" / "store", tmp_path / "c.zarr")
    with pytest.raises(StoreError, match="no store: it has no zarr"):
        SlideStore.open(tmp_path / "b.zarr")
    with pytest.raises(StoreError, match="not whole"):
        SlideStore.open(tmp_path / "c.zarr")


def test_two_encoders_and_two_grids_share_a_store(tmp_path, slide, tissue):
    """What was there before stays bit for bit; the root alone is written anew, as it lists what there is."""
    path = tmp_path / "a.zarr"
    embed(path, slide, tissue)
    before = {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    other = TileSpec(size_px=64, mpp=1.0)
    embed(path, slide, tissue, mean_encoder("twice", 2.0))
    embed(path, slide, tissue, mean_encoder(), spec=other)
    store = SlideStore.open(path)
    assert store.grid_ids == sorted([SPEC.grid_id, other.grid_id])
    assert store.encoder_ids(SPEC.grid_id) == ["mean", "twice"]
    assert np.allclose(store.features("twice").features, 2 * store.features("mean", SPEC.grid_id).features, rtol=1e-3)
    changed = [str(name) for name, content in before.items() if (path / name).read_bytes() != content]
    assert changed == ["zarr.json"]
    assert not path.with_name("a.zarr.partial").exists()
    assert problems_of(path) == []


def test_several_encoders_in_one_decoding_equal_each_alone(tmp_path, slide, tissue):
    """Together or one after the other: the same features."""
    embed(tmp_path / "a.zarr", slide, tissue, mean_encoder(), mean_encoder("twice", 2.0))
    embed(tmp_path / "b.zarr", slide, tissue, mean_encoder())
    embed(tmp_path / "b.zarr", slide, tissue, mean_encoder("twice", 2.0))
    for name in ("mean", "twice"):
        a, b = (SlideStore.open(tmp_path / f"{s}.zarr").features(name) for s in "ab")
        assert np.array_equal(a.features, b.features)


def test_doing_it_again_does_nothing(tmp_path, slide, tissue):
    """A whole store is left alone."""
    embed(tmp_path / "a.zarr", slide, tissue)
    again = embed(tmp_path / "a.zarr", slide, tissue)
    assert again.fresh == 0


def test_another_slide_is_refused(tmp_path, slide, tissue):
    """A store is never filled from two slides."""
    embed(tmp_path / "a.zarr", slide, tissue)
    image, _ = tissue_image(1500, 1100, seed=5)
    path = write_pyramid(tmp_path / "other.svs", image)
    with open_slide(path) as other, pytest.raises(StoreError, match="of another slide"):
        embed(tmp_path / "a.zarr", other, tissue)


def test_another_scale_is_refused(tmp_path, slide, tissue, small_svs):
    """Tiles at two scales of one slide are not mixed."""
    embed(tmp_path / "a.zarr", slide, tissue)
    with (
        open_slide(small_svs, mpp=0.25) as other,
        pytest.raises(StoreError, match=r"made at 0\.5 um/px.*Give `mpp` 0\.5"),
    ):
        embed(tmp_path / "a.zarr", other, tissue)


def test_another_mask_is_refused(tmp_path, slide, tissue):
    """A store says where tissue is once."""
    embed(tmp_path / "a.zarr", slide, tissue)
    smaller = TissueMask(tissue.mask & (np.arange(tissue.mask.shape[1]) < 20), tissue.step)
    with pytest.raises(StoreError, match="another tissue mask"):
        embed(tmp_path / "a.zarr", slide, smaller)


def test_a_mask_already_made_is_found_again(tmp_path, slide, tissue, small_svs):
    """In a store, or in unfinished work; not if it was made otherwise, or at another scale."""
    grid, path = lay_grid(slide.size, slide.mpp, SPEC, within=tissue), tmp_path / "a.zarr"
    asked = tissue.method, tissue.parameters
    assert stored_tissue(path, slide, *asked) is None
    with SlideStore.create(path, slide, tissue, grid) as store:
        assert np.array_equal(stored_tissue(path, slide, *asked).thumbnail, tissue.thumbnail)
        encode_slide(slide, store, mean_encoder())
    assert np.array_equal(stored_tissue(path, slide, *asked).mask, tissue.mask)
    assert stored_tissue(path, slide, "png", {"file": "mask.png"}) is None
    with open_slide(small_svs, mpp=0.25) as other:
        assert stored_tissue(path, other, *asked) is None


@pytest.mark.parametrize(
    ("node", "lacking"),
    [("tissue", "parameters"), ("tissue", "step"), ("", "slide"), (".slide", "fingerprint")],
    ids=lambda words: words or "root",
)
def test_a_mask_of_another_program_is_named(tmp_path, slide, tissue, node, lacking):
    """A store whose tissue, or slide, is not described as ours are is refused in words."""
    path = tmp_path / "a.zarr"
    embed(path, slide, tissue)
    meta = path / node.partition(".")[0] / "zarr.json"
    content = json.loads(meta.read_text())
    attributes = content["attributes"]
    del (attributes["slide"] if node == ".slide" else attributes)[lacking]
    meta.write_text(json.dumps(content))
    relist(path)
    assert stored_tissue(path, slide, tissue.method, tissue.parameters) is None
    with pytest.raises(StoreError, match=r"another program's|no store of wsi_umedpt"):
        embed(path, slide, tissue)


def test_a_store_is_written_by_one_process_at_a_time(tmp_path, slide, tissue):
    """The second is told so at once."""
    grid = lay_grid(slide.size, slide.mpp, SPEC, within=tissue)
    with SlideStore.create(tmp_path / "a.zarr", slide, tissue, grid):
        second = SlideStore.create(tmp_path / "a.zarr", slide, tissue, grid)
        with pytest.raises(StoreBusyError, match="another process"), second:
            pass


def test_other_settings_begin_anew(tmp_path, slide, tissue, monkeypatch):
    """Rows made with another batch size are not gone on with: their bits may differ."""
    monkeypatch.setattr("wsi_umedpt.store.slide_store.CHUNK_ROWS", 16)

    def stop(done: int, total: int) -> None:
        if done >= 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path / "a.zarr", slide, tissue, batch_size=16, progress=stop)
    seen = []
    result = embed(tmp_path / "a.zarr", slide, tissue, batch_size=8, progress=lambda done, _: seen.append(done))
    assert seen[0] == 8
    assert result.fresh == result.tiles


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 16 rows, so that a small slide has many."""
    monkeypatch.setattr("wsi_umedpt.store.slide_store.CHUNK_ROWS", 16)


def stop_at(rows: int):
    """A progress callback that interrupts like Ctrl-C when so many rows are done."""

    def progress(done: int, _: int) -> None:
        if done >= rows:
            raise KeyboardInterrupt

    return progress


def files_of(store: Path) -> dict[str, bytes]:
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}


class CountingEngine(MeanEngine):
    """Counts the tiles it embeds."""

    tiles = 0

    def submit(self, pixels, part_done=None):
        """Embed at once."""
        self.tiles += len(pixels)
        return super().submit(pixels)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("there", [False, True], ids=["new-store", "store-with-another-encoder"])
@pytest.mark.parametrize("same_grid", [False, True], ids=["another-grid", "same-grid"])
def test_growing_features_survive_the_commit_of_another_encoder(tmp_path, slide, tissue, there, same_grid):
    """B is stopped, A is finished, B goes on: only what was missing is embedded, and no byte tells of the stop."""
    other = SPEC if same_grid else TileSpec(size_px=64, mpp=1.0)
    for name, stopped in {"plain.zarr": False, "stopped.zarr": True}.items():
        path = tmp_path / name
        if there:
            embed(path, slide, tissue, mean_encoder("zero", 0.5), batch_size=16)
        if stopped:
            with pytest.raises(KeyboardInterrupt):
                embed(path, slide, tissue, mean_encoder("b", 2.0), batch_size=16, progress=stop_at(64))
        embed(path, slide, tissue, mean_encoder("a"), spec=other, batch_size=16)
        assert path.with_name(f"{name}.partial").exists() == stopped
        assert problems_of(path) == []
        encoder = mean_encoder("b", 2.0)
        encoder = dataclasses.replace(encoder, _engine=CountingEngine(2.0))
        assert encoder.made_by  # embeds its probe
        encoder._engine.tiles = 0
        result = embed(path, slide, tissue, encoder, batch_size=16)
        assert result.fresh == encoder._engine.tiles == result.tiles - (64 if stopped else 0)
        assert not path.with_name(f"{name}.partial").exists()
    assert files_of(tmp_path / "stopped.zarr") == files_of(tmp_path / "plain.zarr")


@pytest.mark.usefixtures("small_chunks")
def test_growing_features_of_other_tiles_are_not_gone_on_with(tmp_path, slide, tissue):
    """As many tiles elsewhere are other tiles: a store that was replaced by hand does not mix rows."""
    left, right = (TissueMask(np.zeros((35, 47), bool), step=32) for _ in range(2))
    left.mask[:, :20], right.mask[:, -21:-1] = True, True
    embed(tmp_path / "a.zarr", slide, left, mean_encoder("a"), batch_size=16)
    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path / "a.zarr", slide, left, mean_encoder("b"), batch_size=16, progress=stop_at(64))
    tiles = len(SlideStore.open(tmp_path / "a.zarr").grid())
    shutil.rmtree(tmp_path / "a.zarr")
    embed(tmp_path / "other" / "a.zarr", slide, right, mean_encoder("a"), batch_size=16)
    shutil.move(tmp_path / "other" / "a.zarr", tmp_path / "a.zarr")
    result = embed(tmp_path / "a.zarr", slide, right, mean_encoder("b"), batch_size=16)
    assert result.fresh == result.tiles == tiles


def counting_encoder() -> Encoder:
    """One whose engine counts the tiles that it embeds for a slide."""
    encoder = dataclasses.replace(mean_encoder(), _engine=CountingEngine())
    assert encoder.made_by  # embeds its probe
    encoder._engine.tiles = 0
    return encoder


@pytest.mark.parametrize("stops", [[16], [16, 48], [64, 80, 96]], ids=["first-batch", "twice", "three-times"])
def test_what_was_embedded_is_kept_from_the_first_batch_on(tmp_path, slide, tissue, stops):
    """Also of a slide of fewer tiles than a chunk holds: each tile is embedded once, and no byte tells of the stops."""
    plain = embed(tmp_path / "plain.zarr", slide, tissue, batch_size=16)
    assert plain.tiles < 1024
    done = 0
    for rows in stops:
        with pytest.raises(KeyboardInterrupt):
            embed(tmp_path / "a.zarr", slide, tissue, batch_size=16, progress=stop_at(rows))
        done = rows
    encoder, told = counting_encoder(), []
    result = embed(tmp_path / "a.zarr", slide, tissue, encoder, batch_size=16, progress=lambda now, _: told.append(now))
    assert told[0] == done, "what is there counts from the start"
    assert result.fresh == encoder._engine.tiles == result.tiles - done
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "plain.zarr")


class EndedError(BaseException):
    """The process ends, as by SIGKILL: nothing is written any more."""


def test_what_a_killed_run_embedded_is_kept_every_few_seconds(tmp_path, slide, tissue, monkeypatch):
    """The first batch at once, then by the clock; where the file of it is damaged, it is embedded again."""
    embed(tmp_path / "plain.zarr", slide, tissue, batch_size=16)
    for name, harm, kept in (("whole", None, 16), ("torn", lambda path: path.write_bytes(path.read_bytes()[:99]), 0)):
        path = tmp_path / f"{name}.zarr"

        def stop(now: int, _: int) -> None:
            if now >= 48:
                raise EndedError

        monkeypatch.setattr("wsi_umedpt.pipeline.embed._keep", lambda *_: None)
        with pytest.raises(EndedError):
            embed(path, slide, tissue, batch_size=16, progress=stop)
        (rows,) = tmp_path.glob(f"{name}.zarr.partial/growing/*/*/rows-0.npy")
        if harm:
            harm(rows)
        encoder = counting_encoder()
        result = embed(path, slide, tissue, encoder, batch_size=16)
        assert encoder._engine.tiles == result.tiles - kept
        assert files_of(path) == files_of(tmp_path / "plain.zarr")


def test_rows_that_are_kept_fit_the_batches_of_the_run_that_goes_on(tmp_path, slide, tissue):
    """Batches are those of an uninterrupted run: what lies beyond the last whole one is embedded again."""
    grid = lay_grid(slide.size, slide.mpp, SPEC, within=tissue)
    encoder = counting_encoder()
    with SlideStore.create(tmp_path / "a.zarr", slide, tissue, grid) as store:
        writer = store.writer(encoder.name, SPEC.grid_id, encoder.dim, {**encoder.made_by, "batch_size": 16})
        writer.append(np.ones((21, encoder.dim), np.float32), np.ones(21, bool))
    result = embed(tmp_path / "a.zarr", slide, tissue, encoder, batch_size=16)
    assert encoder._engine.tiles == result.tiles - 16
    assert (SlideStore.open(tmp_path / "a.zarr").features().features[:17, 0] == 1).tolist() == [True] * 16 + [False]


def kill_at(monkeypatch, name: str) -> None:
    """Stop the next run when it comes to a method of `FeatureWriter` or `SlideStore`."""

    def stop(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    owner = FeatureWriter if name == "finish" else SlideStore
    monkeypatch.setattr(owner, name, stop)


@pytest.mark.parametrize("killed", ["finish", "commit"])
def test_a_mended_disk_ends_what_a_failing_one_began(tmp_path, small_svs, killed, monkeypatch):
    """A status that only a stopped run wrote binds nobody: tiles that can be read now are embedded."""
    path, mask = tmp_path / "s.svs", TissueMask(np.ones((35, 47), bool), step=32)
    shutil.copy(small_svs, path)
    with open_slide(path) as slide:  # its fingerprint is taken before the disk fails
        assert slide.fingerprint
        damage(path, 9)
        kill_at(monkeypatch, killed)
        with pytest.raises(KeyboardInterrupt):
            embed(tmp_path / "a.zarr", slide, mask, max_unreadable=0.2)
        work = tmp_path / "a.zarr.partial" / "store" / "grids" / SPEC.grid_id
        assert read_array(work / "status").any()
    shutil.copy(small_svs, path)
    with open_slide(path) as slide:
        result = embed(tmp_path / "a.zarr", slide, mask)
        embed(tmp_path / "b.zarr", slide, mask)
    assert result.unreadable == 0
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "b.zarr")


def test_features_that_are_not_finite_stop_the_slide(tmp_path, slide, tissue):
    """NaN marks unreadable tiles and nothing else."""
    with pytest.raises(StoreError, match="not finite"):
        embed(tmp_path / "a.zarr", slide, tissue, mean_encoder(scale=float("nan")))
    assert not (tmp_path / "a.zarr").exists()


def test_features_beyond_float16_stop_the_slide(tmp_path, slide, tissue):
    """They are not stored as infinity."""
    with pytest.raises(StoreError, match="range of float16"):
        embed(tmp_path / "b.zarr", slide, tissue, mean_encoder(scale=1e4))


@pytest.mark.parametrize("batch_size", [0, 3, 100, 2048])
def test_batches_must_fit_chunks(tmp_path, slide, tissue, batch_size):
    """Else a resumed run would compute other batches than an uninterrupted one."""
    with pytest.raises(OptionError, match="must divide 1024"):
        embed(tmp_path / "a.zarr", slide, tissue, batch_size=batch_size)


def damage(path: Path, page_tile: int) -> None:
    import tifffile

    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages[0].dataoffsets[page_tile], tif.pages[0].databytecounts[page_tile]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count))


def test_unreadable_tiles_are_left_out_of_the_bag(tmp_path, small_svs):
    """They are in the store's status, never among the features."""
    path = tmp_path / "bad.svs"
    shutil.copy(small_svs, path)
    damage(path, 9)
    with open_slide(path) as slide:
        mask = TissueMask(np.ones((35, 47), bool), step=32)
        result = embed(tmp_path / "a.zarr", slide, mask, max_unreadable=0.2)
    store = SlideStore.open(tmp_path / "a.zarr")
    bad = np.flatnonzero(store.status())
    bag = store.features()
    assert 0 < result.unreadable == len(bad) < 40
    assert set(bag.index.tolist()) == set(range(result.tiles)) - set(bad.tolist())
    assert np.isfinite(bag.features).all()
    assert np.array_equal(bag.xy, store.grid().xy[bag.index])


def test_too_many_unreadable_tiles_fail_the_slide(tmp_path, small_svs):
    """With where the first one is, and what to do."""
    path = tmp_path / "bad.svs"
    shutil.copy(small_svs, path)
    for tile in (7, 8, 9, 13, 14):
        damage(path, tile)
    with open_slide(path) as slide, pytest.raises(SlideError, match=r"cannot be read \(allowed.*`max_unreadable`"):
        embed(tmp_path / "a.zarr", slide, find_tissue(slide))
    assert not (tmp_path / "a.zarr").exists()


def test_a_slide_without_tissue_gives_an_empty_store(tmp_path, slide, tissue):
    """Zero tiles are a result, not an error."""
    nothing = TissueMask(np.zeros_like(tissue.mask), tissue.step)
    result = embed(tmp_path / "a.zarr", slide, nothing)
    store = SlideStore.open(tmp_path / "a.zarr")
    assert result.tiles == 0
    assert store.features("mean").features.shape == (0, 48)
    assert problems_of(store.path) == []


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        pytest.param({"encoder_id": "other"}, "no features of other.*It holds: mean", id="encoder"),
        pytest.param({"grid_id": "other"}, "no grid other.*It holds: 64px", id="grid"),
    ],
)
def test_asking_for_what_is_not_there_says_what_is(tmp_path, slide, tissue, ask, reason):
    """By name."""
    embed(tmp_path / "a.zarr", slide, tissue)
    with pytest.raises(StoreError, match=reason):
        SlideStore.open(tmp_path / "a.zarr").features(**ask)


def test_a_newer_schema_is_refused(tmp_path, slide, tissue):
    """Rather than misread."""
    embed(tmp_path / "a.zarr", slide, tissue)
    root = tmp_path / "a.zarr" / "zarr.json"
    meta = json.loads(root.read_text())
    meta["attributes"]["schema"] = 3
    root.write_text(json.dumps(meta))
    with pytest.raises(StoreError, match="schema 3; this version reads up to 2"):
        SlideStore.open(tmp_path / "a.zarr")


def test_stores_of_schema_1_are_read_for_ever():
    """The golden store was written by the first version; docs/reference/store.md describes it."""
    store = SlideStore.open(GOLDEN / "store_v1.zarr")
    bag = store.features("mean")
    assert problems_of(GOLDEN / "store_v1.zarr") == []
    assert (len(store.grid()), bag.features.shape, int(store.status().sum())) == (12, (11, 4), 1)
    assert store.grid().spec == TileSpec(size_px=64, stride_px=64)
    assert store.tissue().step == 32
    assert np.allclose(bag.features[:, 0], bag.index / 4)


def test_a_writer_that_goes_on_writes_rows_of_zeros_too(tmp_path):
    """Zarr omits chunks that hold only the fill value, unless the setting is given again where it opens an array."""
    rows, ok = np.zeros((16, 4), np.float32), np.ones(16, bool)
    asked = (tmp_path / "growing", tmp_path / "final", (32, 4), {"by": 1}, {"of": 1}, 16)
    FeatureWriter(*asked).append(rows + 1, ok)
    second = FeatureWriter(*asked)
    assert second.next_row == 16
    second.append(rows, ok)
    second.finish()
    assert np.array_equal(
        zarr.open_array(tmp_path / "final", mode="r")[:], np.repeat([[1.0], [0.0]], 16, 0) * np.ones(4)
    )


def test_other_chunks_begin_anew(tmp_path):
    """Also where no chunk was whole yet: rows would lie in another file than they are looked for."""
    where, origin = (tmp_path / "growing", tmp_path / "final", (64, 4)), ({"by": 1}, {"of": 1})
    FeatureWriter(*where, *origin, 32).append(np.ones((8, 4), np.float32), np.ones(8, bool))
    assert FeatureWriter(*where, *origin, 32).next_row == 8
    assert FeatureWriter(*where, *origin, 16).next_row == 0
