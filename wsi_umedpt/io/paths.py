"""Paths of stores, here or elsewhere, and what is found at them.

`RemotePath` is as much of a `pathlib.Path` as readers of a store ask for.
"""

import errno
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, cast

from wsi_umedpt.errors import RemoteError, StoreError
from wsi_umedpt.io.dicomweb import series_at
from wsi_umedpt.io.files import is_clutter
from wsi_umedpt.io.remote import Remote, is_url, name_of

_AT_ONCE = 64
"""Chunks that are read together."""


class RemotePath:
    """A file or folder elsewhere, as readers of a store see it: a `pathlib.Path` as far as they ask.

    What there is below `base` is listed once, when it is first asked for; what is read is
    read then. Nothing can be written.
    """

    def __init__(self, base: Remote, name: str = "") -> None:
        self.base, self._name = base, name

    def __str__(self) -> str:
        return f"{str(self.base).rstrip('/')}/{self._name}" if self._name else str(self.base).rstrip("/")

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __fspath__(self) -> str:
        raise RemoteError(f"{self} lies elsewhere, and this needs a file or folder on disk: copy it here first")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and (self.base, self._name) == (other.base, other._name)

    def __hash__(self) -> int:
        return hash((self.base, self._name))

    def __lt__(self, other: "RemotePath") -> bool:
        return str(self) < str(other)

    def __truediv__(self, name: str | PurePosixPath) -> "RemotePath":
        return RemotePath(self.base, str(PurePosixPath(self._name) / name) if self._name else str(name))

    @property
    def name(self) -> str:
        """The last part."""
        return self._name.rpartition("/")[2] or name_of(self.base.url)

    @property
    def suffix(self) -> str:
        """Suffix, as in ``.zarr``."""
        return PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts below `base`, after it."""
        return (str(self.base), *PurePosixPath(self._name).parts)

    @property
    def parent(self) -> "RemotePath":
        """Prefix that contains it."""
        if self._name:
            return RemotePath(self.base, self._name.rpartition("/")[0])
        return RemotePath(Remote(self.base.url.rstrip("/").rpartition("/")[0]))

    def with_name(self, name: str) -> "RemotePath":
        """Another one beside it."""
        return self.parent / name

    def resolve(self) -> "RemotePath":
        """Itself: there are no links."""
        return self

    def relative_to(self, other: "RemotePath") -> PurePosixPath:
        """The way from another one to it."""
        return PurePosixPath(self._name or ".").relative_to(other._name or ".")

    def exists(self) -> bool:
        """Return whether it was there when `base` was listed."""
        return self._name in self._files or self.is_dir()

    def is_file(self) -> bool:
        """Return whether a file was there."""
        return self._name in self._files

    def is_dir(self) -> bool:
        """Return whether files were there below it."""
        return self._name in self._folders

    def iterdir(self) -> "Iterator[RemotePath]":
        """Paths that were there directly below it."""
        return self.glob("*")

    def glob(self, pattern: str) -> "Iterator[RemotePath]":
        """Paths that were there below it and match, part by part; ``**`` is not understood."""
        asked = pattern.split("/")
        depth = len(PurePosixPath(self._name).parts)
        for name in sorted({*self._files, *self._folders} - {""}):
            parts = PurePosixPath(name).parts
            if len(parts) == depth + len(asked) and (not self._name or name.startswith(f"{self._name}/")):
                if all(fnmatchcase(part, one) for part, one in zip(parts[depth:], asked, strict=True)):
                    yield RemotePath(self.base, name)

    def rglob(self, pattern: str) -> "Iterator[RemotePath]":
        """All that was there below it whose last part matches."""
        for name in sorted({*self._files, *self._folders} - {""}):
            if fnmatchcase(name.rpartition("/")[2], pattern) and (not self._name or name.startswith(f"{self._name}/")):
                yield RemotePath(self.base, name)

    def read_bytes(self) -> bytes:
        """Read a file.

        Raises
        ------
        FileNotFoundError
            If there is none.
        RemoteError
            If it cannot be read.
        """
        (content,) = self.base.read(self._name)
        if content is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such file", str(self))
        return content

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Read files below it, many at once; None for those that are not there."""
        for first in range(0, len(names), _AT_ONCE):
            yield from self.base.read(*((self / name)._name for name in names[first : first + _AT_ONCE]))

    def zarr_store(self) -> Any:
        """Store object through which zarr reads it."""
        from zarr.storage import FsspecStore

        return FsspecStore.from_url((self.base / self._name).url if self._name else self.base.url, read_only=True)

    @property
    def _files(self) -> dict[str, int]:
        return self._listing[0]

    @property
    def _folders(self) -> set[str]:
        return self._listing[1]

    @property
    def _listing(self) -> tuple[dict[str, int], set[str]]:
        # Kept with `base`, which all paths below share.
        known: tuple[dict[str, int], set[str]] | None = self.base.__dict__.get("_listing")
        if known is None:
            files = self.base.sizes()
            folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
            known = files, {"" if folder == "." else folder for folder in folders}
            self.base.__dict__["_listing"] = known
        return known


def elsewhere(path: object) -> RemotePath | None:
    """A path, if it is one of what lies elsewhere."""
    return path if isinstance(path, RemotePath) else None


def place(path: str | Path) -> Path:
    """Make a path of a name, here or elsewhere; a `RemotePath` does what readers of stores ask of a `Path`.

    Raises
    ------
    RemoteError
        If it begins as the name of a slide on a DICOMweb server, and is none.
    """
    if series := series_at(path) if isinstance(path, str | Path) else None:
        return series.path
    known = RemotePath(Remote(str(path).rstrip("/"))) if is_url(path) else elsewhere(path)
    return cast(Path, known) if known else Path(path)


def find_stores(path: str | Path) -> list[Path]:
    """A store that is named, or all that lie in a folder or, given a URL, directly below a prefix; none is opened.

    Raises
    ------
    RemoteError
        If a prefix cannot be listed.
    StoreError
        If a folder cannot be.
    """
    where = place(path)
    if where.suffix == ".zarr":
        return [where]
    if remote := elsewhere(where):
        names = (name for name in remote.base.names() if name.endswith(".zarr") and not is_clutter(name))
        return [place((remote.base / name).url) for name in names]
    try:
        return sorted(p for p in where.iterdir() if p.name.endswith(".zarr") and not is_clutter(p.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreError(f"the folder {where} cannot be searched for stores: {error.strerror or error}") from None


def local_path(path: str | Path) -> Path:
    """Path where a store can be written.

    Raises
    ------
    StoreError
        If it lies elsewhere.
    """
    if is_url(path) or elsewhere(path):
        raise StoreError(
            f"{place(path)} lies elsewhere and can only be read. Copy it here and write into the copy; `embed` and "
            "`segment` publish what they make (`out` URL `work` FOLDER)."
        )
    return Path(path)
