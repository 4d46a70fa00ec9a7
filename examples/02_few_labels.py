"""Few labels to a map of the whole slide: a tile classifier on frozen features, fitted in seconds.

Run it:  python examples/02_few_labels.py
"""

from pathlib import Path

import shapely

import wsi_umedpt as wu
from wsi_umedpt.annotations import Region

OUT = Path(__file__).parent / "out"
# What a pathologist would draw in QuPath and export as GeoJSON (see `read_drawn_labels`): level-0 pixels.
REGIONS = [
    Region("epidermis", shapely.box(1150, 550, 1500, 1050)),
    Region("epidermis", shapely.box(1250, 1750, 1650, 2200)),
    Region("dermis", shapely.box(650, 2000, 900, 2900)),
    Region("dermis", shapely.box(850, 1150, 1050, 1850)),
    Region("dermis", shapely.box(1650, 1900, 1850, 2400)),
]


def main() -> None:
    """Embed overlapping tiles, label a few of them, fit, score all, draw."""
    tiles = wu.TileOptions(stride_px=112)  # half a tile: a finer map
    store = wu.embed(wu.sample_slide(), OUT / "few_labels.zarr", tiles=tiles)
    bag = store.features()
    labelled = wu.label_tiles(store, bag, store.grid().side, regions=REGIONS)
    probe = wu.fit_probe([labelled], name="skin", encoder=store.feature_attrs()["card"] | store.feature_attrs())
    probe.save(OUT / "skin.json")
    shares = wu.score_store(store, probe)
    wu.plot.scores(store, "skin").savefig(OUT / "02_few_labels.png")
    print(f"{len(labelled.labels)} of {len(bag.xy)} tiles were labelled: {probe.about['labelled']}")
    print(f"cross-validation: {probe.about['cross_validation']}")
    print(f"the whole slide: {', '.join(f'{name} {share:.0%}' for name, share in shares.items())}")


if __name__ == "__main__":
    main()
