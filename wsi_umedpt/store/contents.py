"""Contents of a store, as its root lists them: every node with the sha256 of its metadata.

The metadata of an array, or of a label image, holds the sha256 of its numbers, the root that
of every node below it, and its own. So nothing can be lost or changed without being found:
neither a number nor a name of a class, nor a whole folder. The list is in the root alone, as
one file can be replaced at once: a store that is added to has the old list or the new one.

What is to be changed is first taken off the list (`delist`), and all that is not on it is put
there at the end (`seal`). A run that was killed in between leaves parts that are not listed:
readers do not see them, and the next run lists them.

Read top to bottom: `seal` and `delist` (writing), `Nodes` (reading).
"""

import hashlib
import json
import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy.typing as npt

from wsi_umedpt.errors import StoreError
from wsi_umedpt.io.files import is_clutter
from wsi_umedpt.io.paths import elsewhere
from wsi_umedpt.store.zarr_io import NODE, attrs_in, decoded_array, read_attrs, read_node, sync_folder, write_node

SCHEMA = 2
"""Schema of stores; from 2 on their roots list what they hold."""
CONTENTS = "contents"
"""Attribute of the root: sha256 of each node's ``zarr.json``, by the node's name."""
LOST = "is lost: it was written, and is not there"
UNLISTED = "labels"
"""Node that is on no list: it only says which label images there are, and grows with them."""


def seal(root: Path) -> None:
    """Put every node that is not yet listed on the list of a store's root, and the root's own sha256 beside it.

    Nodes that are listed keep what the list says of them, so that damage stays what it is.
    """
    attrs = read_attrs(root)
    known = _listed(attrs)
    fresh = {name: _sha256(_read(root, name)) for name in node_names(root) if name not in known}
    _write_root(root, {**attrs, "schema": SCHEMA, CONTENTS: {**known, **fresh}})


def delist(root: Path, parts: Iterable[str]) -> None:
    """Take parts, and what is below them, off the list, as they are about to be replaced; old stores have none."""
    attrs = read_attrs(root)
    known = _listed(attrs)
    gone = {name for part in parts for name in known if name == part or name.startswith(f"{part}/")}
    if gone:
        _write_root(root, {**attrs, CONTENTS: {name: known[name] for name in known if name not in gone}})


def node_names(root: Path) -> list[str]:
    """Names of all nodes below a store's root that are there, sorted; hidden folders are left out."""
    found: list[str] = []
    waiting = [(root, "")]
    while waiting:
        folder, name = waiting.pop()
        for below in folder.iterdir():
            if is_clutter(below.name) or not (below / NODE).is_file():
                continue
            found.append(f"{name}/{below.name}".lstrip("/"))
            waiting.append((below, found[-1]))
    return sorted(name for name in found if name != UNLISTED)


def unlisted(root: Path) -> list[str]:
    """Nodes that are there and not listed: what a run that was stopped, or is at work, adds; none of an old store."""
    known = _listed(read_attrs(root))
    return [name for name in node_names(root) if name not in known] if known else []


def is_grown(before: bytes, after: bytes) -> bool:
    """Return whether a root is that of the same store as an earlier one, and lists all that the earlier one did."""
    try:
        was, now = (dict(json.loads(node)["attributes"]) for node in (before, after))
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
    same = all(was.get(name) == now.get(name) for name in {*was, *now} - {CONTENTS, "sha256", "schema"})
    return same and was.get("schema", 0) <= now.get("schema", 0) and _listed(was).items() <= _listed(now).items()


def check_root(root: Path, attrs: dict[str, Any]) -> None:
    """Refuse a root that does not say what a store of its schema says, or was changed since it was written.

    Raises
    ------
    StoreError
        If so.
    """
    if attrs["schema"] < SCHEMA:
        return
    contents = attrs.get(CONTENTS)
    whole = isinstance(contents, dict) and all(_is_entry(*entry) for entry in contents.items())
    if not whole or attrs.get("sha256") != attrs_sha256(attrs):
        raise StoreError(
            f"{root}: its root, {NODE}, is not what was written (sha256 differs): it was edited, or is damaged. "
            "Take it from a copy, or embed the slide again."
        )


def attrs_sha256(attrs: dict[str, Any]) -> str:
    """sha256 of attributes without their own, as JSON without spaces, its keys sorted."""
    told = {name: value for name, value in attrs.items() if name != "sha256"}
    return _sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode())


class Nodes:
    """The nodes below a store's root. What is read is checked against what is said of it: damage is an error.

    Parameters
    ----------
    root
        Root of a store, or of what is being made for one, which has no list yet.
    writing
        See also what is not listed, as one who adds to the store does.
    """

    def __init__(self, root: Path, *, writing: bool = False) -> None:
        self.root = root
        self._writing = writing
        self._known: tuple[object, dict[str, str]] | None = None

    @property
    def listed(self) -> dict[str, str]:
        """Nodes that the root lists; none where it is of an old store, or not whole yet."""
        seen = _seen(self.root)
        if self._known is None or self._known[0] != seen:
            self._known = seen, _listed(read_attrs(self.root)) if seen else {}
        return self._known[1]

    def __contains__(self, name: str) -> bool:
        """Return whether a node is part of the store, also where it was lost."""
        listed = self.listed
        return name in listed or ((self._writing or not listed) and (self.root / name / NODE).is_file())

    def names(self, pattern: str) -> list[str]:
        """Last parts of all nodes of the store that match, sorted; also of those that were lost."""
        depth, listed = pattern.count("/"), self.listed
        found = {n.rpartition("/")[2] for n in listed if n.count("/") == depth and fnmatchcase(n, pattern)}
        if self._writing or not listed:
            found |= {path.parent.name for path in self.root.glob(f"{pattern}/{NODE}")}
        return sorted(name for name in found if not name.startswith("."))

    def attrs(self, name: str) -> dict[str, Any]:
        """Attributes of a node.

        Raises
        ------
        StoreError
            If it is lost, damaged, or was edited.
        """
        return attrs_in(self._node(name), self.root / name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array, whose numbers are not read; errors as of `attrs`."""
        try:
            return tuple(int(n) for n in json.loads(self._node(name))["shape"])
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise StoreError(f"{self.root / name} cannot be read as a zarr array: {error}") from None

    def array(self, name: str) -> npt.NDArray[Any]:
        """Numbers of an array.

        Raises
        ------
        StoreError
            If they, or what is said of them, are not what was written.
        """
        return decoded_array(self.root / name, self._node(name), check=True)

    def _node(self, name: str) -> bytes:
        listed = self._known[1] if self._known else self.listed
        for _ in range(2):
            try:
                content = _read(self.root, name)
            except OSError as error:
                self._known = None
                if name in self.listed and not (self.root / name / NODE).exists():
                    raise StoreError(
                        f"{self.root / name} {LOST}. Take it from a copy, or run again what made it; "
                        "`wsi-umedpt verify` finds all that is lost."
                    ) from None
                raise StoreError(f"{self.root / name} cannot be read as zarr: {error}") from None
            if listed.get(name, (found := _sha256(content))) == found:
                return content
            self._known = None  # it may have been replaced since the list was read
            listed = self.listed
        raise StoreError(
            f"{self.root / name}: what it says of itself is not what was written (sha256 differs): it was edited, or "
            f"is damaged. {_REMEDY}"
        )


_REMEDY = "Take it from a copy, or remove the store and embed the slide again; `wsi-umedpt verify` finds all damage."


def _write_root(root: Path, attrs: dict[str, Any]) -> None:
    write_node(root, {**attrs, "sha256": attrs_sha256(attrs)})
    sync_folder(root)


def _seen(root: Path) -> object:
    """Value that changes whenever a root is written; of a remote store, whether it is there."""
    node = root / NODE
    if elsewhere(root):
        return node.is_file()
    try:
        state = os.stat(node)
    except OSError:
        return None
    return state.st_mtime_ns, state.st_ino, state.st_size


def _listed(attrs: dict[str, Any]) -> dict[str, str]:
    contents = attrs.get(CONTENTS)
    return dict(contents) if isinstance(contents, dict) else {}


def _is_entry(name: str, digest: Any) -> bool:
    """Return whether an entry of a list names a node below the root and no other place."""
    return isinstance(digest, str) and "\0" not in name and all(p not in ("", ".", "..") for p in name.split("/"))


def _read(root: Path, name: str) -> bytes:
    return read_node(root / name)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
