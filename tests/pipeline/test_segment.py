"""A slide through windows: every object once, in its place, whatever windows, tissue and damage there are."""

from dataclasses import replace

import numpy as np
import pytest
import zarr

from tests.support.painted_slides import NUCLEUS, STEP, STROMA, ByColour, paint, scatter, segment
from wsi_umedpt.errors import OptionError, SlideError, StoreError
from wsi_umedpt.models.cards import EncoderCard
from wsi_umedpt.models.encoder import Encoder
from wsi_umedpt.pipeline.embed import encode_slide
from wsi_umedpt.pipeline.plan import plan_segmentation
from wsi_umedpt.pipeline.prepare import PreparedSlide
from wsi_umedpt.pipeline.segment import SegmentTask
from wsi_umedpt.pipeline.task import Progress
from wsi_umedpt.segmentation.object_stats import slide_row
from wsi_umedpt.segmentation.row_stream import Stitcher
from wsi_umedpt.settings import RunSettings, TileOptions
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.store.label_pyramid import read_labels
from wsi_umedpt.store.objects import Objects
from wsi_umedpt.store.objects_io import read_object_vectors, read_objects
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.verify import problems_of

WINDOWS = TileSpec(size_px=224, stride_px=160, mpp=0.5)


def nearest(objects: Objects, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of the true centres is nearest to each object, and how far away it is."""
    apart = np.linalg.norm(objects.centroid[:, None] - centres[None], axis=2)
    return apart.argmin(1), apart.min(1, initial=np.inf)


def objects_in(path) -> Objects:
    assert problems_of(path) == []
    return read_objects(SlideStore.open(path))[0]


def label_of(path) -> np.ndarray:
    return np.asarray(read_labels(path / "labels" / "nuclei").levels[0].array[...])


@pytest.mark.parametrize("boxes", [False, True], ids=["pixels", "pixels-and-boxes"])
def test_every_nucleus_is_found_once_in_its_place(painted, tmp_path, boxes):
    """On every line where windows begin, end and meet; centroids to a pixel, areas to 20 % each and 2 % in all."""
    done = segment(painted, tmp_path / "a.zarr", ByColour(boxes=boxes))
    objects = objects_in(tmp_path / "a.zarr")
    which, apart = nearest(objects, painted.centres)
    assert sorted(which.tolist()) == list(range(len(painted.centres)))
    assert done.objects == {"nuclei": len(objects)}
    assert apart.max() < 1
    true = np.pi * (painted.radii[which] * 0.5) ** 2
    assert np.abs(objects.measure("area_um2") / true - 1).max() < 0.2
    assert abs(objects.measure("area_um2").sum() / true.sum() - 1) < 0.02
    labels = label_of(tmp_path / "a.zarr")
    assert labels.shape == painted.size[::-1]
    assert all(labels[int(y), int(x)] == 1 for x, y in painted.centres)
    assert abs(labels.sum() * 0.25 / objects.measure("area_um2").sum() - 1) < 0.01
    assert (objects.measure("hematoxylin") > objects.measure("eosin")).all()


def test_boxes_alone_are_found_once(painted, tmp_path):
    """A head of boxes has no label image; a box that two windows see, or that one cuts, is there once and whole."""
    segment(painted, tmp_path / "a.zarr", ByColour(pixels=False, boxes=True))
    objects = objects_in(tmp_path / "a.zarr")
    which, apart = nearest(objects, painted.centres)
    assert sorted(which.tolist()) == list(range(len(painted.centres)))
    assert apart.max() < 1
    boxes = objects.boxes()
    assert np.abs((boxes[:, 2:] - boxes[:, :2]) / 2 - painted.radii[which, None]).max() < 1.5
    assert np.isnan(objects.measures).all()
    assert not (tmp_path / "a.zarr" / "labels").exists()


@pytest.mark.parametrize("missing", [(0, 0), (1, 0), (0, 1), (1, 1)], ids=str)
def test_where_a_window_is_left_out_its_neighbours_share_the_corner(painted, tmp_path, missing):
    """Three windows around a corner: what lies in it is found by two or three of them, and counted once."""
    tissue = painted.tissue(everywhere=False)
    for col, row in {(0, 0), (1, 0), (0, 1), (1, 1)} - {missing}:
        x, y = (2 + 13 * col), (2 + 13 * row)  # where no other window reaches
        tissue.mask[y : y + 2, x : x + 2] = True
    spec = TileSpec(size_px=224, stride_px=160, mpp=0.5, min_tissue=0.001)
    with open_slide(painted.path) as slide:
        windows = lay_grid(slide.size, slide.mpp, spec, within=tissue, whole=False)
    cells = {(x // 160, y // 160) for x, y in windows.xy.tolist()}
    assert missing not in cells
    segment(painted, tmp_path / "a.zarr", ByColour(pixels=False, boxes=True), tissue=tissue, spec=spec)
    objects = objects_in(tmp_path / "a.zarr")
    whole = [
        i
        for i, ((x, y), r) in enumerate(zip(painted.centres, painted.radii, strict=True))
        if any(left + r < x < left + 224 - r and top + r < y < top + 224 - r for left, top in windows.xy.tolist())
    ]
    which, apart = nearest(objects, painted.centres)
    assert set(whole) <= set(which[apart < 1].tolist())
    assert len(set(which.tolist())) == len(which)


def test_of_a_drawn_region_its_own_nuclei_are_counted(painted, tmp_path):
    """Windows reach beyond it: what lies there is no part of the count, nor of the density per mm2 of the region."""
    found = painted.tissue(everywhere=False)
    found.mask[10:20, 12:30] = True
    drawn = replace(found, method="geojson")
    done = segment(painted, tmp_path / "drawn.zarr", tissue=drawn)
    segment(painted, tmp_path / "found.zarr", tissue=found)
    inside, windows = objects_in(tmp_path / "drawn.zarr"), objects_in(tmp_path / "found.zarr")
    x, y = windows.centroid.T
    there = (x >= 12 * STEP) & (x < 30 * STEP) & (y >= 10 * STEP) & (y < 20 * STEP)
    assert 0 < there.sum() < len(windows)
    assert np.array_equal(inside.centroid, windows.centroid[there])
    assert done.objects == {"nuclei": len(inside)}
    row = slide_row(SlideStore.open(tmp_path / "drawn.zarr"))
    mm2 = 180 * (STEP * 0.5 / 1000) ** 2
    assert row["nucleus_per_mm2"] == pytest.approx(len(inside) / mm2)


def test_a_finer_slide_gives_level_0_positions(tmp_path, rng):
    """Segmented at half its resolution, a slide's objects lie where they are at level 0."""
    slide = paint(tmp_path / "fine.svs", (1000, 800), scatter((1000, 800), 300, rng, 2.0), mpp=0.25)
    segment(slide, tmp_path / "a.zarr")
    objects = objects_in(tmp_path / "a.zarr")
    which, apart = nearest(objects, slide.centres)
    assert sorted(which.tolist()) == list(range(len(slide.centres)))
    assert apart.max() < 1
    assert abs(objects.measure("area_um2").sum() / (np.pi * (slide.radii * 0.25) ** 2).sum() - 1) < 0.02
    image = read_labels(tmp_path / "a.zarr" / "labels" / "nuclei")
    assert image.levels[0].array.shape == (400, 500)
    assert image.levels[0].scale == 2.0


def test_a_slide_without_tissue_is_whole_and_empty(painted, tmp_path):
    """No windows, no objects, an empty label image and an embedding without rows; the store can be read."""
    done = segment(painted, tmp_path / "a.zarr", tissue=painted.tissue(everywhere=False), embed=True)
    assert (done.tiles, done.changed, done.objects) == (0, True, {"nuclei": 0})
    assert len(objects_in(tmp_path / "a.zarr")) == 0
    assert not label_of(tmp_path / "a.zarr").any()
    assert SlideStore.open(tmp_path / "a.zarr").features().features.shape == (0, 16)


def test_a_slide_smaller_than_a_window_is_found(tmp_path):
    """Its one window goes on in white; it has no tiles to be embedded."""
    slide = paint(tmp_path / "tiny.svs", (99, 75), np.array([[30.0, 30, 8], [80, 50, 10]]))
    done = segment(slide, tmp_path / "a.zarr", embed=True)
    objects = objects_in(tmp_path / "a.zarr")
    assert (done.tiles, len(objects)) == (1, 2)
    assert nearest(objects, slide.centres)[1].max() < 1
    assert label_of(tmp_path / "a.zarr").shape == (75, 99)


def test_one_window_far_down_is_found_and_nothing_else(tmp_path, rng, monkeypatch):
    """What has no windows has no objects, and takes no memory: rows without windows are never held together."""
    heights = []

    def add(self, rows, *arguments, **options):
        heights.append(len(rows.image))
        return stitch(self, rows, *arguments, **options)

    stitch = Stitcher.add
    monkeypatch.setattr(Stitcher, "add", add)
    slide = paint(tmp_path / "tall.svs", (300, 2600), scatter((300, 2600), 400, rng))
    tissue = slide.tissue(everywhere=False)
    tissue.mask[2080 // 16 : 2304 // 16, :14] = True
    spec = TileSpec(size_px=224, stride_px=160, min_tissue=0.9)
    done = segment(slide, tmp_path / "a.zarr", tissue=tissue, spec=spec)
    objects = objects_in(tmp_path / "a.zarr")
    assert done.tiles == 1
    assert max(heights) <= 225  # a row waits for the next
    x, y = slide.centres.T
    inside = (x + slide.radii < 220) & (y - slide.radii > 2084) & (y + slide.radii < 2300)
    which, _ = nearest(objects, slide.centres)
    assert set(np.flatnonzero(inside).tolist()) <= set(which.tolist())
    assert len(set(which.tolist())) == len(which)
    labels = label_of(tmp_path / "a.zarr")
    assert labels[2080:2304, :224].any()
    assert not labels[:2080].any()
    assert not labels[:, 224:].any()


def test_damage_is_recorded_and_leaves_the_rest_alone(painted, damaged, tmp_path):
    """Windows that cannot be read are listed; objects that no such window shows are what they were."""
    segment(painted, tmp_path / "whole.zarr")
    done = segment(damaged, tmp_path / "bad.zarr", max_unreadable=0.5)
    whole, bad = objects_in(tmp_path / "whole.zarr"), objects_in(tmp_path / "bad.zarr")
    unreadable = read_objects(SlideStore.open(tmp_path / "bad.zarr"))[1]["unreadable"]
    assert done.unreadable == len(unreadable) > 0
    assert all(x < 512 and x + 224 > 256 and y < 512 and y + 224 > 256 for x, y in unreadable)
    x, y = whole.centroid.T
    touched = np.any([(x > a - 12) & (x < a + 236) & (y > b - 12) & (y < b + 236) for a, b in unreadable], axis=0)
    far = {tuple(p) for p in whole.centroid[~touched].tolist()}
    assert far <= {tuple(p) for p in bad.centroid.tolist()}
    assert 0 < len(bad) < len(whole)


def test_too_much_damage_fails_the_slide(damaged, tmp_path):
    """With the place of the first window; nothing is left that looks like a store."""
    with pytest.raises(SlideError, match=r"windows cannot be read .*level-0 px \[160, 160\]"):
        segment(damaged, tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_batches_of_which_nothing_can_be_read_lose_no_rows(damaged, tmp_path, batch_size):
    """Embeddings stay in step with their tiles where a whole batch is damaged."""
    segment(damaged, tmp_path / "a.zarr", embed=True, max_unreadable=0.5, batch_size=batch_size)
    assert problems_of(tmp_path / "a.zarr") == []
    store = SlideStore.open(tmp_path / "a.zarr")
    assert 0 < store.status().sum() < len(store.grid())
    assert np.isfinite(store.features().features).all()


class Pixels:
    """An engine that embeds a tile as a few of its pixels."""

    def submit(self, pixels, part_done=None):
        """Embed at once."""
        return lambda: pixels[:, ::56, ::56, 1].reshape(len(pixels), -1).astype(np.float32)


def test_features_are_those_of_an_embedding_run(damaged, tmp_path):
    """In one pass with objects, or alone: the same tiles, the same rows, the same status."""
    segment(damaged, tmp_path / "a.zarr", embed=True, max_unreadable=0.5)
    card = EncoderCard(
        name="means",
        architecture="",
        mpp=0.5,
        size_px=224,
        dim=16,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        licence="-",
        source="-",
    )
    encoder = Encoder(card, "torch", "cpu", "fp32", Pixels())
    with open_slide(damaged.path) as slide:
        tissue = damaged.tissue()
        grid = lay_grid(slide.size, slide.mpp, WINDOWS, within=tissue)
        with SlideStore.create(tmp_path / "b.zarr", slide, tissue, grid) as store:
            encode_slide(slide, store, encoder, settings=RunSettings(max_unreadable=0.5))
    a, b = (SlideStore.open(tmp_path / f"{name}.zarr") for name in "ab")
    assert np.array_equal(a.status(), b.status())
    assert np.array_equal(a.features().features, b.features().features)
    assert np.array_equal(a.features().xy, b.features().xy)


def test_doing_it_again_does_nothing(painted, tmp_path):
    """A store that holds the objects is left as it is, to the byte, and no window is run."""
    path = tmp_path / "a.zarr"
    segment(painted, path)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    again = segment(painted, path)
    assert (again.fresh, again.changed) == (0, False)
    assert again.objects["nuclei"] == len(objects_in(path))
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before
    assert not path.with_name("a.zarr.partial").exists()


def test_objects_are_added_to_a_store_of_features_and_the_other_way(painted, tmp_path):
    """Each pass adds what is missing; a store of objects alone has no grid, and is a store."""
    path = tmp_path / "a.zarr"
    segment(painted, path)
    assert SlideStore.open(path).grid_ids == []
    assert problems_of(path) == []
    segment(painted, path, embed=True)
    assert SlideStore.open(path).encoder_ids() == ["means"]
    assert problems_of(path) == []
    group = zarr.open_group(path, mode="r")
    assert dict(group["labels"].attrs)["ome"]["labels"] == ["nuclei"]
    assert group["detections/nuclei/centroid"].shape == (len(painted.centres), 2)


def test_objects_made_otherwise_are_refused(painted, tmp_path):
    """Another model, or other windows: the store keeps what it has, and says what differs."""
    path = tmp_path / "a.zarr"
    segment(painted, path)
    with pytest.raises(StoreError, match="objects 'nuclei' made with another model"):
        segment(painted, path, made_by="another")
    with pytest.raises(StoreError, match="made with another spec"):
        segment(painted, path, spec=TileSpec(size_px=256, stride_px=160, mpp=0.5))


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(TileSpec(size_px=100, stride_px=50), id="no-multiple-of-32"),
        pytest.param(TileSpec(size_px=96, stride_px=51), id="odd-stride"),
        pytest.param(TileSpec(size_px=96, stride_px=128), id="gaps-between-windows"),
    ],
)
def test_windows_that_no_head_can_use_are_refused(painted, tmp_path, spec):
    """Before anything is read."""
    with pytest.raises(OptionError, match="multiple of 32"):
        segment(painted, tmp_path / "a.zarr", spec=spec)


@pytest.mark.parametrize("overlap", [0, 32, 128])
def test_objects_do_not_depend_on_how_far_windows_overlap(painted, tmp_path, overlap):
    """Even windows that only touch find every nucleus once: chances are joined before objects are made."""
    spec = TileSpec(size_px=224, stride_px=224 - overlap, mpp=0.5)
    segment(painted, tmp_path / "a.zarr", spec=spec, batch_size=8)
    which, apart = nearest(objects_in(tmp_path / "a.zarr"), painted.centres)
    assert sorted(which.tolist()) == list(range(len(painted.centres)))
    assert apart.max() < 1


def test_a_mask_that_stops_at_the_edge_of_tissue_is_kept(painted, tmp_path):
    """The store holds the mask that windows were laid by."""
    width, height = painted.size
    tissue = TissueMask(np.arange(-(-width // 16)) < 20 * np.ones((-(-height // 16), 1)), 16, None, "drawn", {})
    segment(painted, tmp_path / "a.zarr", tissue=tissue)
    assert np.array_equal(SlideStore.open(tmp_path / "a.zarr").tissue().mask, tissue.mask)


def colours_of(path) -> np.ndarray:
    """Mean colours that objects' vectors hold: of the cells of 8 px that they cover."""
    return SlideStore.open(path).object_vectors()[:, :3]


@pytest.mark.parametrize(
    ("head", "apart"),
    [
        pytest.param({"pixels": True}, 0.33, id="pixels"),
        pytest.param({"pixels": False, "boxes": True}, 0.6, id="boxes-alone"),  # corners of boxes are stroma
    ],
)
def test_every_object_has_the_vector_of_its_own_place(painted, tmp_path, head, apart):
    """Row by row: nuclear colour where an object is large against a cell of the map; what made it stands beside it."""
    segment(painted, tmp_path / "a.zarr", ByColour(**head))
    objects, store = objects_in(tmp_path / "a.zarr"), SlideStore.open(tmp_path / "a.zarr")
    vectors, about = read_object_vectors(store, "nuclei")
    assert vectors.shape == (len(objects), 6)
    assert (about["maps"], about["channels"], about["mpp"]) == ([8, 32], [3, 3], 0.5)
    assert about["model"] == "by colour"
    wide = np.ptp(objects.boxes().reshape(-1, 2, 2), axis=1).min(1) > 19
    assert wide.sum() > 10
    colour = vectors[:, :3].astype(float)
    own, ground = (np.abs(colour[wide] - c).mean() for c in (NUCLEUS, STROMA))
    assert own < apart * ground


def test_vectors_of_a_drawn_region_are_those_of_its_objects(painted, tmp_path):
    """Objects beyond it are left out, and so are their vectors."""
    found = painted.tissue(everywhere=False)
    found.mask[10:20, 12:30] = True
    segment(painted, tmp_path / "drawn.zarr", tissue=replace(found, method="geojson"))
    segment(painted, tmp_path / "found.zarr", tissue=found)
    inside, windows = objects_in(tmp_path / "drawn.zarr"), objects_in(tmp_path / "found.zarr")
    rows = [np.flatnonzero((windows.centroid == c).all(1))[0] for c in inside.centroid]
    assert np.array_equal(colours_of(tmp_path / "drawn.zarr"), colours_of(tmp_path / "found.zarr")[rows])


def test_without_vectors_objects_are_the_same_and_asking_for_vectors_says_so(painted, tmp_path):
    """Vectors are an addition; a store without them, as of earlier versions, is read, and never silently passed by."""
    path = tmp_path / "a.zarr"
    segment(painted, path, ByColour(maps=False))
    segment(painted, tmp_path / "b.zarr")
    assert np.array_equal(objects_in(path).outline, objects_in(tmp_path / "b.zarr").outline)
    with pytest.raises(StoreError, match=r"holds 'nuclei' without vectors.*into another folder"):
        SlideStore.open(path).object_vectors()
    with pytest.raises(StoreError, match="without vectors, which cannot be added"):
        segment(painted, path)
    assert not segment(painted, tmp_path / "b.zarr", ByColour(maps=False)).changed  # it holds all that is asked for


@pytest.mark.parametrize(("finest", "stored"), [(0.25, 0.5), (0.5, 0.5), (1.0, 1.0)])
def test_windows_are_at_the_slides_scale_where_that_is_coarser(painted, tmp_path, finest, stored):
    """A head's own scale is the finest that is asked for; the same run again changes nothing."""
    spec = replace(WINDOWS, mpp=finest)
    task = SegmentTask(
        model=ByColour(), spec=spec, coarser=True, made_by={"model": "by colour"}, settings=RunSettings(readers=0)
    )
    path = tmp_path / "a.zarr"
    with open_slide(painted.path) as slide:
        assert [one.mpp for one in task.specs(slide.mpp)] == [stored]
        with PreparedSlide(slide, path, painted.tissue(), task.specs(slide.mpp), 0) as prepared:
            assert task.run(prepared, Progress()).changed
    store = SlideStore.open(path)
    assert read_objects(store)[1]["spec"]["mpp"] == stored
    assert not task.already_done(store).changed
    with pytest.raises(StoreError):
        replace(task, coarser=False, spec=replace(WINDOWS, mpp=2 * stored)).already_done(store)


def test_windows_have_the_scale_of_their_head():
    """Unless another is asked for, or they are embedded: those have the encoder's."""

    def scale(**asked):
        task = plan_segmentation(heads=["nuclei"], **asked)
        return task.spec.mpp, task.coarser

    assert scale() == (0.25, True)
    assert scale(embed=True) == (0.5, False)
    assert scale(tiles=TileOptions(tile_mpp=1.0)) == (1.0, False)
