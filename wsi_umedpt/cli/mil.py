"""`wsi-umedpt mil`: slide classifiers, trained and evaluated so that nothing leaks."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter

from wsi_umedpt.cli.mil_apply import FeatureOptions, explain, predict, which
from wsi_umedpt.cli.options import AsJson
from wsi_umedpt.cli.terminal import say, say_json
from wsi_umedpt.messages import counted, duration
from wsi_umedpt.mil.settings import FitSettings, StudySettings, varied

if TYPE_CHECKING:
    from wsi_umedpt.cli.failures import Failures
    from wsi_umedpt.mil.data.cohort import Cohort
    from wsi_umedpt.mil.data.feature_loader import BagReader

Stores = tuple[str, ...]
Targets = Annotated[list[str], Parameter(name=["--target", "-t"], negative=())]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CaseOptions:
    """Definition of the cases."""

    unit: Literal["slide", "union", "late"] = "slide"
    """Unit of prediction: a slide; a patient whose slides are one bag (union); a patient whose slides are …
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
mil.command(predict)
mil.command(explain)


@mil.command
def check(
    labels: Path,
    /,
    *stores: str,
    target: Targets,
    cases: CaseOptions | None = None,
    study: Annotated[StudySettings | None, Parameter(name="*", consume_multiple=True)] = None,
    fit: Annotated[FitSettings | None, Parameter(name="*")] = None,
    vary: Annotated[list[str], Parameter(name="--try", negative=())] = [],  # noqa: B006 - cyclopts copies it
    features: FeatureOptions | None = None,
    device: str = "auto",
    jobs: int | None = None,
    as_json: AsJson = False,
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
        Target of prediction: NAME, NAME:KIND or NAME:KIND(A,B,...). Kinds: binary, multiclass, ordinal,
        regression, multilabel, cox, discrete. Repeat for several.
    vary
        As for `mil train`; so are the settings below.
    device
        auto, cpu, cuda, mps.
    jobs
        Networks trained at a time, as for `mil train`.
    as_json
        One JSON object: cases, targets, sizes of folds, seconds at most, notes and failures.
    """
    from wsi_umedpt.cli.failures import say_failures
    from wsi_umedpt.mil.training.compute import Compute
    from wsi_umedpt.mil.training.nested_cv import splits_of
    from wsi_umedpt.mil.training.start import check_starts
    from wsi_umedpt.mil.training.time_estimate import seconds_at_most

    fit, study = fit or FitSettings(), study or StudySettings()
    options = [fit, *(varied(fit, text) for text in vary)]
    chosen, jobs = _where(device, jobs)
    cohort, reader, notes, failed = _cohort(labels, stores, target, cases, features)
    about = _about(cohort)
    if not as_json:
        _describe(about, notes)
    check_starts(options, cohort.kind)
    splits = splits_of(cohort, study)
    sizes = {s: [int((folds == fold).sum()) for fold in sorted({*folds.tolist()})] for s, folds in splits.items()}
    for seed, cases_each in sizes.items() if not as_json else ():
        say(f"seed {seed}: folds of {', '.join(map(str, cases_each))} cases")
    at_most = seconds_at_most(cohort, reader, options, study, splits, Compute(device=chosen, jobs=jobs))
    if as_json:
        failures = [{"slide_id": str(slide), "reason": reason} for slide, reason in failed]
        took = {"device": chosen, "jobs": jobs, "seconds_at_most": at_most}
        say_json({**about, "folds": sizes, **took, "notes": notes, "failures": failures})
        return 1 if failed else 0
    say(
        f"`mil train` takes about {duration(at_most)} at most on this machine ({chosen}, {jobs} at a time); networks "
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
    study: Annotated[StudySettings | None, Parameter(name="*", consume_multiple=True)] = None,
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
        Target: NAME, NAME:KIND or NAME:KIND(A,B,...); see `mil check`. Repeat for several, which then share
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

    from wsi_umedpt.batch.jobs.manifest import list_slides
    from wsi_umedpt.cli.failures import say_failures
    from wsi_umedpt.cli.milview import MilView
    from wsi_umedpt.mil.evaluation.report_data import headlines, plain_command, report_run
    from wsi_umedpt.mil.run import run_study
    from wsi_umedpt.mil.training.compute import Compute

    fit, study = fit or FitSettings(), study or StudySettings()
    options = [fit, *(varied(fit, text) for text in vary)]
    chosen, jobs = _where(device, jobs)
    cohort, reader, notes, failed = _cohort(labels, stores, target, cases, features)
    _describe(_about(cohort), notes)
    with MilView(options, study) as view:
        run = run_study(
            cohort, reader, options, study, out,
            notes=notes, compute=Compute(device=chosen, jobs=jobs, network_done=view.network, fold_done=view.fold),
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


def _where(device: str, jobs: int | None) -> tuple[str, int]:
    """Device of training, and number of networks trained at a time."""
    from joblib import cpu_count

    from wsi_umedpt.errors import OptionError
    from wsi_umedpt.models.encoder import pick_device

    chosen = pick_device(device)
    jobs = (cpu_count() if chosen == "cpu" else 1) if jobs is None else jobs
    if jobs < 1:
        raise OptionError(f"--jobs is 1 or more, got {jobs}")
    return chosen, jobs


def _cohort(
    labels: Path, stores: Stores, target: list[str], cases: CaseOptions | None, features: FeatureOptions | None
) -> "tuple[Cohort, BagReader, list[str], Failures]":
    """Load the cohort, its features, notes on what was left out, and failures."""
    from wsi_umedpt.errors import reason_of
    from wsi_umedpt.interop.feature_banks import find_usable
    from wsi_umedpt.mil.data.feature_loader import BagReader, unreadable
    from wsi_umedpt.mil.data.labels_csv import read_cohort
    from wsi_umedpt.mil.data.targets import asked

    sources, troubles = find_usable(stores, **which(features))
    reasons = {slide: reason_of(error) for slide, error in troubles.items()}
    reader, targets, options = BagReader(sources), [asked(text) for text in target], asdict(cases or CaseOptions())
    cohort, notes = read_cohort(labels, sources, targets, **options, unusable=troubles)
    if bad := unreadable(reader, [slide for case in cohort.cases for slide in case.slides]):
        reasons |= {slide: reason_of(error) for slide, error in bad.items()}
        kept = {slide: source for slide, source in sources.items() if slide not in bad}
        cohort, notes = read_cohort(labels, kept, targets, **options, unusable=reasons)
    return cohort, reader, notes, sorted(reasons.items())


def _about(cohort: "Cohort") -> dict[str, Any]:
    """Cases and targets of a cohort, for JSON."""
    import numpy as np

    from wsi_umedpt.mil.data.targets import CLASS_KINDS, SURVIVAL_KINDS

    targets = []
    for target, truth in zip(cohort.targets, cohort.truth, strict=True):
        known = ~np.isnan(truth)
        about: dict[str, Any] = {"name": target.name, "kind": target.kind, "unlabelled": int((~known.any(1)).sum())}
        if target.kind in CLASS_KINDS:
            about["classes"] = {name: int((truth[:, 0] == k).sum()) for k, name in enumerate(target.classes)}
        elif target.kind == "multilabel":
            about["classes"] = {name: int(np.nansum(truth[:, k])) for k, name in enumerate(target.classes)}
        elif target.kind in SURVIVAL_KINDS:
            about |= {"events": int(np.nansum(truth[:, 1])), "median_time": float(np.nanmedian(truth[:, 0]))}
        else:
            about |= {"least": float(np.nanmin(truth)), "greatest": float(np.nanmax(truth))}
        targets.append(about)
    return {
        "cases": len(cohort),
        "slides": sum(len(case.slides) for case in cohort.cases),
        "patients": len({case.patient for case in cohort.cases}),
        "dim": cohort.kind.dim,
        "targets": targets,
    }


def _describe(about: dict[str, Any], notes: list[str]) -> None:
    """Print what `_about` found."""
    say(
        f"{counted(about['cases'], 'case')}: {counted(about['slides'], 'slide')} of "
        f"{counted(about['patients'], 'patient')}, {about['dim']} features a tile"
    )
    for target in about["targets"]:
        if "classes" in target:
            what = ", ".join(f"{name} {count}" for name, count in target["classes"].items())
            what += " (the second is positive)" if target["kind"] == "binary" else ""
        elif "events" in target:
            what = f"{counted(target['events'], 'event')}, median time {target['median_time']:g}"
        else:
            what = f"from {target['least']:g} to {target['greatest']:g}"
        lacking = f"; {target['unlabelled']} without a label" if target["unlabelled"] else ""
        say(f"{target['name']}, {target['kind']}: {what}{lacking}")
    for note in notes:
        say(f"note: {note}")
