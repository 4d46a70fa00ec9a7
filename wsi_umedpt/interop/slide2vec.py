"""slide2vec's features (https://github.com/clemsgrs/slide2vec): ``tile_embeddings/SLIDE.npz`` or ``.pt``.

Beside the features lies ``SLIDE.meta.json``, which is written last: without it a run was interrupted.
It names the encoder, the um/px and px of a tile, and the tile's side in level-0 px. Positions are ``x`` and ``y``
of ``tiles/SLIDE.coordinates.npz``, top left corners in level-0 px, in the order of the features. That
file is looked for where slide2vec lays it, never at the path that the sidecar names.

What is written is ``.npz``, tiles in slide2vec's order (x slow, y fast), with ``tiles/SLIDE.coordinates.meta.json``,
whose keys its loader demands: what a store does not know, as how tissue was found there, is null.
"""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop.feature_sources import FileSource, NotThisFormatError, Numbers, tiles_and_dim
from wsi_umedpt.interop.npz import headers_of, read_npz
from wsi_umedpt.interop.provenance import Export, prefixed, stated
from wsi_umedpt.interop.pt import SUFFIX as PT
from wsi_umedpt.interop.pt import read_pt, shape_of_pt
from wsi_umedpt.store.features import FeatureKind
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.zarr_io import whole_file, write_json

NAME = "slide2vec"
FOLDER = "tile_embeddings"

_SECTIONS = {
    "provenance": """sample_id image_path mask_path backend requested_backend spacing_at_level_0 mask_backend
        requested_mask_backend""",
    "slide": "dimensions base_spacing_um level_downsamples",
    "tiling": """requested_tile_size_px requested_spacing_um read_level read_tile_size_px read_spacing_um tile_size_lv0
        tolerance step_px_lv0 overlap min_tissue_fraction is_within_tolerance n_tiles""",
    "segmentation": """tissue_method requested_seg_downsample seg_downsample seg_level seg_spacing_um sthresh sthresh_up
        mthresh close sam2_checkpoint_path sam2_config_path mask_path ref_tile_size_px tissue_mask_tissue_value
        mask_level mask_spacing_um""",
    "filtering": """a_t a_h filter_white filter_black white_threshold black_threshold fraction_threshold
        filter_grayspace grayspace_saturation_threshold grayspace_fraction_threshold filter_blur blur_threshold
        qc_spacing_um""",
    "artifact": "coordinate_space tile_order annotation selection_strategy output_mode",
}
"""Sections of the metadata of coordinates and their keys, all of which its loader demands."""
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
        raise InteropError(
            f"{path} holds {tiles} tiles, {coordinates} {rows}: they are of different runs; run it again"
        )
    ours = stated(prefixed(about), dim=dim, format_name=NAME, where=str(sidecar))
    size = _number(about, "encoder_input_size_px", sidecar) or _number(about, "requested_tile_size_px", sidecar)
    encoder = about.get("encoder_name")
    return FileSource(
        path=path,
        slide_id=path.stem,
        kind=ours.kind
        if ours
        else FeatureKind(
            encoder=encoder if isinstance(encoder, str) else "",
            mpp=_number(about, "requested_spacing_um", sidecar),
            size_px=None if size is None else round(size),
            dim=dim,
            format=NAME,
        ),
        tiles=tiles,
        side=ours.side if ours else _number(about, "tile_size_lv0", sidecar),
        unit="px" if coordinates else "",
        encoder_id=ours.encoder_id if ours else "",
        read=partial(_read, coordinates=coordinates),
    )


def write_slide2vec(
    folder: Path, store: SlideStore, *, encoder_id: str | None = None, grid_id: str | None = None
) -> Path:
    """Write a store's features as slide2vec lays them out below its output folder; the sidecar is written last.

    Parameters
    ----------
    folder
        Folder that slide2vec calls the output directory.
    encoder_id, grid_id
        May be left out where the store holds only one.

    Returns
    -------
    Path
        The npz file of features.
    """
    export = Export.of(store, encoder_id, grid_id)
    bag, name = export.bag, export.bag.slide_id
    order = np.lexsort((bag.xy[:, 1], bag.xy[:, 0]))
    x, y = bag.xy[order].astype(np.int64).T
    index = np.arange(len(bag))
    path = folder / FOLDER / f"{name}.npz"
    sidecar = path.with_name(f"{name}.meta.json")
    tiles = folder / "tiles" / f"{name}.coordinates.npz"
    about = {
        "sample_id": name, "artifact_type": FOLDER, "format": "npz", "feature_dim": bag.features.shape[1],
        "num_tiles": len(bag), "annotation": None, "encoder_name": bag.encoder_id, "encoder_level": "tile",
        "coordinates_npz_path": "", "coordinates_meta_path": "", "tiles_tar_path": "", "image_path": "",
        "mask_path": None, "tile_size_lv0": export.whole_side, "backend": "wsi_umedpt",
        "read_tile_size_px": export.size_px, "requested_tile_size_px": export.size_px,
        "encoder_input_size_px": export.size_px, "requested_spacing_um": export.mpp, "compatibility": {},
        "feature_dtype": "fp16" if bag.features.dtype == np.float16 else "fp32", **export.attrs,
    }  # fmt: skip
    at = {"tile_index": index.astype(np.int32), "x": x, "y": y, "tissue_fractions": export.tissue[order]}
    try:
        for below in (path.parent, tiles.parent):
            below.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as of_features, whole_file(tiles) as of_tiles:
            np.savez(of_features, features=bag.features[order], tile_index=index)
            np.savez(of_tiles, **at)
            sidecar.unlink(missing_ok=True)  # until it is there again, what lies there is not whole
        write_json(tiles.with_name(f"{name}.coordinates.meta.json"), _tiling(export))
        write_json(sidecar, about)
    except OSError as error:
        raise InteropError(f"{path} cannot be written: {error.strerror or error}") from None
    return path


def _tiling(export: Export) -> dict[str, Any]:
    """Fields that slide2vec's loader of coordinates needs, in its six sections; None where a store lacks them."""
    sections: dict[str, Any] = {section: dict.fromkeys(names.split()) for section, names in _SECTIONS.items()}
    sections["provenance"] |= {"sample_id": export.bag.slide_id, "image_path": "", "backend": "wsi_umedpt"}
    sections["provenance"]["spacing_at_level_0"] = export.slide_mpp
    sections["slide"] |= {"dimensions": export.slide_size, "base_spacing_um": export.slide_mpp}
    sections["slide"]["level_downsamples"] = [[1.0, 1.0]]
    sections["tiling"] |= {
        "requested_tile_size_px": export.size_px, "requested_spacing_um": export.mpp, "read_level": 0,
        "read_tile_size_px": export.whole_side, "read_spacing_um": export.slide_mpp,
        "tile_size_lv0": export.whole_side, "overlap": max(0.0, 1 - export.stride_px / export.size_px),
        "step_px_lv0": round(export.stride_px * export.side / export.size_px),
        "min_tissue_fraction": export.min_tissue, "is_within_tolerance": True, "n_tiles": len(export.bag),
    }  # fmt: skip
    sections["artifact"] |= {"coordinate_space": "level0_px", "tile_order": "x_then_y"}
    return sections


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
            raise InteropError(f"{file}: {name} is not 0, 1, 2, ...: which tile a row is, is not clear. Run it again.")
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
