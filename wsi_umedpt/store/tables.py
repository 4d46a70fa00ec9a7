"""Tables and arrays of a store: pandas, GeoPandas, AnnData, SpatialData, dask.

`StoreTables` is the part of `SlideStore` that turns what was read into objects of other libraries, each imported
when it is needed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from wsi_umedpt.errors import StoreError
from wsi_umedpt.messages import counted

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from dask.array import Array as DaskArray
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from pandas import DataFrame
    from spatialdata import SpatialData

    from wsi_umedpt.store.slide_store import SlideStore


class StoreTables:
    """Contents of a store as objects of other libraries."""

    path: Path

    def objects(self, kind: str | None = None, scores: str | None = None) -> "GeoDataFrame":
        """Read objects (nuclei, cells) as a table.

        Parameters
        ----------
        kind
            Name of the head that found them, as ``nuclei``, or its beginning; may be left out where there is one.
        scores
            Name of scores that say their classes, as a probe makes them; by default they are of the head's classes.

        Returns
        -------
        geopandas.GeoDataFrame
            A row an object: ``geometry`` (polygons, level-0 px), ``class``, ``score`` and the measures of
            `wsi_umedpt.store.objects.MEASURES`; `attrs` says what made them. With `scores`, ``probability`` of the
            class.

        Raises
        ------
        StoreError
            If there are none of that kind, or no such scores, or they are damaged.
        """
        from wsi_umedpt.store.scores_io import read_classified

        found, probability, made_by = read_classified(cast("SlideStore", self), kind, scores)
        table = found.to_geodataframe(made_by)
        if probability is not None:
            table.insert(2, "probability", probability)
        return table

    def object_vectors(self, kind: str | None = None) -> "NDArray[np.float16]":
        """Read the embeddings of objects.

        Parameters
        ----------
        kind
            As of `objects`, whose order the rows have.

        Returns
        -------
        float16 (object, dim)
            The encoder's maps, each averaged over what the object's outline encloses, one behind the other.

        Raises
        ------
        StoreError
            If there are no objects of that kind, or they have no vectors, as in stores of earlier versions.
        """
        from wsi_umedpt.store.objects_io import read_object_vectors

        return read_object_vectors(cast("SlideStore", self), kind)[0]

    def scores(self, name: str, grid_id: str | None = None) -> "DataFrame":
        """Read scores of tiles (probabilities, attention) as a table with their positions.

        Parameters
        ----------
        name
            Name of the scores: a probe's or slide model's.
        grid_id
            May be left out where one grid has scores of this name.

        Returns
        -------
        pandas.DataFrame
            A row a tile: ``x``, ``y`` (top left corner, level-0 px) and the columns of the scores, nan where a tile
            has none.

        Raises
        ------
        StoreError
            If there are none of that name; those that there are, are named.
        """
        import pandas as pd

        from wsi_umedpt.store.scores_io import read_scores

        store = cast("SlideStore", self)
        values, made_by = read_scores(store, name, grid_id)
        x, y = store.grid(made_by["grid_id"]).xy.T
        table = pd.DataFrame({"x": x, "y": y} | {c: values[:, k] for k, c in enumerate(made_by["columns"])})
        table.attrs = {"made_by": made_by}
        return table

    def to_anndata(self, encoder_id: str | None = None, grid_id: str | None = None) -> "AnnData":
        """Convert features to AnnData.

        Parameters
        ----------
        encoder_id, grid_id
            See `SlideStore.features`.

        Returns
        -------
        anndata.AnnData
            ``X`` is (tile, dim); positions of tile centres are in ``obsm["spatial"]``, level-0 px.

        Raises
        ------
        InteropError
            If anndata is not installed.
        StoreError
            As of `features`.
        """
        from wsi_umedpt.interop.anndata import to_anndata

        return to_anndata(cast("SlideStore", self), encoder_id=encoder_id, grid_id=grid_id)

    def to_spatialdata(self, encoder_id: str | None = None, grid_id: str | None = None) -> "SpatialData":
        """Convert tiles with their features, and objects of every kind, to SpatialData.

        Parameters
        ----------
        encoder_id, grid_id
            See `SlideStore.features`.

        Returns
        -------
        spatialdata.SpatialData
            Shapes ``tiles`` and those of each kind of object, level-0 px; the table ``tile_features`` annotates the
            tiles.

        Raises
        ------
        InteropError
            If spatialdata is not installed.
        """
        from wsi_umedpt.interop.spatialdata import to_spatialdata

        return to_spatialdata(cast("SlideStore", self), encoder_id=encoder_id, grid_id=grid_id)

    def to_dask(self, encoder_id: str | None = None, grid_id: str | None = None) -> "DaskArray":
        """Open the features as a dask array whose chunks are read when they are needed.

        Parameters
        ----------
        encoder_id, grid_id
            See `SlideStore.features`.

        Returns
        -------
        dask.array.Array
            Float16 (tile, dim), all tiles: rows of those that could not be read are zero, see `status`. Checksums are
            not compared.
        """
        import dask.array

        folder = cast("SlideStore", self).features_path(encoder_id, grid_id)
        return cast("DaskArray", dask.array.from_zarr(str(folder)))  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        """One line a part: the slide, tissue, grids with their features and scores, objects."""
        store = cast("SlideStore", self)
        slide, names = store.attrs["slide"], store.nodes.names
        width, height = slide["size"]
        lines = [f"SlideStore {self.path}"]
        lines.append(f"  slide    {width} x {height} px, {slide['mpp']:g} um/px ({slide['mpp_source']})")
        for grid_id in store.grid_ids:
            lines.append(f"  grid     {grid_id}: {counted(len(store.status(grid_id)), 'tile')}")
            lines += [f"    features {name}" for name in store.encoder_ids(grid_id)]
            lines += [f"    scores   {name}" for name in names(f"grids/{grid_id}/scores/*")]
        lines += [f"  objects  {name}" for name in names("detections/*")]
        return "\n".join(lines)


def one_named(name: str | None, known: Sequence[str]) -> str | None:
    """The one of `known` that a name means: its own, or the only one that begins with it; None if there is no such.

    A beginning ends where a part of the name does: ``umedpt`` is ``umedpt_lite0.v2``, ``blood`` is ``blood_cells``.

    Raises
    ------
    StoreError
        If several begin so.
    """
    if name is None or name in known:
        return name
    found = [one for one in known if one.startswith(name) and one[len(name)] in "._-"]
    if len(found) > 1:
        raise StoreError(f"{name!r} may be any of {', '.join(found)}; name one of them in full")
    return found[0] if found else None
