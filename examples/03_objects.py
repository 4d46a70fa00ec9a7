"""Nuclei of a slide: their table, a file for QuPath, and a picture of them.

Run it:  python examples/03_objects.py  (the slide is downloaded once, 2 MB)
"""

from pathlib import Path

import wsi_umedpt as wu
from wsi_umedpt.interop import write_geojson
from wsi_umedpt.segmentation import slide_row
from wsi_umedpt.store import read_objects

OUT = Path(__file__).parent / "out"


def main() -> None:
    """Segment, draw, filter, export."""
    with wu.open_slide(wu.sample_slide()) as slide:
        store = wu.segment(slide, OUT / "nuclei.zarr", heads="nuclei")
        wu.plot.objects(store, "nuclei", slide).savefig(OUT / "03_objects.png")

    table = store.objects("nuclei")  # GeoDataFrame, level-0 px
    print(f"{len(table)} nuclei, {(table.area_um2 > 60).sum()} of them over 60 um2")
    nuclei, _ = read_objects(store, "nuclei")  # the same as flat arrays, which exports take
    large = nuclei.taken(nuclei.measure("area_um2") > 60)
    write_geojson(OUT / "large_nuclei.geojson.gz", large, slide_id=store.slide_id, corner=store.corner)
    print({name: value for name, value in slide_row(store).items() if "median" not in name})


if __name__ == "__main__":
    main()
