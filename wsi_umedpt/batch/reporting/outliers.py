"""Slides that are far from the others of their cohort: in tiles, tissue, colour, scale, damage, features.

Far is measured robustly, so that what is looked for does not hide itself: the distance from
the median in units of the median absolute deviation, over 3.5 of which is far (Iglewicz and
Hoaglin, *How to Detect and Handle Outliers*, 1993). No unit is smaller than what is of any
interest, so that a cohort of equal slides has no outliers. Fewer than `FEWEST` slides are
no cohort.

An outlier is no error: it is a slide that somebody should look at.
"""

import contextlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from wsi_umedpt.batch.coordination.publish import store_at
from wsi_umedpt.batch.reporting.catalog import FeaturesEntry, Row
from wsi_umedpt.io.files import check_regular
from wsi_umedpt.io.paths import elsewhere
from wsi_umedpt.store.zarr_io import read_node

FEWEST = 8
FAR = 3.5
_SAMPLED = 64
"""Rows of features that stand for a slide."""
_COMMON, _SAME_SCALE = 0.1, 1.05
"""A scale is common if this share of slides has one that differs by no more than this factor."""

Floats = npt.NDArray[np.float64]
Means = dict[tuple[str, str, str], dict[str, Floats]]
"""Mean (dim,) of each slide's features, for each encoder, grid and weights."""


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """Slide that should be looked at, and the reason."""

    slide_id: str
    what: str
    """Quantity in which it is far from the others."""
    value: str
    usual: str
    """Usual value of the others."""
    far: float
    """Distance from them, in units of the cohort's spread."""


def find_outliers(rows: Sequence[Row], means: Means) -> list[Outlier]:
    """Whole slides that are far from the others, the farthest first.

    Parameters
    ----------
    rows
        Rows of the catalog.
    means
        Means of their features, as `sampled_means` gives them.
    """
    whole = whole_rows(rows)
    found = [
        *_by_number(whole, "tiles", lambda row: row.tiles, np.log1p, 0.2, "{:,.0f}"),
        *_by_number(whole, "tissue share", lambda row: row.tissue_share, _logit, 0.2, "{:.1%}"),
        *_by_number(whole, "unreadable tiles", _unreadable, np.sqrt, 0.05, "{:.1%}", below=False),
        *_by_colour([row for row in whole if row.red is not None]),
        *_by_scale(whole),
        *_by_features(means),
    ]
    return sorted(found, key=lambda one: (-one.far, one.slide_id, one.what))


def robust_distance(values: Floats, least: float) -> Floats:
    """Signed distance from the median, in units of the scaled median absolute deviation or of `least`."""
    apart = values - np.median(values)
    unit: float = max(1.4826 * float(np.median(np.abs(apart))), least)
    return np.asarray(apart / unit)


def _logit(share: Floats) -> Floats:
    clipped = np.clip(share, 1e-3, 1 - 1e-3)
    return np.asarray(np.log(clipped / (1 - clipped)))


def _unreadable(row: Row) -> float | None:
    return None if row.unreadable is None else row.unreadable / max(row.tiles or 0, 1)


def _by_number(
    rows: Sequence[Row],
    what: str,
    number: Callable[[Row], float | None],
    scaled: Callable[[Floats], Floats],
    least: float,
    words: str,
    *,
    below: bool = True,
) -> list[Outlier]:
    known = [(row.slide_id, float(value)) for row in rows if (value := number(row)) is not None]
    if len(known) < FEWEST:
        return []
    values = np.array([value for _, value in known])
    far = robust_distance(scaled(values), least)
    low, high = np.percentile(values, (5, 95))
    usual = f"{words.format(low)} to {words.format(high)}"
    return [
        Outlier(slide_id=slide_id, what=what, value=words.format(value), usual=usual, far=abs(float(z)))
        for (slide_id, value), z in zip(known, far, strict=True)
        if (abs(z) if below else z) > FAR
    ]


def _by_colour(rows: Sequence[Row]) -> list[Outlier]:
    """Distance from the median colour in CIE L*a*b*; 3 of it is what an eye sees."""
    if len(rows) < FEWEST:
        return []
    rgb = np.array([[row.red, row.green, row.blue] for row in rows], np.float32) / 255
    lab = cv2.cvtColor(rgb[None], cv2.COLOR_RGB2LAB)[0].astype(np.float64)
    apart = np.linalg.norm(lab - np.median(lab, axis=0), axis=1)
    far = robust_distance(apart, 3.0)
    middle = np.median(rgb, axis=0) * 255
    return [
        Outlier(
            slide_id=row.slide_id, what="colour of the tissue", value=_hex([row.red, row.green, row.blue]),
            usual=_hex(middle.tolist()), far=float(z),
        )
        for row, z in zip(rows, far, strict=True)
        if z > FAR
    ]  # fmt: skip


def _hex(colour: Sequence[float | None]) -> str:
    return "#" + "".join(f"{round(value or 0):02x}" for value in colour)


def _by_scale(rows: Sequence[Row]) -> list[Outlier]:
    """Scales that few slides have: a scanner's settings, or a header that is wrong."""
    known = [(row.slide_id, row.mpp, row.mpp_source) for row in rows if row.mpp]
    if len(known) < FEWEST:
        return []
    logs = np.log([mpp for _, mpp, _ in known])
    order, width = np.sort(logs), np.log(_SAME_SCALE)
    share = (np.searchsorted(order, logs + width) - np.searchsorted(order, logs - width)) / len(logs)
    common = logs[share >= _COMMON]
    if not len(common):
        return []
    usual = ", ".join(f"{mpp:g}" for mpp in sorted({round(float(np.exp(v)), 2) for v in common}))
    return [
        Outlier(
            slide_id=slide_id, what="scale", value=f"{mpp:.4g} um/px ({source})", usual=f"{usual} um/px",
            far=float(np.abs(common - value).min() / np.log(_SAME_SCALE)) * FAR,
        )
        for (slide_id, mpp, source), value, rare in zip(known, logs, share < _COMMON, strict=True)
        if rare
    ]  # fmt: skip


def _by_features(means: Means) -> list[Outlier]:
    """Slides whose tiles are, on average, unlike those of the others: for each encoder that embedded them."""
    found = []
    for (encoder, _, _), by_slide in means.items():
        if len(by_slide) < FEWEST:
            continue
        stack = np.stack([*by_slide.values()])
        apart = stack - np.median(stack, axis=0)
        unit = 1.4826 * np.median(np.abs(apart), axis=0)
        unit = np.maximum(unit, np.median(unit) * 0.1 + 1e-9)
        far = robust_distance(np.log(np.sqrt(np.mean((apart / unit) ** 2, axis=1)) + 1e-9), 0.15)
        found += [
            Outlier(
                slide_id=slide_id, what=f"features ({encoder})", value=f"{z:.1f} times the usual spread apart",
                usual="within 3.5", far=float(z),
            )
            for slide_id, z in zip(by_slide, far, strict=True)
            if z > FAR
        ]  # fmt: skip
    return found


def whole_rows(rows: Sequence[Row]) -> list[Row]:
    """Those of slides whose stores can be read."""
    return [row for row in rows if row.fingerprint is not None and row.status != "damaged"]


def sampled_means(out: Path, rows: Sequence[Row]) -> Means:
    """Means of some rows of each slide's features, in the order of the catalog.

    Parameters
    ----------
    out
        Folder of the stores: some rows of features are read from each.
    rows
        Rows of the catalog.
    """
    found: Means = defaultdict(dict)
    for row in whole_rows(rows):
        for one in row.features:
            if (mean := sampled_mean(out, row.slide_id, one)) is not None:
                found[one.encoder, one.grid, one.weights_sha256][row.slide_id] = mean
    return found


def sampled_mean(out: Path, slide_id: str, features: FeaturesEntry) -> Floats | None:
    """Mean of some rows spread over a slide's features, float64 (dim,); None if there are none that can be read."""
    store = store_at(out, slide_id)
    if elsewhere(store):
        return None  # rows spread over the features would be all of them
    folder = store / "grids" / features.grid / "features" / features.encoder
    wanted = np.unique(np.linspace(0, features.tiles - 1, min(_SAMPLED, features.tiles)).astype(np.int64))
    parts = []
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        rows, dim = json.loads(read_node(folder))["chunk_grid"]["configuration"]["chunk_shape"]
        for chunk in np.unique(wanted // rows):
            check_regular(folder / "c" / str(chunk) / "0")
            stored = np.memmap(folder / "c" / str(chunk) / "0", np.float16, "r")
            parts.append(stored.reshape(rows, dim)[wanted[wanted // rows == chunk] % rows].astype(np.float64))
    if not parts:
        return None
    values = np.concatenate(parts)
    values = values[np.isfinite(values).all(axis=1)]
    return values.mean(axis=0) if len(values) and values.shape[1] == features.dim else None
