"""Pictures and pages of what a store holds."""

from wsi_umedpt._lazy import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "LegendGroup": "plotting.legend",
        "PointColours": "plotting.scatter",
        "colours_of_names": "plotting.scatter",
        "colours_of_values": "plotting.scatter",
        "draw_heatmap": "plotting.heatmap",
        "draw_points": "plotting.scatter",
        "object_sheet": "plotting.objects",
        "overview": "plotting.sheets",
        "pca_colours": "plotting.sheets",
        "region_picture": "plotting.regions",
        "save": "plotting.sheets",
        "score_sheet": "plotting.sheets",
        "with_legend": "plotting.legend",
    },
)
