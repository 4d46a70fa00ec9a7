"""Heatmaps of a prediction's tiles, as files: pictures, a raster with its place, and tiles for QuPath."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from wsi_umedpt.errors import MilError
from wsi_umedpt.heatmaps.raster import Heatmap
from wsi_umedpt.interop.feature_sources import StoreSource, has_positions
from wsi_umedpt.interop.heatmap_ometiff import HeatmapStack, write_heatmaps
from wsi_umedpt.interop.qupath_tiles import write_tiles
from wsi_umedpt.mil.inference.predict import bag_of, tile_scores
from wsi_umedpt.mil.inference.slide_model import SlideModel
from wsi_umedpt.plotting.heatmap import draw_heatmap
from wsi_umedpt.plotting.sheets import save
from wsi_umedpt.store.features import BagSource
from wsi_umedpt.store.slide_store import SlideStore


def write_maps(
    model: SlideModel, source: BagSource, folder: Path, *, leave_out: bool = False, bounds: bool = True
) -> Iterator[Path]:
    """Write what each tile of a slide did; gives the paths as they are written.

    Positions of the tiles for QuPath count from the corner of the slide's bounds, where a store states them, or else
    (`bounds` off, or features of a file) from that of the whole slide.

    Raises
    ------
    MilError
        If the features are of another kind, or the file does not say where tiles lie or how large they are.
    """
    bag = bag_of(model, source)
    side = source.side
    if side is None or not has_positions(bag):
        raise MilError(f"{source.slide_id}: its features say not where their tiles lie, so that no map can be drawn")
    columns = tile_scores(model, bag, leave_out=leave_out)
    store = SlideStore.open(source.path) if isinstance(source, StoreSource) else None
    mpp = float(store.attrs["slide"]["mpp"]) if store else None
    folder.mkdir(parents=True, exist_ok=True)
    name = _safe(source.slide_id)
    heats = {column: Heatmap.from_tiles(bag.xy, side, values) for column, values in columns.items()}
    for file, (column, heat) in zip(_files_of([*heats]), heats.items(), strict=True):
        signed = column != "attention"
        picture = draw_heatmap(
            heat,
            scaling="signed" if signed else "percentile",
            tissue=store.tissue() if store else None,
            mpp=mpp,
            title=f"{source.slide_id}: {column}" + ("" if model.exact or not signed else " (first order)"),
        )
        path = folder / f"{name}.{file}.png"
        save(picture, path)
        yield path
    if mpp is not None:
        path = folder / f"{name}.ome.tif"
        made_by = {"kind": "slide classifier", "study_sha256": model.about.get("study_sha256", "")}
        write_heatmaps(path, HeatmapStack(heats, source.slide_id, mpp, made_by))
        yield path
    path = folder / f"{name}.geojson.gz"
    corner = store.corner if store and bounds else (0, 0)
    write_tiles(path, bag.xy, side, columns, slide_id=source.slide_id, corner=corner)
    yield path


def _files_of(columns: Sequence[str]) -> list[str]:
    """Names of files, one a column; classes that would be called alike are numbered."""
    found: list[str] = []
    for column in columns:
        name = _safe(column)[:80]
        found.append(name if name not in found else f"{name} ({len(found)})")
    return found


def _safe(name: str) -> str:
    return re.sub(r"[^\w.\-+=@ ()]", "_", name).lstrip(".") or "slide"
