"""`wsi-umedpt export`: what stores hold as files for QuPath, GIS tools, spreadsheets and MIL tools."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from wsi_umedpt.cli.options import ForQuPath, stores_in
from wsi_umedpt.cli.terminal import say

if TYPE_CHECKING:
    from wsi_umedpt.store import SlideStore


def export(
    *stores: str,
    out: Annotated[Path, Parameter(alias="-o")],
    objects: str | None = None,
    table: Literal["slides", "tiles"] | None = None,
    features: Literal["clam", "trident", "stamp", "slide2vec", "anndata"] | None = None,
    model: Annotated[str | None, Parameter(alias="-m")] = None,
    grid: str | None = None,
    bounds: ForQuPath = True,
) -> int:
    """Write what stores hold for other tools: objects, how many there are, or features of tiles.

    Objects of one store go to a file whose suffix says the format: .geojson and .geojson.gz are for QuPath (drag
    the file onto the open slide), .parquet is GeoParquet. With --table, .csv or .parquet: counts and densities, a
    row a slide or a row a tile. With --features, a folder of files as CLAM, TRIDENT, STAMP, slide2vec or AnnData
    lay them; all of them can be read back. What fails is listed at the end, and the other stores go on.

    Examples
    --------
        wsi-umedpt export out/slide.zarr -o slide.geojson.gz

        wsi-umedpt export out/slide.zarr -o nuclei.parquet --objects nuclei_dsb

        wsi-umedpt export out/ -o counts.csv --table slides

        wsi-umedpt export out/slide.zarr -o density.csv --table tiles

        wsi-umedpt export out/ -o for_trident/ --features trident

        wsi-umedpt export out/ -o for_scanpy/ --features anndata -m umedpt_lite0.v1

    Parameters
    ----------
    stores
        Stores or folders of them, also URLs; outlines are of one store.
    out
        File to write; with --features, the folder.
    objects
        Which objects, where a store holds several kinds.
    table
        Count instead: a row a slide, or a row a tile.
    features
        Write features of tiles instead, a file a slide; unreadable tiles are left out.
    model
        Which features, where stores hold several.
    grid
        Whose tiles are counted or written, where a store holds several grids.
    bounds
        Count positions in GeoJSON from the corner of the slide's bounds, where a scanner states them (MRXS, SCN):
        QuPath crops slides to them. --no-bounds counts from the corner of the whole slide.
    """
    from wsi_umedpt.errors import InteropError, OptionError
    from wsi_umedpt.places import place

    if features and (table or objects):
        raise OptionError("--features goes without --table and --objects; run export once for each")
    if model and not features:
        raise OptionError("--model goes with --features: it says which features are written")
    paths = stores_in(stores)
    if not paths:
        raise InteropError(
            f"there are no stores in {', '.join(str(place(s)) for s in stores) or 'what was named: nothing'}"
        )
    if features:
        return _write_features(paths, out, features, model, grid)
    if table:
        return _write_table(paths, out, table, objects, grid)
    if len(paths) > 1:
        raise InteropError(f"outlines are exported of one store at a time, and {len(paths)} were named (or --table)")
    from wsi_umedpt.store import SlideStore

    return _write_objects(SlideStore.open(paths[0]), out, objects, bounds=bounds)


def _write_objects(store: "SlideStore", out: Path, objects: str | None, *, bounds: bool) -> int:
    from wsi_umedpt.found import read_objects
    from wsi_umedpt.interop.geoparquet import write_geoparquet
    from wsi_umedpt.interop.qupath import write_geojson

    found, about = read_objects(store, objects)
    said = ""
    if out.suffix == ".parquet":
        write_geoparquet(out, found, slide_id=store.slide_id, mpp=store.attrs["slide"]["mpp"], made_by=about)
    else:
        corner = store.corner if bounds else (0, 0)
        write_geojson(out, found, slide_id=store.slide_id, corner=corner)
        said = (
            f"; positions count from the slide's bounds at {corner[0]}, {corner[1]}, as QuPath's" if any(corner) else ""
        )
    say(f"{out}: {len(found)} {about.get('head', objects or 'objects')}{said}")
    return 0


def _write_table(
    paths: Sequence[Path], out: Path, table: Literal["slides", "tiles"], objects: str | None, grid: str | None
) -> int:
    """Rows of all stores that can be counted; the others are listed."""
    from wsi_umedpt.cli.failures import each, say_failures
    from wsi_umedpt.counts import slide_row, tile_columns
    from wsi_umedpt.interop.tables import check_table, write_table
    from wsi_umedpt.store import SlideStore

    check_table(out)
    if table == "slides":
        rows, failed = each(paths, lambda path: slide_row(SlideStore.open(path), objects))
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
    else:
        rows, failed = each(paths, lambda path: tile_columns(SlideStore.open(path), objects, grid))
        names = dict.fromkeys(name for part in rows for name in part)
        columns = {n: [v for p in rows for v in (p[n] if n in p else [None] * len(p["x"]))] for n in names}
    if rows:
        write_table(out, columns)
        say(f"{out}: {len(rows)} of {len(paths)} slides" if failed else out)
    return say_failures(failed)


def _write_features(paths: Sequence[Path], out: Path, features: str, model: str | None, grid: str | None) -> int:
    """A file a slide; what fails is listed, and the others go on."""
    from wsi_umedpt.cli.failures import each, say_failures
    from wsi_umedpt.errors import InteropError
    from wsi_umedpt.interop.banks import WRITERS
    from wsi_umedpt.store import SlideStore

    by_slide: dict[str, Path] = {}
    for path in paths:
        if (first := by_slide.setdefault(path.stem, path)).resolve() != path.resolve():
            raise InteropError(f"{first} and {path} would be one file; export them to different folders")

    def write(path: Path) -> None:
        written = WRITERS[features](out, SlideStore.open(path), encoder_id=model, grid_id=grid)
        say(f"{path.stem}: {written}")

    written, failed = each([*by_slide.values()], write, said=lambda path: path.stem)
    say(f"{len(written)} of {len(by_slide)} slides exported")
    return say_failures(failed)
