"""What only a GPU can show; skipped where there is none. Everything here is compared with the CPU."""

import cv2
import numpy as np
import pytest
import torch

from wsi_umedpt.models.cards import DEFAULT_ENCODER
from wsi_umedpt.models.encoder import load_encoder
from wsi_umedpt.pipeline.embed import encode_slide
from wsi_umedpt.settings import RunSettings
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.slides.tissue import find_tissue
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.testing import tissue_image, write_pyramid

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

COSINE = {"fp32": 0.9999, "bf16": 0.98, "fp16": 0.999}


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory):
    """A slide of 4096 x 3072 px at 0.5 um/px."""
    image, _ = tissue_image(4096, 3072)
    return write_pyramid(tmp_path_factory.mktemp("slides") / "drawn.svs", image)


@pytest.fixture(scope="module")
def reference():
    return load_encoder(device="cpu", engine="torch")


@pytest.fixture(scope="module")
def pictures():
    """Tiles whose features differ: noise from two to sixty waves across, uint8 (50, 224, 224, 3)."""
    rng = np.random.default_rng(3)
    coarse = [rng.integers(0, 256, (n, n, 3), dtype=np.uint8) for n in rng.integers(2, 60, 50)]
    return np.stack([cv2.resize(c, (224, 224), interpolation=cv2.INTER_CUBIC) for c in coarse])


def lowest_cosine(expected, found):
    """Of features centred on the mean of what is expected."""
    u, v = expected - expected.mean(axis=0), found - expected.mean(axis=0)
    return ((u * v).sum(axis=1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)).min()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", COSINE)
def test_features_are_those_of_the_cpu(reference, pictures, precision, compiled):
    """At every precision, compiled or not, for full and ragged batches."""
    encoder = load_encoder(device="cuda", precision=precision, compiled=compiled, batch_size=16)
    found = np.concatenate([encoder.encode(pictures[:16]), encoder.encode(pictures[16:19])])
    found = np.concatenate([found, encoder.encode(pictures[19:])])
    assert lowest_cosine(reference.encode(pictures), found) > COSINE[precision]


def test_batches_in_flight_do_not_mix(pictures):
    """Many submitted before the first is awaited, their pixels overwritten as soon as they are submitted."""
    encoder = load_encoder(device="cuda")
    expected = [encoder.encode(pictures[i : i + 5]) for i in range(0, 50, 5)]
    buffer, waits = np.empty((5, 224, 224, 3), np.uint8), []
    for i in range(0, 50, 5):
        buffer[:] = pictures[i : i + 5]
        waits.append(encoder.submit(buffer))
    buffer[:] = 0
    assert all(np.array_equal(wait(), e) for wait, e in zip(waits, expected, strict=True))


def test_a_store_made_on_cuda_is_that_of_the_cpu(slide_path, reference, tmp_path):
    """Same tiles in the same rows; the store says what made it."""
    features = {}
    for encoder in (reference, load_encoder(device="cuda")):
        with open_slide(slide_path) as slide:
            tissue = find_tissue(slide)
            grid = lay_grid(slide.size, slide.mpp, TileSpec(mpp=0.5), within=tissue)
            path = tmp_path / f"{encoder.device}.zarr"
            with SlideStore.create(path, slide, tissue, grid) as store:
                encode_slide(slide, store, encoder, settings=RunSettings(batch_size=32))
        features[encoder.device] = SlideStore.open(path).features(DEFAULT_ENCODER).features
        assert encoder.made_by["device"] == encoder.device
    assert len(features["cpu"]) > 60
    assert lowest_cosine(*(f.astype(np.float64) for f in features.values())) > 0.999  # rows are float16


def test_the_command_line_uses_every_gpu(say, slide_path):
    """`cuda` gives each GPU a process, where there are several; features are there at the end."""
    code, _, err = say("embed", slide_path, "-o", "out", "--device", "cuda", "--tile-mpp", "0.5")
    assert code == 0, err
    assert len(SlideStore.open("out/drawn.zarr").features().features) > 60
