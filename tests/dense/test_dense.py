"""A slide through windows: every object once, in its place, whatever windows, tissue and damage there are."""

import numpy as np
import pytest
import zarr

from wsi_umedpt.encode import encode_slide
from wsi_umedpt.errors import OptionError, SlideError, StoreError
from wsi_umedpt.found import read_objects
from wsi_umedpt.labels import read_labels
from wsi_umedpt.models.cards import EncoderCard
from wsi_umedpt.models.encoder import Encoder
from wsi_umedpt.objects import Objects
from wsi_umedpt.slide import open_slide
from wsi_umedpt.stitching import Stitcher
from wsi_umedpt.store import SlideStore
from wsi_umedpt.tiling import TileSpec, lay_grid
from wsi_umedpt.tissue import TissueMask
from wsi_umedpt.verify import problems_of

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
def test_every_nucleus_is_found_once_in_its_place(painted, segment, by_colour, tmp_path, boxes):
    """On every line where windows begin, end and meet; centroids to a pixel, areas to 20 % each and 2 % in all."""
    done = segment(painted, tmp_path / "a.zarr", by_colour(boxes=boxes))
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


def test_boxes_alone_are_found_once(painted, segment, by_colour, tmp_path):
    """A head of boxes has no label image; a box that two windows see, or that one cuts, is there once and whole."""
    segment(painted, tmp_path / "a.zarr", by_colour(pixels=False, boxes=True))
    objects = objects_in(tmp_path / "a.zarr")
    which, apart = nearest(objects, painted.centres)
    assert sorted(which.tolist()) == list(range(len(painted.centres)))
    assert apart.max() < 1
    boxes = objects.boxes()
    assert np.abs((boxes[:, 2:] - boxes[:, :2]) / 2 - painted.radii[which, None]).max() < 1.5
    assert np.isnan(objects.measures).all()
    assert not (tmp_path / "a.zarr" / "labels").exists()


@pytest.mark.parametrize("missing", [(0, 0), (1, 0), (0, 1), (1, 1)], ids=str)
def test_where_a_window_is_left_out_its_neighbours_share_the_corner(painted, segment, by_colour, tmp_path, missing):
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
    segment(painted, tmp_path / "a.zarr", by_colour(pixels=False, boxes=True), tissue=tissue, spec=spec)
    objects = objects_in(tmp_path / "a.zarr")
    whole = [
        i
        for i, ((x, y), r) in enumerate(zip(painted.centres, painted.radii, strict=True))
        if any(left + r < x < left + 224 - r and top + r < y < top + 224 - r for left, top in windows.xy.tolist())
    ]
    which, apart = nearest(objects, painted.centres)
    assert set(whole) <= set(which[apart < 1].tolist())
    assert len(set(which.tolist())) == len(which)


def test_a_finer_slide_gives_level_0_positions(paint_slide, scatter_disks, segment, tmp_path, rng):
    """Segmented at half its resolution, a slide's objects lie where they are at level 0."""
    slide = paint_slide(tmp_path / "fine.svs", (1000, 800), scatter_disks((1000, 800), 300, rng, 2.0), mpp=0.25)
    segment(slide, tmp_path / "a.zarr")
    objects = objects_in(tmp_path / "a.zarr")
    which, apart = nearest(objects, slide.centres)
    assert sorted(which.tolist()) == list(range(len(slide.centres)))
    assert apart.max() < 1
    assert abs(objects.measure("area_um2").sum() / (np.pi * (slide.radii * 0.25) ** 2).sum() - 1) < 0.02
    image = read_labels(tmp_path / "a.zarr" / "labels" / "nuclei")
    assert image.levels[0].array.shape == (400, 500)
    assert image.levels[0].scale == 2.0


def test_a_slide_without_tissue_is_whole_and_empty(painted, segment, tmp_path):
    """No windows, no objects, an empty label image and an embedding without rows; the store can be read."""
    done = segment(painted, tmp_path / "a.zarr", tissue=painted.tissue(everywhere=False), embed=True)
    assert (done.windows, done.added, done.objects) == (0, True, {"nuclei": 0})
    assert len(objects_in(tmp_path / "a.zarr")) == 0
    assert not label_of(tmp_path / "a.zarr").any()
    assert SlideStore.open(tmp_path / "a.zarr").bag().features.shape == (0, 16)


def test_a_slide_smaller_than_a_window_is_found(paint_slide, segment, tmp_path):
    """Its one window goes on in white; it has no tiles to be embedded."""
    slide = paint_slide(tmp_path / "tiny.svs", (99, 75), np.array([[30.0, 30, 8], [80, 50, 10]]))
    done = segment(slide, tmp_path / "a.zarr", embed=True)
    objects = objects_in(tmp_path / "a.zarr")
    assert (done.windows, len(objects)) == (1, 2)
    assert nearest(objects, slide.centres)[1].max() < 1
    assert label_of(tmp_path / "a.zarr").shape == (75, 99)


def test_one_window_far_down_is_found_and_nothing_else(paint_slide, scatter_disks, segment, tmp_path, rng, monkeypatch):
    """What has no windows has no objects, and takes no memory: rows without windows are never held together."""
    heights = []

    def add(self, rows, *arguments, **options):
        heights.append(len(rows.image))
        return stitch(self, rows, *arguments, **options)

    stitch = Stitcher.add
    monkeypatch.setattr(Stitcher, "add", add)
    slide = paint_slide(tmp_path / "tall.svs", (300, 2600), scatter_disks((300, 2600), 400, rng))
    tissue = slide.tissue(everywhere=False)
    tissue.mask[2080 // 16 : 2304 // 16, :14] = True
    spec = TileSpec(size_px=224, stride_px=160, min_tissue=0.9)
    done = segment(slide, tmp_path / "a.zarr", tissue=tissue, spec=spec)
    objects = objects_in(tmp_path / "a.zarr")
    assert done.windows == 1
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


def test_damage_is_recorded_and_leaves_the_rest_alone(painted, damaged, segment, tmp_path):
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


def test_too_much_damage_fails_the_slide(damaged, segment, tmp_path):
    """With the place of the first window; nothing is left that looks like a store."""
    with pytest.raises(SlideError, match=r"windows cannot be read .*level-0 px \[160, 160\]"):
        segment(damaged, tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_batches_of_which_nothing_can_be_read_lose_no_rows(damaged, segment, tmp_path, batch_size):
    """Embeddings stay in step with their tiles where a whole batch is damaged."""
    segment(damaged, tmp_path / "a.zarr", embed=True, max_unreadable=0.5, batch_size=batch_size)
    assert problems_of(tmp_path / "a.zarr") == []
    store = SlideStore.open(tmp_path / "a.zarr")
    assert 0 < store.status().sum() < len(store.grid())
    assert np.isfinite(store.bag().features).all()


class Pixels:
    """An engine that embeds a tile as a few of its pixels."""

    def submit(self, pixels):
        """Embed at once."""
        return lambda: pixels[:, ::56, ::56, 1].reshape(len(pixels), -1).astype(np.float32)


def test_features_are_those_of_an_embedding_run(damaged, segment, tmp_path):
    """In one pass with objects, or alone: the same tiles, the same rows, the same status."""
    segment(damaged, tmp_path / "a.zarr", embed=True, max_unreadable=0.5)
    card = EncoderCard(
        name="means", timm_name="", mpp=0.5, size_px=224, dim=16, mean=(0, 0, 0), std=(1, 1, 1), licence="-", source="-"
    )
    encoder = Encoder(card, "torch", "cpu", "fp32", Pixels())
    with open_slide(damaged.path) as slide:
        tissue = damaged.tissue()
        grid = lay_grid(slide.size, slide.mpp, WINDOWS, within=tissue)
        with SlideStore.create(tmp_path / "b.zarr", slide, tissue, grid) as store:
            encode_slide(slide, store, encoder, max_unreadable=0.5)
    a, b = (SlideStore.open(tmp_path / f"{name}.zarr") for name in "ab")
    assert np.array_equal(a.status(), b.status())
    assert np.array_equal(a.bag().features, b.bag().features)
    assert np.array_equal(a.bag().xy, b.bag().xy)


def test_doing_it_again_does_nothing(painted, segment, tmp_path):
    """A store that holds the objects is left as it is, to the byte, and no window is run."""
    path = tmp_path / "a.zarr"
    segment(painted, path)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    again = segment(painted, path)
    assert (again.fresh, again.added) == (0, False)
    assert again.objects["nuclei"] == len(objects_in(path))
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before
    assert not path.with_name("a.zarr.partial").exists()


def test_objects_are_added_to_a_store_of_features_and_the_other_way(painted, segment, tmp_path):
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


def test_objects_made_otherwise_are_refused(painted, segment, tmp_path):
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
def test_windows_that_no_head_can_use_are_refused(painted, segment, tmp_path, spec):
    """Before anything is read."""
    with pytest.raises(OptionError, match="multiple of 32"):
        segment(painted, tmp_path / "a.zarr", spec=spec)


@pytest.mark.parametrize("overlap", [0, 32, 128])
def test_objects_do_not_depend_on_how_far_windows_overlap(painted, segment, tmp_path, overlap):
    """Even windows that only touch find every nucleus once: chances are joined before objects are made."""
    spec = TileSpec(size_px=224, stride_px=224 - overlap, mpp=0.5)
    segment(painted, tmp_path / "a.zarr", spec=spec, batch_size=8)
    which, apart = nearest(objects_in(tmp_path / "a.zarr"), painted.centres)
    assert sorted(which.tolist()) == list(range(len(painted.centres)))
    assert apart.max() < 1


def test_a_mask_that_stops_at_the_edge_of_tissue_is_kept(painted, segment, tmp_path):
    """The store holds the mask that windows were laid by."""
    width, height = painted.size
    tissue = TissueMask(np.arange(-(-width // 16)) < 20 * np.ones((-(-height // 16), 1)), 16, None, "drawn", {})
    segment(painted, tmp_path / "a.zarr", tissue=tissue)
    assert np.array_equal(SlideStore.open(tmp_path / "a.zarr").tissue().mask, tissue.mask)
