"""Encoders on this CPU: images per CPU-second of each engine, and how far its features are from torch fp32's.

python -m benchmarks.speed.encoders [ENCODER ...]

One thread, batches of 16, best of three rounds in which the engines take turns. The cosine is the lowest
over the tissue tiles of the sample slide, features centred on their mean. The last line is JSON.
"""

import argparse
import json
import time

import numpy as np
import torch

from wsi_umedpt.models.cards import DEFAULT_ENCODER
from wsi_umedpt.models.encoder import Encoder, load_encoder
from wsi_umedpt.models.engines import OpenVinoEngine
from wsi_umedpt.models.weights import load_network
from wsi_umedpt.slides.sample_data import sample_slide
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tile_loader import read_tiles
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.slides.tissue import find_tissue

BATCH = 16
ENGINES = (("torch", "fp32"), ("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16"))


def tissue_tiles() -> np.ndarray:
    """The tissue tiles of the sample slide, uint8 (tile, 224, 224, 3)."""
    with open_slide(sample_slide()) as slide:
        grid = lay_grid(slide.size, slide.mpp, TileSpec(), within=find_tissue(slide))
        return np.concatenate([batch.pixels.copy() for batch in read_tiles(slide, grid)])


def one_thread(name: str, engine: str, precision: str) -> Encoder:
    """Load an encoder that uses one thread."""
    if engine == "torch":
        return load_encoder(name, device="cpu", precision=precision)
    backbone, card = load_network(name)
    return Encoder(card, engine, "cpu", precision, OpenVinoEngine(backbone, card, precision, threads=1))


def embed(encoder: Encoder, tiles: np.ndarray) -> np.ndarray:
    """All tiles, batch by batch."""
    return np.concatenate([encoder.encode(tiles[i : i + BATCH]) for i in range(0, len(tiles), BATCH)])


def lowest_cosine(reference: np.ndarray, found: np.ndarray) -> float:
    """Of the tiles' features, centred on the reference's mean."""
    u, v = reference - reference.mean(axis=0), found - reference.mean(axis=0)
    return float(((u * v).sum(axis=1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)).min())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="*", default=[DEFAULT_ENCODER, "timm:swin_tiny_patch4_window7_224@random"])
    names = parser.parse_args().encoders
    torch.set_num_threads(1)
    tiles = tissue_tiles()
    figures: dict[str, float] = {}
    for name in names:
        encoders = {f"{e} {p}": one_thread(name, e, p) for e, p in ENGINES}
        features = {key: embed(encoder, tiles) for key, encoder in encoders.items()}
        best = dict.fromkeys(encoders, 0.0)
        for _ in range(3):
            for key, encoder in encoders.items():
                start = time.process_time()
                embed(encoder, tiles)
                best[key] = max(best[key], len(tiles) / (time.process_time() - start))
        for key, rate in best.items():
            cosine = lowest_cosine(features["torch fp32"], features[key])
            print(f"{name:45} {key:14} {rate:6.1f} images per CPU-second, lowest cosine {cosine:.5f}")
            figures[f"{name} {key}"] = round(rate / best["torch fp32"], 3)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
