"""Nuclei of a slide in one pass, their table, a file for QuPath, and a picture of them.

Run it:  python examples/03_objects.py  (the slide is downloaded once, 2 MB)
"""

from pathlib import Path

from wsi_umedpt.counts import slide_row
from wsi_umedpt.dense import segment_slide
from wsi_umedpt.found import read_objects
from wsi_umedpt.interop.qupath import write_geojson
from wsi_umedpt.models.cards import DEFAULT_ENCODER
from wsi_umedpt.models.release import load_release, shipped
from wsi_umedpt.objectpicture import object_sheet
from wsi_umedpt.picture import save
from wsi_umedpt.sample import sample_slide
from wsi_umedpt.slide import open_slide
from wsi_umedpt.store import SlideStore
from wsi_umedpt.tasks.onepass import OnePass, find_heads
from wsi_umedpt.tiling import TileSpec, lay_grid
from wsi_umedpt.tissue import find_tissue

OUT = Path(__file__).parent / "out"
WINDOWS = TileSpec(size_px=320, stride_px=256, min_tissue=0.05)


def main() -> None:
    release = load_release(shipped()[DEFAULT_ENCODER])
    model = OnePass(release, find_heads(release, ["nuclei_dsb"]), size_px=WINDOWS.size_px)
    path = OUT / "nuclei.zarr"
    with open_slide(sample_slide()) as slide:
        tissue = find_tissue(slide)
        grid = lay_grid(slide.size, slide.mpp, WINDOWS, within=tissue)
        with SlideStore.create(path, slide, tissue, grid) as store:
            print(segment_slide(slide, store, model, WINDOWS, {"model": DEFAULT_ENCODER}))

        store = SlideStore.open(path)
        save(object_sheet(store, "nuclei_dsb", slide), OUT / "03_objects.png")
    nuclei, _ = read_objects(store, "nuclei_dsb")
    large = nuclei.taken(nuclei.measure("area_um2") > 60)
    print(f"{len(nuclei)} nuclei, {len(large)} of them over 60 um2")
    write_geojson(OUT / "large_nuclei.geojson.gz", large, slide_id=store.slide_id, corner=store.corner)
    print({name: value for name, value in slide_row(store).items() if "median" not in name})


if __name__ == "__main__":
    main()
