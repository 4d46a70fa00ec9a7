"""`wsi-umedpt map`: tiles, or slides, as points on a plane, those that look alike near each other."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from wsi_umedpt.cli.terminal import say
from wsi_umedpt.mil.map_settings import MapSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wsi_umedpt.mil.feature_map import FeatureMap
    from wsi_umedpt.plotting.scatter import PointColours
    from wsi_umedpt.store.features import BagSource


def map(  # as the command is called
    store: str,
    /,
    *stores: str,
    out: Annotated[Path, Parameter(alias="-o")],
    of_slides: Annotated[bool, Parameter(name="--of-slides")] = False,
    settings: Annotated[MapSettings | None, Parameter(name="*")] = None,
    model: Annotated[str | None, Parameter(alias="-m")] = None,
    grid: str | None = None,
    scores: str | None = None,
    column: str | None = None,
    labels: Path | None = None,
) -> int:
    """Lay tiles, or slides, out on a plane, so that those that look alike lie near each other.

    Three files are written: a table (slide_id, row of the grid, x and y of the tile's middle and its side in level-0
    px, map_x, map_y), a picture (.png), and a record of what made them (.json). Distances between groups, and their
    sizes, mean nothing on a map by UMAP.

    Examples
    --------
        wsi-umedpt map out/ -o map.csv

        wsi-umedpt map out/slide.zarr -o map.csv --scores probe --column tumour

        wsi-umedpt map out/ -o slides.csv --of-slides --labels labels.csv --method pca

    Parameters
    ----------
    store, stores
        Stores, files of features, and folders of them.
    out
        Table to write: .csv or .parquet.
    of_slides
        A point is a slide: its own vector where --model is an encoder of slides, else the mean of its tiles.
    settings
        Settings of the map.
    model
        Features to compare, where the stores hold several.
    grid
        Grid whose tiles are drawn, where the stores hold several.
    scores
        Colour tiles by these scores in the stores.
    column
        Column of the scores, where they have several.
    labels
        Colour by the labels of a table: slide_id, label, and of tiles x and y (level-0 px, as `probe fit` reads them).
    """
    from wsi_umedpt.cli.failures import say_failures
    from wsi_umedpt.errors import OptionError, reason_of
    from wsi_umedpt.interop.feature_banks import find_usable
    from wsi_umedpt.interop.tables import check_table
    from wsi_umedpt.messages import counted
    from wsi_umedpt.mil.feature_map import map_slides, map_tiles
    from wsi_umedpt.mil.map_layout import check_method
    from wsi_umedpt.plotting.scatter import draw_points
    from wsi_umedpt.plotting.sheets import save

    settings = settings or MapSettings()
    check_table(out)
    if scores and (labels or of_slides):
        raise OptionError("--scores colours tiles, and --labels colours instead of it; give one, and --of-slides alone")
    if column and not scores:
        raise OptionError("--column is one of --scores")
    check_method(settings)
    sources, troubles = find_usable([store, *stores], encoder_id=model, grid_id=grid)
    usable = [*sources.values()]
    with _Bar() as bar:
        made = (map_slides if of_slides else map_tiles)(usable, settings, bar.watch)
    values, colours = _colours(made, sources, scores, column, labels)
    record = made.write(out, values)
    save(draw_points(made.places, colours, title=made.words), picture := out.with_suffix(".png"))
    say(f"{out}, {picture.name}, {record.name}: {made.words}")
    if len(made) < made.about["total"]:
        say(f"The others were left out by a random sample (seed {settings.seed}); --most draws more.")
    failed: list[tuple[Path | str, str]] = [(name, reason_of(error)) for name, error in troubles.items()]
    if failed:
        say(f"{counted(len(failed), 'slide')} could not be drawn")
    return say_failures(failed)


class _Bar:
    """A line that says how far the map is, on a terminal."""

    def __enter__(self) -> "_Bar":
        from rich.progress import BarColumn, Progress, TextColumn

        from wsi_umedpt.cli.terminal import is_quiet
        from wsi_umedpt.mil.map_layout import MapProgress

        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), transient=True, disable=is_quiet() or not _on_terminal()
        )
        self._progress.start()
        self._task = self._progress.add_task("", total=1.0)
        self.watch = MapProgress(told=self._tell)
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def _tell(self, doing: str, share: float) -> None:
        self._progress.update(self._task, description=doing, completed=share)


def _on_terminal() -> bool:
    import sys

    return sys.stderr.isatty() and sys.stdout.isatty()


def _colours(
    made: "FeatureMap", sources: "Mapping[str, BagSource]", scores: str | None, column: str | None, labels: Path | None
) -> "tuple[dict[str, list[str | float]], PointColours]":
    """A column of the table, and colours of the points."""
    from wsi_umedpt.mil.map_colours import labels_of_points, scores_of_points
    from wsi_umedpt.plotting.scatter import colours_of_names, colours_of_values

    if labels:
        names = labels_of_points(made, labels)
        return {"label": [*names]}, colours_of_names(names, "label")
    if scores:
        values, name = scores_of_points(made, sources, scores, column)
        return {name: values.tolist()}, colours_of_values(values, f"{scores}: {name}")
    if made.of_slides:
        return {}, colours_of_names([""] * len(made), "slides")
    return {}, colours_of_names([made.slide_ids[n] for n in made.slide], "slide")
