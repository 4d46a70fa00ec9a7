"""`SlideStore`: one zarr v3 group per slide, whole or absent.

Everything grows in a work folder beside the store (``NAME.zarr.partial``) and enters the
store by one rename: all that is whole when the store is new, or one array or grid at a
time when it exists. What is in a ``.zarr`` folder is therefore whole, and a killed run is
resumed from its last durable chunk. docs/reference/store.md writes the layout down.

`SlideStore` adds to a store; how one is opened and read is `wsi_umedpt.store.readable_store`, and
what can be interrupted, and the work folder, `wsi_umedpt.store.partial`.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from wsi_umedpt import __version__
from wsi_umedpt.errors import StoreError
from wsi_umedpt.io.paths import local_path
from wsi_umedpt.settings import CHUNK_ROWS
from wsi_umedpt.slides.slide import Slide
from wsi_umedpt.slides.tiling import TileGrid
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.store.contents import SCHEMA, delist, seal
from wsi_umedpt.store.label_pyramid import write_labels_group
from wsi_umedpt.store.partial import (
    FeatureWriter,
    begun_with,
    clear_work,
    is_whole_grid,
    rests_on_damage,
    whole_parts,
    work_folder,
)
from wsi_umedpt.store.readable_store import ReadableStore, Status
from wsi_umedpt.store.tissue_io import write_tissue
from wsi_umedpt.store.write_lock import Hold, locked
from wsi_umedpt.store.zarr_io import discard, read_array, read_attrs, sync_folder, write_array, write_group, write_node

_log = logging.getLogger(__name__)


class SlideStore(ReadableStore):
    """A slide's tissue, grids and features on disk. Made by `open` or `create`."""

    @classmethod
    @contextlib.contextmanager
    def create(
        cls, path: str | Path, slide: Slide, tissue: TissueMask, grid: TileGrid, hold: Hold | None = None
    ) -> Iterator[Self]:
        """Open a store for writing, make what it lacks, and resume where a killed run stopped.

        The store is locked against other processes until the context ends, or is held
        already by the caller. Call `commit` once all features are whole.

        Parameters
        ----------
        path
            Folder of the store, NAME.zarr; it need not exist.
        slide
            Slide of the store.
        tissue, grid
            Tissue mask and grid, which a store holds at least.
        hold
            Right to write, where the caller has it already.

        Yields
        ------
        SlideStore
            Open for reading and writing.

        Raises
        ------
        StoreBusyError
            If another process is writing it.
        StoreError
            If the store that is there is of another slide, or `path` is a URL.
        """
        path = local_path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as ours:
            store = cls(path, hold or Hold(ours.enter_context(locked(path)), work_folder(path)))
            store._prepare(slide, tissue)
            store.add_grid(grid)
            yield store

    @property
    def work(self) -> Path:
        """Folder for what is being made for this store; only one who holds it for writing may use it."""
        if self._hold is None:
            raise StoreError(f"{self.path} was opened for reading; use SlideStore.create to add to it")
        return self._partial

    def check(self) -> None:
        """Refuse to go on where the right to write was lost.

        Raises
        ------
        StoreBusyError
            If another process took it over.
        """
        if self._hold is not None:
            self._hold.check()

    def mirrored(self, name: str) -> Path:
        """Make a group of the work folder from which `commit` takes parts into the store's group of that name.

        Parameters
        ----------
        name
            Path of the group within the store.

        Returns
        -------
        Path
            Folder of the group in the work folder.
        """
        self._mirror_groups(name)
        return self._work / name

    def add_grid(self, grid: TileGrid) -> None:
        """Make a grid that the store lacks; it enters the store with its first features.

        Parameters
        ----------
        grid
            Laid over the store's slide.
        """
        name = f"grids/{grid.spec.grid_id}"
        folder = self._work / name
        if (self.path / name / "zarr.json").exists():
            return
        if (folder / "zarr.json").exists() and not rests_on_damage(folder):
            return
        discard(folder)  # killed half-way, or with tiles that may be readable now
        self._mirror_groups("grids")
        write_array(folder / "xy", grid.xy, dims=("tile", "axis"))
        write_array(folder / "tissue", grid.tissue, dims=("tile",))
        write_group(folder / "features", {})
        write_group(folder, {"spec": grid.spec.to_dict(), "side": grid.side})

    def begun_with(self, encoder_id: str, grid_id: str) -> dict[str, Any]:
        """Read how features that a stopped run left were made; empty where there are none.

        Parameters
        ----------
        encoder_id, grid_id
            Names of the features.

        Returns
        -------
        dict
            `made_by` of their `writer`.
        """
        return begun_with(self._partial / "growing" / grid_id / encoder_id)

    def writer(self, encoder_id: str, grid_id: str, dim: int, made_by: dict[str, Any]) -> FeatureWriter:
        """Start, or resume, writing the features of one encoder.

        Work that other settings (`made_by`) began, or that is of other tiles, is dropped:
        rows are never mixed.

        Parameters
        ----------
        encoder_id, grid_id
            Names of the features.
        dim
            Feature dimension.
        made_by
            Everything that the numbers depend on.

        Returns
        -------
        FeatureWriter
            Its `next_row` is the first tile to embed.
        """
        if self._hold is None:
            raise StoreError(f"{self.path} was opened for reading; use SlideStore.create to add features")
        xy = self._find(f"grids/{grid_id}/xy")
        made_of = {"slide": self.attrs["slide"], "xy": read_attrs(xy)["sha256"]}
        self._mirror_groups(f"grids/{grid_id}/features")
        return FeatureWriter(
            self._partial / "growing" / grid_id / encoder_id,
            self._work / "grids" / grid_id / "features" / encoder_id,
            (len(read_array(xy)), dim),
            made_by,
            made_of,
            CHUNK_ROWS,
            self.check,
        )

    def set_status(self, grid_id: str, status: Status) -> None:
        """Record which tiles could be read, once for all encoders of a grid.

        Parameters
        ----------
        grid_id
            Name of the grid.
        status : uint8 (tile,)
            `OK` or `UNREADABLE`.

        Raises
        ------
        StoreError
            If other tiles are unreadable in the store that is there.
        """
        name = f"grids/{grid_id}/status"
        if (self.path / name / "zarr.json").exists():
            if not np.array_equal(read_array(self.path / name), status):
                raise StoreError(
                    f"{self.slide_id}: other tiles are unreadable now than when the store was made: the slide "
                    "file or its disk is failing. Check the file, remove the store and embed again."
                )
            return
        # One that a stopped run left is of its pass over the slide, not of this one.
        discard(self._work / name)
        self._mirror_groups(f"grids/{grid_id}")
        write_array(self._work / name, status, dims=("tile",))

    def commit(self) -> None:
        """Move all that is whole from the work folder into the store; what still grows stays there."""
        self.check()
        if not self.path.exists():
            for grid in self._work.glob("grids/*/"):
                if not is_whole_grid(grid):  # of another run, which was stopped
                    discard(grid)
            root = read_attrs(self._work)
            write_node(self._work, {**root, "whole": True})  # fails where the folder was taken over
            self._seal(self._work)
            sync_folder(self._work, files=True)
            os.rename(self._work, self.path)
        else:
            parts = list(whole_parts(self._work, self.path))
            delist(self.path, [part.relative_to(self._work).as_posix() for part in parts])
            for part in parts:
                target = self.path / part.relative_to(self._work)
                if not target.parent.exists():
                    write_group(target.parent, {})
                if target.exists():  # a label image that a kill left without its objects
                    replaced = self._partial / "replaced"  # a rename: it fails where the folder was taken over
                    discard(replaced)
                    os.rename(target, replaced)
                os.rename(part, target)
                sync_folder(target.parent)
            self.check()
            self._seal(self.path)
        self.check()
        clear_work(self._partial)
        sync_folder(self.path.parent)
        _log.debug("store %s: committed", self.path)

    @staticmethod
    def _seal(root: Path) -> None:
        if (root / "labels").exists():
            write_labels_group(root / "labels")
        seal(root)

    def _prepare(self, slide: Slide, tissue: TissueMask) -> None:
        if self.path.exists():
            self._check_root(self.path)
            self._check_same(slide, tissue)
        elif not ((self._work / "zarr.json").exists() and self._is_of(slide, tissue)):
            # Nothing is there, or unfinished work of another scale, mask or copy of the slide: begin anew.
            discard(self._work)
            discard(self._partial)
            self._mirror_groups("grids")
            write_tissue(self._work, tissue)
            write_group(self._work, root_attrs(slide))  # last: a work folder without it is begun anew

    def _is_of(self, slide: Slide, tissue: TissueMask) -> bool:
        found = self.attrs.get("slide", {})
        same = (found.get("fingerprint"), found.get("mpp")) == (slide.fingerprint, slide.mpp)
        return same and self.channels == slide.channels and np.array_equal(self.tissue().mask, tissue.mask)

    def _check_same(self, slide: Slide, tissue: TissueMask) -> None:
        found = self.attrs["slide"]
        if found["fingerprint"] != slide.fingerprint:
            raise StoreError(
                f"{self.path} is of another slide ({found['size']} px, fingerprint {found['fingerprint'][:12]}) "
                f"than {slide.path} ({slide.fingerprint[:12]}). Choose another output folder or slide id."
            )
        if found["mpp"] != slide.mpp:
            raise StoreError(
                f"{self.path} was made at {found['mpp']:g} um/px ({found['mpp_source']}), the slide now has "
                f"{slide.mpp:g} ({slide.mpp_source}).",
                remedy=f"Give `mpp` {found['mpp']:g} to add to it; for another scale, choose another output "
                "folder, or remove the store.",
                setting="mpp",
            )
        if self.channels != slide.channels:
            had, has = (", ".join(map(str, channels)) or "colours" for channels in (self.channels, slide.channels))
            raise StoreError(
                f"{self.path} was made of {had}, and the slide is now seen as {has}.",
                remedy="Choose the same channels, with the same windows (`channels`), or another output folder.",
                setting="channels",
            )
        known = self.tissue()
        if not np.array_equal(known.mask, tissue.mask):
            raise StoreError(
                f"{self.path} holds another tissue mask ({known.origin}) than the one asked for now "
                f"({tissue.origin}). Use the same mask and parameters as before, or remove the store to make it anew."
            )

    def _mirror_groups(self, name: str) -> None:
        """Make the group nodes above a part in the work folder."""
        folder = self._work
        for part in name.split("/"):
            folder = folder / part
            if not (folder / "zarr.json").exists():
                write_group(folder, {})


def root_attrs(slide: Slide) -> dict[str, Any]:
    """Attributes of a store's root: no raw vendor metadata, which carries patient data."""
    bounds = slide.bounds
    return {
        "schema": SCHEMA,
        "slide": {
            "fingerprint": slide.fingerprint,
            "size": [*slide.size],
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source,
            "vendor": slide.vendor,
            "objective": slide.objective,
            "bounds": [bounds.x, bounds.y, bounds.width, bounds.height] if bounds else None,
            "reader": slide.reader,
            **({"channels": [one.to_dict() for one in slide.channels]} if slide.channels else {}),
        },
        "software": {"wsi_umedpt": __version__},
    }
