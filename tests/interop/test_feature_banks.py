"""Features that other tools wrote are read as they meant them, or refused with what to do; nothing is guessed."""

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.feature_files import SPEC, make_store, write_clam_file, write_stamp_file, write_trident_file
from wsi_umedpt.errors import InteropError, StoreError, WsiError
from wsi_umedpt.interop.feature_banks import FORMATS, find_sources, open_source
from wsi_umedpt.interop.feature_sources import NOWHERE, has_positions
from wsi_umedpt.slides.tiling import TileSpec
from wsi_umedpt.store.features import FeatureKind


def one(path: Path, **options):
    """The only source of a path, and its bag."""
    (source,) = find_sources([path], **options).values()
    return source, source.load()


def check_bag(source, bag, features, xy):
    """A bag is what its file holds, and what its source promised."""
    assert np.array_equal(bag.features, features)
    assert np.array_equal(bag.xy, xy)
    assert (bag.xy.dtype, bag.xy.shape) == (np.int32, (len(features), 2))
    assert np.array_equal(bag.index, np.arange(len(features)))
    assert (source.tiles, source.kind.dim) == features.shape
    assert (source.slide_id, bag.slide_id, bag.grid_id) == (source.path.stem, source.path.stem, "")


def write_slide2vec(folder: Path, tiles, *, suffix=".npz", sidecar=None, coordinates=True, tile_index=None) -> Path:
    """As slide2vec does: features, coordinates in a folder of their own, and the sidecar last."""
    path = folder / "tile_embeddings" / f"slide-1{suffix}"
    path.parent.mkdir(parents=True)
    index = np.arange(len(tiles.features)) if tile_index is None else tile_index
    if suffix == ".pt":
        torch.save(torch.from_numpy(tiles.features), path)
    else:
        np.savez_compressed(path, features=tiles.features, tile_index=index)
    if coordinates:
        (folder / "tiles").mkdir()
        x, y = tiles.xy.T
        fractions = np.ones(len(x), np.float32)
        at = folder / "tiles" / "slide-1.coordinates.npz"
        np.savez_compressed(at, x=x, y=y, tile_index=np.arange(len(x), dtype=np.int32), tissue_fractions=fractions)
    about = {
        "sample_id": "slide-1",
        "artifact_type": "tile_embeddings",
        "coordinates_npz_path": "/etc/passwd",
        "encoder_name": "virchow2",
        "encoder_level": "tile",
        "feature_dim": 8,
        "num_tiles": 70,
        "feature_dtype": "fp32",
        "read_tile_size_px": 256,
        "requested_tile_size_px": 256,
        "encoder_input_size_px": 224,
        "requested_spacing_um": 0.5,
        "tile_size_lv0": 512,
        **(sidecar or {}),
    }
    if sidecar is not False:
        (path.parent / "slide-1.meta.json").write_text(json.dumps(about))
    return path


# ---- what each tool writes ----


def test_clam_says_nothing_but_features_and_positions(tmp_path, tiles):
    """float32 and int32 as they are, encoder and side not known, the h5 preferred to the pt beside it."""
    path = write_clam_file(tmp_path / "h5_files" / "TCGA-01.svs.h5", tiles.features, tiles.xy.astype(np.int32))
    (tmp_path / "pt_files").mkdir()
    torch.save(torch.from_numpy(tiles.features), tmp_path / "pt_files" / "TCGA-01.svs.pt")
    for named in (tmp_path, tmp_path / "h5_files", path):
        source, bag = one(named)
        check_bag(source, bag, tiles.features, tiles.xy)
        assert bag.features.dtype == np.float32
        assert source.kind == FeatureKind(dim=8, format="CLAM")
        assert (source.side, source.unit, bag.slide_id) == (None, "px", "TCGA-01.svs")


@pytest.mark.parametrize("where", ["patches", "features"])
def test_the_side_of_clams_tiles_is_patch_size_times_downsample(tmp_path, tiles, where):
    """From the attributes of coordinates: of the features themselves, or of a patches file of as many tiles."""
    path = write_clam_file(tmp_path / "h5_files" / "a.h5", tiles.features, tiles.xy.astype(np.int32))
    (tmp_path / "patches").mkdir()
    attrs = {"patch_size": 256, "patch_level": 1, "downsample": (4.0001, 4.0002), "level_dim": (9000, 6000)}
    with h5py.File(path if where == "features" else tmp_path / "patches" / "a.h5", "a") as file:
        if where == "patches":
            file["coords"] = tiles.xy
        file["coords"].attrs.update(attrs)
    assert one(path)[0].side == pytest.approx(256 * 4.0001)
    if where == "patches":
        with h5py.File(tmp_path / "patches" / "a.h5", "w") as file:
            file["coords"] = tiles.xy[:-1]
            file["coords"].attrs.update(attrs)
        assert one(path)[0].side is None  # of another run


@pytest.mark.parametrize(
    ("of_coords", "side"),
    [
        pytest.param({}, 512, id="whole"),
        pytest.param({"patch_size_level0": 460.8}, 460.8, id="not-whole"),
        pytest.param({"patch_size_level0": ..., "level0_magnification": 60}, 768, id="by-magnifications"),
        pytest.param({"patch_size_level0": None, "level0_magnification": None}, None, id="not-stated"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_trident_states_encoder_and_side_but_no_mpp(tmp_path, tiles, of_coords, side, dtype):
    """The dtype stays; a magnification is not taken for a resolution."""
    job = tmp_path / "20x_256px_0px_overlap"
    path = write_trident_file(
        job / "features_uni_v1" / "s.h5", tiles.features.astype(dtype), tiles.xy, of_coords=of_coords
    )
    write_trident_file(job / "slide_features_titan" / "s.h5", np.ones(768, np.float32), tiles.xy)
    for named in (tmp_path, job, path.parent, path):
        source, bag = one(named)
        check_bag(source, bag, tiles.features.astype(dtype), tiles.xy)
        assert bag.features.dtype == dtype
        magnification = None if of_coords.get("target_magnification", 20) is ... else 20
        assert source.kind == FeatureKind(
            encoder="uni_v1", magnification=magnification, size_px=256, dim=8, format="TRIDENT"
        )
        assert (source.side, bag.encoder_id) == (side, "uni_v1")


def test_trident_without_an_encoders_name_is_named_by_its_folder(tmp_path, tiles):
    """TRIDENT writes None as text; positions that are floats are rounded, as TRIDENT does."""
    path = write_trident_file(
        tmp_path / "features_conch_v15" / "s.h5", tiles.features, tiles.xy + 0.2, of_features={"encoder": None}
    )
    source, bag = one(path)
    assert source.kind.encoder == "conch_v15"
    check_bag(source, bag, tiles.features, tiles.xy)


def test_features_of_trident_at_clams_coordinates_have_clams_side(tmp_path, tiles):
    """TRIDENT takes coordinates that CLAM laid, with their attributes."""
    gone = dict.fromkeys(["patch_size_level0", "level0_magnification", "target_magnification"], ...)
    path = write_trident_file(
        tmp_path / "s.h5", tiles.features, tiles.xy, of_coords={**gone, "patch_level": 1, "downsample": (2.0, 2.0)}
    )
    source, _ = one(path)
    assert (source.kind.format, source.side) == ("TRIDENT", 512)


def test_stamps_microns_stay_microns(tmp_path, tiles):
    """How many there are to a pixel is not in the file, so the side in level-0 px is not known: nobody draws them."""
    um = (tiles.xy * 0.2431).astype(np.float32)
    path = write_stamp_file(tmp_path / "uni-0f3c9f9b" / "s.h5", tiles.features.astype(np.float16), um)
    source, bag = one(path.parent)
    check_bag(source, bag, tiles.features.astype(np.float16), np.rint(um))
    assert bag.features.dtype == np.float16
    assert source.kind == FeatureKind(encoder="mahmood-uni", mpp=256 / 224, size_px=224, dim=8, format="STAMP")
    assert (source.side, source.side_um, source.unit) == (None, 256.0, "um")


@pytest.mark.parametrize(
    ("attrs", "scale", "size_px"),
    [
        pytest.param({"tile_size_um": None, "tile_size": 256.0, "tile_size_px": None}, 1, None, id="2.0"),
        pytest.param(dict.fromkeys(["tile_size_um", "unit", "tile_size_px", "feat_type"]), 256 / 224, 224, id="1"),
    ],
)
def test_older_stamp_is_read_as_stamp_reads_it(tmp_path, tiles, attrs, scale, size_px):
    """2.0 named its attributes otherwise; before, tiles 224 apart were 256 um wide."""
    coords = (tiles.xy // 512 * 224).astype(np.float32)
    source, bag = one(write_stamp_file(tmp_path / "s.h5", tiles.features, coords, **attrs))
    check_bag(source, bag, tiles.features, np.rint(coords * scale))
    assert (source.side, source.side_um, source.unit, source.kind.size_px) == (None, 256, "um", size_px)


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_slide2vec_is_read_with_its_sidecar_and_coordinates(tmp_path, tiles, suffix):
    """From where they lie, not from the path that the sidecar names."""
    path = write_slide2vec(tmp_path, tiles, suffix=suffix)
    for named in (tmp_path, path.parent, path):
        source, bag = one(named, allow_pt=suffix == ".pt")
        check_bag(source, bag, tiles.features, tiles.xy)
        assert source.kind == FeatureKind(encoder="virchow2", mpp=0.5, size_px=224, dim=8, format="slide2vec")
        assert source.side == 512


def test_slide2vecs_classes_of_annotations_lie_in_folders_of_their_own(tmp_path, tiles):
    """Their coordinates too."""
    write_slide2vec(tmp_path, tiles)
    for name in ("tile_embeddings", "tiles"):
        (tmp_path / name / "tumor").mkdir()
        for file in list((tmp_path / name).glob("slide-1*")):
            file.rename(tmp_path / name / "tumor" / file.name)
    source, bag = one(tmp_path / "tile_embeddings" / "tumor")
    check_bag(source, bag, tiles.features, tiles.xy)


@pytest.mark.parametrize("name", ["coords", "xy", None])
def test_a_plain_archive_needs_features_alone(tmp_path, tiles, name):
    """Positions that are not there are nowhere, and that can be asked for; float64 becomes float32."""
    np.savez(tmp_path / "s.npz", features=tiles.features.astype(">f8"), **({name: tiles.xy} if name else {}))
    source, bag = one(tmp_path / "s.npz")
    check_bag(source, bag, tiles.features, tiles.xy if name else np.full((70, 2), NOWHERE))
    assert bag.features.dtype == np.dtype("=f4")
    assert (source.side, source.kind) == (None, FeatureKind(dim=8, format="npz"))
    assert (has_positions(bag), source.unit) == (bool(name), "px" if name else "")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("old", [False, True])
def test_a_bare_tensor_is_read_where_that_is_allowed(tmp_path, tiles, dtype, old):
    """Of any float, also from torch before 1.6; where the tiles lie is not known."""
    tensor = torch.from_numpy(tiles.features).to(dtype)
    torch.save(tensor, tmp_path / "s.pt", _use_new_zipfile_serialization=not old)
    source, bag = one(tmp_path, allow_pt=True)
    check_bag(source, bag, tensor.float().numpy(), np.full((70, 2), NOWHERE))
    assert bag.features.dtype == (np.float16 if dtype == torch.float16 else np.float32)
    assert (source.kind.format, source.unit, has_positions(bag)) == ("pt", "", False)


def test_a_store_is_a_source_like_the_others(store):
    """Its kind is what its features were made of; unreadable tiles count, and are not loaded."""
    source, bag = one(store.path)
    assert source.kind == FeatureKind(
        encoder="enc.v1", weights_sha256="ab" * 32, precision="fp32", mpp=0.5, size_px=224, dim=6, format="store"
    )
    assert (source.slide_id, source.tiles, source.side) == ("slide", 5, store.grid().side)
    assert np.array_equal(bag.features, store.features().features)
    assert (bag.encoder_id, bag.grid_id, bag.index.tolist()) == ("enc.v1", store.grid_ids[0], [0, 1, 3, 4])


def test_opening_reads_no_features(tmp_path, tiles, store, monkeypatch):
    """What files say of themselves is enough, so that thousands of slides can be listed."""
    write_clam_file(tmp_path / "in" / "clam.h5", tiles.features, tiles.xy.astype(np.int32))
    write_trident_file(tmp_path / "in" / "trident.h5", tiles.features, tiles.xy)
    write_stamp_file(tmp_path / "in" / "stamp.h5", tiles.features, tiles.xy.astype(np.float32))
    np.savez(tmp_path / "in" / "npz.npz", features=tiles.features)
    torch.save(torch.from_numpy(tiles.features), tmp_path / "in" / "pt.pt")
    shutil.copytree(store.path, tmp_path / "in" / "store.zarr")

    def refuse(*_, **__):
        raise AssertionError("numbers were read")

    with monkeypatch.context() as patch:
        patch.setattr(h5py.Dataset, "__getitem__", refuse)
        patch.setattr(np.lib.format, "read_array", refuse)
        patch.setattr("wsi_umedpt.store.contents.decoded_array", refuse)
        patch.setattr(torch.Tensor, "numpy", refuse)
        sources = find_sources([tmp_path / "in"], allow_pt=True)
    assert list(sources) == ["clam", "npz", "pt", "stamp", "store", "trident"]
    assert {name: len(source.load()) for name, source in sources.items()}["store"] == 4


def test_sources_can_be_sent_to_other_processes(tmp_path, tiles, store):
    """Every one can be pickled, and loads the same there."""
    write_stamp_file(tmp_path / "stamp.h5", tiles.features, tiles.xy.astype(np.float32))
    write_slide2vec(tmp_path, tiles)
    for source in find_sources([tmp_path, store.path]).values():
        assert np.array_equal(pickle.loads(pickle.dumps(source)).load().features, source.load().features)  # noqa: S301


# ---- which files are meant ----


def test_sources_are_sorted_and_a_path_that_is_named_twice_counts_once(tmp_path, tiles):
    """Whatever the order of the paths, and through links."""
    for name in ("b.h5", "a.h5", "c.H5"):
        write_clam_file(tmp_path / name, tiles.features, tiles.xy)
    (tmp_path / "again").symlink_to(tmp_path)
    found = find_sources([tmp_path / "c.H5", tmp_path, tmp_path / "again" / "a.h5"])
    assert list(found) == ["a", "b", "c"]


def test_two_files_of_one_slide_are_refused_with_both(tmp_path, tiles, store):
    """Features of a store and of a file that bears its name, say."""
    other = write_clam_file(tmp_path / "slide.h5", tiles.features, tiles.xy)
    with pytest.raises(InteropError, match="1 slide has features twice") as refusal:
        find_sources([store.path, tmp_path])
    assert str(store.path) in str(refusal.value)
    assert str(other) in str(refusal.value)


def test_nothing_found_says_what_was_looked_for(tmp_path):
    """And which folders are within, as one level is searched."""
    (tmp_path / "uni-0f3c9f9b").mkdir()
    (tmp_path / "process_list.csv").touch()
    with pytest.raises(
        InteropError, match=r"looked for stores and files \.zarr, \.h5.*within: uni-0f3c9f9b"
    ) as refusal:
        find_sources([tmp_path])
    assert str(tmp_path) in str(refusal.value)
    with pytest.raises(InteropError, match=r"there is no .*gone"):
        find_sources([tmp_path / "gone"])
    with pytest.raises(InteropError, match="nothing was named"):
        find_sources([])


def test_what_lies_beside_features_is_left_alone(tmp_path, tiles):
    """Thumbnails, sidecars, locks, unfinished stores and hidden files."""
    write_stamp_file(tmp_path / "s.h5", tiles.features, tiles.xy)
    for name in ("s.jpg", "_config_feats.json", "t.h5.lock", ".u.h5.fresh", ".u.h5"):
        (tmp_path / name).touch()
    (tmp_path / "v.zarr.partial").mkdir()
    assert list(find_sources([tmp_path])) == ["s"]


def test_pickles_are_read_only_where_the_user_insists(tmp_path, tiles):
    """A folder or file is refused with the flag; a pickle beside another file of its slide does not matter."""
    write_clam_file(tmp_path / "h5_files" / "a.h5", tiles.features, tiles.xy)
    (tmp_path / "pt_files").mkdir()
    torch.save(torch.from_numpy(tiles.features), tmp_path / "pt_files" / "a.pt")
    assert one(tmp_path)[0].path.suffix == ".h5"
    shutil.copy(tmp_path / "pt_files" / "a.pt", tmp_path / "pt_files" / "b.pt")
    for named in (tmp_path, tmp_path / "pt_files" / "b.pt"):
        with pytest.raises(InteropError, match=r"b\.pt.*pickle.*`allow_pt`"):
            find_sources([named])
    found = find_sources([tmp_path], allow_pt=True)
    assert [source.path.suffix for source in found.values()] == [".h5", ".pt"]


def test_which_encoder_is_meant_must_be_clear(tmp_path, tiles):
    """Of TRIDENT's folders one is taken by name; a file that says another encoder is refused."""
    job = tmp_path / "20x_256px_0px_overlap"
    for name in ("uni_v1", "conch_v1"):
        path = job / f"features_{name}" / "s.h5"
        write_trident_file(path, tiles.features, tiles.xy, of_features={"encoder": name})
    with pytest.raises(InteropError, match=r"2 folders of TRIDENT's features(.|\n)*features_conch_v1"):
        find_sources([tmp_path])
    source, _ = one(tmp_path, encoder_id="conch_v1")
    assert source.kind.encoder == "conch_v1"
    with pytest.raises(InteropError, match="0 of virchow"):
        find_sources([tmp_path], encoder_id="virchow")
    with pytest.raises(InteropError, match=r"holds features of uni_v1, asked for conch_v1 .*encoder_id"):
        find_sources([job / "features_uni_v1"], encoder_id="conch_v1")


def test_which_features_of_a_store_are_meant_must_be_clear(store):
    """As `SlideStore.features` has it."""
    make_store(store.path.parent, encoder="other.v1")
    with pytest.raises(StoreError, match=r"features of 2 encoders.*Name one with `encoder_id`"):
        find_sources([store.path])
    grid_id = SPEC.grid_id
    source, bag = one(store.path, encoder_id="other.v1")
    assert (source.kind.encoder, bag.encoder_id, bag.grid_id) == ("other.v1", "other.v1", grid_id)
    coarse = TileSpec(size_px=224, mpp=1.0)
    make_store(store.path.parent, spec=coarse, encoder="other.v1")
    with pytest.raises(StoreError, match=r"2 grids.*`grid_id`"):
        find_sources([store.path], encoder_id="other.v1")
    for spec in (SPEC, coarse):
        source, bag = one(store.path, encoder_id="other.v1", grid_id=spec.grid_id)
        assert (source.kind.mpp, source.grid_id, bag.grid_id) == (spec.mpp, spec.grid_id, spec.grid_id)
    source, _ = one(store.path, encoder_id="enc.v1")  # which only one grid holds
    assert source.grid_id == grid_id


def test_tiles_of_two_magnifications_are_of_different_kinds(tmp_path, tiles):
    """TRIDENT states no um/px but a magnification: 20x and 10x do not pass for the same."""
    for name, magnification in (("a", 20), ("b", 10)):
        attrs = {"target_magnification": magnification}
        write_trident_file(tmp_path / f"{name}.h5", tiles.features, tiles.xy, of_coords=attrs)
    a, b = find_sources([tmp_path]).values()
    assert a.kind.differences(b.kind) == ["magnification 10.0 instead of 20.0"]


# ---- what is refused ----


def test_all_that_cannot_be_used_is_listed(tmp_path, tiles, store):
    """With the reasons, stores among them; what is in order is not."""
    write_clam_file(tmp_path / "good.h5", tiles.features, tiles.xy)
    write_clam_file(tmp_path / "rows.h5", tiles.features, tiles.xy[1:])
    (tmp_path / "cut.h5").write_bytes((tmp_path / "good.h5").read_bytes()[:900])
    (tmp_path / "image.zarr").mkdir()
    with pytest.raises(InteropError, match="features of 3 slides cannot be used") as refusal:
        find_sources([tmp_path, store.path])
    for reason in (
        "rows.h5: coords has shape (69, 2) for 70 tiles",
        "cut.h5 cannot be read as HDF5",
        "image.zarr is a folder, but no store",
    ):
        assert reason in str(refusal.value)
    assert "good.h5" not in str(refusal.value)
    with pytest.raises(StoreError, match="no store"):
        find_sources([tmp_path / "image.zarr"])


def test_a_file_of_no_format_is_refused_with_the_reason_of_each(tmp_path, tiles):
    """Also one with a suffix that no format has."""
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["vectors"] = tiles.features
    with pytest.raises(InteropError, match="is of no format of features that is known") as refusal:
        open_source(tmp_path / "s.h5")
    for name in ("STAMP: it has no feats, but vectors", "TRIDENT: it has no features", "CLAM: it has no features"):
        assert name in str(refusal.value)
    (tmp_path / "s.csv").touch()
    with pytest.raises(InteropError, match="no file of features") as refusal:
        open_source(tmp_path / "s.csv")
    assert all(form.name in str(refusal.value) for form in FORMATS)


def test_clams_coordinates_are_told_from_its_features(tmp_path, tiles):
    """Who names the folder patches is told so."""
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["coords"] = tiles.xy
    with pytest.raises(InteropError, match="only coordinates; name the folder of features"):
        find_sources([tmp_path])


FEATURES = np.ones((4, 3), np.float32)
XY = np.zeros((4, 2), np.int32)


@pytest.mark.parametrize(
    ("features", "coords", "found"),
    [
        pytest.param(np.stack([FEATURES] * 2), XY, r"\(2, 4, 3\); features of tiles are \(tile, dim\)", id="stack"),
        pytest.param(FEATURES[0], XY[0], r"\(3,\): one vector of a slide", id="slide"),
        pytest.param(np.ones((0, 3), "f4"), np.ones((0, 2), "i4"), r"\(0, 3\): no tiles", id="empty"),
        pytest.param(np.ones(0, "f4"), np.ones((0, 2), "i4"), r"\(0,\): no tiles", id="empty-of-unknown-dim"),
        pytest.param(FEATURES, XY[:3], r"coords has shape \(3, 2\) for 4 tiles", id="rows"),
        pytest.param(FEATURES, np.zeros((4, 5), "i4"), r"coords has shape \(4, 5\)", id="five-columns"),
        pytest.param(FEATURES.astype("i4"), XY, "int32; features are float", id="integers"),
        pytest.param(FEATURES.astype("c8"), XY, "complex64, not plain numbers", id="complex"),
        pytest.param(np.full((4, 3), b"x"), XY, r"\|S1, not plain numbers", id="bytes"),
        pytest.param(FEATURES, np.full((4, 2), b"x"), r"\|S1, not plain numbers", id="positions-of-bytes"),
    ],
)
@pytest.mark.parametrize("tool", ["clam", "trident", "stamp"])
def test_arrays_that_are_no_features_of_tiles_are_refused_when_opened(tmp_path, features, coords, found, tool):
    """With the shape that was found, and what to do."""
    path = tmp_path / "s.h5"
    with h5py.File(path, "w") as file:
        file["feats" if tool == "stamp" else "features"] = features
        file["coords"] = coords
        file.attrs["tile_size_um"] = 256.0
        if tool == "trident":
            file["coords"].attrs["patch_size_level0"] = 512
    with pytest.raises(InteropError, match=found) as refusal:
        open_source(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        pytest.param({"features": np.nan}, "features of 1 of 4 tiles are not finite, the first of row 2", id="nan"),
        pytest.param({"features": -np.inf}, "not finite", id="infinite"),
        pytest.param({"features": 1e300}, "not finite", id="beyond-float32"),
        pytest.param({"xy": np.nan}, r"tile 2 lies at \[nan, 0\.0\], which is no position", id="nowhere"),
        pytest.param({"xy": 3e9}, "which is no position", id="beyond"),
        pytest.param({"xy": float(NOWHERE)}, "which is no position", id="our-own-nowhere"),
    ],
)
def test_numbers_that_are_none_are_refused_when_loaded(tmp_path, change, found):
    """Training on them would end in nonsense, or drawing them."""
    features, xy = np.ones((4, 3)), np.zeros((4, 2))
    features[2, 1] = change.get("features", 1)
    xy[2, 0] = change.get("xy", 0)
    np.savez(tmp_path / "s.npz", features=features, xy=xy)
    (source,) = find_sources([tmp_path]).values()
    with pytest.raises(InteropError, match=found):
        source.load()


@pytest.mark.parametrize(
    ("attrs", "found"),
    [
        pytest.param({"feat_type": "slide"}, "the encoding of a slide, not of tiles", id="slide"),
        pytest.param({"feat_type": "patient"}, "the encoding of a patient, not of tiles", id="patient"),
        pytest.param({"feat_type": None, "encoder": "titan"}, "the encoding of a slide", id="encoder"),
        pytest.param({"tile_size_um": -1.0}, "tile_size_um is .*-1.0.*, not a number over 0", id="side"),
        pytest.param({"tile_size_um": "256"}, "tile_size_um is '256', not a number", id="text"),
        pytest.param({"tile_size_px": np.ones(3)}, "tile_size_px is .*, not a number", id="several"),
        pytest.param({"tile_size_um": None}, "its tiles lie 512 apart, not 224", id="no-unit"),
    ],
)
def test_what_stamp_does_not_mean_as_tiles_is_refused(tmp_path, tiles, attrs, found):
    """Or says in a way that is not clear."""
    path = write_stamp_file(tmp_path / "s.h5", tiles.features, tiles.xy.astype(np.float32), **attrs)
    with pytest.raises(InteropError, match=found):
        open_source(path)


@pytest.mark.parametrize("value", [0, -2.0, np.nan, np.inf, "2", [2.0, 4.0], [1.0, 2.0, 3.0]])
def test_a_downsample_that_is_none_is_refused(tmp_path, tiles, value):
    """A side that nobody can mean would be drawn."""
    path = write_clam_file(tmp_path / "s.h5", tiles.features, tiles.xy)
    with h5py.File(path, "a") as file:
        file["coords"].attrs.update({"patch_size": 256, "downsample": value})
    with pytest.raises(InteropError, match=r"downsample is .*, not one scale for x and y"):
        open_source(path)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        pytest.param({"sidecar": False}, "slide2vec was interrupted there", id="no-sidecar"),
        pytest.param({"sidecar": {"artifact_type": "hierarchical_embeddings"}}, "of type 'hierarchical", id="regions"),
        pytest.param({"sidecar": {"tile_size_lv0": "512"}}, "tile_size_lv0 is '512', not a number over 0", id="side"),
        pytest.param({"sidecar": {"requested_spacing_um": True}}, "is True, not a number", id="bool"),
        pytest.param({"tile_index": np.arange(70)[::-1]}, "tile_index is not 0, 1, 2", id="order"),
    ],
)
def test_what_slide2vec_did_not_finish_or_order_is_refused(tmp_path, tiles, options, found):
    """Without its sidecar a file is not whole."""
    path = write_slide2vec(tmp_path, tiles, **options)
    with pytest.raises(InteropError, match=found):
        one(path)


def test_slide2vec_of_two_runs_is_refused(tmp_path, tiles):
    """Features and coordinates that differ in their number; without coordinates there are no positions."""
    path = write_slide2vec(tmp_path, tiles)
    np.savez(tmp_path / "tiles" / "slide-1.coordinates.npz", x=np.arange(3), y=np.arange(3))
    with pytest.raises(InteropError, match=r"holds 70 tiles, .* 3: they are of different runs"):
        open_source(path)
    np.savez(tmp_path / "tiles" / "slide-1.coordinates.npz", x=np.arange(3), z=np.arange(3))
    with pytest.raises(InteropError, match="no x and y of one length, but x, z"):
        open_source(path)
    (tmp_path / "tiles" / "slide-1.coordinates.npz").unlink()
    source, bag = one(path)
    assert (source.unit, has_positions(bag)) == ("", False)


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"', "[" * 100_000, " " * (1 << 21)])
def test_a_sidecar_that_is_none_is_refused(tmp_path, tiles, text):
    """Damaged, too deep, too large, or no object."""
    path = write_slide2vec(tmp_path, tiles)
    (path.parent / "slide-1.meta.json").write_text(text)
    with pytest.raises(InteropError, match=r"slide-1\.meta\.json"):
        open_source(path)


def test_an_archive_with_coords_and_xy_is_refused(tmp_path, tiles):
    """Which of them is meant is not clear."""
    np.savez(tmp_path / "s.npz", features=tiles.features, coords=tiles.xy, xy=tiles.xy)
    with pytest.raises(InteropError, match="both coords and xy"):
        open_source(tmp_path / "s.npz")


def test_a_file_that_changes_after_it_was_opened_is_refused(tmp_path, tiles):
    """As one that its tool still appends to."""
    path = write_clam_file(tmp_path / "s.h5", tiles.features, tiles.xy)
    source = open_source(path)
    write_clam_file(path, tiles.features[:50], tiles.xy[:50])
    with pytest.raises(InteropError, match=r"held \(70, 8\).* holds \(50, 8\) now"):
        source.load()


# ---- files as they are passed around ----

LAYOUTS = {
    "plain": lambda f, xy: {"features": f, "coords": xy},
    "leading-axis": lambda f, xy: {"features": f[None], "coords": xy[None]},
    "uni2h": lambda f, xy: {
        "features": f[None], "coords": xy[None], "coords_patching": xy, "annots": np.zeros((1, len(f), 1), np.int64)
    },
    "coords_patching": lambda f, xy: {"features": f, "coords_patching": xy},
    "embeddings": lambda f, xy: {"embeddings": f, "xy": xy},
    "feats-alone": lambda f, xy: {"feats": f},
    "features-alone": lambda f, xy: {"features": f},
    "embeddings-alone": lambda f, xy: {"embeddings": f[None]},
}  # fmt: skip


def write_h5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


def write_pt_dict(path, arrays):
    torch.save({**{name: torch.from_numpy(v) for name, v in arrays.items()}, "slide": "s", "level": 0}, path)


SAVE = {".h5": write_h5, ".npz": lambda path, arrays: np.savez(path, **arrays), ".pt": write_pt_dict}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", SAVE)
def test_layouts_of_other_people_are_read(tmp_path, tiles, suffix, layout):
    """A leading axis that stands for the slide, other names, positions or none: in HDF5, npz and pt alike."""
    arrays = LAYOUTS[layout](tiles.features, tiles.xy)
    SAVE[suffix](tmp_path / f"s{suffix}", arrays)
    source, bag = one(tmp_path, allow_pt=True)
    placed = len(arrays) > 1
    check_bag(source, bag, tiles.features, tiles.xy if placed else np.full((70, 2), NOWHERE))
    assert (has_positions(bag), source.unit) == (placed, "px" if placed else "")


def test_features_without_positions_keep_the_name_of_their_encoder(tmp_path, tiles):
    """A file of TRIDENT whose coords were left out says it of its features."""
    write_trident_file(tmp_path / "s.h5", tiles.features, tiles.xy)
    with h5py.File(tmp_path / "s.h5", "a") as file:
        del file["coords"]
    source, bag = one(tmp_path)
    assert (source.kind.encoder, source.unit, has_positions(bag)) == ("uni_v1", "", False)


@pytest.mark.parametrize("suffix", SAVE)
def test_two_arrays_that_could_be_meant_are_refused(tmp_path, tiles, suffix):
    """Features under two names, positions that contradict each other, and more slides than one."""
    f, xy = tiles.features, tiles.xy
    for arrays, found in (
        ({"features": f, "embeddings": f}, "both features and embeddings"),
        ({"features": f, "coords": xy, "xy": xy}, "both coords and xy"),
        ({"features": f, "coords": xy, "coords_patching": xy + 1}, "coords and coords_patching differ"),
        ({"features": np.stack([f, f])}, r"shape \(2, 70, 8\)"),
        ({"features": f[None, None]}, r"shape \(1, 1, 70, 8\)"),
        ({"features": f, "coords": xy[None, :, :, None]}, "positions are"),
    ):
        path = tmp_path / f"s{suffix}"
        SAVE[suffix](path, arrays)
        with pytest.raises(InteropError, match=found):
            open_source(path, allow_pt=True).load()


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: t[None], torch.nn.Parameter, lambda t: t.to(torch.bfloat16)])
def test_tensors_alone_are_read_however_they_are_wrapped(tmp_path, wrap):
    """A leading axis, a Parameter, bfloat16: the same features; also of a layout of torch before 1.6."""
    features = torch.arange(12.0).reshape(4, 3)
    for new in (True, False):
        torch.save(wrap(features), tmp_path / "s.pt", _use_new_zipfile_serialization=new)
        source, bag = one(tmp_path / "s.pt", allow_pt=True)
        assert np.array_equal(bag.features, features.numpy())
        assert (source.tiles, source.kind.dim, source.unit) == (4, 3, "")


def test_an_array_alone_is_read(tmp_path, tiles):
    """``SLIDE.npy``: features without positions, with a leading axis or not; never objects."""
    for values in (tiles.features, tiles.features[None], np.asfortranarray(tiles.features)):
        np.save(tmp_path / "s.npy", values)
        source, bag = one(tmp_path)
        check_bag(source, bag, tiles.features, np.full((70, 2), NOWHERE))
        assert (source.kind, source.side) == (FeatureKind(dim=8, format="npy"), None)
    for values, found in (
        (np.array([[{}]], object), "not plain numbers"),
        (np.ones((4, 3), np.int64), "int64; features are"),
        (np.ones(3), "one vector of a slide"),
    ):
        np.save(tmp_path / "s.npy", values, allow_pickle=True)
        with pytest.raises(InteropError, match=found):
            open_source(tmp_path / "s.npy")
    np.save(tmp_path / "s.npy", tiles.features)
    whole = (tmp_path / "s.npy").read_bytes()
    for damaged in (b"", whole[:7], whole[:100], whole[:-1], whole + b"0"):
        (tmp_path / "s.npy").write_bytes(damaged)
        with pytest.raises(InteropError, match=r"s\.npy"):
            open_source(tmp_path / "s.npy")


# ---- hostile files ----


class Bomb:
    """Runs a program when it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self):
        return Path.touch, (self.sign,)


def test_a_pickle_that_runs_programs_runs_none(tmp_path):
    """In a .pt file, of either layout of torch or of none, and in an archive of objects."""
    sign = tmp_path / "ran"
    for name, save in {
        "new.pt": lambda path: torch.save(Bomb(sign), path),
        "old.pt": lambda path: torch.save(Bomb(sign), path, _use_new_zipfile_serialization=False),
        "bare.pt": lambda path: path.write_bytes(pickle.dumps(Bomb(sign))),
        "array.npz": lambda path: np.savez(path, features=np.array([[Bomb(sign)]], object)),
        "other.npz": lambda path: np.savez(path, features=FEATURES, other=np.array([Bomb(sign)], object)),
    }.items():
        save(tmp_path / name)
        with pytest.raises(InteropError, match=name):
            open_source(tmp_path / name, allow_pt=True).load()
    assert not sign.exists()
    pickle.loads((tmp_path / "bare.pt").read_bytes())  # noqa: S301 - it would have
    assert sign.exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        pytest.param({"x": torch.ones(4, 3), "y": 1}, "a dict of 'x', 'y', and no tensor called features", id="dict"),
        pytest.param({"features": [torch.ones(3)]}, "a dict of 'features', and no tensor called", id="dict-of-lists"),
        pytest.param(
            {"features": torch.ones(4, 3), "feats": torch.ones(4, 3)}, "both features and feats", id="two-features"
        ),
        pytest.param(
            {"features": torch.ones(4, 3), "coords": torch.ones(3, 2)}, r"\(3, 2\) for 4 tiles", id="other-positions"
        ),
        pytest.param({"features": torch.ones(4, 3).to_sparse()}, "only dense tensors", id="dict-of-sparse"),
        pytest.param([torch.ones(4, 3)], "holds a list", id="list"),
        pytest.param(torch.ones(4, 3).to_sparse(), "only dense tensors", id="sparse"),
        pytest.param(torch.ones(4, 3, dtype=torch.int64), "int64; features are floats", id="integers"),
        pytest.param(torch.ones(2, 4, 3), r"\(2, 4, 3\)", id="stack"),
        pytest.param(torch.ones(3), "one vector of a slide", id="slide"),
        pytest.param(torch.ones(1, 1).expand(1 << 40, 1 << 10), "claims more numbers than the file", id="no-strides"),
    ],
)
def test_tensors_that_are_no_features_of_tiles_are_refused(tmp_path, content, found):
    """Also those that claim to be huge."""
    torch.save(content, tmp_path / "s.pt")
    with pytest.raises(InteropError, match=found):
        open_source(tmp_path / "s.pt", allow_pt=True)


def test_a_tensor_may_be_part_of_a_larger_one(tmp_path):
    """Strides that skip are no lie."""
    tensor = torch.arange(24.0).reshape(4, 6)[:, ::2]
    torch.save(tensor, tmp_path / "s.pt")
    assert np.array_equal(open_source(tmp_path / "s.pt", allow_pt=True).load().features, tensor.numpy())


def _external_link(file, path):
    file["features"] = h5py.ExternalLink(path.with_name("secret.h5"), "features")


def _soft_link(file, path):
    file["secret"] = h5py.ExternalLink(path.with_name("secret.h5"), "/")
    file["features"] = h5py.SoftLink("/secret/features")


def _virtual(file, path):
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[...] = h5py.VirtualSource(path.with_name("secret.h5"), "features", (4, 3))
    file.create_virtual_dataset("features", layout)


def _external_storage(file, path):
    secret = path.with_name("secret.bin")
    secret.write_bytes(bytes(48))
    file.create_dataset("features", (4, 3), "f4", external=[(secret, 0, 48)])


def _objects(file, path):
    file.create_dataset("features", (4, 3), h5py.vlen_dtype(np.float32))


def _references(file, path):
    file.create_dataset("features", (4, 3), h5py.ref_dtype)


def _opaque(file, path):
    file.create_dataset("features", data=np.zeros((4, 3), "V4"))


def _compound(file, path):
    file.create_dataset("features", data=np.zeros((4, 3), [("a", "f4")]))


def _texts(file, path):
    file.create_dataset("features", (4, 3), h5py.string_dtype())


def _group(file, path):
    file.create_group("features")


def _null(file, path):
    file["features"] = h5py.Empty("f4")


def _named_type(file, path):
    file["features"] = np.dtype("f4")


@pytest.mark.parametrize(
    "hostile",
    [
        _external_link,
        _soft_link,
        _virtual,
        _external_storage,
        _objects,
        _references,
        _opaque,
        _compound,
        _texts,
        _group,
        _null,
        _named_type,
    ],
)
@pytest.mark.parametrize("mark", ["clam", "trident"])
def test_hdf5_that_points_elsewhere_or_holds_objects_is_refused(tmp_path, hostile, mark):
    """Links, virtual arrays and external storage would read any file that the user may read."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["features"] = FEATURES
    path = tmp_path / "s.h5"
    with h5py.File(path, "w") as file:
        file["coords"] = XY
        if mark == "trident":
            file["coords"].attrs["patch_size_level0"] = 512
        hostile(file, path)
    with pytest.raises(InteropError, match=r"not followed|not plain numbers|is no array|where a group"):
        open_source(path)


def test_attributes_that_are_no_numbers_are_refused(tmp_path, tiles):
    """References, objects, and numbers that are none; text that is no text is not there."""
    for value in (np.nan, -1, 0, [1, 2], "many", h5py.Empty("f4"), np.ones((0,))):
        path = write_trident_file(tmp_path / "s.h5", tiles.features, tiles.xy, of_coords={"patch_size_level0": value})
        with pytest.raises(InteropError, match=r"attribute patch_size_level0 is .*, not a number over 0"):
            open_source(path)
    path = write_trident_file(tmp_path / "s.h5", tiles.features, tiles.xy, of_features={"encoder": [1, 2]})
    assert open_source(path).kind.encoder == ""


def test_arrays_that_claim_more_than_is_there_are_refused(tmp_path):
    """Before memory is set aside for them: terabytes that were never written, or that unpack from nothing."""
    path = tmp_path / "s.h5"
    for chunks in ((1 << 20, 2), None):
        with h5py.File(path, "w") as file:
            file.create_dataset("features", (1 << 40, 1 << 10), "f4", chunks=chunks)
            file.create_dataset("coords", (1 << 40, 2), "i4", chunks=chunks)
        with pytest.raises(InteropError, match="never written to its end"):
            open_source(path).load()
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=np.zeros((1 << 17, 600), np.float32), compression="gzip")
        file.create_dataset("coords", data=np.zeros((1 << 17, 2), np.int32))
    with pytest.raises(InteropError, match=r"would unpack \d+ bytes to 314572800"):
        open_source(path).load()


def test_an_archive_that_lies_about_its_arrays_is_refused(tmp_path):
    """Headers that claim more than the archive holds, or that it unpacks to far more than it is."""
    path = tmp_path / "s.npz"

    def write(shape, data, **others):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("features.npy", header.getvalue() + data)
            for name, content in others.items():
                archive.writestr(name, content)

    write((4000, 3000), FEATURES.tobytes())
    with pytest.raises(InteropError, match="features claims 48000000 bytes and has 48: damaged"):
        open_source(path)
    write((1 << 17, 600), bytes(4 * 600 << 17))
    with pytest.raises(InteropError, match="would unpack"):
        open_source(path)
    write((4, 3), FEATURES.tobytes(), **{"run.py": "import os"})
    with pytest.raises(InteropError, match=r"holds 'run\.py', which is no array"):
        open_source(path)


@settings(max_examples=60)
@given(data=st.data())
def test_a_file_that_is_cut_anywhere_is_refused(tmp_path_factory, data):
    """Each format, at any byte: an error of ours, or the very features, never others."""
    folder = tmp_path_factory.mktemp("cut")
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    xy = np.arange(8).reshape(4, 2)
    write_clam_file(folder / "clam.h5", values, xy, batches=1)
    write_stamp_file(folder / "stamp.h5", values, xy.astype(np.float32))
    np.savez_compressed(folder / "npz.npz", features=values)
    torch.save(torch.from_numpy(values), folder / "pt.pt")
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1), label=path.name)])
        try:
            bag = open_source(path, allow_pt=True).load()
        except WsiError as error:
            assert path.name in str(error)  # noqa: PT017 - either outcome is right
        else:
            assert np.array_equal(bag.features, values)


@settings(max_examples=30)
@given(data=st.data())
def test_an_archive_that_is_changed_anywhere_is_refused_or_read(tmp_path_factory, data):
    """Zip sums its members: no changed number passes for a feature."""
    path = tmp_path_factory.mktemp("changed") / "s.npz"
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.savez_compressed(path, features=values)
    whole = bytearray(path.read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    try:
        bag = open_source(path).load()
    except InteropError as error:
        assert "s.npz" in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert np.array_equal(bag.features, values)


@pytest.mark.parametrize("name", ["._a.h5", "@eaDir/a.h5", "$RECYCLE.BIN/a.h5"])
def test_what_systems_put_beside_features_is_none(tmp_path, tiles, name):
    """Neither read, nor named among folders that may have been meant."""
    write_clam_file(tmp_path / "bank" / "a.h5", tiles.features, tiles.xy)
    (tmp_path / "bank" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "bank" / name).write_bytes(b"-")
    assert [*find_sources([tmp_path / "bank"])] == ["a"]
    (tmp_path / "bank" / "a.h5").unlink()
    with pytest.raises(InteropError) as refused:
        find_sources([tmp_path / "bank"])
    assert "@eaDir" not in str(refused.value)
    assert "RECYCLE" not in str(refused.value)
