"""GlaS images as bags of tiles, embedded by the shipped encoder, by ImageNet's, and by random weights."""

import csv
import functools
from pathlib import Path

import numpy as np
import torch

from benchmarks import DATA
from benchmarks.mil.bags import Bags
from wsi_umedpt.datasets.images import read_image
from wsi_umedpt.models.encoder import load_encoder
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT

_SIDE, _STRIDE = 224, 112


@torch.inference_mode()
def _random(tiles: np.ndarray) -> np.ndarray:
    """The shipped encoder's network with random weights."""
    network = _network()
    x = (torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    return network(x).float().numpy()


@functools.cache
def _network() -> UMedPT:
    torch.manual_seed(0)
    return UMedPT(ModelSpec(backbone="tf_efficientnet_lite0", norm="affinelayernorm")).eval()


@functools.cache
def glas(data: Path, encoder: str) -> Bags:
    """Tiles of 224 px at the images' own 0.62 um/px, half overlapping; a bag an image, by patient."""
    file = DATA / f"glas_{encoder}.npz"
    rows = [*csv.DictReader((data / "glas/labels.csv").open())]
    if not file.exists():
        embed = _random if encoder == "random" else load_encoder(encoder).encode
        found = {}
        for row in rows:
            image = read_image(next((data / "glas/images").glob(f"{row['image']}.*")))
            starts = [range(0, max(1, n - _SIDE + 1), _STRIDE) for n in image.shape[:2]]
            tiles = np.stack([image[y : y + _SIDE, x : x + _SIDE] for y in starts[0] for x in starts[1]])
            found[row["image"]] = np.asarray(embed(tiles), np.float32)
        np.savez(file, allow_pickle=False, **found)
    with np.load(file, allow_pickle=False) as kept:
        features = [kept[row["image"]] for row in rows]
    grades = np.array([int(row["grade"].strip().lower() == "malignant") for row in rows])
    return Bags(features, grades, [row["patient_id"] for row in rows])
