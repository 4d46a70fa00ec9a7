"""Few labels to a map of the whole slide: a tile classifier on frozen features, fitted in seconds.

Run it:  python examples/02_few_labels.py
"""

from pathlib import Path

import shapely

from wsi_umedpt.annotations import Region
from wsi_umedpt.encode import encode_slide
from wsi_umedpt.models.encoder import load_encoder
from wsi_umedpt.picture import save, score_sheet
from wsi_umedpt.probe import fit_probe, label_tiles, score_store
from wsi_umedpt.sample import sample_slide
from wsi_umedpt.slide import open_slide
from wsi_umedpt.store import SlideStore
from wsi_umedpt.tiling import TileSpec, lay_grid
from wsi_umedpt.tissue import find_tissue

OUT = Path(__file__).parent / "out"
# What a pathologist would draw in QuPath and export as GeoJSON (see `read_regions`): level-0 pixels.
REGIONS = [
    Region("epidermis", shapely.box(1150, 550, 1500, 1050)),
    Region("epidermis", shapely.box(1250, 1750, 1650, 2200)),
    Region("dermis", shapely.box(650, 2000, 900, 2900)),
    Region("dermis", shapely.box(850, 1150, 1050, 1850)),
    Region("dermis", shapely.box(1650, 1900, 1850, 2400)),
]


def main() -> None:
    """Embed overlapping tiles, label a few of them, fit, score all, draw."""
    encoder = load_encoder(device="cpu")
    spec = TileSpec(stride_px=112)  # half a tile: a finer map
    with open_slide(sample_slide()) as slide:
        tissue = find_tissue(slide)
        grid = lay_grid(slide.size, slide.mpp, spec, within=tissue)
        with SlideStore.create(OUT / "few_labels.zarr", slide, tissue, grid) as store:
            encode_slide(slide, store, [encoder], grid_id=spec.grid_id)

    store = SlideStore.open(OUT / "few_labels.zarr")
    bag = store.bag()
    labelled = label_tiles(store, bag, grid.side, regions=REGIONS)
    probe = fit_probe([labelled], name="skin", encoder=encoder.made_by["card"] | encoder.made_by)
    probe.save(OUT / "skin.json")
    shares = score_store(store, probe)
    save(score_sheet(store, "skin"), OUT / "02_few_labels.png")
    print(f"{len(labelled.labels)} of {len(bag.xy)} tiles were labelled: {probe.about['labelled']}")
    print(f"cross-validation: {probe.about['cross_validation']}")
    print(f"the whole slide: {', '.join(f'{name} {share:.0%}' for name, share in shares.items())}")


if __name__ == "__main__":
    main()
