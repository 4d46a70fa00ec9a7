"""`SlideStore`: one zarr v3 group per slide, whole or absent.

Everything grows in a work folder beside the store (``NAME.zarr.partial``) and enters the
store by one rename: all that is whole when the store is new, or one array or grid at a
time when it exists. What is in a ``.zarr`` folder is therefore whole, and a killed run is
gone on with from its last durable chunk. docs/store.md writes the layout down.

`SlideStore`, read top to bottom: opening, reading, adding. What can be
interrupted, and the work folder, lie in `wsi_umedpt.growing`.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from wsi_umedpt import __version__
from wsi_umedpt.arrays import discard, read_array, read_attrs, sync_folder, write_array, write_group, write_node
from wsi_umedpt.bag import SlideBag
from wsi_umedpt.contents import SCHEMA, Nodes, check_root, delist, seal
from wsi_umedpt.errors import StoreError
from wsi_umedpt.growing import FeatureWriter, clear_work, is_whole_grid, rests_on_damage, whole_parts, work_folder
from wsi_umedpt.labels import LabelImage, read_labels, write_labels_group
from wsi_umedpt.locks import Hold, locked
from wsi_umedpt.places import elsewhere, local_path, place
from wsi_umedpt.slide import Slide
from wsi_umedpt.storedtissue import read_tissue, write_tissue
from wsi_umedpt.tiling import TileGrid, TileSpec
from wsi_umedpt.tissue import TissueMask

CHUNK_ROWS = 1024
OK, UNREADABLE = 0, 1
"""Values of a grid's ``status`` array."""

DTYPES = {"xy": np.int32, "tissue": np.float32, "status": np.uint8}
"""Of a grid's arrays; features are float16."""
_OF_SLIDE = {"fingerprint", "size", "mpp", "mpp_source"}
"""What a store must say of its slide."""

Status = npt.NDArray[np.uint8]


class SlideStore:
    """A slide's tissue, grids and features on disk. Made by `open` or `create`."""

    def __init__(self, path: Path, hold: Hold | None = None) -> None:
        self.path = path
        self._partial = hold.work if hold else work_folder(path)
        self._work = self._partial / "store"
        self._hold = hold
        self.nodes = Nodes(path, writing=hold is not None)
        """What is in the store; reading through it finds what was lost, changed or edited."""

    # ---- opening ----

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a whole store for reading, here or, given a URL, elsewhere.

        Raises
        ------
        StoreError
            If there is none, it is not whole, or it is of a newer schema.
        """
        store = cls(place(path))
        if elsewhere(store.path):
            with contextlib.suppress(StoreError):
                read_attrs(store.path)  # once its root is there, what is listed is whole
        if store.path.is_file():
            raise StoreError(f"{path} is a file, not a store. A store is a folder, NAME.zarr, that `embed` makes.")
        if not store.path.is_dir():
            hint = " A run that was interrupted left its work beside it: embed the slide again to go on."
            raise StoreError(f"there is no store at {path}.{hint if store._partial.exists() else ''}")
        if not (store.path / "zarr.json").exists():
            within = sorted(store.path.glob("*.zarr"))
            hint = f"Name one of the stores in it, as {within[0]}." if within else "It holds none either."
            raise StoreError(f"{path} is a folder, but no store: it has no zarr.json. {hint}")
        store._check_root(store.path)
        return store

    @classmethod
    @contextlib.contextmanager
    def create(
        cls, path: str | Path, slide: Slide, tissue: TissueMask, grid: TileGrid, hold: Hold | None = None
    ) -> Iterator[Self]:
        """Open a store for writing, making what it lacks; goes on where a killed run stopped.

        The store is locked against other processes until the context ends, or is held
        already by the caller. Call `commit` once all features are whole.

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
            store._add_grid(grid)
            yield store

    @property
    def slide_id(self) -> str:
        """The store's name without its suffix."""
        return self.path.name.removesuffix(".zarr")

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
        """A group of the work folder from which `commit` takes parts into the store's group of that name."""
        self._mirror_groups(name)
        return self._work / name

    @property
    def attrs(self) -> dict[str, Any]:
        """Root attributes: schema, slide (fingerprint, size, mpp, ...), software."""
        return read_attrs(self.path if self.path.exists() else self._work)

    @property
    def corner(self) -> tuple[int, int]:
        """(x, y) of the slide's bounds, level-0 px, from which QuPath counts; (0, 0) where it states none."""
        stated = self.attrs["slide"].get("bounds")
        return (int(stated[0]), int(stated[1])) if stated else (0, 0)

    # ---- reading ----

    @property
    def grid_ids(self) -> list[str]:
        """Names of the grids, sorted."""
        return self._names("grids/*")

    def encoder_ids(self, grid_id: str | None = None) -> list[str]:
        """Names of the encoders whose features the store holds, sorted."""
        return self._names(f"grids/{grid_id or '*'}/features/*")

    def grid(self, grid_id: str | None = None) -> TileGrid:
        """Read a grid; its name may be left out where there is only one."""
        name = f"grids/{self._one_grid(grid_id)}"
        attrs = self._attrs(name)
        return TileGrid(
            TileSpec.from_dict(attrs["spec"]),
            float(attrs["side"]),
            self._array(f"{name}/xy"),
            self._array(f"{name}/tissue"),
        )

    def status(self, grid_id: str | None = None) -> Status:
        """(tile,) `OK` or `UNREADABLE`."""
        return self._array(f"grids/{self._one_grid(grid_id)}/status")

    def tissue(self) -> TissueMask:
        """Read the tissue mask and its thumbnail."""
        return read_tissue(self._nodes_of("tissue"))

    def tissue_made(self) -> tuple[str, dict[str, Any]]:
        """Method and parameters of the tissue mask, without reading it."""
        attrs = self._attrs("tissue")
        return attrs.get("method", ""), attrs.get("parameters", {})

    def labels(self, name: str) -> LabelImage:
        """Open a label image; its pixels are read, and the checksums of their chunks compared, as they are asked for.

        Raises
        ------
        StoreError
            If there is none of that name, or it is damaged.
        """
        self._attrs(f"labels/{name}")
        image = read_labels(self._find(f"labels/{name}"))
        for level in range(len(image.levels)):
            self._attrs(f"labels/{name}/{level}")
        return image

    def feature_attrs(self, encoder_id: str | None = None, grid_id: str | None = None) -> dict[str, Any]:
        """What made the features: card, weights, transform, precision, probe embedding, sha256."""
        return self._attrs(self._features(encoder_id, grid_id))

    def bag(self, encoder_id: str | None = None, grid_id: str | None = None) -> SlideBag:
        """Read the features of all readable tiles.

        Parameters
        ----------
        encoder_id, grid_id
            May be left out where there is only one.

        Raises
        ------
        StoreError
            If the store holds no such features, or several and none is named; or they are damaged.
        """
        _, grid_id, _, encoder_id = (name := self._features(encoder_id, grid_id)).split("/")
        found = {part: self._array(f"grids/{grid_id}/{part}") for part in ("xy", "status")}
        found["features"] = self._array(name)
        xy, status, features = found["xy"], found["status"], found["features"]
        for part, values in found.items():
            if len(values) != len(xy) or values.dtype != DTYPES.get(part, np.float16):
                where = self.path / (name if part == "features" else f"grids/{grid_id}/{part}")
                raise StoreError(f"{where} is {values.dtype} of {len(values)} rows for {len(xy)} tiles: damaged")
        index = np.arange(len(xy))
        if status.any():
            index = np.flatnonzero(status == OK)
            features, xy = features[index], xy[index]
        return SlideBag(self.slide_id, features, xy, index, encoder_id, grid_id)

    # ---- adding ----

    def writer(self, encoder_id: str, grid_id: str, dim: int, made_by: dict[str, Any]) -> FeatureWriter:
        """Start, or go on with, the features of one encoder.

        Work that other settings (`made_by`) began, or that is of other tiles, is dropped:
        rows are never mixed.
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

    def has_features(self, encoder_id: str, grid_id: str) -> bool:
        """Whether these features are whole."""
        return self._has(f"grids/{grid_id}/features/{encoder_id}")

    def set_status(self, grid_id: str, status: Status) -> None:
        """Record which tiles could be read, once for all encoders of a grid.

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
        write_array(self._work / name, status)

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
        return same and np.array_equal(self.tissue().mask, tissue.mask)

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
                f"{slide.mpp:g} ({slide.mpp_source}). Give --mpp {found['mpp']:g} to go on with it; for another scale, "
                "choose another output folder, or remove the store."
            )
        known = self.tissue()
        if not np.array_equal(known.mask, tissue.mask):
            raise StoreError(
                f"{self.path} holds another tissue mask ({known.origin}) than the one asked for now "
                f"({tissue.origin}). Use the same mask and parameters as before, or remove the store to make it anew."
            )

    def _add_grid(self, grid: TileGrid) -> None:
        name = f"grids/{grid.spec.grid_id}"
        folder = self._work / name
        if (self.path / name / "zarr.json").exists():
            return
        if (folder / "zarr.json").exists() and not rests_on_damage(folder):
            return
        discard(folder)  # killed half-way, or with tiles that may be readable now
        self._mirror_groups("grids")
        write_array(folder / "xy", grid.xy)
        write_array(folder / "tissue", grid.tissue)
        write_group(folder / "features", {})
        write_group(folder, {"spec": grid.spec.to_dict(), "side": grid.side})

    # ---- where things are ----

    def _all_nodes(self) -> list[Nodes]:
        # A reader sees the store alone; a writer sees its own work too.
        return [self.nodes, Nodes(self._work)] if self._hold else [self.nodes]

    def _has(self, name: str) -> bool:
        return any((n.root / name / "zarr.json").exists() and name in n for n in self._all_nodes())

    def _find(self, name: str) -> Path:
        return self._nodes_of(name).root / name

    def _nodes_of(self, name: str) -> Nodes:
        """Those among which a node is."""
        known = [nodes for nodes in self._all_nodes() if name in nodes]
        for nodes in known:
            if (nodes.root / name / "zarr.json").exists():
                return nodes
        if known:
            return known[0]  # it was lost, as reading it will say
        raise StoreError(f"{self.path} holds no {name}")

    def _attrs(self, name: str) -> dict[str, Any]:
        return self._nodes_of(name).attrs(name)

    def _array(self, name: str) -> npt.NDArray[Any]:
        return self._nodes_of(name).array(name)

    def _names(self, pattern: str) -> list[str]:
        return sorted({name for nodes in self._all_nodes() for name in nodes.names(pattern)})

    def _features(self, encoder_id: str | None, grid_id: str | None) -> str:
        if encoder_id and grid_id is None and encoder_id not in (known := self.encoder_ids()):
            raise StoreError(f"{self.path} holds no features of {encoder_id}. {_choice(known, '-m', 'encoder_id')}")
        grid_id = self._one_grid(grid_id, holding=encoder_id)
        known = self.encoder_ids(grid_id)
        if encoder_id is None and len(known) == 1:
            encoder_id = known[0]
        if encoder_id not in known:
            asked = f"no features of {encoder_id}" if encoder_id else f"features of {len(known)} encoders"
            raise StoreError(f"{self.path}, grid {grid_id}, holds {asked}. {_choice(known, '-m', 'encoder_id')}")
        return f"grids/{grid_id}/features/{encoder_id}"

    def _one_grid(self, grid_id: str | None, holding: str | None = None) -> str:
        known = self.grid_ids
        if grid_id is None and holding is not None:
            known = [g for g in known if holding in self.encoder_ids(g)] or known
        if grid_id is None and len(known) == 1:
            return known[0]
        if grid_id not in known:
            asked = f"no grid {grid_id}" if grid_id else f"{len(known)} grids"
            raise StoreError(f"{self.path} holds {asked}. {_choice(known, '--grid', 'grid_id')}")
        return grid_id

    def _mirror_groups(self, name: str) -> None:
        """Make the group nodes above a part in the work folder."""
        folder = self._work
        for part in name.split("/"):
            folder = folder / part
            if not (folder / "zarr.json").exists():
                write_group(folder, {})

    def _check_root(self, path: Path) -> None:
        attrs = read_attrs(path)
        schema = attrs.get("schema")
        slide = attrs.get("slide")
        if not isinstance(schema, int) or not (isinstance(slide, dict) and slide.keys() >= _OF_SLIDE):
            raise StoreError(f"{path} is no store of wsi_umedpt: it has no schema number, or does not say its slide")
        if schema > SCHEMA:
            raise StoreError(f"{path} has schema {schema}; this version reads up to {SCHEMA}. Update wsi_umedpt.")
        if attrs.get("whole") is not True:
            raise StoreError(f"{path} is not whole: it was copied while being made. Embed the slide again.")
        check_root(path, attrs)


def _choice(known: list[str], flag: str, argument: str) -> str:
    return f"It holds: {', '.join(known)}. Name one with {flag} (in Python {argument})." if known else "It holds none."


def root_attrs(slide: Slide) -> dict[str, Any]:
    """What a store says of its slide: no raw vendor metadata, which carries patient data."""
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
        },
        "software": {"wsi_umedpt": __version__},
    }
