# %% [markdown]
# # A slide classifier
#
# Multiple-instance learning (MIL) learns from one label for a whole bag of tiles: nobody says which tiles matter. Here it must find out by
# itself what epidermis looks like, from bags that are labelled "contains epidermis" or "does not".
#
# The demo slide is a single slide, so its tiles are dealt to 40 made-up patients. The features are real; the cohort is a toy, and its
# figures mean nothing beyond this page. With slides of your own `wsi-umedpt mil train` does all of this
# ([Slide classifiers](../how-to/slide-classifiers.md)).

# %%
import csv
import tempfile
from pathlib import Path

import numpy as np
import shapely

import wsi_umedpt as wu
from wsi_umedpt import mil
from wsi_umedpt.annotations import Region
from wsi_umedpt.interop import find_sources

out = Path(tempfile.mkdtemp())
store = wu.embed(
    wu.sample_slide(),
    out / "skin.zarr",
    tiles=wu.TileOptions(stride_px=112),
)
bag = store.features()
side = store.grid().side

# %% [markdown]
# ## A cohort
#
# Twelve tiles a patient, drawn from the left and the lower part of the slide. Every second patient has three to five tiles of
# epidermis among them. The network learns from the label of the patient, and from nothing else.

# %%
regions = [
    Region("epidermis", shapely.box(1150, 550, 1500, 1050)),
    Region("epidermis", shapely.box(1250, 1750, 1650, 2200)),
    Region("other", shapely.box(650, 2000, 900, 2900)),
    Region("other", shapely.box(850, 1150, 1050, 1850)),
    Region("other", shapely.box(1650, 1900, 1850, 2400)),
]
labelled = wu.label_tiles(store, bag, side, regions=regions)
pools = {
    name: np.flatnonzero(np.array(labelled.labels) == name)
    for name in ("epidermis", "other")
}
print({name: len(pool) for name, pool in pools.items()}, "tiles")

rng = np.random.default_rng(0)
(out / "cohort").mkdir()
rows = [["slide", "patient", "tissue"]]
for n in range(40):
    positive = (
        rng.choice(pools["epidermis"], rng.integers(3, 6))
        if n % 2
        else np.zeros(0, int)
    )
    chosen = np.concatenate(
        [positive, rng.choice(pools["other"], 12 - len(positive))]
    )
    np.savez(
        out / "cohort" / f"S{n:02}.npz", features=labelled.features[chosen]
    )
    rows.append([f"S{n:02}", f"P{n:02}", "epidermis" if n % 2 else "none"])
with (out / "labels.csv").open("w", newline="") as file:
    csv.writer(file).writerows(rows)

# %% [markdown]
# ## Train and evaluate
#
# Nested cross-validation: every patient is predicted by networks that never saw it, and everything that is chosen is chosen on inner
# folds. Beside the network stand a linear model on mean features, and a guess. (Folds and epochs are fewer than the
# defaults.)

# %%
sources = find_sources([out / "cohort"])
cohort, notes = mil.read_cohort(
    out / "labels.csv",
    sources,
    [mil.asked("tissue:binary(none,epidermis)")],
)
study = mil.StudySettings(folds=3, inner_folds=2, seeds=(0,))
run = mil.run_study(
    cohort,
    mil.BagReader(sources),
    [mil.FitSettings(epochs=15)],
    study,
    out / "run",
)
figures, _ = mil.report_run(run, cohort, sources, files={})
print("\n".join(mil.headlines(figures)))

# %% [markdown]
# The run's folder holds `report.html`, `predictions.csv`, `figures.json` and the model.
#
# ## Explain
#
# The whole slide is a new bag. Its contributions say for each tile how much it speaks for or against epidermis: they sum to the logit. The
# network was never told where epidermis is.

# %%
(out / "new").mkdir()
np.savez(out / "new" / "whole.npz", features=bag.features, coords=bag.xy)
whole = find_sources([out / "new"])["whole"].load()
columns = mil.tile_scores(run.model, whole)
contribution = next(
    name
    for name in columns
    if name.startswith("contribution") and name.endswith("epidermis")
)
heat = wu.Heatmap.from_tiles(bag.xy, side, columns[contribution])
wu.plot.heatmap(heat, store, title="For and against epidermis")

# %% [markdown]
# Compare it with [the probe](few_labels.py), which was told. Next: [networks and targets](../how-to/slide-classifiers.md), and
# [how slide classifiers are evaluated](../concepts/evaluation.md).
