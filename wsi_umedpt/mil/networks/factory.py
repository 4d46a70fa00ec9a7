"""Networks by name."""

from collections.abc import Callable

from wsi_umedpt.errors import MilError
from wsi_umedpt.mil.networks.attention import Additive, Clam, GatedAttention, MeanPool
from wsi_umedpt.mil.networks.base import SlideNetwork
from wsi_umedpt.mil.networks.topk import Highest
from wsi_umedpt.mil.networks.transformer import MeanMlp, Transformer
from wsi_umedpt.mil.settings import NETWORKS, ModelSettings, network_names

BuildNetwork = Callable[[int, int, ModelSettings, list[int]], SlideNetwork]
"""Makes a network from the length of an embedding, the number of logits, settings, and classes of each target."""


def register_mil_network(name: str, build_network: BuildNetwork) -> None:
    """Let slide models be trained with a network of one's own, in this process.

    A package does the same for every process with an entry point of the group ``wsi_umedpt.mil_networks``. A trained
    model states the network's name; it can be loaded wherever that name is registered.

    Parameters
    ----------
    name
        Name of the network for ``--model`` and `ModelSettings.model`.
    build_network
        As `build_network` is called: dim, outputs, settings, classes; returns a `SlideNetwork`.

    Raises
    ------
    OptionError
        If the name is one of ours.
    """
    NETWORKS.add(name, build_network)


def build_network(dim: int, outputs: int, settings: ModelSettings, classes: list[int]) -> SlideNetwork:
    """Make the network that `settings` name.

    Parameters
    ----------
    dim
        Feature dimension.
    outputs
        Logits of all targets.
    settings
        See `ModelSettings`.
    classes
        Number of classes of each target of classes; CLAM's instance loss needs them.
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
        case name:
            if (own := NETWORKS.get(name)) is None:
                raise MilError(f"there is no model {name!r}; there are {', '.join(network_names())}")
            made: SlideNetwork = own(dim, outputs, settings, classes)
            return made
