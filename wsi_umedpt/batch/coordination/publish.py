"""Stores in an object store: made in a local work folder, published when whole, seen whole or not at all.

An object store writes an object at once, and renames nothing. So the nodes' ``zarr.json`` are
what makes things be there: chunks come before the node that they belong to, nodes before the
one they lie in, the root last of all. A reader looks at nodes from the root on, and sees what
was there before or all that is new. Whatever a killed run left is written again by the next.

Read top to bottom: `PublishTarget` (where the stores of a run go), `publish`, `fetch_base`.
"""

import contextlib
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wsi_umedpt.batch.coordination.leases import RUNS
from wsi_umedpt.errors import OptionError, RemoteError, StoreError
from wsi_umedpt.io.paths import place
from wsi_umedpt.io.remote import Remote, asking_until, plain
from wsi_umedpt.store.contents import is_grown
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.zarr_io import NODE, sync_folder

_log = logging.getLogger(__name__)

MARK = "published-to"
"""File in ``.runs`` of a work folder that says where its stores are."""
_AT_ONCE = 8
"""Objects that are written together."""
_OURS = {"tissue", "thumbnail", "grids", "labels", "detections", NODE}
_NO_OBJECTS = ("http", "https", "file", "local")


@dataclass(frozen=True)
class PublishTarget:
    """Prefix in an object store to which the stores of a run are published."""

    url: str
    """A prefix in an object store."""

    def __post_init__(self) -> None:
        if self.url.partition("://")[0].lower() in _NO_OBJECTS:
            raise OptionError(
                f"stores are published to object stores, as s3:// and gs://, and not to {plain(self.url)}; "
                "name a folder (`out`)"
            )

    def __repr__(self) -> str:
        return f"PublishTarget({plain(self.url)!r})"

    def remote(self, path: Path) -> Remote:
        """Address of a store of the work folder once it is published."""
        return Remote(self.url) / path.name

    def holds(self, path: Path) -> bool:
        """Return whether there is a published store of that name."""
        return self.remote(path).read(NODE) != [None]

    def open(self, path: Path) -> SlideStore | None:
        """The published store of that name; None if there is none."""
        return SlideStore.open(self.remote(path).url) if self.holds(path) else None

    def bind(self, work: Path) -> None:
        """Say in a work folder where its stores go.

        Raises
        ------
        OptionError
            If they go elsewhere.
        """
        mark = work / RUNS / MARK
        mark.parent.mkdir(parents=True, exist_ok=True)
        if not mark.exists():  # others that begin at the same time never see half of it
            fresh = mark.with_name(f"{MARK}.{uuid.uuid4().hex}")
            fresh.write_text(plain(self.url.rstrip("/")))
            os.replace(fresh, mark)
        if (known := mark.read_text()) != plain(self.url.rstrip("/")):
            raise OptionError(
                f"the work folder {work} is of runs that publish to {known}, not to {plain(self.url)}; give each "
                "output a work folder of its own (`work`)"
            )
        for gone in work.glob(".*.zarr.published"):  # of a run that was killed while it cleared up
            shutil.rmtree(gone, ignore_errors=True)

    def reach(self) -> None:
        """Write an object and remove it, before hours of work are done that could not be published.

        Raises
        ------
        RemoteError
            If that cannot be done.
        """
        trial = f".wsi-umedpt-{uuid.uuid4().hex}"
        try:
            Remote(self.url).put(trial, b"")
            Remote(self.url).remove(trial)
        except RemoteError as error:
            raise RemoteError(
                f"stores cannot be published to {plain(self.url)}, as nothing can be written and removed there "
                f"({error}). Check the name of the bucket, and your rights to it."
            ) from None

    def take_base(self, path: Path) -> None:
        """Have what a published store is added to, if there is one and nothing of it is here."""
        if not path.exists():
            _base_mark(path).unlink(missing_ok=True)
            if self.holds(path):
                fetch_base(self.remote(path), path)

    def put(self, path: Path, check: Callable[[], None]) -> None:
        """Publish a store of the work folder, and remove it from there."""
        publish(path, self.remote(path), check)
        _log.info("store %s: published to %s", path.name, plain(self.url))
        gone = path.with_name(f".{path.name}.published")
        shutil.rmtree(gone, ignore_errors=True)
        os.rename(path, gone)
        _base_mark(path).unlink(missing_ok=True)
        shutil.rmtree(gone, ignore_errors=True)


def published_to(work: Path) -> str | None:
    """Prefix under which the stores of a work folder are once they are whole; None if they stay."""
    mark = work / RUNS / MARK
    return mark.read_text() if mark.exists() else None


def store_at(out: Path, slide_id: str) -> Path:
    """Path or URL of a slide's store: in this folder, or where its stores are published."""
    here = out / f"{slide_id}.zarr"
    url = None if here.exists() else published_to(out)
    return here if url is None else place(f"{url}/{here.name}")


def publish(store: Path, remote: Remote, check: Callable[[], None] = lambda: None) -> None:
    """Write what a store has and its copy elsewhere lacks; readers see all of it or nothing.

    Parameters
    ----------
    store
        A whole store, or what `fetch_base` made with parts added.
    check
        Called before every change; raises where the right to write was lost.

    Raises
    ------
    StoreError
        If another store lies there, or parts of the same name.
    RemoteError
        If it cannot be written, or what then lies there is not what was written.
    """
    files = {p.relative_to(store).as_posix(): p for p in store.rglob("*") if p.is_file()}
    nodes = [name for name in files if name.rpartition("/")[2] == NODE]
    (root,) = remote.read(NODE)
    there = remote.sizes()
    if root is None and _base_mark(store).exists():
        raise StoreError(
            f"{store} lacks what lay at {remote}, to which it was to be added, and that is gone. Remove {store.name} "
            "from the work folder, and run again: the slide is then done from its start."
        )
    if root is None:  # nothing of what lies there counts
        for stray in sorted(there.keys() - files.keys()):
            if stray.split("/")[0] not in _OURS:
                raise StoreError(f"{remote} holds {stray}, which no run writes; remove it, or choose another output")
            check()
            remote.remove(stray)
        there = {}
    elif not is_grown(root, files[NODE].read_bytes()):
        raise StoreError(
            f"{remote} is another store than the one that was made here, or holds what this one lacks: runs that share "
            "an output must share the work folder. Choose another output."
        )
    known = [name for name in nodes if name in there]
    found = dict(zip(known, remote.read(*known), strict=True))
    written = set[str]()
    with ThreadPoolExecutor(_AT_ONCE) as pool, _ended_at_exit() as over:

        def put(name: str) -> None:
            with asking_until(over):
                check()
                remote.put(name, files[name].read_bytes())

        for node in sorted(nodes, key=_write_order):
            if found.get(node) == files[node].read_bytes():
                continue
            if found.get(node) is not None and node not in (f"labels/{NODE}", NODE):  # lists, which grow
                raise StoreError(
                    f"{remote} holds another {node.rpartition('/')[0]} than the one made here: runs that share an "
                    "output must share the work folder. Choose another output."
                )
            folder = node[: -len(NODE)]
            chunks = [name for name in files if name.startswith(f"{folder}c/")] if node not in found else []
            for stray in [n for n in there if n.startswith(f"{folder}c/") and n not in files and node not in found]:
                check()
                remote.remove(stray)
            list(pool.map(put, chunks))
            put(node)
            written |= {*chunks, node}
    _compare(remote, {name: files[name].stat().st_size for name in written})


@contextlib.contextmanager
def _ended_at_exit() -> Iterator[Callable[[], bool]]:
    """Context that tells threads when it was left: those still asking then, as after Ctrl-C, need not be waited for."""
    over = threading.Event()
    try:
        yield over.is_set
    finally:
        over.set()


def fetch_base(remote: Remote, path: Path) -> None:
    """Make a store here to which parts can be added: all of one elsewhere but chunks of what is large.

    That is features, vectors and scores, and label images.

    Raises
    ------
    RemoteError
        If it cannot be read.
    """
    fresh = path.with_name(f".{path.name}.fetched")
    shutil.rmtree(fresh, ignore_errors=True)
    (root,) = remote.read(NODE)  # what is listed after is whole
    names = [name for name in remote.sizes() if _is_base(name)]
    for name, content in zip(names, remote.read(*names), strict=True):
        if content is None or root is None:
            raise RemoteError(f"{remote} lost {name} while it was read")
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).write_bytes(content)
    sync_folder(fresh, files=True)
    _base_mark(path).touch()
    os.rename(fresh, path)


def _base_mark(path: Path) -> Path:
    """Lies beside a store that `fetch_base` made: alone it is not whole."""
    return path.with_name(f".{path.name}.base")


def _is_base(name: str) -> bool:
    parts = name.split("/")
    below = parts[0] in ("grids", "detections") and len(parts) > 2
    large = parts[0] == "labels" or (below and parts[2] in ("features", "scores", "vectors"))
    return parts[-1] == NODE or not large


def _write_order(node: str) -> tuple[object, ...]:
    """Sort key of nodes for writing: after all that lies in it, label images before their objects, the root last."""
    parts = PurePosixPath(node).parts[:-1]
    return (not parts, parts[:1] == ("detections",), *parts, "\U0010ffff")  # sorts after all names


def _compare(remote: Remote, sizes: dict[str, int]) -> None:
    """Look at what lies there once more."""
    there = remote.sizes()
    for name, size in sizes.items():
        if there.get(name) != size:
            found = "nothing" if name not in there else f"{there[name]} bytes"
            raise RemoteError(f"{remote}/{name} was written with {size} bytes, and holds {found}")
