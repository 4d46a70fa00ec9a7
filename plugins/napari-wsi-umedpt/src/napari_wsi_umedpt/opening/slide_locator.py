"""Location of a store's slide: a store in, the slide's path out, or None.

A store says what its slide holds (a fingerprint) and never where it lies or what its file is
called, as names of files may name patients. So it is looked for: where the user opened it
from before (`Known`, a file of the user's own), beside the store, and in the folders that
slides were opened from. What is found is believed only if its fingerprint is the store's.

Read top to bottom: `Known`, `find_slide`, `slide_files`.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import platformdirs
from wsi_umedpt.errors import StoreError
from wsi_umedpt.slides import default_id, fingerprint, slide_suffixes
from wsi_umedpt.store import SlideStore, write_json

_MOST_KNOWN = 10_000
_MOST_TRIED = 64
"""Slides of other names whose content is compared in each folder; each costs 1 MB of reading."""
_FILE = "slides.json"


class Known:
    """Slides that the user opened: fingerprint and path, in the user's own data folder.

    Only written when the user opened a slide, or said where it is. The file may be deleted.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or Path(platformdirs.user_data_dir("wsi_umedpt", appauthor=False))) / _FILE

    def read(self) -> dict[str, Path]:
        """Fingerprints and paths, those opened last at the end."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))["slides"]
            return {str(key): Path(value) for key, value in content}
        except (OSError, ValueError, KeyError, TypeError):
            return {}  # none yet, or not ours: the slide is then looked for, and asked for

    def remember(self, path: Path, mark: str | None = None) -> None:
        """Write down where a slide is; `mark` is its fingerprint if it is known already."""
        path = path.resolve()
        mark = mark or fingerprint(path)
        slides = self.read()
        slides.pop(mark, None)
        slides[mark] = path
        kept = [[key, os.fspath(value)] for key, value in slides.items()][-_MOST_KNOWN:]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"slides": kept})


def find_slide(store: SlideStore, known: Known | None = None, folders: Iterable[Path] = ()) -> Path | None:
    """Look for a store's slide.

    Parameters
    ----------
    store
        Store whose slide is looked for.
    known
        Paths that the user opened before.
    folders
        Other folders to look in; not below them.
    """
    wanted = str(store.attrs["slide"]["fingerprint"])
    slides = (known or Known()).read()
    if (last := slides.get(wanted)) is not None and _is_slide(last, wanted):
        return last
    beside = store.path.resolve().parent
    opened = dict.fromkeys(path.parent for path in reversed(slides.values()))
    places = [*dict.fromkeys([beside, beside.parent, *folders, *opened])]
    # The right name first, in all places, as comparing content costs reading it.
    for named in (True, False):
        for place in places:
            tried = 0
            for path in slide_files(place):
                if (_has_name(path, store.slide_id)) is named and tried < _MOST_TRIED:
                    tried += 1
                    if path.resolve() != store.path.resolve() and _is_slide(path, wanted):
                        return path
    return None


def check_is_slide_of(store: SlideStore, path: Path) -> None:
    """Refuse a file that is not the slide of a store.

    Raises
    ------
    StoreError
        If it is another.
    """
    wanted, found = str(store.attrs["slide"]["fingerprint"]), fingerprint(path)
    if wanted != found:
        raise StoreError(
            f"{path.name} is not the slide of {store.path.name}: its fingerprint is {found[:12]}, the store was made "
            f"of {wanted[:12]} ({' x '.join(map(str, store.attrs['slide']['size']))} px). Choose the file that was "
            "embedded; a copy that was converted or saved anew is another one."
        )


def slide_files(folder: Path) -> Iterator[Path]:
    """Slides in a folder, not below it, by name; of a DICOM series the first file."""
    try:
        items = sorted(folder.iterdir())
    except OSError:
        return
    series: set[str] = set()
    for path in items:
        name = path.name.lower()
        if name.startswith(".") or not name.endswith(slide_suffixes()):
            continue
        if name.endswith(".dcm"):
            if (named := default_id(path)) in series:
                continue
            series.add(named)
        if path.is_file() or (name.endswith(".zarr") and path.is_dir()):
            yield path


def _has_name(path: Path, slide_id: str) -> bool:
    return default_id(path) == slide_id


def _is_slide(path: Path, wanted: str) -> bool:
    try:
        return path.exists() and fingerprint(path) == wanted
    except OSError:
        return False
