"""The ordered table of readers: a path in, an open `Reader` out.

To add a format here, write one adapter file and one line of `READERS`; from outside, `register_reader`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wsi_umedpt.errors import OptionError, UnsupportedSlideError
from wsi_umedpt.io.dicomweb import series_at
from wsi_umedpt.io.registry import Registry
from wsi_umedpt.slides.readers.any_tiff import open_tiff
from wsi_umedpt.slides.readers.base import AnyReader, ContentRefused, OpenReader, Reader, Refused
from wsi_umedpt.slides.readers.czi import open_czi
from wsi_umedpt.slides.readers.czi_directory import check_czi, is_czi
from wsi_umedpt.slides.readers.dicom import check_dicom, is_dicom
from wsi_umedpt.slides.readers.dicomweb import open_dicomweb
from wsi_umedpt.slides.readers.image import ImageReader
from wsi_umedpt.slides.readers.multifile import parts, strange_part
from wsi_umedpt.slides.readers.omezarr import open_omezarr
from wsi_umedpt.slides.readers.openslide import OpenSlideReader
from wsi_umedpt.slides.readers.tiff_directories import is_tiff
from wsi_umedpt.slides.readers.wsidicom import open_wsidicom

__all__ = [
    "FOLDER_SUFFIXES",
    "READERS",
    "ReaderEntry",
    "is_of_this_process",
    "is_slide_folder",
    "open_reader",
    "register_reader",
    "slide_suffixes",
]


class ReaderEntry(NamedTuple):
    """A line of the table."""

    name: str
    suffixes: tuple[str, ...]
    """Suffixes of file names, in lower case, with their dots."""
    open: OpenReader
    """Opens a path, or raises `Refused`."""


def _open_openslide(path: Path) -> Reader:
    if path.is_file() and is_dicom(path):
        for part in parts(path):
            check_dicom(part)
    if path.is_file() and is_czi(path):
        check_czi(path)
    return OpenSlideReader(path)


_UNREAD = {
    ".vsi": "an index of Olympus and Evident, whose pixels lie in the folder beside it (_NAME_/stack*/*.ets)",
    ".isyntax": "iSyntax of Philips",
}
"""Slides that no library reads which is installed by pip and kept; under these names they are said, not passed over."""


def _refuse_unread(path: Path) -> AnyReader:
    raise ContentRefused(
        f"it is {_UNREAD[path.suffix.lower()]}, which is not read. Convert it to OME-TIFF, with QuPath or "
        "bioformats2raw and raw2ometiff, or have the scanner export DICOM or TIFF"
    )


_TIFF = (".tif", ".tiff", ".btf", ".tf8", ".svs", ".svslide", ".qptiff")
_OME_TIFF = (".ome.tif", ".ome.tiff", ".ome.tf2", ".ome.tf8", ".ome.btf")
_OPENSLIDE = (".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".dcm", ".czi")
_IMAGE = (".png", ".jpg", ".jpeg", ".bmp")

READERS: tuple[ReaderEntry, ...] = (
    ReaderEntry("ome-zarr", (".zarr",), open_omezarr),
    ReaderEntry("tiff", (*_OME_TIFF, *_TIFF), open_tiff),
    ReaderEntry("openslide", _OPENSLIDE, _open_openslide),
    ReaderEntry("wsidicom", (".dcm",), open_wsidicom),
    ReaderEntry("dicomweb", (), open_dicomweb),
    ReaderEntry("czi", (".czi",), open_czi),
    ReaderEntry("image", _IMAGE, ImageReader),
    ReaderEntry("none", tuple(_UNREAD), _refuse_unread),
)
FOLDER_SUFFIXES = (".zarr",)
_REGISTERED: Registry[ReaderEntry] = Registry("wsi_umedpt.readers", tuple(entry.name for entry in READERS))


def register_reader(name: str, suffixes: Sequence[str], open_slide: OpenReader) -> None:
    """Let slides of a further format be opened, in this process.

    Files of these suffixes are offered to this reader before ours. A package does the same for every process,
    workers included, with an entry point of the group ``wsi_umedpt.readers`` that names a `ReaderEntry`.

    Parameters
    ----------
    name
        Name of the reader, shown by ``info``.
    suffixes
        Endings of file names, as ``.xyz``; case is ignored.
    open_slide
        Takes a path and returns a `Reader`; raises `Refused`, with the reason, for files that it does not read.

    Raises
    ------
    OptionError
        If the name is one of ours, or a suffix has no dot.
    """
    if not suffixes or not all(suffix.startswith(".") and len(suffix) > 1 for suffix in suffixes):
        raise OptionError(f"suffixes of a reader begin with a dot, got {list(suffixes)}")
    _REGISTERED.add(name, ReaderEntry(name, tuple(suffix.lower() for suffix in suffixes), open_slide))


def slide_suffixes() -> tuple[str, ...]:
    """List the endings of file names that a folder is searched for; `open_reader` tries files of any name."""
    return tuple(dict.fromkeys(suffix for entry in (*_added(), *READERS) for suffix in entry.suffixes))


def is_of_this_process(path: Path) -> bool:
    """Return whether a slide is opened by a reader that only this process has (`register_reader`)."""
    return series_at(path) is None and any(
        path.name.lower().endswith(entry.suffixes) for entry in _REGISTERED.made_here()
    )


def _added() -> list[ReaderEntry]:
    return [entry for _, entry in _REGISTERED.items()]


def is_slide_folder(path: Path) -> bool:
    """Return whether a folder is one slide rather than a place to search: an OME-Zarr, or an image within one."""
    return path.name.lower().endswith(FOLDER_SUFFIXES) or (
        any((path / name).is_file() for name in (".zattrs", "zarr.json"))
        and path.parent.name.lower().endswith(FOLDER_SUFFIXES)
    )


def open_reader(path: Path) -> AnyReader:
    """Open a slide with the first reader that takes it.

    A TIFF is known by its first bytes, whatever its name. What a reader refuses for its
    content is not handed on to the next.

    Raises
    ------
    UnsupportedSlideError
        If none does; the message holds the reason of each that was asked.
    FileNotFoundError
        If there is no such file.
    RemoteError
        If the server that it lies on cannot be reached, refuses, or has no such series.
    """
    reasons = []
    for entry in _asked(path):
        try:
            return entry.open(path)
        except ContentRefused as reason:
            raise UnsupportedSlideError(f"no reader opens {path.name}: {reason}.") from None
        except Refused as reason:
            reasons.append(f"  {entry.name}: {reason}")
    raise UnsupportedSlideError(f"no reader opens {path.name}:\n" + "\n".join(reasons))


def _asked(path: Path) -> list[ReaderEntry]:
    if series_at(path):
        return [entry for entry in READERS if entry.name == "dicomweb"]
    if not path.exists():
        raise FileNotFoundError(f"there is no slide at {path}")
    if strange := strange_part(path):
        raise UnsupportedSlideError(strange)
    name = path.name.lower()
    if path.is_dir() and not is_slide_folder(path):
        raise UnsupportedSlideError(f"{path} is a folder, not a slide. Name what lies in it, as in {path}/*")
    if added := [entry for entry in _added() if name.endswith(entry.suffixes)]:
        return added + _ours(path, name)
    return _ours(path, name)


def _ours(path: Path, name: str) -> list[ReaderEntry]:
    if path.is_dir():
        return [entry for entry in READERS if entry.name == "ome-zarr"]
    if name.endswith(tuple(_UNREAD)):  # an index of Olympus begins as a TIFF does, of a thumbnail
        return [entry for entry in READERS if entry.name == "none"]
    if path.is_file() and is_tiff(path):
        return [entry for entry in READERS if entry.name == "tiff"]
    if name.endswith(_TIFF):
        return [entry for entry in READERS if entry.name in ("tiff", "openslide", "image")]
    matching = [entry for entry in READERS if name.endswith(entry.suffixes)]
    return matching or [entry for entry in READERS if entry.name in ("openslide", "tiff", "wsidicom", "image")]
