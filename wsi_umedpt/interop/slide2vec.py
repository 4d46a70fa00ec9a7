"""slide2vec's features (https://github.com/clemsgrs/slide2vec): ``tile_embeddings/SLIDE.npz`` or ``.pt``, read only.

Beside the features lies ``SLIDE.meta.json``, which is written last: without it a run was interrupted.
It names the encoder, the um/px and px of a tile, and the tile's side in level-0 px. Positions are ``x`` and ``y``
of ``tiles/SLIDE.coordinates.npz``, top left corners in level-0 px, in the order of the features. That
file is looked for where slide2vec lays it, never at the path that the sidecar names.
"""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wsi_umedpt.bag import FeatureKind
from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop.npzbag import headers_of, read_npz
from wsi_umedpt.interop.ptbag import SUFFIX as PT
from wsi_umedpt.interop.ptbag import read_pt, shape_of_pt
from wsi_umedpt.interop.sources import FileSource, NotThisFormatError, Numbers, tiles_and_dim

NAME = "slide2vec"
FOLDER = "tile_embeddings"

_LARGEST_SIDECAR = 1 << 20
"""Bytes; a sidecar has about a thousand."""


def open_slide2vec(path: Path) -> FileSource:
    """Say what features of slide2vec hold.

    Raises
    ------
    NotThisFormatError
        If no sidecar lies beside them.
    InteropError
        If they cannot be used, as those of a run that was interrupted.
    """
    sidecar = path.with_name(f"{path.stem}.meta.json")
    if not sidecar.is_file():
        if FOLDER in path.parts[-3:-1]:
            raise InteropError(f"{path} has no {sidecar.name} beside it: slide2vec was interrupted there; run it again")
        raise NotThisFormatError(f"there is no {sidecar.name} beside it")
    about = _sidecar(sidecar)
    if (found := about.get("artifact_type")) != FOLDER:
        raise InteropError(f"{path} is of type {found!r:.60} of slide2vec, not {FOLDER}; name that folder")
    tiles, dim = shape_of_pt(path) if path.suffix.lower() == PT else _shape_of_npz(path)
    coordinates = _coordinates(path)
    if coordinates and (rows := _rows_of(coordinates)) != tiles:
        raise InteropError(f"{path} holds {tiles} tiles, {coordinates} {rows}: they are of different runs; run it anew")
    size = _number(about, "encoder_input_size_px", sidecar) or _number(about, "requested_tile_size_px", sidecar)
    encoder = about.get("encoder_name")
    return FileSource(
        path=path,
        slide_id=path.stem,
        kind=FeatureKind(
            encoder=encoder if isinstance(encoder, str) else "",
            mpp=_number(about, "requested_spacing_um", sidecar),
            size_px=None if size is None else round(size),
            dim=dim,
            format=NAME,
        ),
        tiles=tiles,
        side=_number(about, "tile_size_lv0", sidecar),
        unit="px" if coordinates else "",
        read=partial(_read, coordinates=coordinates),
    )


def _rows_of(coordinates: Path) -> int:
    """Tiles of a file of coordinates."""
    held = headers_of(coordinates)
    shapes = {held[name].shape if name in held else None for name in ("x", "y")}
    if len(shapes) != 1 or None in shapes or len(shape := held["x"].shape) != 1:
        raise InteropError(f"{coordinates} has no x and y of one length, but {', '.join(held) or 'no arrays'}")
    return shape[0]


def _read(path: Path, *, coordinates: Path | None) -> tuple[Numbers, Numbers | None]:
    features = read_pt(path) if path.suffix.lower() == PT else read_npz(path, "features")[0]
    order = [] if path.suffix.lower() == PT else [(path, "tile_index")]
    for file, name in (*order, *([(coordinates, "tile_index")] if coordinates else [])):
        if name in headers_of(file) and not np.array_equal(read_npz(file, name)[0], np.arange(len(features))):
            raise InteropError(f"{file}: {name} is not 0, 1, 2, ...: which tile a row is, is not clear. Run it anew.")
    return features, np.stack(read_npz(coordinates, "x", "y"), axis=1) if coordinates else None


def _shape_of_npz(path: Path) -> tuple[int, int]:
    held = headers_of(path)
    if "features" not in held:
        raise InteropError(f"{path} has no array features, but {', '.join(held) or 'none'}")
    return tiles_and_dim(*held["features"], f"{path}: features")


def _coordinates(path: Path) -> Path | None:
    """The file of coordinates, which lies in ``tiles`` as the features lie in ``tile_embeddings``."""
    for root in list(path.parents)[:2]:  # features of a class of annotations lie in a folder of their own
        if root.name == FOLDER:
            beside = root.parent / "tiles" / path.relative_to(root).with_name(f"{path.stem}.coordinates.npz")
            return beside if beside.is_file() else None
    return None


def _sidecar(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_SIDECAR:
            raise InteropError(f"{path} has {path.stat().st_size} bytes; sidecars of slide2vec are far smaller")
        about = json.loads(path.read_bytes())
    except InteropError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InteropError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(about, dict):
        raise InteropError(f"{path} is no JSON object")
    return about


def _number(about: dict[str, Any], name: str, where: Path) -> float | None:
    value = about.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InteropError(f"{where}: {name} is {value!r:.60}, not a number over 0")
    return float(value)
