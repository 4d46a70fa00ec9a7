"""`wsi-umedpt mil predict` and `mil explain`: trained slide classifiers, applied to slides."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from wsi_umedpt.cli.options import ForQuPath
from wsi_umedpt.cli.terminal import say


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Choice of features."""

    features: Annotated[str | None, Parameter(name=["--features", "-m"])] = None
    """Features to read, where the stores hold several; a trained model finds its own."""
    grid: str | None = None
    """Grid to read, where the stores hold several; a trained model finds its own."""
    allow_pt: bool = False
    """Read .pt files, which are pickles, with torch's safe loader."""


def predict(
    model: Path,
    /,
    *stores: str,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    patients: Path | None = None,
    features: FeatureOptions | None = None,
    scores: Annotated[bool, Parameter(negative="--no-scores")] = True,
    dask: str | None = None,
) -> int:
    """Predict slides: a row each, and what every tile did into their stores.

    Says first how good the model was in testing, then for each slide the answer, which classes are possible, and
    whether it is unlike those that were trained on.

    Examples
    --------
        wsi-umedpt mil predict runs/grade/model.json new/ -o predictions.csv

        wsi-umedpt mil predict runs/grade/model.json new/ -o predictions.csv --dask local:8

    Parameters
    ----------
    model
        model.json of a run.
    stores
        Stores or feature files, or folders of them.
    out
        CSV to write.
    patients
        Table with the columns slide_id (or slide) and patient: one prediction a patient.
    scores
        Write attention and contributions into the stores; --no-scores leaves them as they are.
    dask
        Workers that share the cases: local, local:N, tcp://HOST:PORT, slurm:N or pbs:N (docs/how-to/cluster.md). The
        model and the stores have the same paths on all of them.
    """
    from wsi_umedpt.annotations.labels import read_patients
    from wsi_umedpt.batch.executors.dask import Cluster
    from wsi_umedpt.batch.predict import CaseTask, predict_cases, unread
    from wsi_umedpt.errors import MilError
    from wsi_umedpt.interop.feature_banks import find_usable
    from wsi_umedpt.interop.tables import write_rows
    from wsi_umedpt.io.remote import is_url, plain
    from wsi_umedpt.mil.evaluation.tested import in_testing
    from wsi_umedpt.mil.inference.predict import cases_of, table
    from wsi_umedpt.mil.inference.slide_model import SlideModel
    from wsi_umedpt.slides.slide_id import by_slide

    if out.suffix != ".csv":
        raise MilError(f"--out names a CSV file; {out} does not end in .csv")
    if scores and (urls := [plain(text) for text in stores if is_url(text)]):
        raise MilError(f"{urls[0]} lies elsewhere, and scores of tiles cannot be written there: add --no-scores")
    cluster = Cluster.parse(dask) if dask else None
    out.parent.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    if cluster:  # its workers were started elsewhere
        stores = tuple(text if is_url(text) else str(Path(text).absolute()) for text in stores)
    loaded = SlideModel.load(model)
    for target in loaded.targets:
        say(f"{target.name}: {in_testing(loaded, target.name)}")
    sources, troubles = find_usable(stores, **which(features), kind=loaded.kind)
    named = by_slide(read_patients(patients), [*sources, *troubles], MilError) if patients else None
    troubles = {named.get(slide, slide) if named else slide: error for slide, error in troubles.items()}
    cases = {case: slides for case, slides in cases_of(sources, named).items() if case not in troubles}
    name = _name(model) if scores else ""
    tasks = [CaseTask(case, tuple(sources[slide] for slide in slides), name) for case, slides in cases.items()]
    found = {}
    for result in itertools.chain(predict_cases(model, tasks, cluster), unread(troubles)):
        found[result.case_id] = result
        say(result.said)
    rows = [found[case].row for case in (*cases, *troubles)]
    failures = sum(result.failed for result in found.values())
    write_rows(out, table(rows))
    say(f"{out}: {len(rows) - failures} predicted" + (f", {failures} failed" if failures else ""))
    return 1 if failures else 0


def explain(
    model: Path,
    /,
    *stores: str,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    leave_out: bool = False,
    bounds: ForQuPath = True,
    features: FeatureOptions | None = None,
) -> int:
    """Draw which tiles a prediction rests on: pictures, a raster with its place, and tiles for QuPath.

    For each slide SLIDE.attention.png, SLIDE.contribution_OUTPUT.png, one SLIDE.ome.tif with all of them, and
    SLIDE.geojson.gz. Contributions are signed: they say for and against; attention says only where.

    Examples
    --------
        wsi-umedpt mil explain runs/grade/model.json out/slide.zarr -o maps/

        wsi-umedpt mil explain runs/grade/model.json out/ -o maps/ --leave-out

    Parameters
    ----------
    model
        model.json of a run.
    stores
        Stores or feature files, or folders of them.
    out
        Folder to write to.
    leave_out
        Also how much each output falls without each tile.
    bounds
        Count positions in SLIDE.geojson.gz from the corner of a slide's bounds, where a scanner states them (MRXS,
        SCN): QuPath crops slides to them. --no-bounds counts from the corner of the whole slide.
    """
    from wsi_umedpt.errors import WsiError, reason_of
    from wsi_umedpt.interop.feature_banks import find_usable
    from wsi_umedpt.mil.inference.heatmaps import write_maps
    from wsi_umedpt.mil.inference.slide_model import SlideModel

    loaded = SlideModel.load(model)
    sources, troubles = find_usable(stores, **which(features), kind=loaded.kind)
    for slide, error in troubles.items():
        say(f"{slide}: FAILED: {reason_of(error)}")
    failures = len(troubles)
    for slide, source in sources.items():
        try:
            for path in write_maps(loaded, source, out, leave_out=leave_out, bounds=bounds):
                say(path)
        except (WsiError, OSError) as error:
            failures += 1
            say(f"{slide}: FAILED: {reason_of(error)}")
    return 1 if failures else 0


def which(features: FeatureOptions | None) -> dict[str, Any]:
    """Arguments of `find_sources`."""
    which = features or FeatureOptions()
    return {"encoder_id": which.features, "grid_id": which.grid, "allow_pt": which.allow_pt}


def _name(model: Path) -> str:
    """Name of the scores: the run's folder, or the file's own name."""
    import re

    text = model.resolve().parent.name if model.stem == "model" else model.stem
    return "mil_" + re.sub(r"[^\w.-]", "_", text, flags=re.ASCII)[:90]
