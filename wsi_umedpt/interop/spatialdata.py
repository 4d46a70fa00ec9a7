"""SpatialData of a store: tiles as squares annotated by their features, objects as polygons; all in level-0 px.

The index of a square, and the instance key of its row in the table, is the row of its tile in the grid.
"""

from typing import TYPE_CHECKING, Any

from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop.anndata import to_anndata
from wsi_umedpt.store.objects_io import found_names
from wsi_umedpt.store.slide_store import SlideStore

if TYPE_CHECKING:
    from spatialdata import SpatialData

TILES, FEATURES = "tiles", "tile_features"
"""Names of the squares, and of the table that annotates them; SpatialData demands that they differ."""


def to_spatialdata(store: SlideStore, *, encoder_id: str | None = None, grid_id: str | None = None) -> "SpatialData":
    """Convert tiles with their features, and objects of every kind, to SpatialData.

    Raises
    ------
    InteropError
        If spatialdata is not installed.
    StoreError
        As of `SlideStore.features`.
    """
    try:
        import geopandas as gpd
        import pandas as pd
        import shapely
        from spatialdata import SpatialData
        from spatialdata.models import ShapesModel, TableModel
    except ImportError as error:
        raise InteropError(
            f"SpatialData is made by its own package ({error}): pip install 'wsi-umedpt[spatialdata]'"
        ) from None
    table = to_anndata(store, encoder_id=encoder_id, grid_id=grid_id)
    side = table.uns["wsi_umedpt"]["side"]
    corners = table.obsm["spatial"] - side / 2
    squares = shapely.box(*corners.T, *(corners + side).T)
    table.obs["region"] = pd.Categorical([TILES] * len(table))
    shapes: dict[str, Any] = {
        TILES: ShapesModel.parse(gpd.GeoDataFrame(geometry=squares, index=table.obs["row"].to_numpy()))
    }
    shapes |= {kind: ShapesModel.parse(store.objects(kind)) for kind in found_names(store)}
    annotated = TableModel.parse(table, region=TILES, region_key="region", instance_key="row")
    return SpatialData(shapes=shapes, tables={FEATURES: annotated})
