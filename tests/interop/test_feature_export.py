"""Features that leave a store read back as they were, and are laid out as the tool that they are for expects."""

import json
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.feature_files import SPEC, make_store
from wsi_umedpt.errors import InteropError, StoreError
from wsi_umedpt.interop.feature_banks import WRITERS, find_sources, open_source
from wsi_umedpt.interop.feature_sources import StoreSource
from wsi_umedpt.interop.provenance import PREFIX
from wsi_umedpt.slides.tiling import TileSpec
from wsi_umedpt.store.slide_store import SlideStore

FORMATS = pytest.mark.parametrize("name", list(WRITERS))


def check_same(source, store):
    """What was read back is what the store holds; slide2vec orders tiles by x, then by y."""
    bag, back = store.features(), source.load()
    order = np.lexsort(bag.xy.T[::-1]) if source.kind.format == "slide2vec" else np.arange(len(bag))
    assert np.array_equal(back.features, bag.features[order])
    assert np.array_equal(back.xy, bag.xy[order])
    assert (back.slide_id, back.encoder_id) == (bag.slide_id, bag.encoder_id)
    kind = StoreSource.open(store.path).kind
    assert source.kind.differences(kind) == []
    assert (source.side, source.unit) == (store.grid().side, "px")
    assert source.tiles == len(bag)


@FORMATS
def test_what_is_exported_is_read_back_equal(tmp_path, store, name):
    """Features, positions, side and kind; by the folder and by the file; unreadable tiles are left out."""
    path = WRITERS[name](tmp_path / "out", store)
    for named in (tmp_path / "out", path):
        (source,) = find_sources([named]).values()
        check_same(source, store)
    assert len(source.load()) == 4


@settings(max_examples=15)
@given(data=st.data(), mpp=st.floats(0.05, 10), size_px=st.integers(1, 2048))
def test_positions_and_features_survive_any_slide(tmp_path_factory, data, mpp, size_px):
    """STAMP's microns in float32 give back every level-0 pixel of slides of up to 4 million px."""
    folder = tmp_path_factory.mktemp("any")
    xy = data.draw(st.lists(st.tuples(*[st.integers(0, 1 << 22)] * 2), min_size=1, max_size=8))
    spec = TileSpec(size_px=size_px, mpp=mpp * data.draw(st.floats(1, 8)))
    features = data.draw(st.lists(st.floats(-6e4, 6e4, width=16), min_size=len(xy), max_size=len(xy)))
    store = make_store(
        folder, xy=xy, features=np.array(features)[:, None], slide_mpp=mpp, spec=spec, unreadable=(), encoder="e.bf16"
    )
    for name, write in WRITERS.items():
        check_same(open_source(write(folder / name, store)), store)


def test_clams_files_are_as_clam_reads_them(tmp_path, store):
    """float32 and int32 in the h5; the same features as a bare tensor, which its training reads."""
    path = WRITERS["clam"](tmp_path, store)
    assert path == tmp_path / "h5_files" / "slide.h5"
    with h5py.File(path) as file:
        assert {name: (array.dtype, array.shape) for name, array in file.items()} == {
            "features": (np.float32, (4, 6)),
            "coords": (np.int32, (4, 2)),
        }
        features = file["features"][:]
        attrs = {name: np.asarray(value).tolist() for name, value in file["coords"].attrs.items()}
    assert attrs == {  # those of CLAM's own files of coordinates
        "patch_size": 460,
        "patch_level": 0,
        "downsample": [1.0, 1.0],
        "downsampled_level_dim": [320, 256],
        "level_dim": [320, 256],
        "name": "slide",
        "save_path": "h5_files",
    }
    tensor = torch.load(tmp_path / "pt_files" / "slide.pt", weights_only=True)
    assert type(tensor) is torch.Tensor
    assert np.array_equal(tensor.numpy(), features)


def test_tridents_files_are_as_trident_reads_them(tmp_path, store):
    """Its folders, dtypes and attributes; magnifications that agree with the side of a tile."""
    path = WRITERS["trident"](tmp_path, store)
    assert path == tmp_path / "20x_224px_0px_overlap" / "features_enc.v1" / "slide.h5"
    with h5py.File(path) as file:
        features, coords = file["features"], file["coords"]
        assert (features.dtype, coords.dtype) == (np.float16, np.int64)
        assert dict(features.attrs) == {"name": "slide", "savetodir": "features_enc.v1", "encoder": "enc.v1"}
        attrs = dict(coords.attrs)
    assert attrs.keys() == {
        "patch_size",
        "patch_size_level0",
        "level0_magnification",
        "target_magnification",
        "overlap",
        "name",
        "savetodir",
        "level0_width",
        "level0_height",
    }
    assert (attrs["patch_size"], attrs["target_magnification"], attrs["overlap"]) == (224, 20, 0)
    assert (attrs["level0_width"], attrs["level0_height"]) == (320, 256)
    assert attrs["patch_size_level0"] == 460  # the floor of 460.7, as TRIDENT's heatmaps and TITAN take no fractions
    assert isinstance(attrs["patch_size_level0"], np.integer)
    assert 224 * attrs["level0_magnification"] / 20 == pytest.approx(224 * 0.5 / 0.2431)


def test_numbers_that_are_whole_are_whole_for_trident(tmp_path):
    """An overlap too; slide encoders that take the side of a tile as an int lose nothing."""
    spec = TileSpec(size_px=256, mpp=0.5, stride_px=192)
    path = WRITERS["trident"](tmp_path, make_store(tmp_path, slide_mpp=0.25, spec=spec))
    assert path.parts[-3] == "20x_256px_64px_overlap"
    with h5py.File(path) as file:
        attrs = file["coords"].attrs
        found = {name: attrs[name] for name in ("patch_size_level0", "level0_magnification", "target_magnification")}
    assert found == {"patch_size_level0": 512, "level0_magnification": 40, "target_magnification": 20}
    assert all(isinstance(value, np.integer) for value in found.values())


def test_stamps_files_are_as_stamp_reads_them(tmp_path, store):
    """float16 feats, float32 microns, and the attributes of a version that no STAMP of today finds too new."""
    with h5py.File(WRITERS["stamp"](tmp_path, store)) as file:
        assert {name: array.dtype for name, array in file.items()} == {"feats": np.float16, "coords": np.float32}
        np.testing.assert_allclose(file["coords"][:], store.features().xy * 0.2431, rtol=1e-6)
        attrs = {name: value for name, value in file.attrs.items() if not name.startswith(PREFIX)}
    assert len(attrs.pop("code_hash")) == 8
    assert attrs == {
        "stamp_version": "2.1.0",
        "extractor": "enc.v1",
        "unit": "um",
        "tile_size_um": 112.0,
        "tile_size_px": 224,
        "feat_type": "tile",
    }


@pytest.mark.parametrize(("mpp", "size_px", "um"), [(0.5, 224, 112.0), (1.1, 256, 281.6), (0.3, 300, 90.0)])
def test_stamps_side_in_microns_is_the_one_that_was_asked_for(tmp_path, mpp, size_px, um):
    """Also where whole pixels of the slide are a hair from it: one size a study, which STAMP compares."""
    for slide_mpp in (0.2431, 0.25, 0.2524):
        folder = tmp_path / f"{slide_mpp}"
        folder.mkdir()
        spec = TileSpec(size_px=size_px, mpp=mpp)
        with h5py.File(WRITERS["stamp"](folder, make_store(folder, slide_mpp=slide_mpp, spec=spec))) as file:
            assert file.attrs["tile_size_um"] == um


def test_slide2vecs_files_are_as_slide2vec_reads_them(tmp_path, store):
    """Features and coordinates in its order and dtypes, all keys that its loaders demand, no path, the sidecar last."""
    path = WRITERS["slide2vec"](tmp_path, store)
    assert path == tmp_path / "tile_embeddings" / "slide.npz"
    with np.load(path) as held:
        assert {name: (held[name].dtype, held[name].shape) for name in held.files} == {
            "features": (np.float16, (4, 6)),
            "tile_index": (np.int64, (4,)),
        }
    with np.load(tmp_path / "tiles" / "slide.coordinates.npz") as held:
        assert {name: held[name].dtype for name in held.files} == {
            "tile_index": np.int32,
            "x": np.int64,
            "y": np.int64,
            "tissue_fractions": np.float32,
        }
        assert [*zip(held["x"].tolist(), held["y"].tolist(), strict=True)] == sorted(
            map(tuple, store.features().xy.tolist())
        )
    about = json.loads((tmp_path / "tile_embeddings" / "slide.meta.json").read_text())
    assert (about["tile_size_lv0"], about["requested_spacing_um"], about["encoder_input_size_px"]) == (460, 0.5, 224)
    meta = json.loads((tmp_path / "tiles" / "slide.coordinates.meta.json").read_text())
    assert {name: len(section) for name, section in meta.items()} == {
        "artifact": 5, "filtering": 13, "provenance": 8, "segmentation": 16, "slide": 3, "tiling": 12,
    }  # fmt: skip
    tiling = meta["tiling"]
    assert (tiling["tile_size_lv0"], tiling["step_px_lv0"], tiling["n_tiles"], tiling["overlap"]) == (460, 461, 4, 0.0)
    assert "/" not in json.dumps([about, meta])


def test_anndata_is_as_scanpy_takes_it(tmp_path, store):
    """float32 features, centres of tiles, which slide and row; no objects; what made them."""
    table = anndata.read_h5ad(WRITERS["anndata"](tmp_path, store))
    bag, side = store.features(), store.grid().side
    assert np.array_equal(table.X, bag.features)
    assert table.X.dtype == np.float32
    np.testing.assert_array_equal(table.obsm["spatial"], bag.xy + side / 2)
    assert table.obs["slide_id"].dtype == "category"
    assert (set(table.obs["slide_id"]), table.obs["row"].tolist()) == ({"slide"}, [0, 1, 3, 4])
    assert np.array_equal(table.obs[["x", "y"]].to_numpy(), bag.xy)
    assert list(table.obs_names) == ["slide:0", "slide:1", "slide:3", "slide:4"]
    assert table.uns["wsi_umedpt"]["weights_sha256"] == "ab" * 32
    assert "object" not in {str(dtype) for dtype in table.obs.dtypes}


def test_anndata_of_other_programs_is_refused(tmp_path):
    """Neither the side of a tile nor what spatial means is known there."""
    anndata.AnnData(np.ones((3, 2), np.float32)).write_h5ad(tmp_path / "s.h5ad")
    with pytest.raises(InteropError, match="only AnnData that `export` wrote is read back"):
        open_source(tmp_path / "s.h5ad")
    anndata.AnnData(np.ones((3, 2), np.float32), uns={"wsi_umedpt": {"a": 1}}).write_h5ad(tmp_path / "s.h5ad")
    with pytest.raises(InteropError, match="/obs/x is not there"):
        open_source(tmp_path / "s.h5ad")


def test_without_anndata_the_error_says_what_to_install(tmp_path, store, monkeypatch):
    """And nothing is written."""
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(InteropError, match=r"pip install 'wsi-umedpt\[anndata\]'"):
        WRITERS["anndata"](tmp_path / "out", store)
    assert not (tmp_path / "out").exists()


@FORMATS
def test_equal_stores_give_equal_bytes(tmp_path, store, name):
    """No time of day, no path of the machine."""
    first, again = WRITERS[name](tmp_path / "a", store), WRITERS[name](tmp_path / "b" / "c", store)
    assert first.read_bytes() == again.read_bytes()
    assert str(tmp_path).encode() not in first.read_bytes()


@FORMATS
def test_a_file_that_is_there_is_replaced_whole(tmp_path, store, name):
    """By features of another encoder, say; nothing of what was there stays, and nothing lies beside."""
    path = WRITERS[name](tmp_path / "out", store)
    folder = tmp_path / "more"
    folder.mkdir()
    other = make_store(folder, features=np.ones((5, 3)), unreadable=())
    assert WRITERS[name](tmp_path / "out", other) == path
    check_same(open_source(path), other)
    assert not [file for file in path.parent.iterdir() if file.name.startswith(".")]


def test_a_full_disk_leaves_what_was_there(tmp_path):
    """And the error is one of the system or of ours that says so, not a trace of HDF5."""
    xy, features = np.zeros((3000, 2)), np.ones((3000, 100))
    big = make_store(tmp_path, xy=xy, features=features, unreadable=())
    paths = [write(tmp_path / name, big) for name, write in WRITERS.items()]
    before = [path.read_bytes() for path in paths]
    code = (
        "import resource, sys; from pathlib import Path; import anndata, torch\n"
        "from wsi_umedpt.errors import WsiError; from wsi_umedpt.interop.feature_banks import WRITERS\n"
        "from wsi_umedpt.store.slide_store import SlideStore; store = SlideStore.open('slide.zarr')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))\n"
        "for name, write in WRITERS.items():\n"
        "    try: write(Path(name), store)\n"
        "    except (OSError, WsiError) as error: print(name, error)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(WRITERS), done.stderr
    assert all("cannot be written: File too large" in line for line in lines), lines
    assert [path.read_bytes() for path in paths] == before
    assert not list(tmp_path.glob("*/**/.*"))


@FORMATS
def test_a_store_without_readable_tiles_is_refused(tmp_path, name):
    """Other tools read no empty files, nor do we."""
    with pytest.raises(InteropError, match="holds 2 tiles, none of them readable: nothing to export"):
        WRITERS[name](tmp_path / "out", make_store(tmp_path, xy=[(0, 0), (9, 9)], unreadable=(0, 1)))


@FORMATS
def test_which_features_are_meant_must_be_clear(tmp_path, store, name):
    """Of several encoders, or of several grids, one is named."""
    make_store(store.path.parent, encoder="other.v1")
    with pytest.raises(StoreError, match="Name one with `encoder_id`"):
        WRITERS[name](tmp_path / "out", store)
    path = WRITERS[name](tmp_path / "out", store, encoder_id="other.v1", grid_id=SPEC.grid_id)
    assert open_source(path).load().encoder_id == "other.v1"


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("mpp", "fine"), ("mpp", -1.0), ("side", np.nan), ("slide_mpp", None), ("encoder", 3), ("precision", [1, 2])],
)
@pytest.mark.parametrize("name", ["clam", "trident", "stamp"])
def test_what_we_stated_and_somebody_changed_is_refused(tmp_path, store, name, attribute, value):
    """Half of a provenance is none."""
    path = WRITERS[name](tmp_path, store)
    with h5py.File(path, "a") as file:
        del file.attrs[PREFIX + attribute]
        if value is not None:
            file.attrs[PREFIX + attribute] = value
    with pytest.raises(InteropError, match="what wsi_umedpt wrote there was changed"):
        open_source(path)


def test_features_of_ours_may_be_mixed_with_the_store_they_are_of(tmp_path, store):
    """Kinds agree whatever the file; another encoder's do not."""
    kinds = [open_source(write(tmp_path / name, store)).kind for name, write in WRITERS.items()]
    assert {str(kind.differences(StoreSource.open(store.path).kind)) for kind in kinds} == {"[]"}
    assert sorted(kind.format for kind in kinds) == ["AnnData", "CLAM", "STAMP", "TRIDENT", "slide2vec"]
    folder = tmp_path / "other"
    folder.mkdir()
    other = StoreSource.open(make_store(folder, encoder="enc.v1.bf16").path).kind
    assert kinds[0].differences(other) == ["precision bf16 instead of fp32"]


# ---- the command ----


def test_export_goes_on_after_a_slide_that_fails(say, tmp_path, store):
    """A line a slide, failures with their reasons at the end, exit code 1; the others are written."""
    make_store(store.path.parent, "another")
    make_store(store.path.parent, "blank", unreadable=(0, 1, 2, 3, 4))
    (store.path.parent / "broken.zarr").mkdir()
    code, out, err = say("export", store.path.parent, "-o", "out", "--features", "trident")
    assert code == 1
    assert out.splitlines() == [
        "another: out/20x_224px_0px_overlap/features_enc.v1/another.h5",
        "blank: FAILED (why: in the list at the end)",
        "broken: FAILED (why: in the list at the end)",
        "slide: out/20x_224px_0px_overlap/features_enc.v1/slide.h5",
        "2 of 4 slides exported",
    ]
    assert "2 failed:" in err
    assert "none of them readable" in err
    assert "no store" in err
    assert list(find_sources([Path("out")])) == ["another", "slide"]


@FORMATS
def test_export_writes_features_of_the_model_that_is_named(say, store, name):
    """To a folder that need not be there."""
    make_store(store.path.parent, encoder="other.v1")
    words = ("export", store.path, "-o", "a/b", "--features", name)
    code, _, err = say(*words)
    assert (code, "Name one with -m" in err) == (1, True)
    code, out, err = say(*words, "-m", "other.v1", "--grid", SPEC.grid_id)
    assert (code, err, out.splitlines()[-1]) == (0, "", "1 of 1 slide exported")
    (source,) = find_sources([Path("a/b")]).values()
    assert source.kind.encoder == "other.v1"


def test_export_refuses_what_does_not_go_together(say, tmp_path, store):
    """Before anything is written."""
    (tmp_path / "twin").mkdir()
    twin = make_store(tmp_path / "twin")
    for words, found in (
        ((store.path, "--features", "clam", "--table", "slides"), "--features goes without --table"),
        (
            (store.path, "--features", "clam", "--objects", "nuclei"),
            "--features goes without --table, --regions, --hotspots, --objects and --scores",
        ),
        ((store.path, "-m", "enc.v1"), "--model goes with --features"),
        ((store.path, twin.path, "--features", "clam"), "would be one file"),
        (("nothing", "--features", "clam"), "there are no stores in nothing"),
    ):
        code, _, err = say("export", *words, "-o", "out")
        assert (code, found in err) == (1, True), err
    assert not Path("out").exists()


def test_help_is_instant():
    """It imports neither torch nor h5py."""
    code = (
        "import sys; sys.argv[1:] = ['export', '--help']\n"
        "from wsi_umedpt.cli import main\n"
        "try: main()\n"
        "except SystemExit: print({'torch', 'h5py', 'anndata', 'zarr'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert "--features" in done.stdout


def test_a_store_whose_features_are_damaged_is_refused(store):
    """Metadata that says something else than a store does."""
    node = store.path / "grids" / SPEC.grid_id / "zarr.json"
    node.write_text(node.read_text().replace('"side"', '"sides"'))
    with pytest.raises(StoreError, match="is damaged"):
        StoreSource.open(store.path)
    assert SlideStore.open(store.path).slide_id == "slide"
