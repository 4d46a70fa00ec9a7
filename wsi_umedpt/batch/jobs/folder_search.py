"""Search of folders and patterns for slides; each entry is seen once, whatever links there are.

Links to folders are followed, as cohorts are often folders of links, but no folder is
entered twice. An entry that cannot be seen is a failure of its own and stops nothing.
"""

import contextlib
import errno
import glob
import os
import stat
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from wsi_umedpt.io.files import is_clutter
from wsi_umedpt.slides.readers import FOLDER_SUFFIXES, slide_suffixes
from wsi_umedpt.slides.readers.dicom import is_dicom_slide, may_be_dicom
from wsi_umedpt.slides.readers.multifile import parts
from wsi_umedpt.store.layout import is_store

Fail = Callable[[str, str], None]
"""Told the name of an entry that cannot be used, and why."""
_Seen = set[tuple[int, int]]
"""Device and inode of folders that were entered."""


def slides_below(folder: Path, fail: Fail) -> Iterator[Path]:
    """The slides in a folder and below it, by name; stores of ours are none. See `below`."""
    for path in below(folder, fail):
        if not (path.name.lower().endswith(FOLDER_SUFFIXES) and is_store(path)):
            yield path


def below(folder: Path, fail: Fail, seen: _Seen | None = None) -> Iterator[Path]:
    """The slides and stores in a folder and below it, by name.

    Parameters
    ----------
    folder
        Folder to search. Hidden files, trash and what file servers put beside files are left out.
    fail
        Called for each entry that cannot be used.
    """
    seen = set() if seen is None else seen
    if not _enter(folder, seen, fail):
        return
    paths = _entries(folder, fail)
    owned = set(_vms_pictures(paths))
    for path in paths:
        name = path.name.lower()
        if path in owned:
            continue
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except OSError as error:
            if name.endswith(slide_suffixes()) or not path.is_symlink():
                fail(str(path), _why(error))
            continue
        if not is_folder:
            if name.endswith(slide_suffixes()) or (may_be_dicom(path) and is_dicom_slide(path)):
                yield path
        elif name.endswith(FOLDER_SUFFIXES):
            yield path
        elif not path.with_name(path.name + ".mrxs").exists():  # the data of a MRXS slide
            yield from below(path, fail, seen)


def matching(pattern: str, fail: Fail) -> list[str]:
    """Paths that match a pattern with wildcards, by name; ``**`` enters no folder twice.

    Parameters
    ----------
    pattern
        As `glob.glob` takes it, recursive.
    fail
        Called for each folder that cannot be seen.
    """
    if "**" not in pattern:
        return sorted(glob.glob(pattern))
    parts_of = Path(pattern).parts
    plain = next(n for n, part in enumerate(parts_of) if glob.has_magic(part))
    base = Path(*parts_of[:plain])
    found, failed = list[str](), dict[str, str]()

    def walk(folder: Path, asked: tuple[str, ...], seen: _Seen) -> None:
        first, rest = asked[0], asked[1:]
        if first == "**":
            if not _enter(folder, seen, failed.__setitem__):
                return
            if rest:
                walk(folder, rest, set())
            for path in _entries(folder, failed.__setitem__):
                if _is_folder(path):
                    walk(path, asked, seen)
                elif not rest:
                    found.append(str(path))
            return
        for path in _entries(folder, failed.__setitem__) if glob.has_magic(first) else [folder / first]:
            if fnmatchcase(path.name, first):
                if not rest:
                    found.extend([str(path)] if os.path.lexists(path) else [])
                elif _is_folder(path):
                    walk(path, rest, seen)

    if _is_folder(base):
        walk(base, parts_of[plain:], set())
    for name, reason in failed.items():
        fail(name, reason)
    return sorted(set(found))


def _enter(folder: Path, seen: _Seen, fail: Fail) -> bool:
    """Enter a folder; False if it was entered before."""
    try:
        state = folder.stat()
    except OSError as error:
        fail(str(folder), _why(error))
        return False
    known = (state.st_dev, state.st_ino) in seen
    seen.add((state.st_dev, state.st_ino))
    return not known


def _entries(folder: Path, fail: Fail) -> list[Path]:
    """Entries of a folder, by name, but for what is nobody's data."""
    try:
        return sorted(path for path in folder.iterdir() if not is_clutter(path.name))
    except OSError as error:
        fail(str(folder), f"the folder cannot be searched: {_why(error)}")
        return []


def _vms_pictures(paths: list[Path]) -> Iterator[Path]:
    """The pictures that VMS slides are made of: no slides of their own."""
    for path in paths:
        if path.suffix.lower() in (".vms", ".vmu"):
            with contextlib.suppress(OSError):  # opening the slide will say why
                yield from parts(path)[1:]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # it may not be seen: what lies in it cannot be asked for
        return False


def _why(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "it is a link that leads back to itself"
    if error.errno == errno.ENOENT:
        return "it is a link to what is not there"
    return error.strerror or type(error).__name__
