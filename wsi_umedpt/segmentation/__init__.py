"""Objects of a slide: from outputs of pixel and box heads to outlines, and to counts in regions and hotspots."""

from wsi_umedpt._lazy import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "HOTSPOT_MM2": "segmentation.hotspots",
        "Hotspot": "segmentation.hotspots",
        "RegionCounts": "segmentation.region_counts",
        "count_in_region": "segmentation.region_counts",
        "find_hotspots": "segmentation.hotspots",
        "hotspot_rows": "segmentation.hotspots",
        "region_rows": "segmentation.region_counts",
        "slide_row": "segmentation.object_stats",
    },
)
