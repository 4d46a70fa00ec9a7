"""Networks whose code lies beside their weights: run only where the user says so, in words.

That code is a program of somebody else's, and runs with the user's rights. Nothing of it is read before consent;
with it, transformers loads it from the commit that is named, or the newest.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.building import Pooled, need
from wsi_umedpt.models.cards import EncoderCard
from wsi_umedpt.models.hub import asked_where_it_answers
from wsi_umedpt.models.weight_files import weights_sha256


def load_remote(
    card: EncoderCard, place: str, revision: str, *, trusted: bool, dtype: torch.dtype
) -> tuple[nn.Module, EncoderCard]:
    """Load a network by the code of its authors.

    Parameters
    ----------
    card
        Its `architecture` is a class of transformers, as AutoModel, and may name a method that gives the encoder, as
        AutoModel.return_conch.
    place
        Repository, or a folder that holds a copy of one.
    revision
        Commit, branch or tag; empty for the newest.
    trusted
        True if the user agreed.
    dtype
        Type of its weights in memory.

    Raises
    ------
    EncoderError
        If nobody agreed, or it cannot be loaded, or gives no vector.
    """
    where = card.page or place
    if not trusted:
        raise EncoderError(
            f"the network of {card.name} is code beside its weights ({where}), written by its authors, which would run "
            "on this machine with your rights.",
            remedy=f"Read it; if you trust it, say `trust_remote_code`, and pin what you read with "
            f"{card.name}?revision=COMMIT.",
            setting="trust_remote_code",
        )
    transformers = need("transformers", card.name)
    kind, _, method = card.architecture.partition(".")
    with asked_where_it_answers():
        try:
            whole: Any = getattr(transformers, kind).from_pretrained(
                place, revision=revision or None, trust_remote_code=True, dtype=dtype
            )
            made: Any = getattr(whole, method)() if method else whole
        except Exception as error:  # noqa: BLE001 - code of others can fail in any way
            why = (str(error).strip().splitlines() or [""])[0][:300]
            raise EncoderError(f"{card.name} cannot be loaded from {place}: {type(error).__name__}: {why}") from None
    network = made[0] if isinstance(made, tuple | list) else made
    if not isinstance(network, nn.Module):
        raise EncoderError(f"the code of {card.name} gave a {type(network).__name__}, not a network")
    found = weights_sha256(network)
    if card.pooling != "network":
        network = Pooled(network, replace(card, library="transformers"))
    with torch.inference_mode():
        shape = tuple(network.eval()(torch.zeros(1, 3, card.input_px, card.input_px, dtype=dtype)).shape)
    if shape != (1, card.dim):
        raise EncoderError(f"the network of {card.name} gives {shape} for one tile, and its card says (1, {card.dim})")
    commit = str(getattr(getattr(whole, "config", None), "_commit_hash", None) or "")
    return network, replace(card, revision=commit or revision, weights_sha256=found)
