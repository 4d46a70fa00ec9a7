"""Any file of annotations in, annotations in level-0 px out: what it is, is told by its content.

Each format is read by one adapter, which states the corner that its positions count from (`Origin`).
"""

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from wsi_umedpt.annotationfiles import asap, geojson, halo, imagescope
from wsi_umedpt.annotationfiles.annotation import MOST_BYTES, AnnotationFile, Corner, Origin
from wsi_umedpt.annotationfiles.geojson import read_geojson_annotations
from wsi_umedpt.annotationfiles.xmltext import LayersTarget, parse_xml
from wsi_umedpt.errors import AnnotationError
from wsi_umedpt.files import check_regular, open_regular

SUFFIXES = (".geojson", ".geojson.gz", ".json", ".json.gz", ".xml", ".annotations")
"""By which such files are called; what they hold is told by their content."""
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_SPACE = b" \t\r\n\x00"

Kind = Literal["geojson", "xml"]


def kind_of_file(path: Path) -> Kind | None:
    """Whether a file looks like GeoJSON (packed or not) or XML; None if like neither.

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
    suffix = max((s for s in SUFFIXES if path.name.lower().endswith(s)), key=len, default=path.suffix)
    return path.name.removesuffix(path.name[len(path.name) - len(suffix) :])


def read_annotation_file(path: Path, corner: Corner = (0, 0), origin: Origin | None = None) -> AnnotationFile:
    """Read what somebody drew with QuPath, ASAP, ImageScope or HALO.

    Parameters
    ----------
    path
        GeoJSON, packed by gzip or not, or XML.
    corner : (x, y), level-0 px
        Of the slide's bounds.
    origin
        Where its positions count from, if not from where its format does, or from where the file itself says.

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
