"""`wsi-umedpt probe`: few labels to a tile classifier, in seconds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cyclopts
from cyclopts import Parameter

if TYPE_CHECKING:
    from wsi_umedpt.annotations import Point, Region
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
    seed: int = 0,
) -> int:
    """Fit a classifier on labelled tiles of embedded slides, and cross-validate it.

    Labels are a CSV with the columns slide_id, x, y, label (and patient, if known), or GeoJSON
    files of regions as QuPath exports them, each named as its slide: slide.geojson for
    slide.zarr. Coordinates are level-0 pixels. A region labels the tiles whose centre it holds.

    Examples
    --------
        wsi-umedpt probe fit out/ -l labels.csv -o tumour.json

        wsi-umedpt probe fit out/slide.zarr -l slide.geojson -o tumour.json

    Parameters
    ----------
    stores
        Stores, or folders of them; those without labels are not needed.
    labels
        One CSV, or GeoJSON files, or a folder of them.
    out
        JSON file to write; its weights are written beside it. Its name names the scores.
    model
        Which features, where the stores hold several.
    grid
        Which grid, where the stores hold several.
    patients
        CSV with the columns slide_id and patient, so that slides of one patient are cross-validated
        together.
    seed
        Deals slides to the folds of the cross-validation.
    """
    from wsi_umedpt.annotations import read_patients
    from wsi_umedpt.errors import ProbeError
    from wsi_umedpt.probe import fit_probe, label_tiles
    from wsi_umedpt.store import SlideStore

    if out.suffix != ".json":
        raise ProbeError(f"--out names a JSON file; {out} does not end in .json")
    regions, points = _read_labels(labels)
    patient_of = read_patients(patients) if patients else {}
    found: dict[str, Path] = {}
    for path in _stores(stores):
        if (first := found.setdefault(path.name.removesuffix(".zarr"), path)) != path:
            raise ProbeError(f"{first} and {path} are both called {path.name}; labels cannot tell them apart")
    asked = {*regions, *points}
    if patient_of and (unknown := sorted(asked - set(patient_of))):
        raise ProbeError(f"{patients} does not say whose slides these are: {', '.join(unknown[:5])}")
    if absent := sorted(asked - set(found)):
        raise ProbeError(
            f"{len(absent)} labelled slides have no store in {', '.join(map(str, stores))}: {', '.join(absent[:5])}. "
            f"Slides there: {', '.join(sorted(found)[:5]) or 'none'}"
        )
    tiles: list[LabelledTiles] = []
    encoder: dict[str, object] = {}
    for slide_id in sorted(asked):
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
        tiles.append(
            label_tiles(
                store,
                bag,
                spec.side,
                regions=regions.get(slide_id, ()),
                points=points.get(slide_id, ()),
                patient=patient_of.get(slide_id, ""),
            )
        )
    made = fit_probe(tiles, name=out.stem, encoder=encoder, seed=seed)
    made.save(out)
    for name, count in made.about["labelled"].items():
        print(f"{name}: {count} tiles")
    figures = made.about["cross_validation"]
    if "auc" in figures:
        print(
            f"cross-validated by {figures['groups']}, {figures['folds']} folds: AUC {figures['auc']:.3f}, "
            f"balanced accuracy {figures['balanced_accuracy']:.3f}"
        )
        if figures["groups"] == "block of neighbours":
            print("  neighbours were kept together, but all is from the same slides: other slides will be harder")
            if spec.spec.stride < spec.spec.size_px:
                print("  and tiles overlap, so that tiles at the border of two blocks share pixels: it flatters")
    else:
        print("too few labelled slides or places to cross-validate: no figure can be given")
    print(out)
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
        Which features, where the stores hold several.
    grid
        Which grid, where the stores hold several.
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
            print(f"{path.name.removesuffix('.zarr')}: {text} of tiles")
        except WsiError as error:
            failures += 1
            print(f"{path.name.removesuffix('.zarr')}: FAILED: {error}")
    return 1 if failures else 0


def _stores(paths: list[Path]) -> list[Path]:
    from wsi_umedpt.cli.options import stores_in
    from wsi_umedpt.errors import StoreError

    found = stores_in(paths)
    if not found:
        raise StoreError(f"no store (*.zarr) was found in {', '.join(map(str, paths))}; `embed` makes them")
    return found


def _read_labels(paths: list[Path]) -> tuple[dict[str, list["Region"]], dict[str, list["Point"]]]:
    """Regions and points, by slide."""
    from wsi_umedpt.annotations import read_points, read_regions
    from wsi_umedpt.errors import AnnotationError

    files = [f for path in paths for f in (sorted(path.glob("*.geojson")) if path.is_dir() else [path])]
    if not files:
        raise AnnotationError(f"no labels (.csv or .geojson) were found in {', '.join(map(str, paths))}")
    regions: dict[str, list[Region]] = {}
    points: dict[str, list[Point]] = {}
    for file in files:
        if file.suffix.lower() == ".csv":
            for point in read_points(file):
                points.setdefault(point.slide_id, []).append(point)
        else:
            regions.setdefault(file.stem, []).extend(read_regions(file))
    return regions, points
