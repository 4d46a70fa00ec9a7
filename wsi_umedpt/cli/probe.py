"""`wsi-umedpt probe`: few labels to a classifier of tiles or of objects, in seconds."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import cyclopts
from cyclopts import Parameter

from wsi_umedpt.cli.options import Bounds, origin_of
from wsi_umedpt.cli.terminal import say
from wsi_umedpt.messages import counted

if TYPE_CHECKING:
    from wsi_umedpt.annotations.labels import NumberedObject, Point, Region
    from wsi_umedpt.mil.linear_probe import Probe
    from wsi_umedpt.mil.probe_fit import Labelled
    from wsi_umedpt.store.slide_store import SlideStore

probe = cyclopts.App(
    name="probe", help="Train a classifier of tiles, or of cells, on few labels, and score slides with it."
)


@probe.command
def fit(
    stores: list[Path],
    /,
    *,
    labels: Annotated[list[Path], Parameter(alias="-l", consume_multiple=True)],
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    model: Annotated[str | None, Parameter(alias="-m")] = None,
    grid: str | None = None,
    objects: str | None = None,
    patients: Path | None = None,
    bounds: Bounds = None,
    seed: int = 0,
) -> int:
    """Fit a classifier on labelled tiles, or objects, of slides, and cross-validate it.

    Labels are a table (.csv, .tsv, .xlsx) with the columns slide_id (or slide), x, y, label (and
    patient, if known), or annotations of QuPath (GeoJSON), ASAP, ImageScope (XML) or HALO, each
    file named as its slide: slide.geojson for slide.zarr. Coordinates are level-0 pixels. An area
    labels the tiles whose centre it holds, of nested ones the innermost; a point the tile that
    holds it; classes of QuPath whose names end in a star (Ignore*) label nothing.

    With --objects, cells are classified: a point labels the object whose outline holds it, else the nearest within
    2 um, an area the objects whose middle it holds. A table may have a column object, the row of the object in its
    store, instead of x and y; class stands for label. Labels that lie on no object are counted and left out.

    Examples
    --------
        wsi-umedpt probe fit out/ -l labels.csv -o tumour.json

        wsi-umedpt probe fit out/slide.zarr -l slide.geojson -o tumour.json

        wsi-umedpt probe fit out/ --objects nuclei -l cells.csv -o cells.json

    Parameters
    ----------
    stores
        Stores, or folders of them; those without labels are not needed.
    labels
        A table, or files of annotations, or a folder of them.
    out
        JSON file to write; its weights are written beside it. Its name names the scores.
    model
        Features to fit on, where the stores hold several.
    grid
        Grid of the tiles, where the stores hold several.
    objects
        Classify these objects (see `wsi-umedpt segment`) instead of tiles; the beginning of their name will do.
    patients
        Table with the columns slide_id (or slide) and patient, so that slides of one patient are cross-validated
        together.
    bounds
        Count annotations from the corner of the slide's bounds, where a scanner states them (MRXS, SCN). By
        default GeoJSON does, as QuPath crops slides to them, and so does ImageScope; ASAP and HALO count from the whole
        slide. A table always does.
    seed
        Deals slides to the folds of the cross-validation.
    """
    from wsi_umedpt.errors import OptionError, ProbeError
    from wsi_umedpt.mil.linear_probe import fit_probe
    from wsi_umedpt.store.slide_store import SlideStore

    if out.suffix != ".json":
        raise ProbeError(f"--out names a JSON file; {out} does not end in .json")
    if objects and (model or grid):
        raise OptionError("--model and --grid are of tiles; objects have one kind of vectors")
    drawn = _read_labels(labels, of_objects=objects is not None)
    found, patient_of = _labelled_stores(stores, drawn, patients)
    of = _Tiles(model, grid) if objects is None else _Objects(objects)
    slides: list[Labelled] = []
    for slide_id, path in found.items():
        store = SlideStore.open(path)
        slides.append(of.label(store, drawn.of(slide_id, store, bounds), patient_of.get(slide_id, "")))
    made = fit_probe(slides, name=out.stem, seed=seed)
    made.save(out)
    _say_fitted(made, of, sum(s.missed for s in slides))
    say(out)
    return 0


@probe.command
def predict(
    stores: list[Path],
    /,
    *,
    probe: Annotated[Path, Parameter(alias="-p")],
    model: Annotated[str | None, Parameter(alias="-m")] = None,
    grid: str | None = None,
    objects: str | None = None,
) -> int:
    """Score every tile, or classify every object, of slides; scores are written into their stores.

    A probe of objects gives each its class and the probability of every class; `export --scores` writes them.

    Examples
    --------
        wsi-umedpt probe predict out/ -p tumour.json

        wsi-umedpt picture out/slide.zarr --scores tumour -o tumour.png

        wsi-umedpt probe predict out/ -p cells.json

        wsi-umedpt export out/slide.zarr --scores cells -o cells.geojson.gz

    Parameters
    ----------
    stores
        Stores, or folders of them.
    probe
        JSON file that `probe fit` wrote.
    model
        Features to score; by default those that it was fitted on.
    grid
        Grid of the tiles; by default that of the tiles that it was fitted on.
    objects
        Kind of objects; by default the one that it was fitted on.
    """
    from wsi_umedpt.errors import OptionError, WsiError
    from wsi_umedpt.mil.linear_probe import Probe
    from wsi_umedpt.mil.object_probe import score_objects
    from wsi_umedpt.mil.tile_probe import score_store
    from wsi_umedpt.store.slide_store import SlideStore

    loaded = Probe.load(probe)
    of_objects = "objects" in loaded.about
    if (model or grid) if of_objects else objects:
        wrong = "--model and --grid are" if of_objects else "--objects is"
        raise OptionError(f"{wrong} not for a probe of {'objects' if of_objects else 'tiles'}, as {probe} is")
    failures = 0
    for path in _stores(stores):
        try:
            store = SlideStore.open(path)
            if of_objects:
                text = ", ".join(f"{count} {name}" for name, count in score_objects(store, loaded, objects).items())
            else:
                shares = score_store(store, loaded, model, grid)
                text = ", ".join(f"{name} {share:.1%}" for name, share in shares.items()) + " of tiles"
            say(f"{path.name.removesuffix('.zarr')}: {text}")
        except WsiError as error:
            failures += 1
            say(f"{path.name.removesuffix('.zarr')}: FAILED: {error}")
    return 1 if failures else 0


def _stores(paths: list[Path]) -> list[Path]:
    from wsi_umedpt.cli.options import stores_in
    from wsi_umedpt.errors import StoreError

    found = stores_in(paths)
    if not found:
        raise StoreError(f"no store (*.zarr) was found in {', '.join(map(str, paths))}; `embed` makes them")
    return found


@dataclass
class _Given:
    """Labels as they were given; slides are named as the stores are, once `named` was called."""

    files: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    """Files of annotations."""
    points: dict[str, list["Point"]] = field(default_factory=lambda: defaultdict(list))
    numbers: dict[str, list["NumberedObject"]] = field(default_factory=lambda: defaultdict(list))

    @property
    def slides(self) -> set[str]:
        """Slides that something is said of."""
        return {*self.files, *self.points, *self.numbers}

    def rename(self, ids: dict[str, str]) -> None:
        """Call slides as their stores are."""
        for name in ("files", "points", "numbers"):
            fresh: dict[str, list[Any]] = defaultdict(list)
            for slide, values in getattr(self, name).items():
                fresh[ids[slide]] += values
            setattr(self, name, fresh)

    def of(self, slide_id: str, store: "SlideStore", bounds: bool | None) -> "_Of":
        """Load the labels of a slide, and print what its files of annotations leave out."""
        from wsi_umedpt.annotations.labels import read_drawn_labels

        found = _Of([], [*self.points[slide_id]], [*self.numbers[slide_id]])
        for file in self.files[slide_id]:
            drawn = read_drawn_labels(file, slide_id, store.corner, origin_of(bounds))
            if drawn.note:
                say(f"{file.name}: {drawn.note}")
            found.regions.extend(drawn.regions)
            found.points.extend(drawn.points)
        return found


@dataclass
class _Of:
    """Labels of one slide."""

    regions: list["Region"]
    points: list["Point"]
    numbers: list["NumberedObject"]


class _Tiles:
    """Tiles are classified."""

    what = "tiles"

    def __init__(self, model: str | None, grid: str | None) -> None:
        self._model, self._grid = model, grid
        self.note = ""
        """Note on figures within slides."""

    def label(self, store: "SlideStore", given: _Of, patient: str) -> "Labelled":
        """The labelled tiles of a slide."""
        from wsi_umedpt.mil.tile_probe import label_tiles

        bag = store.features(self._model, self._grid)
        grid = store.grid(bag.grid_id)
        if grid.spec.stride < grid.spec.size_px:
            self.note = "  and tiles overlap, so that tiles at the border of two blocks share pixels: it flatters"
        return label_tiles(store, bag, grid.side, regions=given.regions, points=given.points, patient=patient)


class _Objects:
    """Objects of a kind are classified."""

    what = "objects"
    note = "  and cells at the border of two blocks share their surroundings: it flatters"

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def label(self, store: "SlideStore", given: _Of, patient: str) -> "Labelled":
        """The labelled objects of a slide."""
        from wsi_umedpt.mil.object_probe import label_objects

        found = label_objects(
            store, self._kind, regions=given.regions, points=given.points, numbers=given.numbers, patient=patient
        )
        if not found.made_of["objects"]["maps"]:
            said = ", ".join(found.made_of["objects"]["measures"])
            say(f"{store.slide_id}: its objects have no vectors, only measures to learn from: {said}")
        return found


def _say_fitted(made: "Probe", of: _Tiles | _Objects, missed: int) -> None:
    """Print the number of labelled tiles or objects, and the quality of the fit."""
    for name, count in made.about["labelled"].items():
        say(f"{name}: {count} {of.what}")
    if missed:
        say(f"{counted(missed, 'label lies on no object and was', 'labels lie on no object and were')} left out")
    figures = made.about["cross_validation"]
    if "auc" not in figures:
        say("too few labelled slides or places to cross-validate: no figure can be given")
        return
    say(
        f"cross-validated by {figures['groups']}, {figures['folds']} folds: AUC within folds {figures['auc']:.3f}, "
        f"balanced accuracy {figures['balanced_accuracy']:.3f}"
    )
    if figures["groups"] == "block of neighbours":
        say("  neighbours were kept together, but all is from the same slides: other slides will be harder")
        if of.note:
            say(of.note)


def _labelled_stores(
    stores: list[Path], given: _Given, patients: Path | None
) -> tuple[dict[str, Path], dict[str, str]]:
    """Stores of the labelled slides, by slide, and whose they are; slides in `given` are renamed to theirs."""
    from wsi_umedpt.annotations.labels import read_patients
    from wsi_umedpt.errors import ProbeError
    from wsi_umedpt.slides.slide_id import by_slide, match_slides

    found: dict[str, Path] = {}
    for path in _stores(stores):
        if (first := found.setdefault(path.name.removesuffix(".zarr"), path)) != path:
            raise ProbeError(f"{first} and {path} are both called {path.name}; labels cannot tell them apart")
    patient_of = by_slide(read_patients(patients), found, ProbeError) if patients else {}
    ids = match_slides(given.slides, found, ProbeError)
    if absent := sorted(given.slides - ids.keys()):
        raise ProbeError(
            f"{len(absent)} labelled slides have no store in {', '.join(map(str, stores))}: {', '.join(absent[:5])}. "
            f"Slides there: {', '.join(sorted(found)[:5]) or 'none'}"
        )
    if patients and (unknown := sorted({*ids.values()} - patient_of.keys())):
        raise ProbeError(f"{patients} does not say whose slides these are: {', '.join(unknown[:5])}")
    given.rename(ids)
    return {slide_id: found[slide_id] for slide_id in sorted({*ids.values()})}, patient_of


def _read_labels(paths: list[Path], *, of_objects: bool) -> _Given:
    """Labels of tables and files of annotations, by slide."""
    from wsi_umedpt.annotations.labels import read_object_labels, read_points
    from wsi_umedpt.annotations.reading import ANNOTATION_SUFFIXES, annotation_files_in, slide_of_file
    from wsi_umedpt.errors import AnnotationError
    from wsi_umedpt.io.spreadsheet import TABLE_SUFFIXES as TABLES

    found = [file for path in paths for file in (annotation_files_in(path) if path.is_dir() else [path])]
    if not found:
        ends = ", ".join((*TABLES, *ANNOTATION_SUFFIXES))
        raise AnnotationError(f"no labels ({ends}) were found in {', '.join(map(str, paths))}")
    given = _Given()
    for file in found:
        if file.suffix.lower() not in TABLES:
            given.files[slide_of_file(file)].append(file)
            continue
        points, numbers = read_object_labels(file) if of_objects else (read_points(file), [])
        for point in points:
            given.points[point.slide_id].append(point)
        for number in numbers:
            given.numbers[number.slide_id].append(number)
    return given
