"""One pass of a shared model gives what its encoder and its heads give, each run alone."""

import numpy as np
import pytest
import torch

from wsi_umedpt import checkpoint
from wsi_umedpt.errors import CheckpointError, EncoderError
from wsi_umedpt.models.encoder import load_encoder
from wsi_umedpt.models.fixednorm import watched
from wsi_umedpt.models.release import load_release
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT
from wsi_umedpt.tasks import load_heads, make_task
from wsi_umedpt.tasks.base import HeadSpec
from wsi_umedpt.tasks.onepass import OnePass, find_heads, object_names

SPEC = ModelSpec(backbone="convnext_atto", norm="layernorm", dim=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
HEADS = (
    HeadSpec(name="nuclei", kind="segmentation", classes=("background", "nucleus", "border"), modality="microscopy"),
    HeadSpec(name="nuclei_boxes", kind="detection", classes=("nucleus",), modality="microscopy"),
    HeadSpec(name="regions", kind="segmentation", classes=("background", "tumour", "stroma"), modality="microscopy"),
    HeadSpec(name="cells", kind="detection", classes=("a", "b"), modality="microscopy"),
    HeadSpec(name="age", kind="regression", classes=("age",), modality="xray", centre=(50.0,), spread=(10.0,)),
)
SIDE = 96


@pytest.fixture(scope="module")
def path(tmp_path_factory, tiles):
    """The JSON file of a model whose fixed norms are those of one tile, the first."""
    torch.manual_seed(0)
    shared = UMedPT(SPEC).eval()
    tasks = {spec.name: make_task(spec, SPEC.dim).eval() for spec in HEADS}
    for name in ("nuclei_boxes", "cells"):
        tasks[name].classes.bias.data.fill_(0.5)
        tasks[name].classes.weight.data.mul_(30)
    for parameter in (p for module in (shared, *tasks.values()) for p in module.parameters()):
        parameter.data = parameter.data.half().float()
    tensors = {f"shared.{k}": v.half() for k, v in shared.state_dict().items()}
    for name, task in tasks.items():
        tensors |= {f"heads.{name}.{k}": v.half() for k, v in task.state_dict().items()}
        with watched(shared) as watch, torch.inference_mode():
            features = shared.features(shared.normalised(torch.from_numpy(tiles[:1]).permute(0, 3, 1, 2)))
            (shared.boxes if task.spec.kind == "detection" else shared.pixels)(features.pyramid)
            watch.ended(1)
        if task.spec.kind != "regression":
            tensors |= {f"norms.{name}.{k}": v.clone() for k, v in watch.statistics().items()}
    about = {
        "schema": 1, "kind": "umedpt", "name": "tiny.v1", "model": SPEC.to_dict(), "mpp": 0.5,
        "heads": [spec.to_dict() for spec in HEADS], "licence": "none",
    }  # fmt: skip
    file = tmp_path_factory.mktemp("release") / "tiny.v1.json"
    checkpoint.save(file, tensors, about)
    return file


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    """Eleven tiles: more than one part of a batch on the CPU."""
    return np.random.default_rng(0).integers(0, 256, (11, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def outputs(path, tiles):
    release = load_release(path)
    return OnePass(release, find_heads(release, object_names(release)), size_px=SIDE).submit(tiles)()


def alone(path, tiles):
    """The shared model, its features of the first tile, and its heads, as training has them."""
    release = load_release(path)
    images = torch.from_numpy(tiles[:1]).permute(0, 3, 1, 2)
    shared = release.shared.eval()
    return shared, shared.features(shared.normalised(images)), load_heads(release)


def test_vectors_are_the_encoders(path, tiles, outputs):
    """The embeddings that a pass with heads writes are those of a pass without."""
    expected = load_encoder(f"umedpt:{path}").encode(tiles)
    assert outputs.vectors.dtype == np.float32
    np.testing.assert_allclose(outputs.vectors, expected, atol=1e-5)


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


def test_a_tile_is_the_same_in_any_batch(path, tiles, outputs):
    """What else is in the batch, and how many, changes nothing but rounding."""
    release = load_release(path)
    model = OnePass(release, find_heads(release, object_names(release)), size_px=SIDE)
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
    assert object_names(release) == ["nuclei", "regions", "cells"]
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


def test_a_model_without_statistics_is_refused(path, tmp_path):
    """Heads trained before there were fixed norms would give other chances in every window."""
    tensors, about = checkpoint.load(path)
    about = {k: v for k, v in about.items() if k not in ("tensors", "tensors_sha256", "sha256")}
    checkpoint.save(tmp_path / "a.json", {k: v for k, v in tensors.items() if not k.startswith("norms.")}, about)
    release = load_release(tmp_path / "a.json")
    with pytest.raises(CheckpointError, match="no statistics for the norm"):
        OnePass(release, find_heads(release, ["nuclei"]), size_px=SIDE)


def test_sides_that_the_decoders_cannot_halve_are_refused(path):
    """A side is a multiple of 32 px."""
    release = load_release(path)
    with pytest.raises(EncoderError, match="multiple of 32 px, got 100"):
        OnePass(release, find_heads(release, ["nuclei"]), size_px=100)
