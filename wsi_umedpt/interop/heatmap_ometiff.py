"""Heatmaps as an OME-TIFF: float32 as stored, a channel a quantity, and where on the slide they lie.

Physical sizes and positions are what ImageJ, napari and QuPath read; origin and step in level-0 px
stand exactly in the image's description, as JSON. Of the slide it holds its id and scale, no more.
"""

import json
import math
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import defusedxml.ElementTree
import numpy as np
import tifffile

from wsi_umedpt import __version__
from wsi_umedpt.errors import HeatmapError
from wsi_umedpt.heatmaps.raster import MOST_CELLS, Heatmap
from wsi_umedpt.slides.readers.tiff_directories import read_directories
from wsi_umedpt.store.zarr_io import array_sha256, whole_file

SUFFIXES = (".ome.tif", ".ome.tiff")
_FORMAT = "wsi-umedpt heatmap 1"


@dataclass(frozen=True, eq=False)
class HeatmapStack:
    """Heatmaps of one slide with equal shape, origin and step."""

    heats: Mapping[str, Heatmap]
    """Heatmaps by the name of the quantity, in order."""
    slide_id: str
    mpp: float
    """um/px at level 0."""
    made_by: Mapping[str, Any]
    """Origin of the scores."""


def write_heatmaps(path: Path, stack: HeatmapStack) -> None:
    """Write heatmaps as one OME-TIFF, whole or absent; equal heatmaps give equal bytes.

    Axes are CYX. PhysicalSize is the step in um, the planes' position that of the raster's top left
    corner on the slide in um. nan is where there is no tile.

    Raises
    ------
    HeatmapError
        If the suffix is another, there is nothing to write, or the heatmaps differ in their cells.
    """
    check_suffix(path)
    names, heats = [*stack.heats], [*stack.heats.values()]
    if not heats or not heats[0].values.size:
        raise HeatmapError(f"{path.name} would be empty: {stack.slide_id} has no tiles with such scores")
    first = heats[0]
    for name, heat in stack.heats.items():
        if (heat.values.shape, heat.origin_xy, heat.step) != (first.values.shape, first.origin_xy, first.step):
            raise HeatmapError(f"{name!r} has other cells than {names[0]!r}: write them to a file each")
    about = {
        "format": _FORMAT, "slide_id": stack.slide_id, "mpp": stack.mpp, "columns": names, "scaling": "raw",
        "origin_xy": first.origin_xy, "step": first.step, "made_by": dict(stack.made_by),
    }  # fmt: skip
    try:
        description = json.dumps(about, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise HeatmapError(f"what made the scores cannot be written as JSON: {error}") from None
    x, y = (value * stack.mpp for value in first.origin_xy)
    planes = len(heats)
    metadata = {
        "axes": "CYX",
        "Name": stack.slide_id,
        "Description": description,
        "Creator": f"wsi-umedpt {__version__}",
        # By default tifffile's tells the machine and the time.
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, description + "".join(array_sha256(h.values) for h in heats))),
        "Channel": {"Name": ["".join(c if c.isprintable() else "_" for c in name) for name in names]},
        "PhysicalSizeX": first.step * stack.mpp,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": first.step * stack.mpp,
        "PhysicalSizeYUnit": "µm",
        "Plane": {
            "PositionX": [x] * planes,
            "PositionXUnit": ["µm"] * planes,
            "PositionY": [y] * planes,
            "PositionYUnit": ["µm"] * planes,
        },
    }
    with whole_file(path) as file, tifffile.TiffWriter(file, ome=True) as tif:
        tif.write(
            _planes(heats),
            shape=(planes, *first.values.shape),
            dtype=np.float32,
            photometric="minisblack",
            compression="zlib",
            metadata=metadata,
        )


def check_suffix(path: Path) -> None:
    """Refuse a name that is no OME-TIFF's, before anything is laid out."""
    if not path.name.lower().endswith(SUFFIXES):
        raise HeatmapError(f"{path.name} must end in {' or '.join(SUFFIXES)}")


def _planes(heats: list[Heatmap]) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
    for heat in heats:
        yield np.ascontiguousarray(heat.values)


def read_heatmaps(path: Path) -> HeatmapStack:
    """Undo `write_heatmaps`.

    Raises
    ------
    HeatmapError
        If it cannot be read, or is no such file.
    """
    try:
        read_directories(path)  # tifffile would follow a loop of them for ever
        with tifffile.TiffFile(path) as tif:
            about = _about(tif.ome_metadata or "")
            names, series = about["columns"], tif.series[0]
            rows, cols = series.shape[-2:]
            if math.prod(series.shape) != len(names) * rows * cols or series.dtype != np.float32:
                raise HeatmapError(f"it holds {series.dtype} of shape {series.shape} for the columns {names}")
            if rows * cols > MOST_CELLS:
                raise HeatmapError(f"it claims {rows:,} x {cols:,} cells")
            values = series.asarray().astype(np.float32).reshape(len(names), rows, cols)
        x, y = map(float, about["origin_xy"])
        heats = {name: Heatmap(plane, (x, y), float(about["step"])) for name, plane in zip(names, values, strict=True)}
        return HeatmapStack(heats, about["slide_id"], float(about["mpp"]), about["made_by"])
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged TIFF can fail anywhere in tifffile
        raise HeatmapError(f"{path} cannot be read as a heatmap of wsi-umedpt: {error}") from None


def _about(xml: str) -> dict[str, Any]:
    """The JSON in the description of the first image of an OME-XML."""
    if not xml:
        raise HeatmapError("it is no OME-TIFF")
    root = defusedxml.ElementTree.fromstring(xml)
    text = next((e.text for e in root.iter() if e.tag.endswith("}Description")), None)
    about = json.loads(text or "{}")
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise HeatmapError("its description does not say where on a slide it lies")
    return about
