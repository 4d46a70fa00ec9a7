"""From a slide to embeddings and nuclei in fifteen lines, then pictures of them.

Run it:  python examples/01_slide_to_embeddings.py  (the slide is downloaded once, 2 MB)
"""

from pathlib import Path

import wsi_umedpt as wu

OUT = Path(__file__).parent / "out"


def main() -> None:
    """Embed, segment, and look."""
    with wu.open_slide(wu.sample_slide()) as slide:
        print(slide)
        store = wu.embed(slide, OUT / "CMU-1-Small-Region.zarr")  # tissue, grid, tiles, features
        wu.segment(slide, store, heads="nuclei")  # objects, in the same store

    print(store)
    bag = store.features("umedpt")
    print(bag.features.shape, bag.xy[:3].tolist())
    nuclei = store.objects("nuclei")  # GeoDataFrame, level-0 px
    print(nuclei[["area_um2", "circularity"]].describe().round(2))
    wu.plot.overview(store).savefig(OUT / "01_slide_to_embeddings.png")


if __name__ == "__main__":
    main()
