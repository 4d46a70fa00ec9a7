"""A slide classifier, evaluated so that nothing leaks, and a map of what its answer rests on.

The features are drawn here, so that it runs in seconds: 48 slides of 24 patients, a patch of tumour in half of them.
With slides of your own, `wsi-umedpt embed` makes the features and `wsi-umedpt mil train` does all of this.

Run it:  python examples/04_slide_classifier.py
"""

import csv
import shutil
from pathlib import Path

import numpy as np

from wsi_umedpt.heatmaps import Heatmap
from wsi_umedpt.interop import find_sources
from wsi_umedpt.mil import (
    BagReader,
    FitSettings,
    StudySettings,
    asked,
    bag_of,
    headlines,
    read_cohort,
    report_run,
    run_study,
    tile_scores,
)
from wsi_umedpt.plotting import draw_heatmap, save

OUT = Path(__file__).parent / "out"
BANK = OUT / "bank"


def draw_slides() -> None:
    """Write a folder of features (npz) and a table of labels."""
    BANK.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    tumour = rng.normal(size=32)
    rows = [["slide", "patient", "diagnosis"]]
    for n in range(48):
        patient, sick = n // 2, n // 2 % 2 == 1
        row, col = (axis.ravel() for axis in np.mgrid[:20, :20])
        features = rng.normal(size=(400, 32)) + rng.normal(0, 0.3, 32)  # every slide has a stain of its own
        centre = rng.integers(4, 16, 2)
        if sick:
            features[(row - centre[0]) ** 2 + (col - centre[1]) ** 2 <= 9] += tumour
        coords = np.stack([col, row], axis=1) * 448
        np.savez(BANK / f"S{n:02}.npz", features=features.astype(np.float16), coords=coords)
        rows.append([f"S{n:02}", f"P{patient:02}", "tumour" if sick else "benign"])
    with (OUT / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def main() -> None:
    """Draw slides, train and evaluate, and show what one answer rests on."""
    draw_slides()
    shutil.rmtree(OUT / "run", ignore_errors=True)  # begun anew; left there, it would be resumed
    sources = find_sources([BANK])
    cohort, _ = read_cohort(OUT / "labels.csv", sources, [asked("diagnosis")])
    study = StudySettings(folds=3, inner_folds=3, seeds=(0,))
    run = run_study(cohort, BagReader(sources), [FitSettings(epochs=20)], study, OUT / "run")
    figures, _ = report_run(run, cohort, sources, files={})
    print("\n".join(headlines(figures)))
    print(OUT / "run" / "report.html")

    source = sources["S03"]
    bag = bag_of(run.model, source)
    columns = tile_scores(run.model, bag)
    heat = Heatmap.from_tiles(bag.xy, 448, columns["contribution_diagnosis:tumour"])
    save(draw_heatmap(heat, scaling="signed", title="S03: for and against tumour"), OUT / "04_slide_classifier.png")


if __name__ == "__main__":
    main()
