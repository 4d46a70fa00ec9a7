"""Which network a name stands for."""

from wsi_umedpt.mil.attention import Additive, Clam, GatedAttention, MeanPool
from wsi_umedpt.mil.instances import Highest
from wsi_umedpt.mil.network import SlideNetwork
from wsi_umedpt.mil.settings import ModelSettings
from wsi_umedpt.mil.transformer import MeanMlp, Transformer


def build(dim: int, outputs: int, settings: ModelSettings, classes: list[int]) -> SlideNetwork:
    """Make the network that `settings` name.

    Parameters
    ----------
    dim
        Numbers a tile.
    outputs
        Logits of all targets.
    settings
        See `ModelSettings`.
    classes
        How many classes each target of classes has; CLAM's instance loss needs them.
    """
    match settings.model:
        case "mean":
            return MeanPool(dim, outputs, settings)
        case "max":
            return Highest(dim, outputs, settings, 1)
        case "top-k":
            return Highest(dim, outputs, settings, settings.top_k)
        case "mean-mlp":
            return MeanMlp(dim, outputs, settings)
        case "attention":
            return GatedAttention(dim, outputs, settings)
        case "clam-sb" | "clam-mb":
            return Clam(dim, outputs, settings, classes, many=settings.model == "clam-mb")
        case "additive":
            return Additive(dim, outputs, settings)
        case "transformer":
            return Transformer(dim, outputs, settings)
