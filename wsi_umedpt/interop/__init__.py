"""Objects and features of tiles to and from the files of other tools."""

from wsi_umedpt._lazy import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "MEASUREMENTS": "interop.qupath",
        "StoreSource": "interop.feature_sources",
        "as_columns": "interop.tables",
        "find_sources": "interop.feature_banks",
        "find_usable": "interop.feature_banks",
        "objects_of_annotations": "interop.qupath",
        "to_anndata": "interop.anndata",
        "to_spatialdata": "interop.spatialdata",
        "write_anndata": "interop.anndata",
        "write_geojson": "interop.qupath",
        "write_table": "interop.tables",
    },
)
