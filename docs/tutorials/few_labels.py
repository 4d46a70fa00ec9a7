# %% [markdown]
# # A tile classifier from a few labels
#
# You draw a handful of regions, a linear classifier (a *probe*) learns from the features of their tiles in a second, and every tile of the
# slide gets a probability. With real work the regions come from QuPath, ASAP, ImageScope or HALO
# ([Annotations](../how-to/annotations.md)), or you paint tiles in [napari](../how-to/napari.md).

# %%
import tempfile
from pathlib import Path

import shapely

import wsi_umedpt as wu
from wsi_umedpt.annotations import Region

out = Path(tempfile.mkdtemp())
store = wu.embed(
    wu.sample_slide(),
    out / "skin.zarr",
    tiles=wu.TileOptions(stride_px=112),
)

# %% [markdown]
# ## Labels
#
# Five rectangles in level-0 pixels. A region labels the tiles whose centre it contains.

# %%
regions = [
    Region("epidermis", shapely.box(1150, 550, 1500, 1050)),
    Region("epidermis", shapely.box(1250, 1750, 1650, 2200)),
    Region("dermis", shapely.box(650, 2000, 900, 2900)),
    Region("dermis", shapely.box(850, 1150, 1050, 1850)),
    Region("dermis", shapely.box(1650, 1900, 1850, 2400)),
]
bag = store.features()
labelled = wu.label_tiles(store, bag, store.grid().side, regions=regions)
print(f"{len(labelled.labels)} of {len(bag.xy)} tiles are labelled")

# %% [markdown]
# ## Fit
#
# Logistic regression on standardised features. It is cross-validated by neighbourhood, because neighbouring tiles are nearly the
# same tile: figures from a random split would be too good. With slides of several patients, it is by patient.

# %%
made_by = store.feature_attrs()
probe = wu.fit_probe(
    [labelled], name="skin", encoder=made_by["card"] | made_by
)
print(probe.about["labelled"])
print(probe.about["cross_validation"])

# %% [markdown]
# ## Score the slide
#
# The scores go into the store, a row for each tile, a column for each class.

# %%
shares = wu.score_store(store, probe)
print({name: f"{share:.0%}" for name, share in shares.items()})
wu.plot.scores(store, "skin")

# %% [markdown]
# As a heatmap, with its legend and scale bar:

# %%
wu.plot.heatmap(
    wu.heatmap(store, "skin", "epidermis"),
    store,
    title="Probability of epidermis",
)

# %% [markdown]
# All of this is of one slide: on other slides, of other scanners and stains, it will be worse. Label a few tiles on several, save the
# probe, and apply it to a cohort:
#
# - `probe.save("skin.json")` here is what `wsi-umedpt probe fit` writes;
# - `wsi-umedpt probe predict out/ -p skin.json` scores a folder of stores;
# - `wsi-umedpt heatmap` writes the scores for QuPath, as a raster or as a table ([Heatmaps](../how-to/heatmaps.md)).
