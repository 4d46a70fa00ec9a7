"""`wsi-umedpt mil`: slide classifiers, trained and evaluated so that nothing leaks."""

import itertools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter

from wsi_umedpt.cli.options import ForQuPath
from wsi_umedpt.cli.terminal import say
from wsi_umedpt.mil.settings import FitSettings, StudySettings, varied

if TYPE_CHECKING:
    from wsi_umedpt.cli.failures import Failures
    from wsi_umedpt.mil.cohort import Cohort
    from wsi_umedpt.mil.reading import BagReader

Stores = tuple[str, ...]
Targets = Annotated[list[str], Parameter(name=["--target", "-t"], negative=())]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Which features are read."""

    features: Annotated[str | None, Parameter(name=["--features", "-m"])] = None
    """Which features, where the stores hold several; a trained model finds its own."""
    grid: str | None = None
    """Which grid, where the stores hold several; a trained model finds its own."""
    allow_pt: bool = False
    """Read .pt files, which are pickles, with torch's safe loader."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CaseOptions:
    """What the cases are."""

    unit: Literal["slide", "union", "late"] = "slide"
    """What one prediction is of: a slide; a patient whose slides are one bag (union); a patient whose slides are
    predicted and averaged (late)."""
    slides_are_patients: bool = False
    """Every slide is of another patient; otherwise the table must name them."""
    skip_missing: bool = False
    """Leave labelled slides without features out."""


mil = cyclopts.App(
    name="mil",
    help=(
        "Slide classifiers: multiple-instance learning on tile features.\n\n"
        "Typical use:\n\n"
        "    wsi-umedpt mil check labels.csv out/ -t grade\n\n"
        "    wsi-umedpt mil train labels.csv out/ -t grade -o runs/grade\n\n"
        "    wsi-umedpt mil predict runs/grade/model.json new/ -o predictions.csv\n\n"
        "    wsi-umedpt mil explain runs/grade/model.json new/slide.zarr -o maps/\n\n"
        "The table of labels is a CSV such as\n\n"
        "    slide,patient,grade\n\n"
        "    S01,P1,high\n\n"
        "    S02,P1,high\n\n"
        "    S03,P2,low"
    ),
    help_format="markdown",
)


@mil.command
def check(
    labels: Path,
    /,
    *stores: str,
    target: Targets,
    cases: CaseOptions | None = None,
    study: Annotated[StudySettings | None, Parameter(name="*")] = None,
    fit: Annotated[FitSettings | None, Parameter(name="*")] = None,
    vary: Annotated[list[str], Parameter(name="--try", negative=())] = [],  # noqa: B006 - cyclopts copies it
    features: FeatureOptions | None = None,
    device: str = "auto",
    jobs: int | None = None,
) -> int:
    """Say what would be trained: cases, classes, folds, how long it takes, and everything that is wrong.

    Trains nothing, but reads the features of all labelled slides: those that cannot be used are left out and listed;
    exit code 1.

    Examples
    --------
        wsi-umedpt mil check labels.csv out/ -t grade

        wsi-umedpt mil check labels.csv clam_features/ -t "os:cox(days,died)" --unit union

    Parameters
    ----------
    labels
        Table (.csv, .tsv, .xlsx) with the columns slide_id or slide, patient, and those of the targets; optionally
        fold and site. It may be the one that slides were embedded by.
    stores
        Stores, feature files of CLAM, TRIDENT, STAMP or slide2vec, or folders of them.
    target
        What to predict: NAME, NAME:KIND or NAME:KIND(A,B,...). Kinds: binary, multiclass, ordinal,
        regression, multilabel, cox, discrete. Repeat for several.
    vary
        As for `mil train`; so are the settings below.
    device
        auto, cpu, cuda, mps.
    jobs
        Networks trained at a time, as for `mil train`.
    """
    from wsi_umedpt.cli.failures import say_failures
    from wsi_umedpt.mil.crossval import splits_of
    from wsi_umedpt.mil.precheck import in_words, seconds_at_most

    fit, study = fit or FitSettings(), study or StudySettings()
    options = [fit, *(varied(fit, text) for text in vary)]
    chosen, jobs = _where(device, jobs)
    cohort, reader, notes, failed = _cohort(labels, stores, target, cases, features)
    _describe(cohort, notes)
    splits = splits_of(cohort, study)
    for seed, folds in splits.items():
        sizes = ", ".join(str((folds == fold).sum()) for fold in sorted({*folds.tolist()}))
        say(f"seed {seed}: folds of {sizes} cases")
    at_most = seconds_at_most(cohort, reader, options, study, splits, device=chosen, jobs=jobs)
    say(
        f"`mil train` takes about {in_words(at_most)} at most on this machine ({chosen}, {jobs} at a time); networks "
        "that stop early make it less"
    )
    return say_failures(failed)


@mil.command
def train(
    labels: Path,
    /,
    *stores: str,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    target: Targets,
    cases: CaseOptions | None = None,
    study: Annotated[StudySettings | None, Parameter(name="*")] = None,
    fit: Annotated[FitSettings | None, Parameter(name="*")] = None,
    vary: Annotated[list[str], Parameter(name="--try", negative=())] = [],  # noqa: B006 - cyclopts copies it
    features: FeatureOptions | None = None,
    slides: Path | None = None,
    device: str = "auto",
    jobs: int | None = None,
) -> int:
    """Train a slide classifier and say honestly how good it is; run again to go on where it stopped.

    Nested cross-validation by patient: whatever is chosen is chosen on inner folds, and each outer fold is
    predicted by a model that never saw it. Beside the model stand a linear model on mean features and a guess.
    Writes report.html, figures.json, predictions.csv, splits.csv and model.json. Slides whose features cannot be used
    are left out, which the report says, and listed at the end; exit code 1.

    Examples
    --------
        wsi-umedpt mil train labels.csv out/ -t grade -o runs/grade

        wsi-umedpt mil train labels.csv out/ -t grade -o runs/grade --model additive --try model=mean-mlp --try lr=0.003

        wsi-umedpt mil train labels.csv out/ -t "os:discrete(days,died)" --unit union -o runs/survival

    Parameters
    ----------
    labels
        Table (.csv, .tsv, .xlsx) with the columns slide_id or slide, patient, and those of the targets; optionally
        fold and site. It may be the one that slides were embedded by.
    stores
        Stores, feature files of CLAM, TRIDENT, STAMP or slide2vec, or folders of them.
    out
        Folder of the run.
    target
        What to predict: NAME, NAME:KIND or NAME:KIND(A,B,...); see `mil check`. Repeat for several, which then share
        one network.
    vary
        A variation of the settings, as lr=0.003 or model=mean,hidden=64, that the inner folds choose from. Repeat.
    slides
        Folder of the slides' files: the report then shows tiles.
    device
        auto, cpu, cuda, mps.
    jobs
        Networks trained at a time; by default one a core, and one on a GPU.
    """
    import sys

    from wsi_umedpt.cli.failures import say_failures
    from wsi_umedpt.cli.milview import MilView
    from wsi_umedpt.cohort.manifest import list_slides
    from wsi_umedpt.mil.reporting import headlines, plain_command, report_run
    from wsi_umedpt.mil.run import run_study

    fit, study = fit or FitSettings(), study or StudySettings()
    options = [fit, *(varied(fit, text) for text in vary)]
    chosen, jobs = _where(device, jobs)
    cohort, reader, notes, failed = _cohort(labels, stores, target, cases, features)
    _describe(cohort, notes)
    with MilView(options, study) as view:
        run = run_study(
            cohort, reader, options, study, out,
            notes=notes, device=chosen, jobs=jobs, watch=view.network, fold_done=view.fold,
        )  # fmt: skip
    view.say("figures and report ...")
    files = {job.slide_id: job.path for job in list_slides([str(slides)])[0]} if slides else {}
    figures, missed = report_run(
        run, cohort, reader.sources, files, command=plain_command(["wsi-umedpt", *sys.argv[1:]])
    )
    for line in [*headlines(figures), *(f"note: {note}" for note in missed)]:
        say(line)
    say(out / "report.html")
    return say_failures(failed)


@mil.command
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

    Says for each slide what cannot be ruled out, and whether it is unlike those that were trained on.

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
        Workers that share the cases: local, local:N, tcp://HOST:PORT, slurm:N or pbs:N (docs/scale.md). The model and
        the stores have the same paths on all of them.
    """
    from wsi_umedpt.annotations import read_patients
    from wsi_umedpt.cohort.predict import CaseTask, predict_cases, unread
    from wsi_umedpt.cohort.spread import Cluster
    from wsi_umedpt.errors import MilError
    from wsi_umedpt.interop.banks import find_usable
    from wsi_umedpt.interop.tables import write_rows
    from wsi_umedpt.mil.apply import cases_of, table
    from wsi_umedpt.mil.slidemodel import SlideModel
    from wsi_umedpt.remote import is_url, plain
    from wsi_umedpt.slideid import by_slide

    if out.suffix != ".csv":
        raise MilError(f"--out names a CSV file; {out} does not end in .csv")
    if scores and (urls := [plain(text) for text in stores if is_url(text)]):
        raise MilError(f"{urls[0]} lies elsewhere, and scores of tiles cannot be written there: add --no-scores")
    cluster = Cluster.parse(dask) if dask else None
    out.parent.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    if cluster:  # its workers were started elsewhere
        stores = tuple(text if is_url(text) else str(Path(text).absolute()) for text in stores)
    sources, troubles = find_usable(stores, **_which(features), kind=SlideModel.load(model).kind)
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


@mil.command
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

    For each slide SLIDE.attention.png, SLIDE.contribution OUTPUT.png, one SLIDE.ome.tif with all of them, and
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
    from wsi_umedpt.interop.banks import find_usable
    from wsi_umedpt.mil.maps import write_maps
    from wsi_umedpt.mil.slidemodel import SlideModel

    loaded = SlideModel.load(model)
    sources, troubles = find_usable(stores, **_which(features), kind=loaded.kind)
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


def _where(device: str, jobs: int | None) -> tuple[str, int]:
    """Where networks are trained, and how many at a time."""
    from joblib import cpu_count

    from wsi_umedpt.errors import OptionError
    from wsi_umedpt.models.encoder import pick_device

    chosen = pick_device(device)
    jobs = (cpu_count() if chosen == "cpu" else 1) if jobs is None else jobs
    if jobs < 1:
        raise OptionError(f"--jobs is 1 or more, got {jobs}")
    return chosen, jobs


def _which(features: FeatureOptions | None) -> dict[str, Any]:
    """Arguments of `find_sources`."""
    which = features or FeatureOptions()
    return {"encoder_id": which.features, "grid_id": which.grid, "allow_pt": which.allow_pt}


def _cohort(
    labels: Path, stores: Stores, target: list[str], cases: CaseOptions | None, features: FeatureOptions | None
) -> "tuple[Cohort, BagReader, list[str], Failures]":
    """What is trained on, its features, what was left out in words, and what could not be read."""
    from wsi_umedpt.errors import reason_of
    from wsi_umedpt.interop.banks import find_usable
    from wsi_umedpt.mil.reading import BagReader, unreadable
    from wsi_umedpt.mil.table import read_cohort
    from wsi_umedpt.mil.targets import asked

    sources, troubles = find_usable(stores, **_which(features))
    reasons = {slide: reason_of(error) for slide, error in troubles.items()}
    reader, targets, options = BagReader(sources), [asked(text) for text in target], asdict(cases or CaseOptions())
    cohort, notes = read_cohort(labels, sources, targets, **options, unusable=troubles)
    if bad := unreadable(reader, [slide for case in cohort.cases for slide in case.slides]):
        reasons |= {slide: reason_of(error) for slide, error in bad.items()}
        kept = {slide: source for slide, source in sources.items() if slide not in bad}
        cohort, notes = read_cohort(labels, kept, targets, **options, unusable=reasons)
    return cohort, reader, notes, sorted(reasons.items())


def _describe(cohort: "Cohort", notes: list[str]) -> None:
    import numpy as np

    from wsi_umedpt.mil.targets import CLASS_KINDS, SURVIVAL_KINDS

    slides = sum(len(case.slides) for case in cohort.cases)
    patients = len({case.patient for case in cohort.cases})
    say(f"{len(cohort)} cases: {slides} slides of {patients} patients, {cohort.kind.dim} numbers a tile")
    for target, truth in zip(cohort.targets, cohort.truth, strict=True):
        known = ~np.isnan(truth)
        if target.kind in CLASS_KINDS:
            parts = [f"{name} {int((truth[:, 0] == k).sum())}" for k, name in enumerate(target.classes)]
            what = ", ".join(parts) + (" (the second is positive)" if target.kind == "binary" else "")
        elif target.kind == "multilabel":
            what = ", ".join(f"{name} {int(np.nansum(truth[:, k]))}" for k, name in enumerate(target.classes))
        elif target.kind in SURVIVAL_KINDS:
            what = f"{int(np.nansum(truth[:, 1]))} events, median time {np.nanmedian(truth[:, 0]):g}"
        else:
            what = f"from {np.nanmin(truth):g} to {np.nanmax(truth):g}"
        lacking = int((~known.any(1)).sum())
        say(f"{target.name}, {target.kind}: {what}" + (f"; {lacking} without a label" if lacking else ""))
    for note in notes:
        say(f"note: {note}")


def _name(model: Path) -> str:
    """What scores are called: the run's folder, or the file's own name."""
    import re

    text = model.resolve().parent.name if model.stem == "model" else model.stem
    return "mil_" + re.sub(r"[^\w.-]", "_", text, flags=re.ASCII)[:90]
