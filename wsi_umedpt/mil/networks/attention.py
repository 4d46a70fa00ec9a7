"""Slide classifiers that sum their tiles by softmax weights; contributions add up to the logits exactly."""

import math

import torch
from torch import nn
from torch.nn import functional

from wsi_umedpt.mil.networks.base import MilResult, SlideNetwork, chunked
from wsi_umedpt.mil.networks.ragged_pooling import CHUNK_TILES, Bags, join, pool
from wsi_umedpt.mil.settings import ModelSettings


class PooledNetwork(SlideNetwork):
    """Kinds that sum tile values by softmax weights, then apply a head that is linear in each value."""

    def tiles(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(tile, dim) to values (tile, value) and scores (tile, head)."""
        raise NotImplementedError

    def head(self, pooled: torch.Tensor) -> torch.Tensor:
        """(..., head, value) to (..., output), linear in the values plus a constant."""
        raise NotImplementedError

    def shares(self, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Compute contributions (tile, output) of weighted tiles: by default the head's outputs, weighted."""
        # With one weight for all heads the constant is shared out too, since weights sum to 1.
        return weights * self.head(values[:, None])

    def forward(self, bags: Bags) -> torch.Tensor:
        """See `SlideNetwork.forward`."""
        return self.head(pool(self.tiles, bags))

    def _weighted(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [self.tiles(chunk.float()) for chunk in torch.split(features, CHUNK_TILES)]
        return torch.cat([v for v, _ in parts]), torch.softmax(torch.cat([s for _, s in parts]), 0)

    @torch.no_grad()
    def explain(self, features: torch.Tensor) -> MilResult:
        """See `SlideNetwork.explain`."""
        values, weights = self._weighted(features)
        logits = self.head((weights.T @ values)[None])[0]
        return MilResult(logits, self._attention(weights, logits), self.shares(weights, values))

    @torch.no_grad()
    def alone(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See `SlideNetwork.alone`: values, scores, and the head of each tile's values."""
        parts = [self.tiles(chunk.float()) for chunk in torch.split(features, CHUNK_TILES)]
        values, scores = torch.cat([v for v, _ in parts]), torch.cat([s for _, s in parts])
        return values, scores, self.shares(values.new_ones(1, 1), values)

    @torch.no_grad()
    def among(self, alone: tuple[torch.Tensor, ...], there: torch.Tensor) -> MilResult:
        """See `SlideNetwork.among`: a tile that is not there weighs nothing, so that no values are copied."""
        values, scores, heads = alone
        weights = torch.softmax(scores.masked_fill(~there[:, None], -math.inf), 0)
        logits = self.head((weights.T @ values)[None])[0]
        return MilResult(logits, self._attention(weights, logits)[there], (weights * heads)[there])

    def _attention(self, weights: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        del logits
        return weights.mean(1)

    @torch.no_grad()
    def without_each(self, features: torch.Tensor) -> torch.Tensor:
        """See `SlideNetwork.without_each`: a sum less one part, not a pass for every tile."""
        values, weights = self._weighted(features)
        # In double: the rest of a tile that has nearly all the weight is a small difference.
        v, w = values.double(), weights.double()
        pooled, mass = w.T @ v, w.sum(0)  # (head, value), (head,) 1 but for what float32 rounded
        out = [
            self.head(((pooled[None] - a[..., None] * b[:, None]) / (mass - a)[..., None]).float())
            for a, b in zip(torch.split(w, CHUNK_TILES), torch.split(v, CHUNK_TILES), strict=True)
        ]
        found = torch.cat(out)
        if len(features) == 1:
            return torch.full_like(found, math.nan)
        for row in torch.nonzero((weights > 1 - 1e-6).any(1))[:, 0].tolist():  # cancelled: pool the others anew
            rest = torch.arange(len(features)) != row
            found[row] = self.forward(join([features[rest.to(features.device)]]))[0]
        return found


class MeanPool(PooledNetwork):
    """Mean of the embedded tiles, then a linear layer."""

    def __init__(self, dim: int, outputs: int, settings: ModelSettings) -> None:
        super().__init__(dim, outputs, settings)
        self.embed = self.embedding()
        self.out = nn.Linear(settings.hidden, outputs)

    def tiles(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `PooledNetwork.tiles`; all scores are 0."""
        values = self.embed(self.scaled(features))
        return values, values.new_zeros(len(values), 1)

    def head(self, pooled: torch.Tensor) -> torch.Tensor:
        """See `PooledNetwork.head`."""
        logits: torch.Tensor = self.out(pooled[..., 0, :])
        return logits


class GatedAttention(PooledNetwork):
    """Gated attention, Ilse et al. 2018 (arXiv 1802.04712), equations 8 and 9; `heads` 1."""

    def __init__(self, dim: int, outputs: int, settings: ModelSettings, heads: int = 1) -> None:
        super().__init__(dim, outputs, settings)
        self.embed = self.embedding()
        self.gates = nn.Linear(settings.hidden, 2 * settings.attention)
        self.score = nn.Linear(settings.attention, heads)
        self.out = nn.Linear(settings.hidden, outputs)

    def scores(self, values: torch.Tensor) -> torch.Tensor:
        """(tile, hidden) to attention logits (tile, head)."""
        signal, gate = self.gates(values).chunk(2, dim=1)
        found: torch.Tensor = self.score(torch.tanh(signal) * torch.sigmoid(gate))
        return found

    def tiles(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `PooledNetwork.tiles`."""
        values = self.embed(self.scaled(features))
        return values, self.scores(values)

    def head(self, pooled: torch.Tensor) -> torch.Tensor:
        """See `PooledNetwork.head`."""
        logits: torch.Tensor = self.out(pooled[..., 0, :])
        return logits


class Clam(GatedAttention):
    """CLAM (Lu et al. 2021, arXiv 2004.09666): gated attention that also learns to tell its own top tiles.

    SB has one attention for all outputs, MB one an output. The instance loss is cross-entropy of the
    `top_k` most attended tiles (in evidence) and least attended (not) for the bag's class.
    """

    def __init__(self, dim: int, outputs: int, settings: ModelSettings, classes: list[int], *, many: bool) -> None:
        super().__init__(dim, outputs, settings, heads=outputs if many else 1)
        self.many, self.classes = many, classes
        self.instances = nn.Linear(settings.hidden, sum(classes)) if classes else None

    def head(self, pooled: torch.Tensor) -> torch.Tensor:
        """See `PooledNetwork.head`; with an attention for every output, each output reads its own pooled values."""
        if not self.many:
            return super().head(pooled)
        if pooled.shape[-2] == 1:  # one tile's values, the same for all
            return super().head(pooled)
        return (pooled * self.out.weight).sum(-1) + self.out.bias

    def _attention(self, weights: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        # Of the outputs that speak for something, the louder the more.
        return weights @ torch.softmax(logits, 0) if self.many else weights[:, 0]

    def beside(self, bags: Bags, classes: list[torch.Tensor]) -> torch.Tensor | None:
        """CLAM's clustering loss over the batch, divided by ln 2; see `SlideNetwork.beside`."""
        if self.instances is None:
            return None
        losses = []
        firsts = [sum(self.classes[:n]) for n in range(len(self.classes))]
        for number, (a, b) in enumerate(zip(bags.offsets, bags.offsets[1:], strict=False)):
            known = [first + int(c[number]) for first, c in zip(firsts, classes, strict=True) if c[number] >= 0]
            if not known or b - a < 2:
                continue
            count = min(self.settings.top_k, (b - a) // 2)
            with torch.no_grad():
                values = chunked(lambda x: self.embed(self.scaled(x)), bags.features[a:b])
                ranked = chunked(self.scores, values).mean(1).argsort(descending=True)
            rows = torch.cat([ranked[:count], ranked[-count:]])
            found = self.instances(self.embed(self.scaled(bags.features[a:b][rows].float())))[:, known]
            wanted = (torch.arange(2 * count, device=found.device) < count).float()[:, None].expand_as(found)
            losses.append(functional.binary_cross_entropy_with_logits(found, wanted))
        return torch.stack(losses).mean() / math.log(2) if losses else None


class Additive(GatedAttention):
    """Additive attention: each tile is classified, and the bag is their sum weighted by attention.

    Javed et al. 2022 (arXiv 2206.01794) classify the weighted tile; here the tile's logits are
    weighted (conjunctive pooling, Early et al. 2024, arXiv 2311.10049), so that a bag of the same tiles twice
    is the same bag.
    """

    def __init__(self, dim: int, outputs: int, settings: ModelSettings) -> None:
        super().__init__(dim, outputs, settings)
        self.out = nn.Sequential(  # type: ignore[assignment]
            nn.Linear(settings.hidden, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, outputs)
        )

    def tiles(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `PooledNetwork.tiles`; values are each tile's logits."""
        values = self.embed(self.scaled(features))
        return self.out(values), self.scores(values)

    def head(self, pooled: torch.Tensor) -> torch.Tensor:
        """See `PooledNetwork.head`; the pooled values are the logits."""
        return pooled[..., 0, :]
