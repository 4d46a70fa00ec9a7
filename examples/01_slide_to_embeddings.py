"""From a slide to embeddings in eight lines, then a picture of them.

Run it:  python examples/01_slide_to_embeddings.py  (the slide is downloaded once, 2 MB)
"""

from pathlib import Path

from wsi_umedpt.encode import encode_slide
from wsi_umedpt.models.encoder import load_encoder
from wsi_umedpt.picture import overview, save
from wsi_umedpt.sample import sample_slide
from wsi_umedpt.slide import open_slide
from wsi_umedpt.store import SlideStore
from wsi_umedpt.tiling import TileSpec, lay_grid
from wsi_umedpt.tissue import find_tissue

OUT = Path(__file__).parent / "out"


def main() -> None:
    encoder = load_encoder(device="cpu")
    with open_slide(sample_slide()) as slide:
        print(slide)
        tissue = find_tissue(slide)
        grid = lay_grid(slide.size, slide.mpp, TileSpec(), within=tissue)
        print(f"{tissue.fraction:.0%} tissue, {len(grid)} tiles")
        with SlideStore.create(OUT / "CMU-1-Small-Region.zarr", slide, tissue, grid) as store:
            result = encode_slide(slide, store, encoder)
    print(result)

    store = SlideStore.open(OUT / "CMU-1-Small-Region.zarr")
    bag = store.bag()
    print(bag.features.shape, bag.xy[:3].tolist())
    save(overview(store), OUT / "01_slide_to_embeddings.png")


if __name__ == "__main__":
    main()
