"""The results of one slide: the only room that knows where in a store anything lies."""

from wsi_umedpt._lazy import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "Bag": "store.features",
        "FeatureKind": "store.features",
        "LabelImage": "store.label_pyramid",
        "MEASURES": "store.objects",
        "Objects": "store.objects",
        "PALETTE": "store.objects",
        "SlideStore": "store.slide_store",
        "is_store": "store.layout",
        "found_names": "store.objects_io",
        "growing_features": "store.partial",
        "object_score_ids": "store.scores_io",
        "read_classified": "store.scores_io",
        "read_object_scores": "store.scores_io",
        "read_object_vectors": "store.objects_io",
        "read_objects": "store.objects_io",
        "read_scores": "store.scores_io",
        "rows_kept": "store.partial",
        "score_ids": "store.scores_io",
        "whole_file": "store.zarr_io",
        "work_folder": "store.partial",
        "write_json": "store.zarr_io",
    },
)
