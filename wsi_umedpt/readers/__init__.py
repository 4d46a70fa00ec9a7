"""The ordered table of readers: a path in, an open `Reader` out.

To add a format, write one adapter file and one line of `READERS`.
"""

from pathlib import Path
from typing import NamedTuple

from wsi_umedpt.errors import UnsupportedSlideError
from wsi_umedpt.readers.anytiff import open_tiff
from wsi_umedpt.readers.base import ContentRefused, OpenReader, Reader, Refused
from wsi_umedpt.readers.dicom import check_dicom, is_dicom
from wsi_umedpt.readers.directories import is_tiff
from wsi_umedpt.readers.image import ImageReader
from wsi_umedpt.readers.omezarr import OmeZarrReader
from wsi_umedpt.readers.openslide import OpenSlideReader
from wsi_umedpt.readers.parts import parts, strange_part

__all__ = ["FOLDER_SUFFIXES", "READERS", "SLIDE_SUFFIXES", "is_slide_folder", "open_reader"]


class _Entry(NamedTuple):
    name: str
    suffixes: tuple[str, ...]
    open: OpenReader


def _open_openslide(path: Path) -> Reader:
    if path.is_file() and is_dicom(path):
        for part in parts(path):
            check_dicom(part)
    return OpenSlideReader(path)


_TIFF = (".tif", ".tiff", ".btf", ".tf8", ".svs", ".svslide")
_OME_TIFF = (".ome.tif", ".ome.tiff", ".ome.tf2", ".ome.tf8", ".ome.btf")
_OPENSLIDE = (".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".dcm", ".czi")
_IMAGE = (".png", ".jpg", ".jpeg", ".bmp")

READERS: tuple[_Entry, ...] = (
    _Entry("ome-zarr", (".zarr",), OmeZarrReader),
    _Entry("tiff", (*_OME_TIFF, *_TIFF), open_tiff),
    _Entry("openslide", _OPENSLIDE, _open_openslide),
    _Entry("image", _IMAGE, ImageReader),
)
FOLDER_SUFFIXES = (".zarr",)
SLIDE_SUFFIXES = tuple(dict.fromkeys(s for entry in READERS for s in entry.suffixes))
"""What a folder is searched for; `open_reader` tries files of any name."""


def is_slide_folder(path: Path) -> bool:
    """Whether a folder is one slide rather than a place to search: an OME-Zarr, or an image within one."""
    return path.name.lower().endswith(FOLDER_SUFFIXES) or (
        any((path / name).is_file() for name in (".zattrs", "zarr.json"))
        and path.parent.name.lower().endswith(FOLDER_SUFFIXES)
    )


def open_reader(path: Path) -> Reader:
    """Open a slide with the first reader that takes it.

    A TIFF is known by its first bytes, whatever its name. What a reader refuses for its
    content is not handed on to the next.

    Raises
    ------
    UnsupportedSlideError
        If none does; the message holds the reason of each that was asked.
    FileNotFoundError
        If there is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no slide at {path}")
    if strange := strange_part(path):
        raise UnsupportedSlideError(strange)
    name = path.name.lower()
    if path.is_dir() and not is_slide_folder(path):
        raise UnsupportedSlideError(f"{path} is a folder, not a slide. Name what lies in it, as in {path}/*")
    reasons = []
    for entry in _asked(path, name):
        try:
            return entry.open(path)
        except ContentRefused as reason:
            raise UnsupportedSlideError(f"no reader opens {path.name}: {reason}.") from None
        except Refused as reason:
            reasons.append(f"  {entry.name}: {reason}")
    raise UnsupportedSlideError(f"no reader opens {path.name}:\n" + "\n".join(reasons))


def _asked(path: Path, name: str) -> list[_Entry]:
    if path.is_dir():
        return [entry for entry in READERS if entry.name == "ome-zarr"]
    if path.is_file() and is_tiff(path):
        return [entry for entry in READERS if entry.name == "tiff"]
    if name.endswith(_TIFF):
        return [entry for entry in READERS if entry.name in ("tiff", "openslide", "image")]
    matching = [entry for entry in READERS if name.endswith(entry.suffixes)]
    return matching or [entry for entry in READERS if entry.name in ("openslide", "tiff", "image")]
