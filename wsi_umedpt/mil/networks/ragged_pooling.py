"""Pooling over concatenated bags: no padding, no mask, and a memory that does not grow with the bag.

A batch is the tiles of all its bags one after another, and `offsets` that say where each bag
begins. `pool` runs a tile network over the tiles and sums what it gives in every bag, by
softmax weights. Where there are many tiles it streams: chunk by chunk with a running maximum, as
Rabe and Staats 2021 (arXiv 2112.05682) do for attention, and once more backwards.

Read top to bottom: `Bags`, `pool` (direct or streamed), `top` (the highest tiles of every bag).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import get_device_states, set_device_states

TileNetwork = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Features (tile, dim) to values (tile, value) and scores (tile, head); a tile's are of that tile alone."""

STREAM_TILES = 16_384
"""Tiles of a batch above which `pool` streams."""
CHUNK_TILES = 4096
"""Tiles in memory at once while streaming."""


@dataclass(frozen=True, eq=False)
class Bags:
    """Tiles of several bags, concatenated."""

    features: torch.Tensor
    """(tile, dim) of any float dtype; networks see float32"""
    offsets: tuple[int, ...]
    """(bag + 1) where each bag begins, and the end"""

    def __post_init__(self) -> None:
        ends = (*self.offsets[:1], *self.offsets[-1:])
        if ends != (0, len(self.features)) or min(self.sizes, default=0) < 1:
            raise ValueError(f"offsets {self.offsets[:5]}... do not part {len(self.features)} tiles into bags of >= 1")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> list[int]:
        """(bag,) tiles of each."""
        return [b - a for a, b in zip(self.offsets, self.offsets[1:], strict=False)]


def join(parts: Sequence[torch.Tensor]) -> Bags:
    """Bags of (tile, dim) each as one batch."""
    ends = [0]
    for part in parts:
        ends.append(ends[-1] + len(part))
    return Bags(parts[0] if len(parts) == 1 else torch.cat(list(parts)), tuple(ends))


def pool(network: TileNetwork, bags: Bags, *, stream: bool | None = None) -> torch.Tensor:
    """Softmax-weighted sum of every bag's values.

    Parameters
    ----------
    network
        Its parameters get gradients; the features get none.
    bags
        The batch.
    stream
        Go through the tiles in chunks; by default where there are over `STREAM_TILES`.

    Returns
    -------
    (bag, head, value)
        ``sum_i softmax_i(score_ih) value_i`` over the tiles i of each bag.
    """
    if stream is None:
        stream = len(bags.features) > STREAM_TILES
    if not stream:
        values, scores = network(bags.features.float())
        # Split, not sliced: a slice's gradient is a tensor of the whole batch for every bag.
        parts = zip(torch.split(values, bags.sizes), torch.split(scores, bags.sizes), strict=True)
        return torch.stack([torch.softmax(s, 0).T @ v for v, s in parts])
    # A tensor that wants a gradient makes autograd call `backward` at all.
    spark = torch.zeros((), device=bags.features.device, requires_grad=torch.is_grad_enabled())
    return torch.stack(
        [_streamed(network, bags.features[a:b], spark) for a, b in zip(bags.offsets, bags.offsets[1:], strict=False)]
    )


def _streamed(network: TileNetwork, features: torch.Tensor, spark: torch.Tensor) -> torch.Tensor:
    pooled: torch.Tensor = _Streamed.apply(spark, network, features)
    return pooled


class _Streamed(torch.autograd.Function):
    """One bag, chunk by chunk; only the pooled values and the softmax's normaliser are kept for the way back."""

    @staticmethod
    def forward(ctx: Any, spark: torch.Tensor, network: TileNetwork, features: torch.Tensor) -> torch.Tensor:
        ctx.network, ctx.features = network, features
        ctx.random = torch.get_rng_state(), get_device_states(features)
        total: torch.Tensor | None = None  # (head, value)
        for chunk in torch.split(features, CHUNK_TILES):
            values, scores = network(chunk.float())
            if total is None:
                total = values.new_zeros(scores.shape[1], values.shape[1])
                top = values.new_full(scores.shape[1:], -torch.inf)
                mass = values.new_zeros(scores.shape[1])
            higher = torch.maximum(top, scores.amax(0))
            shrink, weights = torch.exp(top - higher), torch.exp(scores - higher)
            total = total * shrink[:, None] + weights.T @ values
            mass, top = mass * shrink + weights.sum(0), higher
        assert total is not None  # noqa: S101 - bags have a tile at least
        pooled = total / mass[:, None]
        ctx.save_for_backward(pooled, top + mass.log())
        return pooled

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[None, None, None]:
        (grad,) = grads  # (head, value)
        pooled, normaliser = ctx.saved_tensors
        cpu_state, (devices, states) = ctx.random
        with torch.random.fork_rng(devices=devices, device_type=ctx.features.device.type), torch.enable_grad():
            torch.set_rng_state(cpu_state)  # the same tiles and numbers are dropped as on the way there
            set_device_states(devices, states)
            at_mean = (pooled * grad).sum(1)  # (head,)
            for chunk in torch.split(ctx.features, CHUNK_TILES):
                values, scores = ctx.network(chunk.float())
                weights = torch.exp(scores.detach() - normaliser)  # (tile, head)
                pairs = [(values, weights @ grad), (scores, weights * (values.detach() @ grad.T - at_mean))]
                pairs = [pair for pair in pairs if pair[0].requires_grad]  # what is frozen learns nothing
                if pairs:
                    torch.autograd.backward([found for found, _ in pairs], [wanted for _, wanted in pairs])
        return None, None, None


def top(network: Callable[[torch.Tensor], torch.Tensor], bags: Bags, count: int) -> torch.Tensor:
    """Mean of the `count` highest values of every bag, each column for itself.

    Over `STREAM_TILES` a network with dropout chooses tiles by one random mask and values them by another.

    Parameters
    ----------
    network
        (tile, dim) to (tile, column); a tile's values are of that tile alone.
    bags
        The batch; a bag of fewer tiles gives the mean of all.
    count
        1 is the maximum.

    Returns
    -------
    (bag, column)
    """
    if len(bags.features) <= STREAM_TILES:
        return torch.stack([_highest(part, count) for part in torch.split(network(bags.features.float()), bags.sizes)])
    # Only the highest tiles have a gradient: found without one, then gone through once more.
    rows, sizes = [], []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for a, b in zip(bags.offsets, bags.offsets[1:], strict=False):
            values = torch.cat([network(chunk.float()) for chunk in torch.split(bags.features[a:b], CHUNK_TILES)])
            kept = torch.unique(values.topk(min(count, b - a), dim=0).indices) + a
            rows.append(kept)
            sizes.append(len(kept))
    few = network(bags.features[torch.cat(rows)].float())
    return torch.stack([_highest(part, count) for part in torch.split(few, sizes)])


def _highest(values: torch.Tensor, count: int) -> torch.Tensor:
    return values.topk(min(count, len(values)), dim=0).values.mean(0)
