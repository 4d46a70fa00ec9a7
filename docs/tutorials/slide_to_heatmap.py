# %% [markdown]
# # From a slide to a heatmap
#
# You open a slide, find its tissue, embed its tiles, give each tile a score, and lay the scores over the slide. The slide is
# the demo slide, a piece of skin (H&E, 2 MB, CC0); it is downloaded once.

# %%
import tempfile
from pathlib import Path

import numpy as np

import wsi_umedpt as wu

out = Path(tempfile.mkdtemp())
slide = wu.open_slide(wu.sample_slide())
slide

# %% [markdown]
# The slide states its scale: microns per pixel at level 0. Everything that follows asks for tiles in um/px, and positions are
# level-0 pixels, x before y. A box is read at any scale.

# %%
from PIL import Image

from wsi_umedpt.geometry import Box

Image.fromarray(slide.read(Box(1150, 550, 600, 400), mpp=1.0))

# %% [markdown]
# ## Tissue and tiles
#
# Tissue is what differs in colour from the glass. A grid of tiles is laid over it: 224 px at 0.5 um/px, which is what the default
# encoder was trained on. `embed` does both by itself; here are the steps, to look at.

# %%
tissue = wu.find_tissue(slide)
grid = wu.lay_grid(slide.size, slide.mpp, wu.TileSpec(), within=tissue)
print(
    f"{tissue.fraction:.0%} tissue, {len(grid)} tiles of {grid.side:.0f} level-0 px"
)

# %% [markdown]
# ## Features
#
# One vector for each tile, written to a store: a folder that appears when everything in it is complete. Tiles overlap by half
# here, for a finer map.

# %%
store = wu.embed(
    slide,
    out / "skin.zarr",
    tiles=wu.TileOptions(stride_px=112),
    tissue=tissue,
)
store

# %% [markdown]
# The overview shows the tissue's outline, the tiles, and the first three principal components of the features as colours: tiles
# of one colour look alike to the encoder.

# %%
wu.plot.overview(store)

# %% [markdown]
# ## A score for each tile
#
# Any number will do. This one says how unusual a tile is on this slide: the distance of its feature from the mean, in standard
# deviations. (It is not a diagnosis: tiles at the edge of the tissue and folds are unusual, too.)

# %%
bag = store.features()
features = bag.features.astype(np.float32)
z = (features - features.mean(0)) / features.std(0)
unusual = np.sqrt((z**2).mean(1))
print(
    bag.features.shape,
    "least and most unusual:",
    unusual.min().round(2),
    unusual.max().round(2),
)

# %% [markdown]
# ## The heatmap
#
# A heatmap is a raster that knows where it lies: cell (row, col) covers `step` px from `origin_xy`. Where tiles overlap a cell
# holds their mean; where there is no tile it is NaN.

# %%
heat = wu.Heatmap.from_tiles(bag.xy, store.grid().side, unusual)
print(heat.values.shape, "cells of", heat.step, "px, from", heat.origin_xy)
wu.plot.heatmap(heat, store, title="How unusual each tile is")

# %% [markdown]
# The most unusual tiles, read from the slide:

# %%
side = int(store.grid().side)
top = np.argsort(unusual)[::-1][:4]
Image.fromarray(
    np.hstack(
        [
            slide.read(Box(*map(int, bag.xy[i]), side, side), mpp=1.0)
            for i in top
        ]
    )
)

# %% [markdown]
# Next: [scores that were learned from a few labels](few_labels.py), and [heatmaps as rasters, GeoJSON and CSV](../how-to/heatmaps.md).
