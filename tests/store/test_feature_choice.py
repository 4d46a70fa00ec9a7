"""A model finds the features that it was made for, in stores that hold several."""

import json
from itertools import product

import numpy as np
import pytest
from PIL import Image

from wsi_umedpt.errors import InteropError, StoreError
from wsi_umedpt.interop.feature_banks import find_usable
from wsi_umedpt.interop.feature_sources import StoreSource
from wsi_umedpt.mil.linear_probe import fit_probe
from wsi_umedpt.mil.probe_fit import Labelled
from wsi_umedpt.mil.tile_probe import score_store
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileGrid, TileSpec
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.store.features import FeatureKind
from wsi_umedpt.store.scores_io import read_scores
from wsi_umedpt.store.slide_store import SlideStore

SPECS = (TileSpec(size_px=64, mpp=0.5), TileSpec(size_px=32, mpp=0.5), TileSpec(size_px=64, mpp=1.0))
ENCODERS = {"one": "1" * 64, "two": "2" * 64}
DIM = 5


def add(folder, name, encoders, specs):
    """Put features of encoders on grids into a store; the features say which they are."""
    picture = folder / f"{name}.png"
    Image.new("RGB", (512, 256), "white").save(picture)
    for spec in specs:
        side = spec.size_px * spec.mpp / 0.5
        xy = np.array([[side * n, 0] for n in range(int(512 // side))], np.int32)
        grid = TileGrid(spec, side, xy, np.ones(len(xy), np.float32))
        with (
            open_slide(picture, mpp=0.5) as slide,
            SlideStore.create(folder / f"{name}.zarr", slide, TissueMask(np.ones((4, 8), bool), 64), grid) as store,
        ):
            for encoder in encoders:
                made_by = {"card": {"name": encoder}, "weights_sha256": ENCODERS[encoder], "precision": "fp32"}
                writer = store.writer(encoder, spec.grid_id, DIM, made_by)
                values = np.random.default_rng((len(xy), len(encoder))).normal(size=(len(xy), DIM))
                writer.append(values.astype(np.float32), np.ones(len(xy), bool))
                writer.finish()
            store.set_status(spec.grid_id, np.zeros(len(xy), np.uint8))
            store.commit()
    picture.unlink()
    return SlideStore.open(folder / f"{name}.zarr")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store with two encoders on three grids."""
    folder = tmp_path_factory.mktemp("several")
    add(folder, "several", ENCODERS, SPECS)
    return folder


def kind_of(encoder, spec, **changes):
    of = {"encoder": encoder, "weights_sha256": ENCODERS[encoder], "precision": "fp32", "mpp": spec.mpp}
    return FeatureKind(**{**of, "size_px": spec.size_px, "dim": DIM, **changes})


@pytest.mark.parametrize(("encoder", "spec"), [*product(ENCODERS, SPECS)])
def test_features_of_a_kind_are_found(folder, encoder, spec):
    """Whichever of all that a store holds; and nothing has to be named."""
    sources, troubles = find_usable([folder], kind=kind_of(encoder, spec))
    assert troubles == {}
    assert (sources["several"].encoder_id, sources["several"].grid_id) == (encoder, spec.grid_id)
    assert kind_of(encoder, spec).differences(sources["several"].kind) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"weights_sha256": "3" * 64}, "one, grid .*: weights_sha256 1", id="other-weights"),
        pytest.param({"mpp": 0.25}, "mpp 0.5 instead of 0.25", id="other-scale"),
        pytest.param({"dim": 9}, "dim 5 instead of 9", id="other-width"),
        pytest.param({"precision": "bf16"}, "precision fp32 instead of bf16", id="other-arithmetic"),
    ],
)
def test_features_of_another_kind_are_refused_with_what_is_there(folder, changes, words):
    """Each with what sets it apart."""
    _, troubles = find_usable([folder], kind=kind_of("one", SPECS[0], **changes))
    assert "holds no features of the kind that is asked for (one" in str(troubles["several"])
    with pytest.raises(StoreError, match=words):
        raise troubles["several"]


def test_two_grids_that_fit_are_named(tmp_path):
    """A stride is nothing that a model knows of; --grid chooses."""
    dense = TileSpec(size_px=64, mpp=0.5, stride_px=32)
    add(tmp_path, "dense", ["one"], [SPECS[0], dense])
    path, kind = tmp_path / "dense.zarr", kind_of("one", SPECS[0])
    with pytest.raises(StoreError, match=rf"several grids .*{dense.grid_id}.* fit; name one with `grid_id`"):
        StoreSource.open(path, kind=kind)
    assert StoreSource.open(path, grid_id=dense.grid_id, kind=kind).grid_id == dense.grid_id


def test_what_is_named_is_taken(folder):
    """Also where it does not fit: that is said where it is used."""
    source = StoreSource.open(folder / "several.zarr", "two", SPECS[0].grid_id, kind_of("one", SPECS[0]))
    assert (source.encoder_id, source.grid_id) == ("two", SPECS[0].grid_id)


def test_without_a_model_the_flags_that_choose_are_named(folder):
    """-m is what every command that reads features has."""
    with pytest.raises(StoreError, match=r"holds 3 grids.*Name one with `grid_id`"):
        StoreSource.open(folder / "several.zarr")
    with pytest.raises(StoreError, match=r"features of 2 encoders.*one, two\. Name one with `encoder_id`"):
        StoreSource.open(folder / "several.zarr", grid_id=SPECS[0].grid_id)


@pytest.mark.parametrize(("encoder", "spec"), [("one", SPECS[1]), ("two", SPECS[2])])
def test_a_probe_finds_what_it_was_fitted_on(tmp_path, encoder, spec):
    """And its scores lie on that grid."""
    store = add(tmp_path, "several", ENCODERS, SPECS)
    bag = store.features(encoder, spec.grid_id)
    labels = tuple("ab"[n % 2] for n in range(len(bag)))
    tiles = Labelled("several", "", bag.features.astype(np.float32), labels, ("several/0/0",) * len(bag))
    about = {"name": encoder, "weights_sha256": ENCODERS[encoder], "mpp": spec.mpp, "size_px": spec.size_px}
    score_store(store, fit_probe([tiles], name="p", encoder=about))
    scores, _ = read_scores(store, "p", spec.grid_id)
    assert len(scores) == len(store.grid(spec.grid_id))
    other = fit_probe([tiles], name="q", encoder={**about, "weights_sha256": "3" * 64})
    with pytest.raises(StoreError, match=rf"no features of the kind that is asked for \({encoder}.*fitted on 33333"):
        score_store(store, other)


def test_a_folder_of_another_tools_banks_is_chosen_by_the_models_encoder(tmp_path):
    """Of several that TRIDENT laid side by side; where none is of that encoder the user must name one."""
    for encoder in ("uni", "conch"):
        (tmp_path / f"features_{encoder}").mkdir()
        np.savez(tmp_path / f"features_{encoder}" / "S1.npz", features=np.ones((3, 4), np.float32))
    sources, _ = find_usable([tmp_path], kind=FeatureKind(encoder="conch", dim=4))
    assert sources["S1"].path.parent.name == "features_conch"
    with pytest.raises(InteropError, match="of which one must be named"):
        find_usable([tmp_path], kind=FeatureKind(encoder="gigapath", dim=4))


def test_predict_needs_no_flags(folder, say, tmp_path):
    """`probe predict` on a store of many features, by what the probe says of itself."""
    store = add(tmp_path, "several", ENCODERS, SPECS)
    side, xy = store.grid(SPECS[1].grid_id).side, store.grid(SPECS[1].grid_id).xy
    rows = [f"several,{x + side / 2},{y + side / 2},{'ab'[n % 2]}" for n, (x, y) in enumerate(xy.tolist())]
    (tmp_path / "labels.csv").write_text("slide_id,x,y,label\n" + "\n".join(rows))
    words = ("probe", "fit", store.path, "-l", "labels.csv", "-o", "p.json")
    code, _, err = say(*words)
    assert code == 1
    assert "--grid" in err
    code, _, err = say(*words, "-m", "two", "--grid", SPECS[1].grid_id)
    assert code == 0, err
    assert json.loads((tmp_path / "p.json").read_text())["encoder"]["name"] == "two"
    code, out, err = say("probe", "predict", store.path, "-p", "p.json")
    assert (code, err) == (0, "")
    assert "several: a " in out
