"""The files of a slide wherever it lies: which they are, how large, how they are copied, and the slide's fingerprint.

Of a slide elsewhere nothing is downloaded to know this but what an index of a few lines says.
Copies are named by the slide's id: a file's name may be a patient's, or lead out of a folder.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wsi_umedpt.errors import RemoteError
from wsi_umedpt.io.dicomweb import series_at
from wsi_umedpt.io.files import check_regular, open_regular
from wsi_umedpt.io.remote import TRIES, Remote, check_relative, name_of
from wsi_umedpt.slides.readers import FOLDER_SUFFIXES
from wsi_umedpt.slides.readers.dicom import dicom_series, may_be_dicom
from wsi_umedpt.slides.readers.multifile import INDEX_BYTES, named_in, parts
from wsi_umedpt.slides.slide_fingerprint import fingerprint, fingerprint_of
from wsi_umedpt.slides.slide_id import slide_suffix
from wsi_umedpt.slides.slide_job import SlideJob

_BLOCK = 1 << 22
"""Bytes that are copied between looks at whether to stop."""


@dataclass(frozen=True)
class SlideFile:
    """One file of a slide."""

    name: str
    """Name of its copy, relative to the slide's folder, or to the one that the slide is put into; safe."""
    size: int
    source: Path | Remote

    def copy(self, target: Path, look: Callable[[], None]) -> None:
        """Copy it, and check its length; `look` is called as it goes and may raise.

        Raises
        ------
        RemoteError
            If it cannot be read, or not all of it came, or more.
        OSError
            If it cannot be written, as on a full disk.
        """

        def tick() -> None:
            look()
            if target.exists() and target.stat().st_size > self.size:  # room was made for no more
                raise RemoteError(f"{self.source} sends more than the {self.size} bytes that were announced")

        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(TRIES):
            if isinstance(self.source, Remote):
                self.source.download("", target, tick)
            else:
                with open_regular(self.source) as file, target.open("wb") as copy:
                    while block := file.read(_BLOCK):
                        tick()
                        copy.write(block)
            if (found := target.stat().st_size) == self.size:
                return
        raise RemoteError(
            f"{self.source} came as {found} bytes, and should be {self.size} (tried {TRIES} times): it is being "
            "written, or the connection breaks. Wait until it is whole."
        )


@dataclass(frozen=True)
class SlideFiles:
    """All files of a slide."""

    files: tuple[SlideFile, ...]
    opened: str
    """Name of the copy that is opened: of a file, or of the folder that the files lie in."""
    folder: bool

    @property
    def size(self) -> int:
        """Bytes of all."""
        return sum(file.size for file in self.files)

    def copy(self, target: Path, look: Callable[[], None]) -> None:
        """Copy all into a folder; see `SlideFile.copy`."""
        for file in self.files:
            look()
            file.copy((target / self.opened if self.folder else target) / file.name, look)


def files_of(job: SlideJob) -> SlideFiles:
    """The files of a slide.

    Raises
    ------
    RemoteError
        If it lies elsewhere and cannot be seen, or does not say which files belong to it; of one on a DICOMweb server,
        always.
    OSError
        If it lies here and cannot be seen.
    """
    if job.url is not None:
        return _elsewhere(job, Remote(job.url))
    if series := series_at(job.path):
        raise RemoteError(f"{series} is read where it lies, and cannot be copied first: leave out `stage`")
    if not (folder := job.path.is_dir()):
        check_regular(job.path)
    base = job.path if folder else job.path.parent
    found = {p.relative_to(base).as_posix(): (p, p.stat().st_size) for p in parts(job.path)}
    return _renamed(job, job.path.name, found, folder=folder)


def bytes_of(job: SlideJob) -> float:
    """Approximate size of a slide in bytes; 0 where that is not known without effort, as of a folder."""
    if job.url is not None:
        return job.url_bytes
    try:
        if job.path.is_dir():
            return 0.0
        beside = job.path.with_suffix("") if job.path.suffix.lower() == ".mrxs" else None
        files = [job.path, *(beside.iterdir() if beside and beside.is_dir() else ())]
        return float(sum(file.stat().st_size for file in files))
    except OSError:
        return 0.0


def fingerprint_at(job: SlideJob) -> str:
    """A slide's fingerprint; of one that lies elsewhere it takes a megabyte a file, on a DICOMweb server its metadata.

    Raises
    ------
    NoRangesError
        If its server gives whole files only.
    RemoteError, OSError
        As `files_of`.
    """
    if job.url is None:
        return fingerprint(job.path)
    slide = files_of(job)
    sources = {file.name: file.source for file in slide.files}

    def read(name: str, blocks: Sequence[tuple[int, int]]) -> list[bytes]:
        source = sources[name]
        assert isinstance(source, Remote)  # noqa: S101 - what a URL is made of
        return source.ranges("", [block for block in blocks if block[1] > block[0]])

    return fingerprint_of({file.name: file.size for file in slide.files}, read, folder=slide.folder)


def check_series(copy: Path) -> None:
    """Refuse copies of a folder elsewhere that holds several DICOM series: which one is meant cannot be known.

    Raises
    ------
    RemoteError
        If it does.
    """
    if may_be_dicom(copy) and dicom_series(copy):
        series = {dicom_series(path) for path in copy.parent.iterdir()}
        if len(series) > 1:
            raise RemoteError(
                f"the folder of this DICOM slide holds files of {len(series)} series, and elsewhere a folder is one "
                "slide. Give each series a folder of its own."
            )


def _elsewhere(job: SlideJob, remote: Remote) -> SlideFiles:
    name = name_of(remote.url)
    suffix = PurePosixPath(name.lower()).suffix
    if name.lower().endswith(FOLDER_SUFFIXES):
        sizes = _sizes(remote)
        if not sizes:
            raise RemoteError(f"there is nothing at {remote}, or it may not be seen")
        return _renamed(job, name, {n: (remote / n, size) for n, size in sizes.items()}, folder=True)
    found: dict[str, tuple[Path | Remote, int]] = {name: (remote, remote.size())}
    beside = Remote(remote.url.rpartition("/")[0])
    if suffix == ".mrxs":
        stem = name[: -len(suffix)]
        found |= {f"{stem}/{n}": (beside / stem / n, size) for n, size in _sizes(beside / stem).items()}
        if len(found) == 1:
            raise RemoteError(f"the folder of data that belongs to {remote} is not there, or cannot be listed")
    elif suffix in (".vms", ".vmu"):
        (index,) = remote.ranges("", [(0, min(found[name][1], INDEX_BYTES))])
        for other in sorted(named_in(index) & set(beside.names()) - {name}):
            found[check_relative(other, remote)] = (beside / other, (beside / other).size())
    elif suffix == ".dcm":
        for other in beside.names():
            if other.lower().endswith(".dcm") and other != name:
                found[check_relative(other, remote)] = (beside / other, (beside / other).size())
    return _renamed(job, name, found, folder=False)


def _sizes(remote: Remote) -> dict[str, int]:
    """Sizes as of `Remote.sizes`; where a list states none, as those of web servers, each file is asked for its own."""
    return {name: (remote / name).size() if size < 0 else size for name, size in remote.sizes().items()}


def _renamed(job: SlideJob, name: str, found: Mapping[str, tuple[Path | Remote, int]], *, folder: bool) -> SlideFiles:
    """Files whose copies are named by the slide's id; files beside the first keep the names that it knows them by."""
    suffix = slide_suffix(name) or (FOLDER_SUFFIXES[0] if folder else PurePosixPath(name).suffix.lower())
    opened = job.slide_id + (suffix if re.fullmatch(r"(\.[a-z0-9]{1,10}){1,2}", suffix) else "")
    mine = {name: opened}
    if suffix == ".mrxs":
        data = name[: -len(suffix)]
        mine |= {n: job.slide_id + n[len(data) :] for n in found if n.startswith(f"{data}/")}
    files = (SlideFile(n if folder else mine.get(n, n), size, source) for n, (source, size) in found.items())
    return SlideFiles(tuple(files), opened, folder)
