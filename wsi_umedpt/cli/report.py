"""`wsi-umedpt report`: one page about an output folder, or about one slide."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from wsi_umedpt.cli.options import ForQuPath
from wsi_umedpt.cli.terminal import say
from wsi_umedpt.messages import counted


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CaseOptions:
    """Contents of a report of one slide."""

    regions: Path | None = None
    """File of annotations (QuPath, ASAP, ImageScope, HALO): regions that are drawn and counted in."""
    objects: str | None = None
    """Kind of objects to count, where the store holds several kinds."""
    scores: str | None = None
    """Give objects the classes that these scores say (see `wsi-umedpt probe predict --objects`)."""
    positive: Annotated[tuple[str, ...], Parameter(negative=())] = ()
    """Classes whose share of all objects is asked for; again for each."""
    heatmap: Annotated[tuple[str, ...], Parameter(negative=())] = ()
    """Scores of tiles to draw, again for each; by default all."""
    predictions: Path | None = None
    """CSV of `wsi-umedpt mil predict`: what the slide classifier said of this case."""
    slide: Path | None = None
    """The slide's file, for close-ups of objects."""
    bounds: ForQuPath = True
    """Positions of --regions count from the corner of the slide's bounds, where a scanner states them, as QuPath's do.
    --no-bounds counts from the corner of the whole slide."""


def report(
    out: Path,
    /,
    *,
    page: Annotated[Path, Parameter(name=["--out", "-o"])],
    title: str | None = None,
    pictures: int = 240,
    case: CaseOptions | None = None,
) -> int:
    """Write one page about an output folder: slides with their tissue, outliers, failures and why, speed, what made it.

    Of one store, a report of the case: the slide with regions, counts in them, objects, hotspots, heatmaps, what a
    slide classifier said, and what made it. The page is one HTML file without script that needs no network. It holds
    thumbnails and ids of slides. Stores that cannot be read are on the page, and listed here with exit code 1.

    Examples
    --------
        wsi-umedpt report out/ -o report.html

        wsi-umedpt report out/slide.zarr -o case.html --regions slide.geojson --slide slide.svs

    Parameters
    ----------
    out
        Folder of the stores, as given to `embed -o`; or one store.
    page
        HTML file to write.
    title
        Title of the page; by default it names the folder.
    pictures
        Most thumbnails; slides that are far from the others come first.
    case
        Contents of the report of one store.
    """
    from wsi_umedpt.batch.reporting.web_page import write_page
    from wsi_umedpt.cli.failures import say_failures
    from wsi_umedpt.errors import OptionError, StoreError
    from wsi_umedpt.store.layout import is_store

    if is_store(out):
        return _report_case(page, out, case or CaseOptions())
    if case is not None and case != CaseOptions():
        raise OptionError(
            f"--regions and the other options of a case are of one slide: name its store, as {out / 'SLIDE.zarr'}"
        )
    if pictures < 0:
        raise OptionError(f"the number of thumbnails (--pictures) is 0 or more, got {pictures}")
    if not out.is_dir():
        raise StoreError(f"there is no folder {out}; name the one that was given to embed -o")
    rows = write_page(page, out, title=title, pictures=pictures)
    whole = sum(row.status == "whole" for row in rows)
    say(f"{page}: {counted(len(rows), 'slide')}, {whole} of them whole")
    return say_failures([(f"{row.slide_id}.zarr", row.error or "") for row in rows if row.status == "damaged"])


def _report_case(page: Path, path: Path, case: CaseOptions) -> int:
    """Write the report of one slide."""
    from contextlib import ExitStack

    from wsi_umedpt.annotations.reading import read_annotation_file
    from wsi_umedpt.pipeline.case_report import CaseContents, write_case_report
    from wsi_umedpt.slides.slide import open_slide
    from wsi_umedpt.store.slide_store import SlideStore

    store = SlideStore.open(path)
    drawn = []
    if case.regions is not None:
        drawn = read_annotation_file(case.regions, store.corner, None if case.bounds else "level-0").annotations
    verdict = _predicted(case.predictions, store.slide_id) if case.predictions else ""
    with ExitStack() as closing:
        slide = (
            closing.enter_context(open_slide(case.slide, mpp=store.stated_mpp, channels=store.channels))
            if case.slide
            else None
        )
        contents = CaseContents(
            drawn=drawn, objects=case.objects, scores=case.scores, heatmaps=case.heatmap or None,
            positive=case.positive, verdict=verdict, slide=slide,
        )  # fmt: skip
        write_case_report(page, store, contents)
    say(page)
    return 0


def _predicted(predictions: Path, slide_id: str) -> str:
    """A case's row of a table of predictions, a line a column."""
    from wsi_umedpt.errors import MilError
    from wsi_umedpt.io.spreadsheet import read_table

    table = read_table(predictions, needed=["case_id"], error=MilError)
    mine = [row for row in table.rows.values() if row["case_id"] == slide_id]
    if len(mine) != 1:
        raise MilError(f"{predictions} has {len(mine)} rows of the case {slide_id}; one was expected")
    return "\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in mine[0].items() if value)
