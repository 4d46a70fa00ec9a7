"""One pass of a shared model gives what its encoder and its heads give, each run alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.released_models import save_model
from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.backbones import FeaturePyramid
from wsi_umedpt.models.bundle import load_release
from wsi_umedpt.models.encoder import load_encoder
from wsi_umedpt.models.fixed_norm import Decoder, collect_statistics
from wsi_umedpt.models.head_spec import HeadSpec, object_heads
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT
from wsi_umedpt.tasks import load_heads, make_task
from wsi_umedpt.tasks.multihead import MAP_STRIDES, OnePass, find_heads

SPEC = ModelSpec(backbone="convnext_atto", norm="layernorm", dim=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
HEADS = (
    HeadSpec(
        name="nuclei",
        kind="segmentation",
        classes=("background", "nucleus", "border"),
        modality="microscopy",
        mpp=0.25,
        about="dark nuclei",
    ),
    HeadSpec(name="nuclei_boxes", kind="detection", classes=("nucleus",), modality="microscopy"),
    HeadSpec(name="regions", kind="segmentation", classes=("background", "tumour", "stroma"), modality="microscopy"),
    HeadSpec(name="cells", kind="detection", classes=("a", "b"), modality="microscopy"),
    HeadSpec(name="age", kind="regression", classes=("age",), modality="xray", centre=(50.0,), spread=(10.0,)),
)
SIDE = 96


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The JSON file of a model with five heads."""
    torch.manual_seed(0)
    shared = UMedPT(SPEC).eval()
    tasks = {spec.name: make_task(spec, SPEC.dim).eval() for spec in HEADS}
    for name in ("nuclei_boxes", "cells"):
        tasks[name].classes.bias.data.fill_(0.5)
        tasks[name].classes.weight.data.mul_(30)
    return save_model(tmp_path_factory.mktemp("release"), shared, tasks)


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    """Eleven tiles: more than one part of a batch on the CPU."""
    return np.random.default_rng(0).integers(0, 256, (11, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(path, tiles):
    """All heads, their norms fixed by one tile, the first."""
    release = load_release(path)
    made = OnePass(release, find_heads(release, [*object_heads(release.heads)]), size_px=SIDE, maps=MAP_STRIDES)
    made.calibrate(tiles[:1])
    return made


@pytest.fixture(scope="module")
def outputs(model, tiles):
    return model.submit(tiles)()


def alone(path, tiles):
    """The shared model, its features of the first tile, and its heads, as training has them."""
    release = load_release(path)
    images = torch.from_numpy(tiles[:1]).permute(0, 3, 1, 2)
    shared = release.shared.eval()
    return shared, shared.features(shared.normalised(images)), load_heads(release)


def test_maps_are_the_encoders_own(path, tiles, model, outputs):
    """Of strides 8, 16 and 32, before anything is squeezed; channels come last."""
    shared, _, _ = alone(path, tiles)
    with torch.inference_mode():
        pyramid = shared.pyramid(shared.normalised(torch.from_numpy(tiles).permute(0, 3, 1, 2)))
    assert model.maps == dict(zip(MAP_STRIDES, shared.encoder.channels[1:], strict=True))
    for found, expected in zip(outputs.maps, pyramid[1:], strict=True):
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1).numpy(), rtol=2e-3, atol=2e-3)


def test_vectors_are_the_encoders(path, tiles, outputs):
    """The embeddings that a pass with heads writes are those of a pass without."""
    expected = load_encoder(f"umedpt:{path}").encode(tiles)
    assert outputs.vectors.dtype == np.float32
    np.testing.assert_allclose(outputs.vectors, expected, atol=1e-5)


def test_vectors_of_maps_are_the_encoders(tmp_path, tiles):
    """Where an embedding is the means of maps, too: it has another length, and is not squeezed."""
    torch.manual_seed(0)
    shared = UMedPT(replace(SPEC, vector="maps")).eval()
    torch.nn.init.uniform_(shared.spread, 0.5, 2)
    made = save_model(tmp_path, shared, {"regions": make_task(HEADS[2], shared.vector_dim)})
    release = load_release(made)
    model = OnePass(release, find_heads(release, ["regions"]), size_px=SIDE)
    model.calibrate(tiles[:1])
    found = model.submit(tiles[:3])().vectors
    assert found.shape == (3, shared.vector_dim) != (3, SPEC.dim)
    np.testing.assert_allclose(found, load_encoder(f"umedpt:{made}").encode(tiles[:3]), atol=1e-5)


@pytest.mark.parametrize("name", ["nuclei", "regions"])
def test_chances_are_the_heads(path, tiles, outputs, name):
    """Softmax of what the head says at every second pixel, background left out, to a step of uint8.

    The fixed norms are those of this very tile, so that the head run alone normalises alike.
    """
    with torch.inference_mode():
        shared, features, heads = alone(path, tiles)
        logits = heads[name].head(shared.pixels(features.pyramid))
        expected = logits.softmax(1)[:, 1:].numpy() * 255
    found = outputs.chances[name]
    assert found.dtype == np.uint8
    assert found.shape == (len(tiles), 2, SIDE // 2, SIDE // 2)
    assert np.abs(found[:1] - expected).max() <= 0.6
    assert len(np.unique(found)) > 5, "a head that says the same everywhere shows nothing"


@pytest.mark.parametrize(("name", "head"), [("nuclei", "nuclei_boxes"), ("cells", "cells")])
def test_boxes_are_the_heads(path, tiles, outputs, name, head):
    """Each tile's, best first, as the head reads them itself."""
    with torch.inference_mode():
        shared, features, heads = alone(path, tiles)
        expected = heads[head].detections(heads[head](shared, features))
    assert sum(len(e.scores) for e in expected) > 0
    for found, truth in zip(outputs.boxes[name][:1], expected, strict=True):
        np.testing.assert_allclose(found.xyxy, truth.xyxy.numpy(), atol=1e-2)
        np.testing.assert_array_equal(found.class_index, truth.classes.numpy())
        np.testing.assert_allclose(found.score, truth.scores.numpy(), atol=1e-4)
        assert (np.diff(found.score) <= 0).all()


def test_a_tile_is_the_same_in_any_batch(model, tiles, outputs):
    """What else is in the batch, and how many, changes nothing but rounding."""
    for rows in ([3], [10, 3], [0, 1, 2, 3, 4, 5, 6, 7, 8]):
        found = model.submit(np.ascontiguousarray(tiles[rows]))()
        np.testing.assert_allclose(found.vectors, outputs.vectors[rows], atol=1e-5)
        for name, chances in found.chances.items():
            assert np.abs(chances.astype(int) - outputs.chances[name][rows]).max() <= 1
        for name, boxes in found.boxes.items():
            for one, row in zip(boxes, rows, strict=True):
                np.testing.assert_allclose(one.xyxy, outputs.boxes[name][row].xyxy, atol=1e-2)


def test_heads_are_found_by_name(path):
    """Boxes go with the pixels of the same name; the border is no class; a name twice is one head."""
    release = load_release(path)
    assert object_heads(release.heads) == {
        "nuclei": "dark nuclei, 0.25 um/px",
        "regions": "tumour, stroma",
        "cells": "a, b",
    }
    nuclei, regions, cells = find_heads(release, ["nuclei", "regions", "cells", "nuclei"])
    assert (nuclei.classes, nuclei.border, nuclei.boxes is not None) == (("nucleus",), True, True)
    assert (regions.classes, regions.border, regions.boxes) == (("tumour", "stroma"), False, None)
    assert (cells.classes, cells.pixels) == (("a", "b"), None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("nuclie", "'nuclie' is not there", id="unknown"),
        pytest.param("age", "is of the kind regression", id="shows-nothing-over-a-slide"),
    ],
)
def test_heads_that_show_nothing_are_refused(path, name, said):
    """With those that do."""
    with pytest.raises(EncoderError, match=rf"{said}.*cells, nuclei, nuclei_boxes, regions"):
        find_heads(load_release(path), [name])


def test_norms_are_fixed_by_all_tiles_alike(path, tiles):
    """However they are cut into batches, statistics are the mean over tiles; before, nothing can be run."""
    release = load_release(path)
    one, other = (OnePass(release, find_heads(release, ["nuclei"]), size_px=SIDE) for _ in range(2))
    with pytest.raises(RuntimeError, match="calibrate comes before"):
        one.submit(tiles)
    one.calibrate(tiles)
    other.calibrate(tiles[::-1].copy())
    found, again = (m.submit(tiles[:2])().chances["nuclei"].astype(int) for m in (one, other))
    assert np.abs(found - again).max() <= 1
    other.calibrate(tiles[:1] // 4)
    assert np.abs(found - other.submit(tiles[:2])().chances["nuclei"]).max() > 1


def test_what_is_found_at_a_place_does_not_depend_on_its_window(path, tiles):
    """With norms fixed, chances far from a window's edges change by rounding alone when all else in it does."""
    torch.manual_seed(0)
    shared = load_release(path).shared.eval()
    with torch.inference_mode(), collect_statistics(shared) as collector:
        shared.pixels(shared.features(shared.normalised(torch.from_numpy(tiles).permute(0, 3, 1, 2))).pyramid)
        collector.ended(len(tiles))
    decoder = Decoder(shared, "pixels", collector.statistics())
    maps = [torch.randn(1, c, 64 // s, 64 // s) for c, s in zip(shared.encoder.channels, (1, 2, 4, 8), strict=True)]
    other = [m.clone() for m in maps]
    for m in other:
        m[..., : m.shape[3] // 4] += 3
    with torch.inference_mode():
        one, changed = (decoder(FeaturePyramid(*m)) for m in (maps, other))
    assert torch.allclose(one[..., -32:], changed[..., -32:], atol=1e-5)
    assert not torch.allclose(one[..., :32], changed[..., :32], atol=1e-2)


def test_sides_that_the_decoders_cannot_halve_are_refused(path):
    """A side is a multiple of 32 px."""
    release = load_release(path)
    with pytest.raises(EncoderError, match="multiple of 32 px, got 100"):
        OnePass(release, find_heads(release, ["nuclei"]), size_px=100)
