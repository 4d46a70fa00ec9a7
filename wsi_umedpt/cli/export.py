"""`wsi-umedpt export`: what stores hold as files for QuPath, GIS tools, spreadsheets and MIL tools."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from wsi_umedpt.cli.options import ForQuPath, stores_in
from wsi_umedpt.cli.terminal import say
from wsi_umedpt.messages import counted, some

if TYPE_CHECKING:
    from wsi_umedpt.store.slide_store import SlideStore


def export(
    *stores: str,
    out: Annotated[Path, Parameter(alias="-o")],
    objects: str | None = None,
    scores: str | None = None,
    table: Literal["slides", "tiles"] | None = None,
    regions: Path | None = None,
    hotspots: bool = False,
    positive: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    features: Literal["clam", "trident", "stamp", "slide2vec", "anndata"] | None = None,
    model: Annotated[str | None, Parameter(alias="-m")] = None,
    grid: str | None = None,
    bounds: ForQuPath = True,
) -> int:
    """Write what stores hold for other tools: objects, how many there are and where, or features of tiles.

    Objects of one store go to a file whose suffix says the format: .geojson and .geojson.gz are for QuPath (drag
    the file onto the open slide), .parquet is GeoParquet. With --table, .csv or .parquet: counts and densities, a
    row a slide or a row a tile. With --features, a folder of files as CLAM, TRIDENT, STAMP, slide2vec or AnnData
    lay them; all of them can be read back. What fails is listed at the end, and the other stores go on.

    Examples
    --------
        wsi-umedpt export out/slide.zarr -o slide.geojson.gz

        wsi-umedpt export out/slide.zarr -o nuclei.parquet --objects nuclei

        wsi-umedpt export out/ -o counts.csv --table slides

        wsi-umedpt export out/slide.zarr -o cells.geojson.gz --scores cells

        wsi-umedpt export out/slide.zarr -o density.csv --table tiles

        wsi-umedpt export out/slide.zarr -o regions.csv --regions slide.geojson

        wsi-umedpt export out/ -o hotspots.csv --hotspots

        wsi-umedpt export out/ -o for_trident/ --features trident

        wsi-umedpt export out/ -o for_scanpy/ --features anndata -m umedpt_lite0.v2

    Parameters
    ----------
    stores
        Stores or folders of them, also URLs; outlines are of one store.
    out
        File to write; with --features, the folder.
    objects
        Kind of objects, where a store holds several.
    scores
        Give objects the classes that these scores say (see `wsi-umedpt probe predict`), and their probability.
    table
        Count instead: a row a slide, or a row a tile.
    regions
        File of annotations (QuPath, ASAP, ImageScope, HALO), or for several stores a folder of files that are named
        after their slides: area, perimeter, and counts, densities and means of measures in every region.
    hotspots
        The densest circles instead, with their places; with --regions those within each region.
    positive
        With --regions, classes whose share of all objects is asked for; again for each.
    features
        Write features of tiles instead, a file a slide; unreadable tiles are left out.
    model
        Features to write, where stores hold several.
    grid
        Grid whose tiles are counted or written, where a store holds several.
    bounds
        Count positions in GeoJSON from the corner of the slide's bounds, where a scanner states them (MRXS, SCN):
        QuPath crops slides to them. --no-bounds counts from the corner of the whole slide. --regions are read alike.
    """
    from wsi_umedpt.errors import InteropError, OptionError
    from wsi_umedpt.io.paths import place

    if features and (table or regions or hotspots or objects or scores):
        raise OptionError(
            "--features goes without --table, --regions, --hotspots, --objects and --scores; run export once for each"
        )
    if table and (regions or hotspots):
        raise OptionError("--table goes without --regions and --hotspots; run export once for each")
    if positive and (hotspots or not regions):
        raise OptionError("--positive goes with --regions, without --hotspots: it adds a column to counts in regions")
    if model and not features:
        raise OptionError("--model goes with --features: it says which features are written")
    paths = stores_in(stores)
    if not paths:
        raise InteropError(
            f"there are no stores in {', '.join(str(place(s)) for s in stores) or 'what was named: nothing'}"
        )
    if features:
        return _write_features(paths, out, features, model, grid)
    of = objects, scores
    if table:
        return _write_table(paths, out, partial(_table_of, table=table, of=of, grid=grid))
    if regions or hotspots:
        files = _regions_of(paths, regions) if regions else {}
        rows_of = partial(_rows_of, of=of, files=files, hotspots=hotspots, positive=positive, bounds=bounds)
        return _write_table(paths, out, rows_of)
    if len(paths) > 1:
        raise InteropError(f"outlines are exported of one store at a time, and {len(paths)} were named (or --table)")
    from wsi_umedpt.store.slide_store import SlideStore

    return _write_objects(SlideStore.open(paths[0]), out, objects, scores, bounds=bounds)


def _write_objects(store: "SlideStore", out: Path, objects: str | None, scores: str | None, *, bounds: bool) -> int:
    from wsi_umedpt.interop.geoparquet import write_geoparquet
    from wsi_umedpt.interop.qupath import write_geojson
    from wsi_umedpt.store.scores_io import read_classified

    found, probability, about = read_classified(store, objects, scores)
    said = ""
    if out.suffix == ".parquet":
        mpp = store.attrs["slide"]["mpp"]
        write_geoparquet(out, found, slide_id=store.slide_id, mpp=mpp, made_by=about, probability=probability)
    else:
        corner = store.corner if bounds else (0, 0)
        write_geojson(out, found, slide_id=store.slide_id, corner=corner, probability=probability)
        said = (
            f"; positions count from the slide's bounds at {corner[0]}, {corner[1]}, as QuPath's" if any(corner) else ""
        )
    say(f"{out}: {len(found)} {about.get('head', objects or 'objects')}{said}")
    return 0


Of = tuple[str | None, str | None]
"""The kind of objects and their scores."""
Columns = dict[str, Any]
"""Names of columns and their values, as many of each."""


def _write_table(paths: Sequence[Path], out: Path, columns_of: "Callable[[SlideStore], Columns]") -> int:
    """Rows of all stores that can be counted; the others are listed."""
    from wsi_umedpt.cli.failures import each, say_failures
    from wsi_umedpt.interop.tables import check_table, write_table
    from wsi_umedpt.store.slide_store import SlideStore

    check_table(out)
    parts, failed = each(paths, lambda path: columns_of(SlideStore.open(path)))
    names = dict.fromkeys(name for part in parts for name in part)
    rows = [len(next(iter(part.values()))) for part in parts]
    columns = {n: [v for p, r in zip(parts, rows, strict=True) for v in p.get(n, [None] * r)] for n in names}
    if parts:
        write_table(out, columns)
        say(f"{out}: {len(parts)} of {counted(len(paths), 'slide')}" if failed else out)
    return say_failures(failed)


def _table_of(store: "SlideStore", table: Literal["slides", "tiles"], of: Of, grid: str | None) -> Columns:
    """Counts: a row of the slide, or a row a tile."""
    from wsi_umedpt.segmentation.object_stats import slide_row, tile_columns

    if table == "tiles":
        return tile_columns(store, of[0], grid, of[1])
    return {name: [value] for name, value in slide_row(store, *of).items()}


def _rows_of(
    store: "SlideStore", of: Of, files: dict[str, Path], *, hotspots: bool, positive: tuple[str, ...], bounds: bool
) -> Columns:
    """A row a region, or a row a hotspot."""
    from wsi_umedpt.annotations.reading import read_annotation_file
    from wsi_umedpt.errors import InteropError
    from wsi_umedpt.interop.tables import as_columns
    from wsi_umedpt.segmentation.hotspots import hotspot_rows
    from wsi_umedpt.segmentation.region_counts import region_rows
    from wsi_umedpt.store.scores_io import read_classified

    objects, _, about = read_classified(store, *of)
    regions, drawn = files.get(store.slide_id), None
    if regions is not None:
        drawn = read_annotation_file(regions, store.corner, None if bounds else "level-0").annotations
    mpp = store.attrs["slide"]["mpp"]
    rows = hotspot_rows(objects, mpp, drawn=drawn) if hotspots else region_rows(drawn or [], mpp, objects, positive)
    if not rows:
        raise InteropError(
            f"{regions} holds no areas, or none with objects: draw regions around what is to be counted"
            if regions else f"{store.path} holds no objects to find hotspots of"
        )  # fmt: skip
    whose = {"slide_id": store.slide_id, "objects": about.get("head", of[0] or "")}
    return as_columns(whose | row for row in rows)


def _regions_of(paths: Sequence[Path], regions: Path) -> dict[str, Path]:
    """The file of regions of each slide."""
    from wsi_umedpt.annotations.reading import annotation_files_in, slide_of_file
    from wsi_umedpt.errors import AnnotationError
    from wsi_umedpt.slides.slide_id import match_slides

    ids = [path.name.removesuffix(".zarr") for path in paths]
    if not regions.is_dir():
        if len(paths) > 1:
            raise AnnotationError(
                f"{regions} is one file for {len(paths)} stores: give a folder of files that are named after the slides"
            )
        return {ids[0]: regions}
    files = {slide_of_file(file): file for file in annotation_files_in(regions)}
    found = {slide: files[name] for name, slide in match_slides(files, ids, AnnotationError).items()}
    if lacking := sorted({*ids} - found.keys()):
        raise AnnotationError(
            f"{regions} has no file for {len(lacking)} of {counted(len(ids), 'slide')}: {some(lacking)}. Name "
            f"each after its slide, as {lacking[0]}.geojson, or name the stores that have one."
        )
    return found


def _write_features(paths: Sequence[Path], out: Path, features: str, model: str | None, grid: str | None) -> int:
    """A file a slide; what fails is listed, and the others go on."""
    from wsi_umedpt.cli.failures import each, say_failures
    from wsi_umedpt.errors import InteropError
    from wsi_umedpt.interop.feature_banks import WRITERS
    from wsi_umedpt.store.slide_store import SlideStore

    by_slide: dict[str, Path] = {}
    for path in paths:
        if (first := by_slide.setdefault(path.stem, path)).resolve() != path.resolve():
            raise InteropError(f"{first} and {path} would be one file; export them to different folders")

    def write(path: Path) -> None:
        written = WRITERS[features](out, SlideStore.open(path), encoder_id=model, grid_id=grid)
        say(f"{path.stem}: {written}")

    written, failed = each([*by_slide.values()], write, said=lambda path: path.stem)
    say(f"{len(written)} of {counted(len(by_slide), 'slide')} exported")
    return say_failures(failed)
