"""`wsi-umedpt probe`: few labels to a tile classifier, in seconds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cyclopts
from cyclopts import Parameter

from wsi_umedpt.cli.options import Bounds, origin_of
from wsi_umedpt.cli.terminal import say

if TYPE_CHECKING:
    from wsi_umedpt.annotations import Point
    from wsi_umedpt.probe import LabelledTiles

probe = cyclopts.App(name="probe", help="Train a tile classifier on few labels, and score slides with it.")


@probe.command
def fit(
    stores: list[Path],
    /,
    *,
    labels: Annotated[list[Path], Parameter(alias="-l", consume_multiple=True)],
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    model: Annotated[str | None, Parameter(alias="-m")] = None,
    grid: str | None = None,
    patients: Path | None = None,
    bounds: Bounds = None,
    seed: int = 0,
) -> int:
    """Fit a classifier on labelled tiles of embedded slides, and cross-validate it.

    Labels are a table (.csv, .tsv, .xlsx) with the columns slide_id (or slide), x, y, label (and
    patient, if known), or annotations of QuPath (GeoJSON), ASAP, ImageScope (XML) or HALO, each
    file named as its slide: slide.geojson for slide.zarr. Coordinates are level-0 pixels. An area
    labels the tiles whose centre it holds, of nested ones the innermost; a point the tile that
    holds it; classes of QuPath whose names end in a star (Ignore*) label nothing.

    Examples
    --------
        wsi-umedpt probe fit out/ -l labels.csv -o tumour.json

        wsi-umedpt probe fit out/slide.zarr -l slide.geojson -o tumour.json

    Parameters
    ----------
    stores
        Stores, or folders of them; those without labels are not needed.
    labels
        A table, or files of annotations, or a folder of them.
    out
        JSON file to write; its weights are written beside it. Its name names the scores.
    model
        Which features, where the stores hold several.
    grid
        Which grid, where the stores hold several.
    patients
        Table with the columns slide_id (or slide) and patient, so that slides of one patient are cross-validated
        together.
    bounds
        Whether annotations count from the corner of the slide's bounds, where a scanner states them (MRXS, SCN). By
        default GeoJSON does, as QuPath crops slides to them, and so does ImageScope; ASAP and HALO count from the whole
        slide. A table always does.
    seed
        Deals slides to the folds of the cross-validation.
    """
    from wsi_umedpt.annotations import read_drawn_labels, read_patients
    from wsi_umedpt.errors import ProbeError
    from wsi_umedpt.probe import fit_probe, label_tiles
    from wsi_umedpt.slideid import by_slide, match_slides
    from wsi_umedpt.store import SlideStore

    if out.suffix != ".json":
        raise ProbeError(f"--out names a JSON file; {out} does not end in .json")
    files, points = _read_labels(labels)
    found: dict[str, Path] = {}
    for path in _stores(stores):
        if (first := found.setdefault(path.name.removesuffix(".zarr"), path)) != path:
            raise ProbeError(f"{first} and {path} are both called {path.name}; labels cannot tell them apart")
    patient_of = by_slide(read_patients(patients), found, ProbeError) if patients else {}
    ids = match_slides({*files, *points}, found, ProbeError)
    if absent := sorted({*files, *points} - ids.keys()):
        raise ProbeError(
            f"{len(absent)} labelled slides have no store in {', '.join(map(str, stores))}: {', '.join(absent[:5])}. "
            f"Slides there: {', '.join(sorted(found)[:5]) or 'none'}"
        )
    if patients and (unknown := sorted({*ids.values()} - patient_of.keys())):
        raise ProbeError(f"{patients} does not say whose slides these are: {', '.join(unknown[:5])}")
    tiles: list[LabelledTiles] = []
    encoder: dict[str, object] = {}
    for slide_id in sorted({*ids.values()}):
        store = SlideStore.open(found[slide_id])
        bag = store.bag(model, grid)
        made_by = store.feature_attrs(bag.encoder_id, bag.grid_id)
        spec = store.grid(bag.grid_id)
        mine = {
            "name": made_by["card"]["name"], "weights_sha256": made_by["weights_sha256"],
            "precision": made_by["precision"], "mpp": spec.spec.mpp, "size_px": spec.spec.size_px,
        }  # fmt: skip
        if encoder and mine != encoder:
            raise ProbeError(f"{store.path} was embedded as {mine}, the slides before as {encoder}; they must agree")
        encoder = mine
        own_files = [file for name, at in files.items() if ids[name] == slide_id for file in at]
        drawn = [read_drawn_labels(f, slide_id, store.corner, origin_of(bounds)) for f in own_files]
        for file, one in zip(own_files, drawn, strict=True):
            if one.note:
                say(f"{file.name}: {one.note}")
        tiles.append(
            label_tiles(
                store,
                bag,
                spec.side,
                regions=[region for one in drawn for region in one.regions],
                points=[
                    *(point for name, at in points.items() if ids[name] == slide_id for point in at),
                    *(point for one in drawn for point in one.points),
                ],
                patient=patient_of.get(slide_id, ""),
            )
        )
    made = fit_probe(tiles, name=out.stem, encoder=encoder, seed=seed)
    made.save(out)
    for name, count in made.about["labelled"].items():
        say(f"{name}: {count} tiles")
    figures = made.about["cross_validation"]
    if "auc" in figures:
        say(
            f"cross-validated by {figures['groups']}, {figures['folds']} folds: AUC within folds {figures['auc']:.3f}, "
            f"balanced accuracy {figures['balanced_accuracy']:.3f}"
        )
        if figures["groups"] == "block of neighbours":
            say("  neighbours were kept together, but all is from the same slides: other slides will be harder")
            if spec.spec.stride < spec.spec.size_px:
                say("  and tiles overlap, so that tiles at the border of two blocks share pixels: it flatters")
    else:
        say("too few labelled slides or places to cross-validate: no figure can be given")
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
) -> int:
    """Score every tile of embedded slides; scores are written into their stores.

    Examples
    --------
        wsi-umedpt probe predict out/ -p tumour.json

        wsi-umedpt picture out/slide.zarr --scores tumour -o tumour.png

    Parameters
    ----------
    stores
        Stores, or folders of them.
    probe
        JSON file that `probe fit` wrote.
    model
        Which features; by default those that it was fitted on.
    grid
        Which grid; by default that of the tiles that it was fitted on.
    """
    from wsi_umedpt.errors import WsiError
    from wsi_umedpt.probe import Probe, score_store
    from wsi_umedpt.store import SlideStore

    loaded = Probe.load(probe)
    failures = 0
    for path in _stores(stores):
        try:
            shares = score_store(SlideStore.open(path), loaded, model, grid)
            text = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
            say(f"{path.name.removesuffix('.zarr')}: {text} of tiles")
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


def _read_labels(paths: list[Path]) -> tuple[dict[str, list[Path]], dict[str, list["Point"]]]:
    """Files of annotations, and points, by slide."""
    from wsi_umedpt.annotationfiles.reading import SUFFIXES, slide_of_file
    from wsi_umedpt.annotations import read_points
    from wsi_umedpt.errors import AnnotationError
    from wsi_umedpt.spreadsheet import SUFFIXES as TABLES

    found = [file for path in paths for file in (_labels_in(path) if path.is_dir() else [path])]
    if not found:
        ends = ", ".join((*TABLES, *SUFFIXES))
        raise AnnotationError(f"no labels ({ends}) were found in {', '.join(map(str, paths))}")
    files: dict[str, list[Path]] = {}
    points: dict[str, list[Point]] = {}
    for file in found:
        if file.suffix.lower() in TABLES:
            for point in read_points(file):
                points.setdefault(point.slide_id, []).append(point)
        else:
            files.setdefault(slide_of_file(file), []).append(file)
    return files, points


def _labels_in(folder: Path) -> list[Path]:
    """Files of annotations in a folder; .json, which much else is called, only where it is named."""
    from wsi_umedpt.annotationfiles.reading import SUFFIXES

    ends = tuple(suffix for suffix in SUFFIXES if ".json" not in suffix)
    return sorted(f for f in folder.iterdir() if f.name.lower().endswith(ends) and not f.name.startswith("."))
