"""Slides that are several files: which files belong to one slide.

A DICOM slide is a file per level, all in one folder and of one series; an MRXS or VMS
slide is an index beside its data; an OME-Zarr is a folder. Nothing is decoded here, and of
a DICOM header nothing is kept but the series it belongs to.
"""

from pathlib import Path

from wsi_umedpt.io.files import open_regular, why_not_regular
from wsi_umedpt.slides.readers.dicom import dicom_series, may_be_dicom

INDEX_BYTES = 1 << 20  # of a VMS file, which is some lines of text


def parts(path: Path) -> list[Path]:
    """All files that a slide is read from, in a fixed order; for most formats the file alone.

    Parameters
    ----------
    path
        Path that `open_slide` is given: any file of a DICOM series whatever it is called, the ``.mrxs``, ``.vms`` or
        ``.vmu`` file, or an OME-Zarr folder.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        return _below(path)
    if suffix == ".mrxs":
        return [path, *_below(path.with_suffix(""))]
    if suffix in (".vms", ".vmu"):
        with open_regular(path) as file:
            named = named_in(file.read(INDEX_BYTES))
        return [path, *(p for p in sorted(path.parent.iterdir()) if p.name in named and p.is_file())]
    if may_be_dicom(path) and (series := dicom_series(path)):
        beside = (p for p in sorted(path.parent.iterdir()) if may_be_dicom(p) and p.is_file())
        return [p for p in beside if p == path or dicom_series(p) == series]
    return [path]


def strange_part(path: Path) -> str | None:
    """Kind of a slide's file, or one that would be read with it, that is no regular file; None if there is none.

    Pipes and devices are waited for without end. Chunks of an OME-Zarr are looked at when they are read.
    """
    suffix = path.suffix.lower()
    beside: list[Path] = []
    if suffix == ".mrxs" and path.with_suffix("").is_dir():
        beside = sorted(path.with_suffix("").rglob("*"))
    elif may_be_dicom(path) and dicom_series(path):
        beside = sorted(path.parent.iterdir())  # OpenSlide looks into each for more of the series
    elif suffix in (".vms", ".vmu") and not why_not_regular(path):
        with open_regular(path) as file:
            named = named_in(file.read(INDEX_BYTES))
        beside = [p for p in sorted(path.parent.iterdir()) if p.name in named]
    for part in (path, *beside):
        if not part.is_dir() and part.exists() and (words := why_not_regular(part)):
            return f"{part} is {words}, not a file: it is never read"
    return None


def named_in(index: bytes) -> set[str]:
    """Names in a VMS or VMU file, the slide's other files among them."""
    return {line.partition("=")[2].strip() for line in index.decode("latin-1").splitlines()}


def _below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())
