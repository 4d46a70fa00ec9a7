"""Norms with statistics of their own: decoders whose output at a pixel depends on its surroundings alone.

In training each image is normalised by its own mean and variance. Over a slide that would make
what is found in a window depend on all else that is in it, so that neighbouring windows would
disagree and no overlap could hide the seam. Here the whole slide is the image: statistics are the
mean over some of its tiles, and a norm is then one multiplication and one addition a channel.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from wsi_umedpt.models.backbones import FeaturePyramid
from wsi_umedpt.models.umedpt import UMedPT

Statistics = dict[str, torch.Tensor]
"""Statistics by name of the norm: float32 (call, 2, group), mean and variance; a norm that several levels of a
pyramid share is called once for each."""


class StatisticsCollector:
    """Collects statistics of norms while a network runs."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._seen: dict[str, list[torch.Tensor]] = {}
        self._images = 0

    def statistics(self) -> Statistics:
        """Mean over images of each image's mean and variance."""
        return {name: total / self._images for name, total in self._sums.items()}

    def note(self, name: str, groups: int, x: torch.Tensor) -> None:
        """Remember one call of a norm; x is (image, channel, h, w)."""
        flat = x.detach().float().reshape(len(x), groups, -1)
        self._seen.setdefault(name, []).append(torch.stack([flat.mean(2).sum(0), flat.var(2, unbiased=False).sum(0)]))

    def ended(self, images: int) -> None:
        """The network has run once on so many images."""
        for name, calls in self._seen.items():
            total = torch.stack(calls).cpu()
            self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._seen.clear()
        self._images += images


@contextmanager
def collect_statistics(shared: UMedPT) -> Iterator[StatisticsCollector]:
    """Collect statistics of the norms of squeezer and decoders; call `StatisticsCollector.ended` after each run."""
    collector = StatisticsCollector()
    hooks = [
        norm.register_forward_pre_hook(lambda norm, inputs, name=name: collector.note(name, norm.num_groups, inputs[0]))
        for name, norm in _norms(shared)
    ]
    try:
        yield collector
    finally:
        for hook in hooks:
            hook.remove()


class FixedNorm(nn.Module):
    """A GroupNorm with given statistics, called for one level after the other."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, norm: nn.GroupNorm, statistics: torch.Tensor) -> None:
        super().__init__()
        mean, variance = (s.repeat_interleave(norm.num_channels // norm.num_groups, 1) for s in statistics.unbind(1))
        scale = torch.rsqrt(variance + norm.eps)
        shift = -mean * scale
        if norm.weight is not None:
            scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
        self.register_buffer("scale", scale[..., None, None].detach().clone(), persistent=False)
        self.register_buffer("shift", shift[..., None, None].detach().clone(), persistent=False)
        self.call = 0
        """Number of the next call; `Decoder` begins each run with 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (image, channel, h, w) by the statistics of this call."""
        call, self.call = self.call, self.call + 1
        return torch.addcmul(self.shift[call], x, self.scale[call])


class Decoder(nn.Module):
    """Squeezer and one decoder of a shared model, with fixed norms: a raw pyramid in, what the decoder gives out."""

    def __init__(self, shared: UMedPT, part: str, statistics: Statistics) -> None:
        super().__init__()
        made = nn.ModuleDict(
            {"squeezer": copy.deepcopy(shared.squeezer), part: copy.deepcopy(shared.get_submodule(part))}
        )
        for name, norm in list(_norms(made)):
            parent, _, attribute = name.rpartition(".")
            setattr(made.get_submodule(parent), attribute, FixedNorm(norm, statistics[name]))
        self.squeezer, self.decoder = made["squeezer"], made[part]

    def forward(self, raw: FeaturePyramid) -> torch.Tensor | tuple[tuple[torch.Tensor, ...], ...]:
        """See `PixelDecoder` and `BoxDecoder`."""
        for part in self.modules():
            if isinstance(part, FixedNorm):
                part.call = 0
        squeezed, _ = self.squeezer(raw.stride32)
        return self.decoder(raw._replace(stride32=squeezed))  # type: ignore[no-any-return]


def _norms(module: nn.Module) -> Iterator[tuple[str, nn.GroupNorm]]:
    """GroupNorms outside the encoder, by name."""
    for name, part in module.named_modules():
        if isinstance(part, nn.GroupNorm) and not name.startswith("encoder."):
            yield name, part
