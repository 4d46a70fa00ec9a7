"""The ordered table of readers: a path in, an open `Reader` out.

To add a format, write one adapter file and one line of `READERS`.
"""

from pathlib import Path
from typing import NamedTuple

from wsi_umedpt.errors import UnsupportedSlideError
from wsi_umedpt.readers.base import OpenReader, Reader, Refused
from wsi_umedpt.readers.direct import open_direct
from wsi_umedpt.readers.image import ImageReader
from wsi_umedpt.readers.omezarr import OmeZarrReader
from wsi_umedpt.readers.openslide import OpenSlideReader
from wsi_umedpt.readers.tiff import open_tiff

__all__ = ["FOLDER_SUFFIXES", "READERS", "SLIDE_SUFFIXES", "open_reader"]


class _Entry(NamedTuple):
    name: str
    suffixes: tuple[str, ...]
    open: OpenReader


_OME_TIFF = (".ome.tif", ".ome.tiff", ".ome.tf2", ".ome.tf8", ".ome.btf")
_TIFF = (".tif", ".tiff", ".btf", ".tf8", ".svs", ".svslide")
_OPENSLIDE = (".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".dcm", ".czi")
_IMAGE = (".png", ".jpg", ".jpeg", ".bmp")

READERS: tuple[_Entry, ...] = (
    _Entry("ome-zarr", (".zarr",), OmeZarrReader),
    # Before OpenSlide, which sees only level 0 of a pyramid in SubIFDs.
    _Entry("ome-tiff", _OME_TIFF, open_tiff),
    _Entry("direct", _TIFF, open_direct),
    _Entry("openslide", (*_TIFF, *_OPENSLIDE), OpenSlideReader),
    _Entry("tiff", (*_OME_TIFF, *_TIFF), open_tiff),
    _Entry("image", (*_IMAGE, ".tif", ".tiff"), ImageReader),
)
FOLDER_SUFFIXES = (".zarr",)
SLIDE_SUFFIXES = tuple(dict.fromkeys(s for entry in READERS for s in entry.suffixes))
"""What a folder is searched for; `open_reader` tries files of any name."""


def open_reader(path: Path) -> Reader:
    """Open a slide with the first reader that takes it.

    Raises
    ------
    UnsupportedSlideError
        If none does; the message holds the reason of each.
    FileNotFoundError
        If there is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no slide at {path}")
    name = path.name.lower()
    if path.is_dir() and not name.endswith(FOLDER_SUFFIXES):
        raise UnsupportedSlideError(f"{path} is a folder, not a slide. Name what lies in it, as in {path}/*")
    matching = [entry for entry in READERS if name.endswith(entry.suffixes)]
    reasons = []
    for entry in matching or [e for e in READERS if e.name in ("openslide", "tiff", "image")]:
        try:
            return entry.open(path)
        except Refused as reason:
            reasons.append(f"  {entry.name}: {reason}")
    raise UnsupportedSlideError(f"no reader opens {path.name}:\n" + "\n".join(reasons))
