"""A slide's id: what names its store, and how it is found by what tables call it.

An id is a function of the slide alone, never of its neighbours or of how it was named on the command line. Nothing
here opens a slide.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from wsi_umedpt.errors import WsiError
from wsi_umedpt.io.dicomweb import series_at
from wsi_umedpt.io.remote import is_url, name_of
from wsi_umedpt.io.spelling import spelled
from wsi_umedpt.slides.readers import FOLDER_SUFFIXES, is_slide_folder, slide_suffixes
from wsi_umedpt.slides.readers.dicom import dicom_series, may_be_dicom

_UNSAFE = re.compile(r"[^\w.\-+=@ ()]", re.ASCII)
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_MAX_ID_BYTES = 150
_FEATURE_SUFFIXES = (".zarr", ".h5ad", ".h5", ".hdf5", ".npz", ".npy", ".pt")
"""Suffixes of stores, and of files of features."""


def default_id(path: Path) -> str:
    """A slide's id where none is given: its file's name without the suffix, made safe.

    A DICOM slide is a folder of files, and has the folder's name; on a DICOMweb server, the UID of its series. An image
    within an OME-Zarr has the name of both.
    """
    if series := series_at(path):
        return safe_id(series.uid)
    if may_be_dicom(path) and dicom_series(path):
        return safe_id(path.parent.resolve().name)
    if path.parent.name.lower().endswith(FOLDER_SUFFIXES) and is_slide_folder(path):
        return safe_id(f"{stem(path.parent)}-{path.name}")
    return safe_id(stem(path))


def url_id(url: str) -> str:
    """Id of a remote slide, as of `default_id`; nothing is read."""
    name = name_of(url)
    if name.lower().endswith(".dcm"):
        return safe_id(name_of(url.rpartition("/")[0]))
    suffix = slide_suffix(name)
    return safe_id(name[: -len(suffix)] if suffix else re.sub(r"(?<=.)\.[^./]*$", "", name))


def safe_id(name: str) -> str:
    """Turn a file's name into an id that is safe as a file name; a changed one carries a hash."""
    cleaned = _UNSAFE.sub("_", name).strip(" .")
    if cleaned == name and not why_unsafe(name):
        return name
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:8]
    safe = f"{cleaned.lstrip('.')[:100].strip() or 'slide'}-{digest}"
    return f"slide-{safe}" if why_unsafe(safe) else safe


def why_unsafe(slide_id: str) -> str | None:
    """Reason why an id that a user wrote cannot name outputs; None if it can."""
    if not slide_id or slide_id != slide_id.strip(" .") or slide_id.startswith("."):
        return "is empty, or begins or ends with a dot or a space"
    if strange := _UNSAFE.search(slide_id):
        return f"contains {strange.group()!r}; use letters, digits and . _ - + = @ ( )"
    if _RESERVED.fullmatch(slide_id):
        return "is a name that Windows reserves"
    if len(slide_id.encode()) > _MAX_ID_BYTES:
        return f"is longer than {_MAX_ID_BYTES} bytes"
    return None


def stem(path: Path) -> str:
    """A slide's file name without its suffix, .ome.tiff and the like included."""
    suffix = slide_suffix(path.name)
    return path.name[: -len(suffix)] if suffix else path.stem


def slide_suffix(name: str) -> str:
    """The longest suffix of slides that a name ends in, in small letters; empty if it has none."""
    return max((suffix for suffix in slide_suffixes() if name.lower().endswith(suffix)), key=len, default="")


class SlideNames:
    """Slides that are there, found by what a table calls them.

    Parameters
    ----------
    known
        Their ids.
    """

    def __init__(self, known: Iterable[str]) -> None:
        self._known = [*dict.fromkeys(known)]
        self._by: list[dict[str, list[str]]] = []
        for form in (str, _without_suffix, lambda name: spelled(_without_suffix(name))):
            self._by.append(_grouped(self._known, form))

    def find(self, name: str) -> list[str]:
        """The slides that a table may mean by a name: an id, or a file with or without folders and suffix, in any case.

        Returns
        -------
        list
            The slide; none if there is none, and several if it may be any of them.
        """
        base = name_of(name) if is_url(name) else re.split(r"[/\\]", name.rstrip("/\\"))[-1]
        short = _without_suffix(base)
        asked = [[name, base, short, safe_id(short)], [short], [spelled(short), spelled(safe_id(short))]]
        if base.lower().endswith(".dcm"):  # one of the files in the folder that is the slide
            folder = re.split(r"[/\\]", name)[:-1][-1:]
            asked[0] += [safe_id(part) for part in folder]
        for by, names in zip(self._by, asked, strict=True):
            for one in names:
                if found := by.get(one):
                    return found
        return []


def match_slides(asked: Iterable[str], known: Iterable[str], error: type[WsiError]) -> dict[str, str]:
    """Find the slides that names mean; see `SlideNames`.

    Returns
    -------
    dict
        Name to id; names of slides that are not there are left out.

    Raises
    ------
    WsiError
        Of the given kind, if a name may be of several slides.
    """
    names, found = SlideNames(known), dict[str, str]()
    for name in asked:
        ids = names.find(name)
        if len(ids) > 1:
            raise error(f"{name!r} may be the slide {' or '.join(ids)}; write one of these")
        if ids:
            found[name] = ids[0]
    return found


def by_slide(told: Mapping[str, str], known: Iterable[str], error: type[WsiError]) -> dict[str, str]:
    """Rows of a table by slide id; see `match_slides`.

    Raises
    ------
    WsiError
        Of the given kind, if two names of one slide come with different values.
    """
    found: dict[str, str] = {}
    for name, slide in match_slides(told, known, error).items():
        if found.setdefault(slide, told[name]) != told[name]:
            raise error(f"{slide} is said to be of {found[slide]!r} and, as {name!r}, of {told[name]!r}")
    return found


def _without_suffix(name: str) -> str:
    lower = name.lower()
    suffix = max((s for s in (*slide_suffixes(), *_FEATURE_SUFFIXES) if lower.endswith(s)), key=len, default="")
    return name[: len(name) - len(suffix)] or name


def _grouped(names: Iterable[str], form: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(form(name), []).append(name)
    return groups
