"""Slides that were embedded with a cheap encoder, and stores of one tile: for tests of what outputs hold."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from wsi_umedpt.batch.run import Batch, run_slides
from wsi_umedpt.models.cards import EncoderCard
from wsi_umedpt.pipeline.embed import EmbedTask
from wsi_umedpt.settings import RunSettings
from wsi_umedpt.slides.slide_job import SlideJob
from wsi_umedpt.slides.tiling import TileSpec
from wsi_umedpt.store.contents import SCHEMA, seal
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.zarr_io import write_array, write_group

TILE = 64


class MeanEncoder:
    """The mean colour of a tile and seven things made of it."""

    name, dim, precision, device, engine_name = "mean.test", 8, "fp32", "cpu", "fake"

    def __init__(self) -> None:
        one = (1.0, 1.0, 1.0)
        self.card = EncoderCard(
            name=self.name, architecture="-", mpp=0.5, size_px=TILE, dim=8, mean=one, std=one, licence="none", source=""
        )  # fmt: skip
        self.made_by = {"card": self.card.to_dict(), "weights_sha256": "0" * 64, "engine": "fake", "precision": "fp32"}

    def submit(self, pixels: np.ndarray, part_done=None) -> Any:
        """As `Encoder.submit`."""
        mean = pixels.reshape(len(pixels), -1, 3).mean(axis=1)
        rows = np.concatenate([mean, mean * mean / 255, mean[:, :2] / 3], axis=1).astype(np.float32)
        return lambda: rows


def embedded(slide: Path, slide_id: str, out: Path, **job: Any) -> Any:
    """What became of a slide that was embedded."""
    settings = RunSettings(batch_size=8, readers=1)
    task = EmbedTask(encoders=[MeanEncoder()], tile_specs=[TileSpec(size_px=TILE)], settings=settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        [outcome] = run_slides([SlideJob(slide, slide_id, **job)], task, Batch(out=out))
    return outcome


def draw_stored(path: Path) -> tuple[SlideStore, str]:
    """A store of one tile, and the name of its grid."""
    spec = TileSpec(size_px=TILE)
    slide = {"fingerprint": "0" * 64, "size": [64, 64], "mpp": 0.5, "mpp_source": "user", "vendor": "drawn"}
    write_group(path, {"schema": SCHEMA, "whole": True, "slide": slide, "software": {}})
    grid = path / "grids" / spec.grid_id
    write_group(path / "grids", {})
    write_group(grid, {"spec": spec.to_dict(), "side": 64.0})
    write_array(grid / "xy", np.zeros((1, 2), np.int32))
    write_array(grid / "tissue", np.ones(1, np.float32))
    write_array(grid / "status", np.zeros(1, np.uint8))
    seal(path)
    return SlideStore.open(path), spec.grid_id
