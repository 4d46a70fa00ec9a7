"""A slide classifier's network of your own: values and scores of tiles, and a head over their weighted sum.

Training, cross-validation, explanations and the report are those of every other network.

Run it:  python examples/07_own_mil_network.py
"""

import csv
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import nn

import wsi_umedpt as wu
from wsi_umedpt.interop import find_sources
from wsi_umedpt.mil import (
    BagReader,
    FitSettings,
    ModelSettings,
    PooledNetwork,
    StudySettings,
    asked,
    headlines,
    read_cohort,
    report_run,
    run_study,
    tile_scores,
)

OUT = Path(__file__).parent / "out"
BANK = OUT / "own_mil_bank"


class PlainAttention(PooledNetwork):
    """Attention without a gate (Ilse, Tomczak and Welling, ICML 2018, eq. 8)."""

    def __init__(self, dim: int, outputs: int, settings: ModelSettings) -> None:
        super().__init__(dim, outputs, settings)
        self.embed = self.embedding()
        self.score = nn.Sequential(nn.Linear(settings.hidden, settings.attention), nn.Tanh())
        self.weigh = nn.Linear(settings.attention, 1)
        self.out = nn.Linear(settings.hidden, outputs)

    def tiles(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn (tile, dim) into values (tile, hidden) and scores (tile, 1)."""
        hidden = self.embed(self.scaled(features))
        return hidden, self.weigh(self.score(hidden))

    def head(self, pooled: torch.Tensor) -> torch.Tensor:
        """Turn (..., 1, hidden) into logits (..., output)."""
        return self.out(pooled[..., 0, :])


def plain_attention(dim: int, outputs: int, settings: ModelSettings, classes: list[int]) -> PlainAttention:
    """Build the network; this is what a package would name as an entry point."""
    return PlainAttention(dim, outputs, settings)


def draw_slides() -> None:
    """Write a folder of features (npz) and a table of labels: a patch of tumour in every second patient."""
    BANK.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    tumour = rng.normal(size=32)
    rows = [["slide", "patient", "diagnosis"]]
    for n in range(24):
        features = rng.normal(size=(200, 32))
        if n % 2:
            features[:20] += tumour
        coords = np.stack(np.divmod(np.arange(200), 20), axis=1)[:, ::-1] * 448
        np.savez(BANK / f"S{n:02}.npz", features=features.astype(np.float16), coords=coords)
        rows.append([f"S{n:02}", f"P{n:02}", "tumour" if n % 2 else "benign"])
    with (OUT / "own_mil_labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def main() -> None:
    """Draw slides, train and evaluate with the network, and show what one answer rests on."""
    draw_slides()
    shutil.rmtree(OUT / "own_mil_run", ignore_errors=True)
    wu.register_mil_network("plain-attention", plain_attention)
    sources = find_sources([BANK])
    cohort, _ = read_cohort(OUT / "own_mil_labels.csv", sources, [asked("diagnosis")])
    study = StudySettings(folds=2, inner_folds=2, seeds=(0,))
    run = run_study(
        cohort, BagReader(sources), [FitSettings(model="plain-attention", epochs=8)], study, OUT / "own_mil_run"
    )
    figures, _ = report_run(run, cohort, sources, files={})
    print("\n".join(headlines(figures)))

    bag = sources["S03"].load()
    columns = tile_scores(run.model, bag)
    heat = wu.Heatmap.from_tiles(bag.xy, 448, columns["contribution_diagnosis:tumour"])
    wu.plot.heatmap(heat, title="S03: for tumour").savefig(OUT / "07_own_mil_network.png")


if __name__ == "__main__":
    main()
