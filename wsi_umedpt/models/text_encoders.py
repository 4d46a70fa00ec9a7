"""Texts in the space of an encoder's images: prompts in, unit vectors out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.building import inner, need
from wsi_umedpt.models.cards import EncoderCard, all_cards, find_card
from wsi_umedpt.models.hub import fetch
from wsi_umedpt.models.names import parse_name
from wsi_umedpt.models.weights import load_network

_WORDS = ("vocab.json", "merges.txt")
"""Files of a tokenizer of CLIP, beside its weights."""
_MOST_TOKENS = 77

Vectors = npt.NDArray[np.float32]


class TextEncoder:
    """The text tower of an encoder, on the CPU.

    Parameters
    ----------
    name
        As -m takes it: a card that embeds texts, its weights from the hub or from a file with the tokenizer's files
        (vocab.json, merges.txt) beside it.

    Raises
    ------
    EncoderError
        If it embeds no texts, is not built here, or its weights or tokenizer cannot be had.
    """

    def __init__(self, name: str) -> None:
        asked = parse_name(name)
        card = find_card(asked.name) if asked.source == "card" else None
        if card is None or not card.text or card.kind != "tile":
            known = ", ".join(one.name for one in all_cards().values() if one.text and one.kind == "tile")
            raise EncoderError(f"{name} embeds no texts; encoders that do: {known}")
        network, self.card = load_network(name)
        self._network: Any = inner(network)
        self._tokenizer: Any = _tokenizer(card, asked.file, self.card.revision)

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> Vectors:
        """Unit vectors (prompt, dim) of texts."""
        words = self._tokenizer(
            [*prompts], padding=True, truncation=True, max_length=_MOST_TOKENS, return_tensors="pt"
        )  # fmt: skip
        read = self._network.text_model(input_ids=words["input_ids"], attention_mask=words["attention_mask"])
        vectors = self._network.text_projection(read.pooler_output)
        found: Vectors = torch.nn.functional.normalize(vectors, dim=-1).numpy()
        return found


def _tokenizer(card: EncoderCard, file: str, revision: str) -> Any:
    transformers = need("transformers", card.name)
    if file:
        folder = Path(file).parent
        if missing := [name for name in _WORDS if not (folder / name).is_file()]:
            raise EncoderError(f"to read texts, {card.name} needs {' and '.join(missing)} beside {file}")
    else:
        paths = [fetch(card.repository, (name,), revision, called=card.name).path for name in _WORDS]
        folder = paths[0].parent
    try:
        return transformers.CLIPTokenizer.from_pretrained(str(folder))
    except Exception as error:  # noqa: BLE001 - a foreign file can be wrong in any way
        raise EncoderError(f"the tokenizer of {card.name} in {folder} cannot be read: {str(error)[:200]}") from None
