"""A whole study into one folder: splits, every fold's predictions and model, and the model to use.

A run folder holds ``run.json`` (what was asked and of what), ``splits.csv``, ``folds/`` (a file of predictions and a
model for every seed and fold), ``model.json`` with its tensors, and what `wsi_umedpt.mil.evaluation.report_data` makes
of them. The same command resumes a run that was stopped; another study is refused.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsi_umedpt import __version__
from wsi_umedpt.errors import MilError, WsiError
from wsi_umedpt.interop.tables import write_rows
from wsi_umedpt.mil.data.cohort import Cohort
from wsi_umedpt.mil.data.feature_loader import BagReader
from wsi_umedpt.mil.evaluation.heldout import Study
from wsi_umedpt.mil.inference.slide_model import SlideModel
from wsi_umedpt.mil.settings import FitSettings, StudySettings, to_dict
from wsi_umedpt.mil.study_difference import cases_in, cases_of_rows, differences
from wsi_umedpt.mil.training.compute import ON_CPU, Compute
from wsi_umedpt.mil.training.ensemble import develop
from wsi_umedpt.mil.training.nested_cv import cross_validate, splits_of
from wsi_umedpt.mil.training.start import check_starts
from wsi_umedpt.store.write_lock import lock_where_possible
from wsi_umedpt.store.zarr_io import write_json


@dataclass(frozen=True, eq=False)
class StudyRun:
    """A finished study."""

    folder: Path
    studies: list[Study]
    """A target each."""
    model: SlideModel
    """Model developed from all cases; the reported figures are those of the cross-validated models."""
    about: dict[str, Any]
    """Content of ``run.json``."""


def run_study(
    cohort: Cohort,
    reader: BagReader,
    options: Sequence[FitSettings],
    study: StudySettings,
    folder: Path,
    *,
    notes: Sequence[str] = (),
    compute: Compute = ON_CPU,
) -> StudyRun:
    """Cross-validate, then develop the model to use from all cases.

    Parameters
    ----------
    cohort, reader
        See `wsi_umedpt.mil.data.labels_csv.read_cohort`.
    options, study
        Candidates, and how they are evaluated.
    folder
        Folder of the run; created, or resumed.
    notes
        Notes that a reader of the results must know.
    compute
        Device of training, folds trained at a time, and watcher; the model is one more fold.

    Raises
    ------
    MilError
        If the folder holds another study, or something else.
    StoreBusyError
        If another process is at work in it.
    """
    asked = {
        "cohort_sha256": cohort.fingerprint, "features": cohort.kind.to_dict(), "unit": cohort.unit,
        "targets": [t.to_dict() for t in cohort.targets], "options": [to_dict(o) for o in options],
        "study": to_dict(study), "version": __version__, "tiles": sum(reader.tiles(c.slides) for c in cohort.cases),
    }  # fmt: skip
    if starts := check_starts(options, cohort.kind):
        asked["starts_sha256"] = starts
    asked = json.loads(json.dumps(asked))
    splits = splits_of(cohort, study)
    total = sum(len({*folds.tolist()}) for folds in splits.values()) + 1
    about = {
        **asked,
        "cases": len(cohort),
        "patients": len({case.patient for case in cohort.cases}),
        "slides": sum(len(case.slides) for case in cohort.cases),
        "notes": [*notes],
    }
    rows = [["case_id", "patient", "site", *(f"fold_of_seed_{seed}" for seed in splits)]]
    for row, case in enumerate(cohort.cases):
        rows.append([case.case_id, case.patient, case.site, *(str(folds[row]) for folds in splits.values())])

    def told(done: int, _: int) -> None:
        if compute.fold_done:
            compute.fold_done(done, total)

    with _entered(folder, asked, about, rows):
        write_json(folder / "run.json", about)
        write_rows(folder / "splits.csv", rows)
        studies = cross_validate(cohort, reader, options, study, folder / "folds", replace(compute, fold_done=told))
        model = _final(folder / "model.json", cohort, reader, options, study, asked, compute)
    told(total, total)
    return StudyRun(folder, studies, model, about)


@contextmanager
def _entered(
    folder: Path, asked: dict[str, Any], about: Mapping[str, Any], rows: Sequence[Sequence[str]]
) -> Iterator[None]:
    """Create or resume the folder, and keep other processes out."""
    if folder.exists() and not folder.is_dir():
        raise MilError(f"{folder} is a file; name a folder with `out`")
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_where_possible(folder)
    try:
        _check_same(folder, asked, about, rows)
        yield
    finally:
        if lock is not None:
            lock.release()


def _check_same(folder: Path, asked: dict[str, Any], about: Mapping[str, Any], rows: Sequence[Sequence[str]]) -> None:
    known = folder / "run.json"
    if not known.exists():
        if any(folder.iterdir()):
            raise MilError(f"{folder} is not empty, and is no run of `mil train`; choose another folder with `out`")
        return
    try:
        found = json.loads(known.read_bytes())
    except (OSError, ValueError) as error:
        raise MilError(f"{known} cannot be read: {error}. Choose another folder (`out`), or remove this one.") from None
    if not isinstance(found, dict):
        raise MilError(f"{known} is no record of a run. Choose another folder (`out`), or remove this one.")
    if any(found.get(key) != asked[key] for key in asked):
        told = differences(found, dict(about), cases_in(folder / "splits.csv"), cases_of_rows(rows))
        raise MilError(
            f"{folder} holds another study (there, and now):\n  " + "\n  ".join(told) + "\nChoose another folder with "
            "`out`, or remove this one."
        )


def _final(
    path: Path,
    cohort: Cohort,
    reader: BagReader,
    options: Sequence[FitSettings],
    study: StudySettings,
    asked: dict[str, Any],
    compute: Compute,
) -> SlideModel:
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    if path.exists():
        try:
            found = SlideModel.load(path)
            if found.about.get("study_sha256") == digest:
                return found
        except WsiError:
            pass  # half of another one: made anew
    made = develop(cohort, reader, options, study, study.seeds, compute)
    made.about["study_sha256"] = digest
    made.save(path)
    return SlideModel.load(path)
