"""A map of the slides of a folder: those that look alike lie near each other.

Each slide is one vector: that of an encoder of slides where most slides have one, else the mean of some rows
of its tiles' features. The map is their first two principal components.
"""

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsi_umedpt.batch.coordination.publish import store_at
from wsi_umedpt.batch.reporting.catalog import Row
from wsi_umedpt.batch.reporting.outliers import Means, whole_rows
from wsi_umedpt.errors import WsiError
from wsi_umedpt.io.paths import elsewhere
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.slide_vectors import read_slide_vector, slide_vector_ids

FEWEST = 4
"""Fewer slides are no map."""
MOST = 2000
"""Slides on a map; of more, some spread evenly over the list."""

Vectors = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class SlideMap:
    """Slides on a plane."""

    made_of: str
    """Kind of the vectors, in words."""
    slide_ids: tuple[str, ...]
    xy: npt.NDArray[np.float64]
    """(slide, 2), each axis from 0 to 1."""
    explained: float
    """Share of the vectors' variance that the plane shows."""


def map_slides(out: Path, rows: Sequence[Row], means: Means) -> SlideMap | None:
    """Lay the slides of a folder on a plane.

    Parameters
    ----------
    out
        Folder of the stores.
    rows
        Rows of its catalog.
    means
        Means of the features of these slides, as `sampled_means` gives them.

    Returns
    -------
    SlideMap or None
        None where fewer than `FEWEST` slides have vectors of one kind that differ.
    """
    whole = whole_rows(rows)
    if len(whole) > MOST:
        whole = [whole[n * len(whole) // MOST] for n in range(MOST)]
    for made_of, vectors in (_slide_vectors(out, whole), _tile_means(means, whole)):
        if len(vectors) >= FEWEST and (placed := _plane(np.stack([*vectors.values()]))):
            return SlideMap(made_of, tuple(vectors), *placed)
    return None


def _slide_vectors(out: Path, rows: Sequence[Row]) -> tuple[str, Vectors]:
    """Vectors of the slide encoder that most slides have."""
    having: dict[tuple[str, str], list[SlideStore]] = defaultdict(list)
    for row in rows:
        path = store_at(out, row.slide_id)
        if elsewhere(path):
            continue  # each would be fetched over the network
        with contextlib.suppress(WsiError, OSError, ValueError):
            store = SlideStore.open(path)
            for vector in slide_vector_ids(store):
                having[vector].append(store)
    if not having:
        return "", {}
    grid, name = max(having, key=lambda vector: len(having[vector]))
    vectors: Vectors = {}
    for store in having[grid, name]:
        with contextlib.suppress(WsiError, OSError, ValueError):  # what is damaged, verify names
            vectors[store.slide_id] = read_slide_vector(store, name, grid)[0].astype(np.float64)
    return f"vectors of {name}", vectors


def _tile_means(means: Means, rows: Sequence[Row]) -> tuple[str, Vectors]:
    """Means of tiles' features, of the encoder and weights that most slides have."""
    if not means:
        return "", {}
    kind = max(means, key=lambda one: len(means[one]))
    vectors = {row.slide_id: means[kind][row.slide_id] for row in rows if row.slide_id in means[kind]}
    return f"means of the features of {kind[0]}, a sample of each slide's tiles", vectors


def _plane(vectors: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float] | None:
    """First two principal components, scaled to 0 to 1, and the share of variance that they hold."""
    centred = vectors - vectors.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    total = float((sizes**2).sum())
    if total <= 1e-12 * max(float((vectors**2).sum()), 1e-12):
        return None  # all slides are alike
    at = left[:, :2] * sizes[:2]
    at *= np.where(np.take_along_axis(at, np.abs(at).argmax(0)[None], 0)[0] < 0, -1, 1)  # a sign that stays
    low, high = at.min(axis=0), at.max(axis=0)
    return (at - low) / np.maximum(high - low, 1e-12), float((sizes[:2] ** 2).sum() / total)
