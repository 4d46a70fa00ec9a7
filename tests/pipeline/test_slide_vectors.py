"""A vector a slide: made of its tiles, kept beside them, and a bag of one to slide classifiers."""

from pathlib import Path

import numpy as np
import pytest

from wsi_umedpt.errors import EncoderError, StoreError
from wsi_umedpt.interop.feature_banks import find_usable
from wsi_umedpt.models.cards import all_cards
from wsi_umedpt.models.slide_encoders import find_slide_encoder
from wsi_umedpt.pipeline.slide_vectors import embed_slide
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.slide_vectors import read_slide_vector, slide_vector_ids, write_slide_vector
from wsi_umedpt.store.verify import problems_of

TINY = ("-m", "timm:resnet10t@random", "--device", "cpu", "--size", "176")
NAME = "mean.timm_resnet10t.random"


@pytest.fixture
def embedded(say, small_svs):
    code, out, _ = say("embed", small_svs, "-o", "out", *TINY, "--slide-encoder", "mean")
    assert code == 0
    assert f"1 vector of a slide made; for mil: -m {NAME}" in out
    (path,) = Path("out").glob("*.zarr")
    return path


def test_the_mean_of_a_slides_tiles_lies_beside_them(embedded, say, small_svs):
    """With what made it; the store is whole, and the same command makes it no second time."""
    store = SlideStore.open(embedded)
    vector, made_by = read_slide_vector(store, NAME)
    features = store.features().features
    np.testing.assert_allclose(vector, features.mean(0, dtype=np.float64), rtol=1e-6)
    assert (made_by["card"]["name"], made_by["tiles"], made_by["count"]) == ("mean", NAME[5:], len(features))
    assert problems_of(embedded) == []
    assert "0 vectors of slides made" in say("embed", small_svs, "-o", "out", *TINY, "--slide-encoder", "mean")[1]


def test_a_slide_classifier_takes_it_as_a_bag_of_one(embedded):
    """By its name, or because a model was trained on such; the tiles' features are there as before."""
    (source,) = find_usable([embedded], encoder_id=NAME)[0].values()
    bag = source.load()
    assert bag.features.shape == (1, 512)
    assert (source.tiles, source.kind.encoder, source.kind.dim) == (1, NAME, 512)
    (again,) = find_usable([embedded], kind=source.kind)[0].values()
    np.testing.assert_array_equal(again.load().features, bag.features)
    (tiles,) = find_usable([embedded])[0].values()
    assert tiles.kind.encoder == NAME[5:]
    assert tiles.tiles > 1


def test_a_vector_of_other_tiles_is_made_anew(embedded):
    """One that is not of the features that are there."""
    store = SlideStore.open(embedded)
    ((grid_id, name),) = slide_vector_ids(store)
    before, _ = read_slide_vector(store, name)
    write_slide_vector(store, name, before + 1, {"tiles": NAME[5:], "tiles_sha256": "of others"}, grid_id)
    assert embed_slide(SlideStore.open(embedded), find_slide_encoder("mean"), NAME[5:], grid_id)
    np.testing.assert_array_equal(read_slide_vector(SlideStore.open(embedded), name)[0], before)


@pytest.mark.parametrize("name", [card.name for card in all_cards().values() if card.kind == "slide" and card.why_not])
def test_an_encoder_of_slides_that_is_not_built_says_why(name, say, small_svs):
    """Before any slide is embedded, with the tiles that it demands."""
    code, _, err = say("embed", small_svs, "-o", "out", *TINY, "--slide-encoder", name)
    assert code == 1
    assert f"{name} cannot be built here: " in err
    assert "It needs tiles of " in err
    assert not Path("out").exists()


def test_an_encoder_of_tiles_embeds_no_slides():
    """And those that do are named."""
    with pytest.raises(EncoderError, match="uni embeds tiles, not slides; those that embed slides: chief, "):
        find_slide_encoder("uni")


def test_a_vector_that_is_none_is_refused(embedded):
    """Names and numbers."""
    store = SlideStore.open(embedded)
    grid = store.grid_ids[0]
    with pytest.raises(StoreError, match=r"cannot be called '\.\./x'"):
        write_slide_vector(store, "../x", np.ones(3, np.float32), {}, grid)
    with pytest.raises(StoreError, match="finite numbers in a row"):
        write_slide_vector(store, "x", np.full(3, np.nan, np.float32), {}, grid)
    with pytest.raises(StoreError, match=rf"holds no slide vector 'x'\. It holds: {NAME}"):
        read_slide_vector(store, "x")
