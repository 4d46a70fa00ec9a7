"""Places of automatic saving: beside a slide's results, or in the user's data folder. No Qt, no viewer.

Every file is JSON that says whose slide it is (its fingerprint). It is whole before it takes its name, so that a
process that is killed leaves the old one or the new one. A file that somebody else changed meanwhile is not written
over: a name of its own is taken, and both are read when the slide is opened again.

Read top to bottom: `Home` (where), `Kept` (what was read, and how it is written).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
from wsi_umedpt.errors import DataError
from wsi_umedpt.store import whole_file

from napari_wsi_umedpt.layers.build import Place

ANNOTATIONS, LABELS, CELL_LABELS = "annotations.geojson", "labels.json", "cells.json"
"""Suffixes of the files: of drawn regions, of labels of tiles, of labels of cells."""
ABOUT = "wsi_umedpt"
"""Member of the file that names its slide."""
RESULTS = "out"
_REGION = re.compile(r"\.region-[0-9a-f]{8}$")
_FOLDER = "annotations"
_MOST_NAMES = 9
_NAMED_BY = 32
"""Figures of the fingerprint in the name of a file in the user's folder."""


@dataclass(frozen=True)
class Home:
    """Folder where work on one slide is kept."""

    place: Place
    store: Path | None = None
    """Store whose results are looked at."""
    slide: Path | None = None

    @property
    def name(self) -> str:
        """Name of the slide; a store of a region is of the same."""
        return _REGION.sub("", self.place.slide_id)

    def beside(self, suffix: str) -> Path:
        """Folder where somebody would look for a file of this slide: beside its results, or beside itself."""
        near = self.store or self.slide
        name = f"{self.name}.{suffix}"
        return Path(name) if near is None else near.parent / name

    def files(self, suffix: str) -> list[Path]:
        """Files that work may be in, the best place to write first."""
        best = [folder / f"{self.name}.{suffix}" for folder in self._folders(suffix)]
        user = Path(platformdirs.user_data_dir("wsi_umedpt", appauthor=False)) / _FOLDER
        best.append(user / f"{self.place.fingerprint[:_NAMED_BY]}.{suffix}")
        return [name for path in best for name in _names(path, suffix)]

    def _folders(self, suffix: str) -> list[Path]:
        if self.store is not None:
            return [self.store.parent]
        if self.slide is None:
            return []
        beside = self.slide.parent
        known = (f"{self.name}.zarr", f"{self.name}.{suffix}")
        return [folder for folder in (beside / RESULTS, beside) if any((folder / name).exists() for name in known)]


def _names(path: Path, suffix: str) -> list[Path]:
    kind, end = suffix.split(".")
    stem = path.name.removesuffix(suffix)
    return [path, *(path.with_name(f"{stem}{kind}-{n}.{end}") for n in range(2, _MOST_NAMES + 1))]


@dataclass(eq=False)
class Kept:
    """Work of one kind on one slide, as far as it was read: what may be written over."""

    suffix: str
    known: dict[Path, str] = field(default_factory=dict)
    """sha256 of our files that were read or written here."""
    theirs: dict[Path, str] = field(default_factory=dict)
    """SHA-256 of files of other programs that were read."""
    written: Path | None = None
    """Path that it was written to last."""

    def read(self, home: Home) -> tuple[list[tuple[Path, dict[str, Any]]], list[DataError]]:
        """Read what was kept and is not known yet, oldest first; report what cannot be read, and never write over it.

        Returns
        -------
        found : files and their content
        refused : why others were not read
        """
        found: list[tuple[Path, dict[str, Any]]] = []
        refused: list[DataError] = []
        for path in home.files(self.suffix):
            if path in self.known or path in self.theirs or not path.exists():
                continue
            try:
                packed = path.read_bytes()
                content = json.loads(packed.decode("utf-8-sig"))
                if not isinstance(content, dict):
                    raise ValueError("it is no object")
            except (OSError, ValueError, RecursionError) as error:
                refused.append(DataError(f"{path} cannot be read, and is left as it is: {error}"))
                continue
            of = about(content).get("fingerprint")
            if of is not None and of != home.place.fingerprint:
                continue  # of another slide of that name
            (self.theirs if of is None else self.known)[path] = hashlib.sha256(packed).hexdigest()
            found.append((path, content))
        digests = {**self.theirs, **self.known}
        gone = {digest for _, content in found for digest in about(content).get("instead_of", [])}
        fresh = [(path, content) for path, content in found if digests[path] not in gone]
        return sorted(fresh, key=lambda one: str(about(one[1]).get("saved", ""))), refused

    def write(self, home: Home, content: Mapping[str, Any], saved: str) -> Path:
        """Write work into the best place that takes it.

        Parameters
        ----------
        content
            All of it, with what was read before.
        saved
            Time, as in 2026-11-30T12:00:00.

        Raises
        ------
        OSError
            If no place takes it.
        """
        refused: OSError | None = None
        for path in home.files(self.suffix):
            if not self._may_write(path):
                continue
            instead = sorted({digest for other, digest in {**self.theirs, **self.known}.items() if other != path})
            member = {"fingerprint": home.place.fingerprint, "saved": saved, "instead_of": instead}
            text = json.dumps({**content, ABOUT: {**content.get(ABOUT, {}), **member}}, allow_nan=False).encode()
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(path) as file:
                    file.write(text)
            except OSError as error:
                refused = error
                continue
            self.known[path], self.written = hashlib.sha256(text).hexdigest(), path
            return path
        raise refused or OSError(f"work on {home.name} cannot be kept: too many files of other programs are there")

    def _may_write(self, path: Path) -> bool:
        """Return whether a file is not there, or is as it was read or written here."""
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest() == self.known.get(path)
        except FileNotFoundError:
            return True
        except OSError:
            return False


def about(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Statement of a file about its slide."""
    found = content.get(ABOUT)
    return found if isinstance(found, dict) else {}
