"""A whole study into one folder: splits, every fold's predictions and model, and the model to use.

A run folder holds ``run.json`` (what was asked and of what), ``splits.csv``, ``folds/`` (a file of predictions and a
model for every seed and fold), ``model.json`` with its tensors, and what `wsi_umedpt.mil.reporting` makes of them.
The same command goes on with a run that was stopped; another study is refused.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_umedpt import __version__
from wsi_umedpt.arrays import write_json
from wsi_umedpt.errors import MilError, WsiError
from wsi_umedpt.interop.tables import write_rows
from wsi_umedpt.locks import lock_where_possible
from wsi_umedpt.mil.cohort import Cohort
from wsi_umedpt.mil.crossval import cross_validate, splits_of
from wsi_umedpt.mil.develop import Watch, develop
from wsi_umedpt.mil.difference import cases_in, cases_of_rows, differences
from wsi_umedpt.mil.reading import BagReader
from wsi_umedpt.mil.settings import FitSettings, StudySettings, to_dict
from wsi_umedpt.mil.slidemodel import SlideModel
from wsi_umedpt.mil.study import Study


@dataclass(frozen=True, eq=False)
class Run:
    """A finished study."""

    folder: Path
    studies: list[Study]
    """A target each."""
    model: SlideModel
    """Developed from all cases; no figure is of it, but of its like."""
    about: dict[str, Any]
    """What ``run.json`` says."""


def run_study(
    cohort: Cohort,
    reader: BagReader,
    options: Sequence[FitSettings],
    study: StudySettings,
    folder: Path,
    *,
    notes: Sequence[str] = (),
    device: str = "cpu",
    jobs: int = 1,
    watch: Watch | None = None,
    fold_done: Callable[[int, int], None] | None = None,
) -> Run:
    """Cross-validate, then develop the model to use from all cases.

    Parameters
    ----------
    cohort, reader
        See `wsi_umedpt.mil.table.read_cohort`.
    options, study
        Candidates, and how they are evaluated.
    folder
        Made, or gone on with.
    notes
        What a reader of the results must know.
    device, jobs, watch, fold_done
        See `cross_validate`; the model to use is one more fold.

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
        if fold_done:
            fold_done(done, total)

    with _entered(folder, asked, about, rows):
        write_json(folder / "run.json", about)
        write_rows(folder / "splits.csv", rows)
        studies = cross_validate(
            cohort, reader, options, study, folder / "folds", device=device, jobs=jobs, watch=watch, fold_done=told
        )
        model = _final(folder / "model.json", cohort, reader, options, study, asked, device, jobs, watch)
    told(total, total)
    return Run(folder, studies, model, about)


@contextmanager
def _entered(
    folder: Path, asked: dict[str, Any], about: Mapping[str, Any], rows: Sequence[Sequence[str]]
) -> Iterator[None]:
    """Make the folder or go on with it, and keep other processes out."""
    if folder.exists() and not folder.is_dir():
        raise MilError(f"{folder} is a file; name a folder with -o")
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
            raise MilError(f"{folder} is not empty, and is no run of `mil train`; choose another folder with -o")
        return
    try:
        found = json.loads(known.read_bytes())
    except (OSError, ValueError) as error:
        raise MilError(f"{known} cannot be read: {error}. Choose another folder (-o), or remove this one.") from None
    if not isinstance(found, dict):
        raise MilError(f"{known} is no record of a run. Choose another folder (-o), or remove this one.")
    if any(found.get(key) != asked[key] for key in asked):
        told = differences(found, dict(about), cases_in(folder / "splits.csv"), cases_of_rows(rows))
        raise MilError(
            f"{folder} holds another study (there, and now):\n  " + "\n  ".join(told) + "\nChoose another folder with "
            "-o, or remove this one."
        )


def _final(
    path: Path,
    cohort: Cohort,
    reader: BagReader,
    options: Sequence[FitSettings],
    study: StudySettings,
    asked: dict[str, Any],
    device: str,
    jobs: int,
    watch: Watch | None,
) -> SlideModel:
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    if path.exists():
        try:
            found = SlideModel.load(path)
            if found.about.get("study_sha256") == digest:
                return found
        except WsiError:
            pass  # half of another one: made anew
    made = develop(cohort, reader, options, study, study.seeds, device=device, jobs=jobs, watch=watch)
    made.about["study_sha256"] = digest
    made.save(path)
    return SlideModel.load(path)
