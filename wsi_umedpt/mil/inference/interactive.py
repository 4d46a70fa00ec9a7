"""Interactive inference on one slide: tiles are embedded once, then any part of them is judged at once.

What a network makes of a tile whatever else is in the bag is kept, so that a region that a user
leaves out, or looks at alone, costs a weighted sum and no pass through the network. The law:
`LiveSlide.judge` of some tiles gives what `SlideModel` gives for a bag of those tiles.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from wsi_umedpt.errors import MilError
from wsi_umedpt.messages import counted
from wsi_umedpt.mil.data.feature_loader import Features
from wsi_umedpt.mil.inference.forecast import Forecast, TileShares
from wsi_umedpt.mil.inference.slide_model import SlideModel

Chosen = npt.NDArray[np.bool_]
_ROWS = 256
"""Summed at a time: as float32 they fit into a core's own cache."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Judgement:
    """Prediction from some tiles of a slide, and the share of each of them."""

    tiles: int
    """Tiles that were judged."""
    forecasts: list[Forecast]
    """A target each."""
    unlike: float
    """p-value of being like the training slides."""
    shares: TileShares
    """Shares of the tiles that were judged, in their order."""


class LiveSlide:
    """A slide's tiles, embedded by every network of a classifier.

    Parameters
    ----------
    model
        Model of the features' kind; see `SlideModel.check`.
    features : (tile, dim)
        Finite; at least one tile.
    progress
        Called with networks done and networks in all.

    Raises
    ------
    MilError
        If there are no tiles.
    """

    def __init__(
        self, model: SlideModel, features: Features, progress: Callable[[int, int], None] | None = None
    ) -> None:
        if not len(features):
            raise MilError("there are no tiles to judge: the slide has none with readable tissue")
        self.model = model
        self._features = torch.from_numpy(features)
        self._total = _sum(self._features, torch.arange(len(features)))
        self._alone: list[tuple[torch.Tensor, ...]] = []
        for n, network in enumerate(model.networks):
            self._alone.append(network.alone(self._features))
            if progress:
                progress(n + 1, len(model.networks))

    def __len__(self) -> int:
        return len(self._features)

    def judge(self, chosen: Chosen | None = None) -> Judgement:
        """Predict from some of the tiles.

        Parameters
        ----------
        chosen : (tile,)
            By default all.

        Raises
        ------
        MilError
            If none is chosen.
        """
        chosen = np.ones(len(self), bool) if chosen is None else chosen
        if not chosen.any():
            raise MilError(
                f"none of the {counted(len(self), 'tile')} is left to judge. Leave out less, or restrict to where "
                "tissue is."
            )
        there = torch.from_numpy(chosen)
        results = [network.among(own, there) for network, own in zip(self.model.networks, self._alone, strict=True)]
        return Judgement(
            tiles=int(chosen.sum()),
            forecasts=self.model.read(torch.stack([r.logits for r in results]).double().numpy()),
            unlike=self.model.typical.p_value(self._mean(chosen)),
            shares=TileShares(
                attention=torch.stack([r.attention for r in results]).mean(0).numpy(),
                contribution=torch.stack([r.contribution for r in results]).mean(0).numpy(),
            ),
        )

    def _mean(self, chosen: Chosen) -> npt.NDArray[np.float64]:
        """(dim,) mean over the chosen tiles; whichever are fewer are summed, the chosen or the others."""
        count = int(chosen.sum())
        if count * 2 <= len(self):
            return _sum(self._features, torch.from_numpy(np.flatnonzero(chosen))) / count
        return (self._total - _sum(self._features, torch.from_numpy(np.flatnonzero(~chosen)))) / count


def _sum(features: torch.Tensor, rows: torch.Tensor) -> npt.NDArray[np.float64]:
    """(dim,) sum over some rows, in double precision but within the `_ROWS` that are summed at a time."""
    total = np.zeros(features.shape[1])
    for part in torch.split(rows, _ROWS):
        total += features[part].float().sum(0).numpy()
    return total
