"""An encoder of your own: any torch network that turns images into vectors, under a name of its own.

Run it:  python examples/05_own_encoder.py
"""

from pathlib import Path

import torch
from torch import nn

import wsi_umedpt as wu

OUT = Path(__file__).parent / "out"


class Colours(nn.Module):
    """Mean and spread of each channel in a 4 x 4 raster: no network at all, and embeds like one."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Turn (batch, 3, h, w) into (batch, 96)."""
        means = nn.functional.adaptive_avg_pool2d(images, 4)
        squares = nn.functional.adaptive_avg_pool2d(images**2, 4)
        spread = (squares - means**2).clamp_min(0).sqrt()
        return torch.cat([means, spread], dim=1).flatten(1)


def colours(device: str) -> wu.Encoder:
    """Load the encoder onto a device; this is what a package would name as an entry point."""
    return wu.Encoder.from_module(Colours().to(device), name="colours.v1", mpp=0.5, size_px=224)


def main() -> None:
    """Register the encoder, embed with it by name, look."""
    wu.register_encoder("colours", colours)
    store = wu.embed(wu.sample_slide(), OUT / "own_encoder.zarr", encoder="colours")
    print(store)
    print(store.feature_attrs("colours")["weights_sha256"])
    wu.plot.overview(store, "colours.v1").savefig(OUT / "05_own_encoder.png")


if __name__ == "__main__":
    main()
