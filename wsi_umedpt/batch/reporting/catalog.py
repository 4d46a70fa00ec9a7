"""Catalog of all slides of an output folder, ``OUT/catalog.parquet``: a row a slide, damaged ones with their reason.

The catalog is a cache and never the truth: it can be deleted at any time and is made anew
from the stores and the records alone. `refresh` reads only what changed since; a store
counts as changed when its root, or a folder that parts of it are renamed into, is. Numbers
of arrays are not checked against their sums: that is `wsi_umedpt.store.verify`.

A new column is a field of `Row` and its value in `_whole`; catalogs without it are made anew.

Read top to bottom: `Row` (what is known of a slide), `refresh`, how a row is read.
"""

import contextlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from wsi_umedpt.batch.coordination.publish import published_to, store_at
from wsi_umedpt.batch.coordination.records import AttemptRecord
from wsi_umedpt.batch.reporting.status import Board, Seen, SlideStatus, look
from wsi_umedpt.errors import StoreError, WsiError, reason_of
from wsi_umedpt.io.paths import elsewhere
from wsi_umedpt.slides.tiling import TileSpec
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.store.layout import has_root, state_of
from wsi_umedpt.store.objects_io import found_names
from wsi_umedpt.store.readable_store import OK
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.zarr_io import whole_file

NAME = "catalog.parquet"
SCHEMA = 1
_AT_ONCE = 16
"""Published stores that are read together: each is some twenty questions to its server."""


@dataclass(frozen=True, kw_only=True)
class FeaturesEntry:
    """Features of one encoder in a store."""

    encoder: str
    grid: str
    tile_px: int
    tile_mpp: float
    tiles: int
    unreadable: int
    dim: int
    precision: str
    weights_sha256: str
    sha256: str
    """SHA-256 of the features; see docs/reference/store.md."""


@dataclass(frozen=True, kw_only=True)
class ObjectsEntry:
    """Objects of one kind in a store."""

    name: str
    count: int
    model: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """Row of one slide; None where a value is not known."""

    slide_id: str
    status: SlideStatus
    error: str | None = None
    """Reason why it is not whole: the damage of a store, else the error of the record."""
    fingerprint: str | None = None
    width_px: int | None = None
    height_px: int | None = None
    mpp: float | None = None
    mpp_source: str | None = None
    vendor: str | None = None
    objective: float | None = None
    tissue_share: float | None = None
    tissue_mm2: float | None = None
    red: float | None = None
    """Mean colour of the tissue, 0 to 255; so `green` and `blue`."""
    green: float | None = None
    blue: float | None = None
    tiles: int | None = None
    """Number of tiles of all grids together; so `unreadable`."""
    unreadable: int | None = None
    features: tuple[FeaturesEntry, ...] = ()
    objects: tuple[ObjectsEntry, ...] = ()
    store_schema: int | None = None
    software: str | None = None
    """Version that made the store."""
    task: str | None = None
    attempts: int | None = None
    failures: int | None = None
    started: str | None = None
    ended: str | None = None
    seconds: float | None = None
    host: str | None = None
    read_of: str = ""
    """Stamp that changes with the store."""


def _columns(of: type) -> list[tuple[str, pa.DataType]]:
    """Columns of a dataclass: its fields, and their types by their annotations."""
    return [(name, _kind(annotation)) for name, annotation in get_type_hints(of).items()]


def _kind(annotation: Any) -> pa.DataType:
    if isinstance(annotation, type) and is_dataclass(annotation):
        return pa.struct(_columns(annotation))
    if get_origin(annotation) is tuple:
        return pa.list_(_kind(get_args(annotation)[0]))
    known = {annotation, *get_args(annotation)}
    return pa.float64() if float in known else pa.int64() if int in known else pa.string()


COLUMNS = pa.schema(_columns(Row), metadata={"wsi_umedpt": str(SCHEMA)})
"""Columns of the Parquet file."""


def refresh(out: Path, board: Board | None = None) -> list[Row]:
    """Bring the catalog up to date and give its rows, sorted by slide.

    Parameters
    ----------
    out
        Folder of stores.
    board
        A look at the folder, where one was just taken.

    Raises
    ------
    OSError
        If there is no such folder. Where it cannot be written, the catalog stays as it was.
    """
    board = board or look(out)
    known = {row.slide_id: row for row in read_catalog(out / NAME)}
    with ThreadPoolExecutor(1 if published_to(out) is None else _AT_ONCE) as pool:
        rows = list(pool.map(lambda seen: row_of(out, seen, known.get(seen.slide_id)), board.slides.values()))
    if list(known.values()) != rows or not (out / NAME).exists():
        with contextlib.suppress(OSError):
            write_catalog(out / NAME, rows)
    return rows


def row_of(out: Path, seen: Seen, known: Row | None = None) -> Row:
    """Make the row of a slide; its store is read only if it changed since `known` was made."""
    path = store_at(out, seen.slide_id)
    if elsewhere(path):
        read_of = _published(path, seen)
        stored = bool(read_of)
    else:
        stored, read_of = seen.stored, state_of(path) if seen.stored else ""
    if known is None or known.read_of != read_of or not read_of:
        known = _read(path, read_of) if stored else Row(slide_id=seen.slide_id, status=seen.status)
    status, error = (known.status, known.error) if known.status == "damaged" else (seen.status, seen.reason or None)
    if status == "whole" and not stored:
        status, error = "missing", "its record says done, but it is not where stores are published"
    return replace(known, slide_id=seen.slide_id, status=status, error=error, **_said(seen.record))


def read_catalog(path: Path) -> list[Row]:
    """Rows of a catalog; none if there is none, or it is damaged, of another version, or has other columns."""
    try:
        table = parquet.read_table(path)
        schema = (table.schema.metadata or {}).get(b"wsi_umedpt")
        if schema != str(SCHEMA).encode() or table.schema.names != COLUMNS.names:
            return []
        return [_row(content) for content in table.to_pylist()]
    except (OSError, pa.ArrowException, TypeError, LookupError, ValueError):
        return []


def write_catalog(path: Path, rows: Iterable[Row]) -> None:
    """Write a catalog whole, or leave the one that is there."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=COLUMNS)
    with whole_file(path) as file:
        parquet.write_table(table, file, compression="zstd")


def _row(content: dict[str, Any]) -> Row:
    features = tuple(FeaturesEntry(**one) for one in content.pop("features") or ())
    objects = tuple(ObjectsEntry(**one) for one in content.pop("objects") or ())
    return Row(**content, features=features, objects=objects)


def _said(record: AttemptRecord | None) -> dict[str, Any]:
    """Columns that come from a record of attempts."""
    names = ("task", "attempts", "failures", "started", "ended", "seconds", "host")
    return {name: getattr(record, name) if record else None for name in names}


# ---- of a store ----


def _published(store: Path, seen: Seen) -> str:
    """The same of a published store: only runs with this work folder write there, and each leaves a record."""
    if seen.record is None or seen.record.status != "done" or not has_root(store):
        return ""
    return f"published {seen.record.ended}"


def _read(path: Path, read_of: str) -> Row:
    """A store's row; why it cannot be read where it cannot."""
    try:
        return replace(_whole(SlideStore.open(path)), read_of=read_of)
    except Exception as error:  # noqa: BLE001 - what lies there may be damaged in any way
        why = str(error) if isinstance(error, WsiError) else f"is damaged: {reason_of(error)}"
        # Not where it lies: the catalog goes to others, and folders bear names of people.
        why = why.replace(str(path), path.name)
        return Row(slide_id=path.name.removesuffix(".zarr"), status="damaged", error=why, read_of=read_of)


def _whole(store: SlideStore) -> Row:
    attrs = store.attrs
    slide, mpp = attrs["slide"], float(attrs["slide"]["mpp"])
    width, height = slide["size"]
    tissue = store.tissue()
    red, green, blue = _tissue_colour(tissue)
    grids = {grid_id: store.status(grid_id) for grid_id in store.grid_ids}
    return Row(
        slide_id=store.slide_id,
        status="whole",
        fingerprint=str(slide["fingerprint"]),
        width_px=int(width),
        height_px=int(height),
        mpp=mpp,
        mpp_source=str(slide["mpp_source"]),
        vendor=_text(slide.get("vendor")),
        objective=None if slide.get("objective") is None else float(slide["objective"]),
        tissue_share=tissue.fraction,
        tissue_mm2=tissue.area_mm2(mpp),
        red=red,
        green=green,
        blue=blue,
        tiles=sum(map(len, grids.values())) if grids else None,
        unreadable=sum(int((status != OK).sum()) for status in grids.values()) if grids else None,
        features=tuple(
            _features(store, grid_id, encoder_id, status)
            for grid_id, status in grids.items()
            for encoder_id in store.encoder_ids(grid_id)
        ),
        objects=tuple(_found(store, name) for name in found_names(store)),
        store_schema=int(attrs["schema"]),
        software=_text(attrs.get("software", {}).get("wsi_umedpt")),
    )


def _features(store: SlideStore, grid_id: str, encoder_id: str, status: Any) -> FeaturesEntry:
    spec = TileSpec.from_dict(store.nodes.attrs(f"grids/{grid_id}")["spec"])
    name = f"grids/{grid_id}/features/{encoder_id}"
    (rows, dim), made = store.nodes.shape(name), store.nodes.attrs(name)
    if rows != len(status):
        raise StoreError(f"{encoder_id} has {rows} rows for {len(status)} tiles")
    return FeaturesEntry(
        encoder=encoder_id,
        grid=grid_id,
        tile_px=spec.size_px,
        tile_mpp=float(spec.mpp),
        tiles=len(status),
        unreadable=int((status != OK).sum()),
        dim=int(dim),
        precision=str(made.get("precision") or ""),
        weights_sha256=str(made.get("weights_sha256") or ""),
        sha256=str(made["sha256"]),
    )


def _found(store: SlideStore, name: str) -> ObjectsEntry:
    (count,) = store.nodes.shape(f"detections/{name}/class_index")
    made_by = store.nodes.attrs(f"detections/{name}").get("made_by", {})
    return ObjectsEntry(name=name, count=count, model=str(made_by.get("model", "")))


def _tissue_colour(tissue: TissueMask) -> tuple[float | None, float | None, float | None]:
    """Mean red, green, blue of the tissue in the thumbnail; a pixel a cell is enough."""
    mask, thumbnail = tissue.mask, tissue.thumbnail
    if thumbnail is None or not mask.any():
        return None, None, None
    fine = -(-thumbnail.shape[1] // mask.shape[1])
    pixels = thumbnail[fine // 2 :: fine, fine // 2 :: fine]
    rows, cols = (min(a, b) for a, b in zip(mask.shape, pixels.shape[:2], strict=True))
    chosen = pixels[:rows, :cols][mask[:rows, :cols]]
    if not len(chosen):
        return None, None, None
    red, green, blue = (round(float(value), 2) for value in np.asarray(chosen, np.float64).mean(axis=0))
    return red, green, blue


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
