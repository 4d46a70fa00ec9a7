"""Manifest of a run: files, folders, globs and tables in, a list of `SlideJob` out.

A slide's id is a function of the slide alone, never of its neighbours or of how it was
named on the command line, so that a run finds again what an earlier one embedded: its file
name without the suffix (`wsi_umedpt.slides.slide_id`), or what a table says. Slides that would share an id
are refused (docs/decisions/0004-slide-ids.md).

A bad entry never stops the others: it becomes a `Failure` that the run lists at its end.
"""

import glob
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_umedpt.batch.jobs.folder_search import matching, slides_below
from wsi_umedpt.errors import ChannelError, ManifestError, RemoteError
from wsi_umedpt.io.dicomweb import series_at, shown
from wsi_umedpt.io.remote import is_url, plain
from wsi_umedpt.io.spelling import is_missing
from wsi_umedpt.io.spreadsheet import TABLE_SUFFIXES as TABLES
from wsi_umedpt.io.spreadsheet import read_table, to_number
from wsi_umedpt.slides.channels import ChannelChoice
from wsi_umedpt.slides.readers import is_slide_folder
from wsi_umedpt.slides.readers.dicom import dicom_series, may_be_dicom
from wsi_umedpt.slides.slide_id import default_id, url_id, why_unsafe
from wsi_umedpt.slides.slide_job import SlideJob

if TYPE_CHECKING:
    from wsi_umedpt.annotations.annotation import Origin

COLUMNS = ("slide", "slide_id", "mpp", "mask", "channels")
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
"""Formats of slides that are more often of previews beside them."""


@dataclass(frozen=True)
class Failure:
    """A slide that could not be worked on, and why."""

    name: str
    reason: str
    slide_id: str = ""
    """Its id, where it has one."""
    noted: str = "an entry that was named cannot be used; the output of the run names the reason"
    """The reason as the output folder may hold it: names of files and folders may be a patient's."""


def list_slides(
    inputs: Iterable[str], say: Callable[[str], None] = lambda _: None
) -> tuple[list[SlideJob], list[Failure]]:
    """Find all slides that the user named.

    Parameters
    ----------
    inputs
        Slide files, folders (searched below too), globs, URLs (see `wsi_umedpt.batch.jobs.url_listing`), series on
        DICOMweb servers (`wsi_umedpt.io.dicomweb`), or tables (`wsi_umedpt.io.spreadsheet`) with a column ``slide`` and
        optional columns ``slide_id``, ``mpp``, ``mask`` and ``channels``; paths in a table are relative to it. The
        files of a DICOM series that lie in one folder are one slide, and any of them stands for it.
    say
        Told what was left out that is no failure: pictures beside a slide that have its name.

    Returns
    -------
    jobs
        Each slide once; no two share an id, also where a file system ignores case.
    failures
        Names that cannot be used, and the reasons; slides that would share an id are all among them.

    Raises
    ------
    ManifestError
        If a table cannot be read at all, or nothing is found.
    """
    jobs: dict[Path, SlideJob] = {}
    failures: list[Failure] = []
    for text in inputs:
        found = list(_expand(text, failures))
        for job in found:
            try:
                first = jobs.setdefault(_slide_of(job.path) if job.url is None else job.path, job)
            except (OSError, RuntimeError) as error:  # a link that leads to itself
                failures.append(Failure(job.name, f"cannot be seen: {error}"))
                continue
            if replace(first, path=job.path) != job:
                reason = f"is listed twice, as {first.slide_id!r} and as {job.slide_id!r}"
                failures.append(Failure(job.name, reason, job.slide_id, reason))
        if not found and not any(f.name.startswith(shown(text)) for f in failures):
            noted = "an input that was named holds no slide"
            failures.append(Failure(shown(text), "no slide found there", noted=noted))
    if not jobs and not failures:
        raise ManifestError("no slides were given. Name files, folders, globs or a CSV with a column 'slide'.")
    return list(_unshared(_without_previews(list(jobs.values()), say), failures)), failures


def with_flags(
    jobs: list[SlideJob],
    mpp: float | None,
    mask: Path | None,
    mask_origin: "Origin | None" = None,
    channels: tuple[ChannelChoice, ...] = (),
) -> list[SlideJob]:
    """Jobs with the scale, the mask and the channels that a command line gives to those that name none.

    What the masks count from (`mask_origin`) holds for all of them.

    Raises
    ------
    ManifestError
        If one mask is given for several slides.
    """
    if mask and len(jobs) > 1:
        raise ManifestError(f"`mask` is for one slide, and {len(jobs)} were given; use the column 'mask' of a CSV")
    return [
        replace(
            job,
            mpp=mpp if job.mpp is None else job.mpp,
            mask=job.mask or mask,
            mask_origin=mask_origin,
            channels=job.channels or channels,
        )
        for job in jobs
    ]


def _expand(text: str, failures: list[Failure]) -> Iterator[SlideJob]:
    try:
        series = series_at(text)
    except RemoteError as error:
        failures.append(Failure(shown(text), str(error)))
        return
    if series:
        yield SlideJob(series.path, default_id(series.path))
        return
    if is_url(text):
        from wsi_umedpt.batch.jobs.url_listing import slides_at

        try:
            yield from slides_at(text)
        except RemoteError as error:
            failures.append(Failure(shown(text), str(error)))
        return

    def fail(name: str, reason: str) -> None:
        failures.append(Failure(name, reason, noted=f"an entry among the inputs cannot be seen: {reason}"))

    path = Path(text)
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:  # what it lies in may not be entered
        fail(text, error.strerror or str(error))
        return
    if path.suffix.lower() in TABLES and is_file:
        yield from _read_rows(path, failures)
    elif is_folder and not is_slide_folder(path):
        for found in slides_below(path, fail):
            yield SlideJob(found, default_id(found))
    elif os.path.lexists(path):
        yield SlideJob(path, default_id(path))
    elif glob.has_magic(text):
        for name in matching(text, fail):
            yield from _expand(name, failures)


def _slide_of(path: Path) -> Path:
    """Key that all names of a slide share: its path without links, or its folder and DICOM series."""
    if series_at(path):
        return path
    series = dicom_series(path) if may_be_dicom(path) else None
    return path.parent.resolve() / series if series else path.resolve()


def _read_rows(path: Path, failures: list[Failure]) -> Iterator[SlideJob]:
    table = read_table(path, needed=["slide"], optional=COLUMNS[1:], error=ManifestError)
    for number, row in table.rows.items():
        try:
            yield _job(path, row)
        except ManifestError as error:
            failures.append(Failure(f"{path}, row {number}", str(error)))


def _job(table: Path, row: dict[str, str]) -> SlideJob:
    value = {name: row.get(name, "") for name in COLUMNS}
    if not value["slide"] or "\0" in value["slide"]:
        raise ManifestError("column 'slide' is empty or not a path")
    url = value["slide"] if is_url(value["slide"]) else None
    try:
        series = series_at(value["slide"])
    except RemoteError as error:
        raise ManifestError(str(error)) from None
    slide = series.path if series else table.parent / value["slide"] if url is None else Path(plain(url))
    if value["slide_id"] and (reason := why_unsafe(value["slide_id"])):
        raise ManifestError(f"slide_id {value['slide_id']!r} {reason}")
    if is_missing(value["slide_id"]):  # the file's name, which it may be to hide, is not put in its place
        raise ManifestError(
            f"slide_id {value['slide_id']!r} says that there is none; give one, or leave the cell empty"
        )
    mpp = None
    if value["mpp"] and not is_missing(value["mpp"]):
        try:
            mpp = to_number(value["mpp"])
        except ValueError as error:
            raise ManifestError(f"mpp {error}") from None
        if not (math.isfinite(mpp) and mpp > 0):
            raise ManifestError(f"mpp {value['mpp']!r} is not a positive number of um/px")
    if is_url(value["mask"]):
        raise ManifestError("masks are files on this machine; download it and name the copy")
    mask = table.parent / value["mask"] if value["mask"] and not is_missing(value["mask"]) else None
    channels: tuple[ChannelChoice, ...] = ()
    if value["channels"] and not is_missing(value["channels"]):
        try:
            channels = ChannelChoice.parse(value["channels"])
        except ChannelError as error:
            raise ManifestError(str(error)) from None
    slide_id = value["slide_id"] or (default_id(slide) if url is None else url_id(url))
    return SlideJob(slide, slide_id, mpp, mask, url, channels=channels)


def _without_previews(jobs: list[SlideJob], say: Callable[[str], None]) -> list[SlideJob]:
    """Jobs without the pictures that lie beside a slide and have its name: where exactly one of them is a slide format.

    An id that the user gave is no file's name: what shares it is refused.
    """
    named: dict[tuple[Path, str], list[SlideJob]] = {}
    for job in jobs:
        if job.slide_id == (default_id(job.path) if job.url is None else url_id(job.url)):
            named.setdefault((job.path.parent, job.slide_id.lower()), []).append(job)
    previews = set[str]()
    for group in named.values():
        slides = [job for job in group if not job.path.name.lower().endswith(_PICTURES)]
        if len(slides) == 1 and len(group) > 1:
            pictures = [job.name for job in group if job is not slides[0]]
            previews.update(pictures)
            say(f"{', '.join(pictures)}: no slide but a picture of {slides[0].path.name}, which lies beside it")
    return [job for job in jobs if job.name not in previews]


def _unshared(jobs: list[SlideJob], failures: list[Failure]) -> Iterator[SlideJob]:
    """Jobs whose id no other has; file systems may ignore case."""
    sharing: dict[str, list[SlideJob]] = {}
    for job in jobs:
        sharing.setdefault(job.slide_id.lower(), []).append(job)
    for job in jobs:
        others = [other.name for other in sharing[job.slide_id.lower()] if other is not job]
        if others:
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            reason = (
                f"shares the id {job.slide_id!r} with {others[0]}{more}. Give each an id of its own in a CSV with "
                "columns slide and slide_id, or name only one of them."
            )
            noted = (
                f"{len(others) + 1} slides share this id. Give each an id of its own in a table with columns slide and "
                "slide_id, or name only one of them."
            )
            failures.append(Failure(job.name, reason, job.slide_id, noted))
        else:
            yield job
