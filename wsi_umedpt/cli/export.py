"""`wsi-umedpt export`: objects of stores as files for QuPath, GIS tools and spreadsheets."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from wsi_umedpt.cli.options import stores_in


def export(
    *stores: Path,
    out: Annotated[Path, Parameter(alias="-o")],
    objects: str | None = None,
    table: Literal["slides", "tiles"] | None = None,
    grid: str | None = None,
) -> int:
    """Write the objects of a store, or how many there are, to a file; its suffix says the format.

    .geojson and .geojson.gz are for QuPath (drag the file onto the open slide), .parquet is GeoParquet.
    With --table, .csv or .parquet: counts and densities, a row a slide or a row a tile.

    Examples
    --------
        wsi-umedpt export out/slide.zarr -o slide.geojson.gz

        wsi-umedpt export out/slide.zarr -o nuclei.parquet --objects nuclei_dsb

        wsi-umedpt export out/ -o counts.csv --table slides

        wsi-umedpt export out/slide.zarr -o density.csv --table tiles

    Parameters
    ----------
    stores
        Stores or folders of them; outlines are of one store.
    out
        File to write.
    objects
        Which objects, where a store holds several kinds.
    table
        Count instead: a row a slide, or a row a tile.
    grid
        Whose tiles are counted, where a store holds several grids.
    """
    from wsi_umedpt.counts import slide_row, tile_columns
    from wsi_umedpt.errors import InteropError
    from wsi_umedpt.found import read_objects
    from wsi_umedpt.interop.geoparquet import write_geoparquet
    from wsi_umedpt.interop.qupath import write_geojson
    from wsi_umedpt.interop.tables import check_table, write_table
    from wsi_umedpt.store import SlideStore

    opened = [SlideStore.open(path) for path in stores_in(stores)]
    if not opened:
        raise InteropError(f"there are no stores in {', '.join(map(str, stores)) or 'what was named: nothing'}")
    if table:
        check_table(out)
        if table == "slides":
            rows = [slide_row(store, objects) for store in opened]
            names = dict.fromkeys(name for row in rows for name in row)
            write_table(out, {name: [row.get(name) for row in rows] for name in names})
        else:
            parts = [tile_columns(store, objects, grid) for store in opened]
            names = dict.fromkeys(name for part in parts for name in part)
            write_table(out, {n: [v for p in parts for v in (p[n] if n in p else [None] * len(p["x"]))] for n in names})
        print(out)
        return 0
    if len(opened) > 1:
        raise InteropError(f"outlines are exported of one store at a time, and {len(opened)} were named (or --table)")
    found, about = read_objects(opened[0], objects)
    if out.suffix == ".parquet":
        mpp = opened[0].attrs["slide"]["mpp"]
        write_geoparquet(out, found, slide_id=opened[0].slide_id, mpp=mpp, made_by=about)
    else:
        write_geojson(out, found, slide_id=opened[0].slide_id)
    print(f"{out}: {len(found)} {about['head']}")
    return 0
