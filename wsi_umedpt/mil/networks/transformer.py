"""Slide classifiers whose logits are no sum over tiles: a network on the mean, and a transformer."""

import math

import torch
from torch import nn
from torch.nn import functional

from wsi_umedpt.errors import MilError
from wsi_umedpt.mil.networks.base import MilResult, SlideNetwork, chunked
from wsi_umedpt.mil.networks.ragged_pooling import CHUNK_TILES, Bags, pool
from wsi_umedpt.mil.settings import TRANSFORMER_HEADS, ModelSettings

_POINTS, _LAYERS = 32, 2
_MOST_PASSES = 2000


class _FirstOrder(SlideNetwork):
    """Kinds whose logits no sum over tiles gives: contributions are gradient times embedding."""

    contributions = "first order"

    def embedded(self, features: torch.Tensor) -> torch.Tensor:
        """(tile, dim) to (tile, hidden)."""
        raise NotImplementedError

    def of_embedded(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (output,) and attention (tile,) of one bag (tile, hidden)."""
        raise NotImplementedError

    def explain(self, features: torch.Tensor) -> MilResult:
        """See `SlideNetwork.explain`."""
        with torch.no_grad():
            values = chunked(self.embedded, features)
        return self.of_values(values)

    def of_values(self, values: torch.Tensor) -> MilResult:
        """Result of `explain` for tiles that are embedded, (tile, hidden)."""
        with torch.enable_grad():
            values.requires_grad_(True)
            logits, attention = self.of_embedded(values)
            shares = [
                (torch.autograd.grad(logit, values, retain_graph=True)[0] * values.detach()).sum(1) for logit in logits
            ]
        return MilResult(logits.detach(), attention.detach(), torch.stack(shares, 1))


class MeanMlp(_FirstOrder):
    """Mean of the features, then a network of two layers: SiMLP (arXiv 2502.20823)."""

    def __init__(self, dim: int, outputs: int, settings: ModelSettings) -> None:
        super().__init__(dim, outputs, settings)
        self.out = nn.Sequential(self.embedding(), nn.Linear(settings.hidden, outputs))

    def embedded(self, features: torch.Tensor) -> torch.Tensor:
        """The standardised features themselves."""
        return self.scaled(features)

    def of_embedded(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `_FirstOrder.of_embedded`."""
        return self.out(values.mean(0)), values.new_full((len(values),), 1 / len(values))

    def forward(self, bags: Bags) -> torch.Tensor:
        """See `SlideNetwork.forward`."""
        found: torch.Tensor = self.out(pool(lambda x: (self.scaled(x), x.new_zeros(len(x), 1)), bags)[:, 0])
        return found

    @torch.no_grad()
    def without_each(self, features: torch.Tensor) -> torch.Tensor:
        """See `SlideNetwork.without_each`."""
        values = chunked(self.scaled, features)
        if len(values) == 1:
            return values.new_full((1, self.outputs), math.nan)
        total = values.sum(0)
        return torch.cat([self.out((total - part) / (len(values) - 1)) for part in torch.split(values, CHUNK_TILES)])


class Transformer(_FirstOrder):
    """A transformer over tiles at linear cost: attention through inducing points.

    TransMIL (Shao et al. 2021, arXiv 2106.00908) makes attention linear by Nystrom landmarks; here tiles
    attend to `_POINTS` learned points that have attended to them (Set Transformer, Lee et al. 2019, arXiv
    1810.00825, equation 9). It knows no positions, so that the order of tiles cannot matter.
    """

    def __init__(self, dim: int, outputs: int, settings: ModelSettings) -> None:
        super().__init__(dim, outputs, settings)
        hidden = settings.hidden
        self.embed = self.embedding()
        self.points = nn.Parameter(torch.randn(_LAYERS, _POINTS, hidden) * hidden**-0.5)
        self.gather = nn.ModuleList(_Attend(hidden, settings.dropout) for _ in range(_LAYERS))
        self.spread = nn.ModuleList(_Attend(hidden, settings.dropout) for _ in range(_LAYERS))
        self.slide = nn.Parameter(torch.randn(1, hidden) * hidden**-0.5)
        self.read = _Attend(hidden, settings.dropout)
        self.out = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, outputs))

    def embedded(self, features: torch.Tensor) -> torch.Tensor:
        """See `_FirstOrder.embedded`."""
        found: torch.Tensor = self.embed(self.scaled(features))
        return found

    def of_embedded(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `_FirstOrder.of_embedded`."""
        tiles = values
        for points, gather, spread in zip(self.points, self.gather, self.spread, strict=True):
            tiles = spread(tiles, gather(points, tiles))
        return self.out(self.read(self.slide, tiles))[0], self.read.weights(self.slide, tiles)

    @torch.no_grad()
    def alone(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See `SlideNetwork.alone`: the tiles, embedded."""
        return (chunked(self.embedded, features),)

    def among(self, alone: tuple[torch.Tensor, ...], there: torch.Tensor) -> MilResult:
        """See `SlideNetwork.among`."""
        return self.of_values(alone[0][there])

    def forward(self, bags: Bags) -> torch.Tensor:
        """See `SlideNetwork.forward`."""
        parts = torch.split(self.embedded(bags.features.float()), bags.sizes)
        found = []
        for tiles in parts:
            for points, gather, spread in zip(self.points, self.gather, self.spread, strict=True):
                tiles = spread(tiles, gather(points, tiles))
            found.append(self.read(self.slide, tiles))
        logits: torch.Tensor = self.out(torch.cat(found))
        return logits

    @torch.no_grad()
    def without_each(self, features: torch.Tensor) -> torch.Tensor:
        """See `SlideNetwork.without_each`; a pass for every tile, and refused for large bags."""
        count = len(features)
        if count > _MOST_PASSES:
            raise MilError(
                f"leaving each of {count} tiles out of a transformer takes {count} passes; up to {_MOST_PASSES} are "
                "made. Use contributions instead, or another model."
            )
        values = chunked(self.embedded, features)
        if count == 1:
            return values.new_full((1, self.outputs), math.nan)
        rows = torch.arange(count, device=values.device)
        return torch.stack([self.of_embedded(values[rows != row])[0] for row in range(count)])


class _Attend(nn.Module):
    """Attention of queries to keys, then a layer of their own; both residual, norms first."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.before, self.known = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.query, self.both = nn.Linear(hidden, hidden), nn.Linear(hidden, 2 * hidden)
        self.merge = nn.Linear(hidden, hidden)
        self.layer = nn.Sequential(
            nn.LayerNorm(hidden), nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(2 * hidden, hidden),
        )  # fmt: skip

    def forward(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """(query, hidden) and (key, hidden) to (query, hidden)."""
        known = self.known(keys)
        k, v = (self._heads(part) for part in self.both(known).chunk(2, dim=1))
        found = functional.scaled_dot_product_attention(self._heads(self.query(self.before(queries))), k, v)
        queries = queries + self.merge(found[0].transpose(0, 1).flatten(1))
        out: torch.Tensor = queries + self.layer(queries)
        return out

    def weights(self, query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Attention of one query (1, hidden) to each key, mean over heads: (key,)."""
        k = self._heads(self.both(self.known(keys)).chunk(2, dim=1)[0])
        q = self._heads(self.query(self.before(query)))
        return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1)[0, :, 0].mean(0)

    @staticmethod
    def _heads(rows: torch.Tensor) -> torch.Tensor:
        parts = rows.reshape(len(rows), TRANSFORMER_HEADS, -1)
        return parts.transpose(0, 1)[None]  # (1, head, row, part)
