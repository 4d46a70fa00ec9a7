"""`ReadableStore`: opening a store, and reading all that is in it but what needs other libraries (`StoreTables`).

Read top to bottom: opening, reading, where in the folder things are. Through `SlideStore`, which adds to stores, the
same methods also read what is whole in its work folder.
"""

import contextlib
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import StoreError
from wsi_umedpt.io.paths import elsewhere, place
from wsi_umedpt.messages import counted
from wsi_umedpt.slides.channels import ChannelChoice
from wsi_umedpt.slides.tiling import TileGrid, TileSpec
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.store.contents import SCHEMA, Nodes, check_root
from wsi_umedpt.store.features import Bag
from wsi_umedpt.store.label_pyramid import LabelImage, read_labels
from wsi_umedpt.store.partial import work_folder
from wsi_umedpt.store.tables import StoreTables, one_named
from wsi_umedpt.store.tissue_io import read_tissue
from wsi_umedpt.store.write_lock import Hold
from wsi_umedpt.store.zarr_io import read_attrs

OK, UNREADABLE = 0, 1
"""Values of a grid's ``status`` array."""

DTYPES = {"xy": np.int32, "tissue": np.float32, "status": np.uint8}
"""Types of a grid's arrays; features are float16."""
_OF_SLIDE = {"fingerprint", "size", "mpp", "mpp_source"}
"""Keys that a store must have on its slide."""

Status = npt.NDArray[np.uint8]


class ReadableStore(StoreTables):
    """A store as it is read."""

    def __init__(self, path: Path, hold: Hold | None = None) -> None:
        self.path = path
        self._partial = hold.work if hold else work_folder(path)
        self._work = self._partial / "store"
        self._hold = hold
        self.nodes = Nodes(path, writing=hold is not None)
        """Nodes of the store; reading through them finds what was lost, changed or edited."""

    # ---- opening ----

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a whole store for reading, here or, given a URL, elsewhere.

        Parameters
        ----------
        path
            Folder or URL of the store.

        Returns
        -------
        SlideStore
            Nothing is read yet but the list of its contents.

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
            hint = " A run that was interrupted left its work beside it: embed the slide again to resume it."
            raise StoreError(f"there is no store at {path}.{hint if store._partial.exists() else ''}")
        if not (store.path / "zarr.json").exists():
            within = sorted(store.path.glob("*.zarr"))
            hint = f"Name one of the stores in it, as {within[0]}." if within else "It holds none either."
            raise StoreError(f"{path} is a folder, but no store: it has no zarr.json. {hint}")
        store._check_root(store.path)
        return store

    @property
    def slide_id(self) -> str:
        """The store's name without its suffix."""
        return self.path.name.removesuffix(".zarr")

    @property
    def attrs(self) -> dict[str, Any]:
        """Root attributes: schema, slide (fingerprint, size, mpp, ...), software."""
        return read_attrs(self.path if self.path.exists() else self._work)

    @property
    def corner(self) -> tuple[int, int]:
        """(x, y) of the slide's bounds, level-0 px, from which QuPath counts; (0, 0) where it states none."""
        stated = self.attrs["slide"].get("bounds")
        return (int(stated[0]), int(stated[1])) if stated else (0, 0)

    @property
    def channels(self) -> tuple[ChannelChoice, ...]:
        """Channels that were seen as red, green and blue, or the one seen as grey; empty of a slide in colour."""
        return tuple(map(ChannelChoice.from_dict, self.attrs["slide"].get("channels", ())))

    @property
    def stated_mpp(self) -> float | None:
        """The scale that the user gave when the store was made; None where the slide states one."""
        of = self.attrs["slide"]
        return float(of["mpp"]) if of["mpp_source"] == "user" else None

    @property
    def grid_ids(self) -> list[str]:
        """Names of the grids, sorted."""
        return self._names("grids/*")

    def encoder_ids(self, grid_id: str | None = None) -> list[str]:
        """List the encoders whose features the store holds.

        Parameters
        ----------
        grid_id
            Grid to list; by default all.

        Returns
        -------
        list of str
            Names, sorted.
        """
        return self._names(f"grids/{grid_id or '*'}/features/*")

    def grid(self, grid_id: str | None = None) -> TileGrid:
        """Read a grid.

        Parameters
        ----------
        grid_id
            Its name; may be left out where there is only one.

        Returns
        -------
        TileGrid
            All tiles, the unreadable ones too; see `status`.

        Raises
        ------
        StoreError
            If there is no such grid, several and none is named, or it is damaged.
        """
        name = f"grids/{self._one_grid(grid_id)}"
        attrs = self._attrs(name)
        return TileGrid(
            TileSpec.from_dict(attrs["spec"]),
            float(attrs["side"]),
            self._array(f"{name}/xy"),
            self._array(f"{name}/tissue"),
        )

    def status(self, grid_id: str | None = None) -> Status:
        """Read which tiles of a grid could be read.

        Parameters
        ----------
        grid_id
            See `grid`.

        Returns
        -------
        uint8 (tile,)
            `OK` or `UNREADABLE`.
        """
        return self._array(f"grids/{self._one_grid(grid_id)}/status")

    def tissue(self) -> TissueMask:
        """Read the tissue mask and its thumbnail.

        Returns
        -------
        TissueMask
            As it was when the store was made.
        """
        return read_tissue(self._nodes_of("tissue"))

    def tissue_made(self) -> tuple[str, dict[str, Any]]:
        """Read how the tissue mask was made, without the mask.

        Returns
        -------
        method : str
            Empty where it is not known.
        parameters : dict
            Parameters of the method.
        """
        attrs = self._attrs("tissue")
        return attrs.get("method", ""), attrs.get("parameters", {})

    def labels(self, name: str) -> LabelImage:
        """Open a label image; its pixels are read, and the checksums of their chunks compared, as they are asked for.

        Parameters
        ----------
        name
            Kind of objects.

        Returns
        -------
        LabelImage
            Levels from fine to coarse.

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

    def features_path(self, encoder_id: str | None = None, grid_id: str | None = None) -> Path:
        """Find the zarr array of features.

        Parameters
        ----------
        encoder_id, grid_id
            See `features`.

        Returns
        -------
        Path
            Folder of the array.
        """
        return self._find(self._features(encoder_id, grid_id))

    def feature_attrs(self, encoder_id: str | None = None, grid_id: str | None = None) -> dict[str, Any]:
        """Read what made the features.

        Parameters
        ----------
        encoder_id, grid_id
            See `features`.

        Returns
        -------
        dict
            Card, weights, transform, precision, probe embedding, sha256.
        """
        return self._attrs(self._features(encoder_id, grid_id))

    def features(self, encoder_id: str | None = None, grid_id: str | None = None) -> Bag:
        """Read the features of all readable tiles.

        Parameters
        ----------
        encoder_id, grid_id
            Names, or their beginnings as ``umedpt`` for ``umedpt_lite0.v2``; may be left out where there is only one.

        Returns
        -------
        Bag
            Float16 features (tile, dim) with the positions of their tiles, level-0 px.

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
        return Bag(self.slide_id, features, xy, index, encoder_id, grid_id)

    def has_features(self, encoder_id: str, grid_id: str) -> bool:
        """Tell whether these features are whole.

        Parameters
        ----------
        encoder_id, grid_id
            Whole names.

        Returns
        -------
        bool
            False also where they are being made.
        """
        return self._has(f"grids/{grid_id}/features/{encoder_id}")

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
        encoder_id = one_named(encoder_id, self.encoder_ids(grid_id)) or encoder_id
        if encoder_id and grid_id is None and encoder_id not in (known := self.encoder_ids()):
            raise StoreError(f"{self.path} holds no features of {encoder_id}. {_choice(known, 'encoder_id')}")
        grid_id = self._one_grid(grid_id, holding=encoder_id)
        known = self.encoder_ids(grid_id)
        if encoder_id is None and len(known) == 1:
            encoder_id = known[0]
        if encoder_id not in known:
            asked = f"no features of {encoder_id}" if encoder_id else f"features of {counted(len(known), 'encoder')}"
            raise StoreError(f"{self.path}, grid {grid_id}, holds {asked}. {_choice(known, 'encoder_id')}")
        return f"grids/{grid_id}/features/{encoder_id}"

    def _one_grid(self, grid_id: str | None, holding: str | None = None) -> str:
        known = self.grid_ids
        if grid_id is None and holding is not None:
            known = [g for g in known if holding in self.encoder_ids(g)] or known
        if grid_id is None and len(known) == 1:
            return known[0]
        if grid_id not in known:
            asked = f"no grid {grid_id}" if grid_id else counted(len(known), "grid")
            raise StoreError(f"{self.path} holds {asked}. {_choice(known, 'grid_id')}")
        return grid_id

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


def _choice(known: list[str], argument: str) -> str:
    return f"It holds: {', '.join(known)}. Name one with `{argument}`." if known else "It holds none."
