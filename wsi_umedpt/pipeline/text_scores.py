"""Tiles scored by how near they are to texts: cosines, as scores of the store."""

from collections.abc import Sequence

import numpy as np

from wsi_umedpt import __version__
from wsi_umedpt.errors import EncoderError, OptionError
from wsi_umedpt.models.cards import all_cards
from wsi_umedpt.models.text_encoders import TextEncoder
from wsi_umedpt.store.scores_io import write_scores
from wsi_umedpt.store.slide_store import SlideStore


def features_with_texts(store: SlideStore, grid_id: str | None = None) -> tuple[str, str]:
    """The features of a store (encoder, grid) whose encoder also embeds texts.

    Raises
    ------
    OptionError
        If there are none, or several.
    """
    texts = [card.name for card in all_cards().values() if card.text and card.kind == "tile"]
    there = [
        (encoder, grid)
        for grid in store.grid_ids
        if grid_id in (None, grid)
        for encoder in store.encoder_ids(grid)
        if any(encoder == name or encoder.startswith(f"{name}.") for name in texts)
    ]
    if len(there) == 1:
        return there[0]
    listed = ", ".join(f"{encoder} (grid {grid})" for encoder, grid in there)
    raise OptionError(
        f"{store.path} holds {f'several features with texts: {listed}; name a grid' if there else 'no features'} of an "
        f"encoder that also embeds texts ({', '.join(texts)})"
    )


def score_texts(
    store: SlideStore, encoder: TextEncoder, prompts: Sequence[str], *, grid_id: str | None = None
) -> tuple[str, str]:
    """Put the cosine of each tile with each prompt into a store, and the prompts with it.

    Parameters
    ----------
    store
        With features of the same weights.
    encoder
        Encoder of texts.
    prompts
        Columns of the scores; each once.
    grid_id
        Grid of the tiles, where several have such features.

    Returns
    -------
    model_id, grid_id
        Names of the scores and of their grid.

    Raises
    ------
    EncoderError
        If the tiles were embedded by other weights.
    OptionError
        If there are no such features, or a prompt is empty or twice there.
    """
    if not all(prompt.strip() for prompt in prompts) or len({*prompts}) < len(prompts):
        raise OptionError(f"texts are not empty, and each is given once: {', '.join(map(repr, prompts))}")
    encoder_id, grid_id = features_with_texts(store, grid_id)
    made_by = store.feature_attrs(encoder_id, grid_id)
    if made_by.get("weights_sha256") != encoder.card.weights_sha256:
        raise EncoderError(
            f"the tiles of {store.path} were embedded by {encoder_id}, with other weights than {encoder.card.name} "
            "has; name those: `text_encoder` NAME@FILE or NAME?revision=COMMIT"
        )
    bag = store.features(encoder_id, grid_id)
    tiles = bag.features.astype(np.float32)
    norms = np.maximum(np.linalg.norm(tiles, axis=1, keepdims=True), 1e-12)
    scores = np.full((len(store.grid(grid_id)), len(prompts)), np.nan, np.float32)
    scores[bag.index] = tiles / norms @ encoder.encode(prompts).T
    model_id = f"text.{encoder_id}"
    about = {
        "columns": [*prompts], "prompts": [*prompts], "score": "cosine", "wsi_umedpt": __version__,
        "model": {"kind": "texts", "name": encoder.card.name, "weights_sha256": encoder.card.weights_sha256},
    }  # fmt: skip
    write_scores(store, model_id, scores, about, grid_id)
    return model_id, grid_id
