"""Any file of annotations in, annotations in level-0 px out: what it is, is told by its content.

Each format is read by one adapter, which states the corner that its positions count from (`Origin`).
"""

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from wsi_umedpt.annotations import asap, geojson, halo, imagescope
from wsi_umedpt.annotations.annotation import MOST_BYTES, AnnotationFile, Corner, Origin
from wsi_umedpt.annotations.geojson import read_geojson_annotations
from wsi_umedpt.annotations.xml_text import LayersTarget, parse_xml
from wsi_umedpt.errors import AnnotationError
from wsi_umedpt.io.files import check_regular, open_regular

ANNOTATION_SUFFIXES = (".geojson", ".geojson.gz", ".json", ".json.gz", ".xml", ".annotations")
"""Suffixes of such files; their content tells the format."""
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_SPACE = b" \t\r\n\x00"

Kind = Literal["geojson", "xml"]


def kind_of_file(path: Path) -> Kind | None:
    """Format of a file by its content: GeoJSON (packed or not) or XML; None if neither.

    Raises
    ------
    AnnotationError
        If it cannot be read.
    """
    try:
        check_regular(path, MOST_BYTES)
        with open_regular(path) as file:
            begin = file.read(256)
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error.strerror or error}") from None
    for mark in _MARKS:
        begin = begin.removeprefix(mark)
    if begin[:2] == b"\x1f\x8b" or begin.lstrip(_SPACE)[:1] in (b"{", b"["):
        return "geojson"
    return "xml" if begin.lstrip(_SPACE)[:1] == b"<" else None


def slide_of_file(path: Path) -> str:
    """The id of the slide that a file is named after: its name without what says that it holds annotations."""
    suffix = max((s for s in ANNOTATION_SUFFIXES if path.name.lower().endswith(s)), key=len, default=path.suffix)
    return path.name.removesuffix(path.name[len(path.name) - len(suffix) :])


def annotation_files_in(folder: Path) -> list[Path]:
    """Files of annotations in a folder, by name; .json, which much else is called, counts only where it is named."""
    ends = tuple(suffix for suffix in ANNOTATION_SUFFIXES if ".json" not in suffix)
    return sorted(f for f in folder.iterdir() if f.name.lower().endswith(ends) and not f.name.startswith("."))


def read_annotation_file(path: Path, corner: Corner = (0, 0), origin: Origin | None = None) -> AnnotationFile:
    """Read what somebody drew with QuPath, ASAP, ImageScope or HALO.

    Parameters
    ----------
    path
        GeoJSON, packed by gzip or not, or XML.
    corner : (x, y), level-0 px
        Corner of the slide's bounds.
    origin
        Origin of its positions, if not that of its format, or the one that the file itself states.

    Returns
    -------
    AnnotationFile
        Positions count from the corner of the whole slide.

    Raises
    ------
    AnnotationError
        If it cannot be read, or is of no such format.
    """
    kind = kind_of_file(path)
    stated: tuple[float, float] | None = None
    if kind == "geojson":
        found, skipped, stated = read_geojson_annotations(path)
        name, usual = "GeoJSON", geojson.COUNTS_FROM
    elif kind == "xml":
        found, skipped, name, usual = _read_xml(path)
    else:
        raise AnnotationError(
            f"{path} cannot be read as annotations: it is neither GeoJSON nor XML of ASAP, ImageScope or HALO"
        )
    if origin is None and stated is not None:
        by = stated
        origin = "level-0" if stated == (0, 0) else "bounds"
    else:
        origin = origin or usual
        by = corner if origin == "bounds" else (0, 0)
    return AnnotationFile([one.moved(by) for one in found], skipped, origin, name)


def _read_xml(path: Path) -> tuple[list[Any], Counter[str], str, Origin]:
    target = _AnyTarget()
    parse_xml(path, target)
    try:
        if target.root == _ASAP:
            return target.asap.annotations, target.asap.skipped, "ASAP", asap.COUNTS_FROM
        if target.layers.vertex == "V":
            return *halo.halo_annotations(target.layers.regions), "HALO", halo.COUNTS_FROM
        return *imagescope.imagescope_annotations(target.layers.regions), "ImageScope", imagescope.COUNTS_FROM
    except ValueError as error:
        raise AnnotationError(f"{path}: {error}") from None


_ASAP, _LAYERS = "ASAP_Annotations", "Annotations"


class _AnyTarget:
    """Hands elements to the collector that knows the first of them."""

    def __init__(self) -> None:
        self.root = ""
        self.asap, self.layers = asap.AsapTarget(), LayersTarget()

    def start(self, tag: str, attrs: dict[str, str]) -> None:
        if not self.root:
            self.root = tag
            if tag not in (_ASAP, _LAYERS):
                raise ValueError(
                    f"it begins with <{tag:.40}>; ASAP begins with <{_ASAP}>, ImageScope and HALO with <{_LAYERS}>"
                )
        (self.asap if self.root == _ASAP else self.layers).start(tag, attrs)

    def end(self, tag: str) -> None:
        (self.asap if self.root == _ASAP else self.layers).end(tag)
