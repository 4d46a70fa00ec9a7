"""Against forgetting: the encoder's maps are held near those of the weights that it began with.

What a network learnt from a million photographs serves questions that no task asks. The maps of
the network as it began are therefore targets beside every label (Romero et al., FitNets, ICLR
2015; Li and Hoiem, Learning without Forgetting, ECCV 2016), on the same augmented images.
"""

import copy

import torch

from wsi_umedpt.models.backbones import Backbone, FeaturePyramid
from wsi_umedpt.models.umedpt import Features

DISTILLED = "distil"
"""Names the loss in logs."""


class Distiller:
    """The encoder as it began, and how far the trained one has gone from it."""

    def __init__(self, encoder: Backbone, weight: float) -> None:
        self.weight = weight
        self._began = copy.deepcopy(encoder).eval().requires_grad_(False)

    def loss(self, images: torch.Tensor, features: Features) -> torch.Tensor:
        """Mean squared difference of the maps of strides 8, 16 and 32, in deviations of each channel: 0 at the start.

        Parameters
        ----------
        images : float (image, 3, h, w)
            Normalised, as `features` were made of.
        """
        # TimmBackbone and SwinBackbone want sides that are multiples of 32, which those of batches are.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            began: FeaturePyramid = self._began(images)
        found = (features.pyramid.stride8, features.pyramid.stride16, features.deepest)
        parts = []
        for now, before in zip(found, began[1:], strict=True):
            spread = before.var((0, 2, 3), keepdim=True).clamp(min=1e-4)
            parts.append(((now.float() - before) ** 2 / spread).mean())
        return torch.stack(parts).mean()
