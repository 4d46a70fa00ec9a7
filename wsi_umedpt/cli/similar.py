"""`wsi-umedpt similar`: more tiles like this one, or like this region, of a slide or of a folder of slides."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from wsi_umedpt.cli.options import Bounds, origin_of
from wsi_umedpt.cli.terminal import say

if TYPE_CHECKING:
    from wsi_umedpt.cli.failures import Failures
    from wsi_umedpt.mil.similar import Numbers, SimilarTile, TileIndex
    from wsi_umedpt.store.features import BagSource
    from wsi_umedpt.store.slide_store import SlideStore

_SEEN_PX = 160
"""Side of a tile in the sheet."""
COLUMNS = ("rank", "slide_id", "x", "y", "side", "similarity")
"""Columns of the table; x and y are the tile's middle, so that with a column label it is one of labels."""


def similar(
    store: Path,
    /,
    *stores: str,
    out: Annotated[Path, Parameter(alias="-o")],
    at: tuple[float, float] | None = None,
    region: Path | None = None,
    count: int = 20,
    model: Annotated[str | None, Parameter(alias="-m")] = None,
    grid: str | None = None,
    slides: Path | None = None,
    sheet: Path | None = None,
    bounds: Bounds = None,
) -> int:
    """Find the tiles that look most like a tile, or a region, of a slide.

    Tiles of the slide itself, and of other stores where they are named, are compared by the cosine of their features,
    standardised over all of them. The table has a row a tile, the most similar first: rank, slide_id, x, y (its middle,
    level-0 px), side (level-0 px), similarity (-1 to 1). With a column label added it is a table for `probe fit`.

    Examples
    --------
        wsi-umedpt similar out/slide.zarr --at 20480 15360 -o similar.csv

        wsi-umedpt similar out/slide.zarr out/ --region slide.geojson -o similar.csv

        wsi-umedpt similar out/slide.zarr out/ --at 20480 15360 -o similar.csv --slides slides/ --sheet similar.png

    Parameters
    ----------
    store
        Store of the slide that is asked about.
    stores
        Other stores, or folders of them, that are searched too.
    out
        Table to write: .csv.
    at
        A place in the tile that is asked about: x and y, level-0 px.
    region
        File of annotations (GeoJSON, XML); the tiles whose middles its areas hold are asked about together.
    count
        Number of tiles at most.
    model
        Features to compare, where the stores hold several.
    grid
        Grid to search, where the stores hold several.
    slides
        Folder of the slides' files, for the pictures of --sheet.
    sheet
        PNG to write: pictures of the tiles.
    bounds
        Count annotations from the corner of the slide's bounds; see `probe fit`.
    """
    from wsi_umedpt.cli.failures import say_failures
    from wsi_umedpt.errors import OptionError, reason_of
    from wsi_umedpt.interop.feature_banks import find_usable
    from wsi_umedpt.interop.tables import write_rows
    from wsi_umedpt.messages import counted
    from wsi_umedpt.mil.similar import TileIndex
    from wsi_umedpt.plotting.sheets import check_name
    from wsi_umedpt.store.slide_store import SlideStore

    if (at is None) == (region is None):
        raise OptionError("what is asked about is a place (--at X Y) or the areas of a file (--region FILE); give one")
    if (slides is None) != (sheet is None):
        raise OptionError("--sheet is drawn from the slides' files: give --slides and --sheet together")
    if out.suffix != ".csv" or count < 1:
        raise OptionError(f"--out names a .csv and --count is 1 or more, got {out} and {count}")
    if sheet:
        check_name(sheet)
    asked = SlideStore.open(store)
    sources, troubles = find_usable([store, *stores], encoder_id=model, grid_id=grid)
    if (why := troubles.pop(asked.slide_id, None)) is not None:
        raise why
    index = TileIndex.read([*sources.values()])
    rows = _of_areas(index, asked, region, bounds) if region else index.tile_at(asked.slide_id, *(at or (0, 0)))
    found = index.similar(rows, count)
    half = [one.side / 2 for one in found]
    write_rows(out, [COLUMNS, *(
        [n, one.slide_id, one.x + by, one.y + by, one.side, round(one.similarity, 4)]
        for n, (one, by) in enumerate(zip(found, half, strict=True), start=1)
    )])  # fmt: skip
    many = counted(len(index.slide_ids), "slide")
    say(f"{out}: {len(found)} of {len(index):,} tiles of {many}, like {len(rows)} of {asked.slide_id}")
    failed: list[tuple[Path | str, str]] = [(name, reason_of(error)) for name, error in troubles.items()]
    if sheet and slides:
        failed += _draw(sheet, found, sources, slides)
    return say_failures(failed)


def _of_areas(index: "TileIndex", store: "SlideStore", file: Path, bounds: bool | None) -> "Numbers":
    """Tiles whose middles the areas of a file hold."""
    import shapely

    from wsi_umedpt.annotations.reading import read_annotation_file
    from wsi_umedpt.errors import AnnotationError

    found = read_annotation_file(file, store.corner, origin_of(bounds)).annotations
    areas = [one.geometry for one in found if one.shape == "area"]
    if not areas:
        raise AnnotationError(f"{file} holds no area: draw a region, and export it")
    return index.tiles_within(store.slide_id, shapely.union_all([shapely.make_valid(area) for area in areas]))


def _draw(path: Path, found: "Sequence[SimilarTile]", sources: "Mapping[str, BagSource]", folder: Path) -> "Failures":
    """Draw the tiles in their order; slides that cannot be read are listed, and their tiles left out."""
    from contextlib import ExitStack

    from wsi_umedpt.batch.jobs.manifest import list_slides
    from wsi_umedpt.errors import WsiError, reason_of
    from wsi_umedpt.geometry import Box
    from wsi_umedpt.interop.feature_sources import StoreSource
    from wsi_umedpt.plotting.sheets import Panel, save, sheet
    from wsi_umedpt.slides.slide import open_slide
    from wsi_umedpt.store.slide_store import SlideStore

    files = {job.slide_id: job.path for job in list_slides([str(folder)])[0]}
    panels, opened, failed = [], {}, {}
    with ExitStack() as closing:
        for n, one in enumerate(found, start=1):
            if one.slide_id in failed:
                continue
            try:
                if one.slide_id not in opened:
                    if one.slide_id not in files:
                        raise WsiError(f"no file of {one.slide_id} lies in {folder}: its tiles are not drawn")
                    source = sources[one.slide_id]
                    if not isinstance(source, StoreSource):
                        raise WsiError(f"{one.slide_id} is a file of features, and not a store: it is not known whose")
                    store = SlideStore.open(source.path)
                    slide = closing.enter_context(
                        open_slide(files[one.slide_id], mpp=store.stated_mpp, channels=store.channels)
                    )
                    if slide.fingerprint != store.attrs["slide"]["fingerprint"]:
                        raise WsiError(f"{slide.path} is not the slide of {store.path}: their fingerprints differ")
                    opened[one.slide_id] = slide
                slide, side = opened[one.slide_id], round(one.side)
                pixels = slide.read(
                    Box(round(one.x), round(one.y), side, side), slide.mpp * side / _SEEN_PX, upsample=True
                )
            except (WsiError, OSError) as error:
                failed[one.slide_id] = reason_of(error)
                continue
            panels.append(Panel(pixels, f"{n}: {one.similarity:.2f} {one.slide_id}"))
    if panels:
        save(sheet(panels, columns=5), path)
        say(path)
    return [*failed.items()]
