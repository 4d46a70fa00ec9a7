"""Weights for a network of transformers, whose own loader knows how names changed between its versions."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.io.tensors import flaw
from wsi_umedpt.models.building import Pooled, config_of, need
from wsi_umedpt.models.cards import EncoderCard
from wsi_umedpt.models.weight_files import Digest, Rules, WeightFile


@contextlib.contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Let transformers neither draw bars nor report weights, which is done here in words."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def fill_transformers(card: EncoderCard, file: WeightFile, dtype: torch.dtype) -> tuple[nn.Module, str]:
    """The network of a card with a file's weights, strictly, and their sha256 under the names of the file.

    Raises
    ------
    EncoderError
        If the file is of another network, or holds NaN or infinite numbers.
    """
    transformers = need("transformers", card.name)
    named = Rules.of(card).named(file.outline, {}, file.name)
    read = file.read(named.values())
    state = {ours: read[theirs] for ours, theirs in named.items()}
    if why := flaw(state):
        raise EncoderError(f"the weights from {file.name} cannot be used: {why}")
    digest = Digest()
    for key in sorted(state):
        digest.add(key, state[key])
    made: Any = getattr(transformers, card.architecture)
    config, more = config_of(card)
    try:
        with _quiet(transformers.utils.logging):
            network, said = made.from_pretrained(
                None, config=config, state_dict=state, output_loading_info=True, dtype=dtype, **more
            )
    except (RuntimeError, ValueError) as error:
        raise EncoderError(f"the weights from {file.name} are of another network: {str(error)[:300]}") from None
    wrong = {
        kind: sorted(map(str, said.get(kind) or ())) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    if any(wrong.values()):
        words = "; ".join(f"{len(v)} {k.partition('_')[0]}: {', '.join(v[:3])}" for k, v in wrong.items() if v)
        raise EncoderError(f"the weights from {file.name} are of another network: {words}")
    return (network if card.pooling == "network" else Pooled(network, card)), digest.value()
