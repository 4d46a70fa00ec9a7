"""Annotations that people drew in other programs: QuPath's GeoJSON, and XML of ASAP, ImageScope and HALO."""

from wsi_umedpt._lazy import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "ANNOTATION_SUFFIXES": "annotations.reading",
        "Annotation": "annotations.annotation",
        "CLASS_MEMBER": "annotations.geojson_features",
        "Corner": "annotations.annotation",
        "DRAWING_TOOLS": "annotations.annotation",
        "DRAWN_AS_MEMBER": "annotations.geojson_features",
        "NumberedObject": "annotations.labels",
        "ORIGIN_MEMBER": "annotations.geojson_features",
        "Origin": "annotations.annotation",
        "POINT_COLUMNS": "annotations.labels",
        "Point": "annotations.labels",
        "Region": "annotations.labels",
        "labels_at": "annotations.labels",
        "read_annotation_file": "annotations.reading",
        "read_drawn_labels": "annotations.labels",
        "read_object_labels": "annotations.labels",
        "read_points": "annotations.labels",
        "skipped_words": "annotations.annotation",
    },
)
