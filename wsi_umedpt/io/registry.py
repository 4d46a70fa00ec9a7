"""Registry of users' extensions: registered by name in Python, or by a package's entry points.

A `Registry` holds one kind of thing. Entry points are looked up when a name is asked for that nothing is registered
under, or when all names are; a package that fails to load is a clear error, naming the package.
"""

import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from wsi_umedpt.errors import OptionError

Thing = TypeVar("Thing")


class Registry(Generic[Thing]):
    """Things by name.

    Parameters
    ----------
    group
        Entry points that belong here, as ``wsi_umedpt.encoders``.
    known
        Names that are taken.
    """

    def __init__(self, group: str, known: tuple[str, ...] = ()) -> None:
        self._group, self._known = group, known
        self._things: dict[str, Thing] = {}

    def add(self, name: str, thing: Thing) -> None:
        """Register a thing; the same name again replaces it, so that a notebook cell may run twice.

        Raises
        ------
        OptionError
            If the name is empty, or one of ours.
        """
        if not name or name in self._known:
            raise OptionError(f"the name {name!r} is {'ours' if name else 'empty'}; register under another")
        self._things[name] = thing

    def get(self, name: str) -> Thing | None:
        """The thing of this name; None if nothing is registered under it."""
        if name not in self._things:
            for point in (one for one in _points(self._group) if one.name == name):
                try:
                    self._things[name] = point.load()
                except Exception as error:
                    raise OptionError(f"the package that offers {name!r} ({point.value}) fails: {error}") from error
        return self._things.get(name)

    def names(self) -> list[str]:
        """All names, sorted; nothing is loaded."""
        return sorted({*self._things, *(point.name for point in _points(self._group))})

    def items(self) -> Iterator[tuple[str, Thing]]:
        """All things; entry points are loaded."""
        for name in self.names():
            if (thing := self.get(name)) is not None:
                yield name, thing

    def made_here(self) -> list[Thing]:
        """Things that were added in this process, and that no other has."""
        points = {point.name for point in _points(self._group)}
        return [thing for name, thing in self._things.items() if name not in points]


def _points(group: str) -> tuple[EntryPoint, ...]:
    """Entry points of a group; looked up anew once a package was installed or removed."""
    return _looked_up(group, tuple((folder, _changed_ns(folder or os.curdir)) for folder in sys.path))


def _changed_ns(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=16)
def _looked_up(group: str, folders: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    # Reads a file of every package that is installed: 10 ms of 300 packages, which opening each slide would pay.
    return tuple(entry_points(group=group))
