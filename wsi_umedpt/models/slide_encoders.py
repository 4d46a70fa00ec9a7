"""Encoders of slides: the features of a slide's tiles in, one vector out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.cards import EncoderCard, all_cards, find_card

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SlideEncoder:
    """One that is built here."""

    card: EncoderCard
    _run: Callable[[npt.NDArray[np.floating]], Floats]

    def check_tiles(self, features: str) -> None:
        """Refuse features that it was not made for; `features` is their name in a store.

        Raises
        ------
        EncoderError
            If its card names tile encoders, and they are of another.
        """
        wanted = self.card.tiles_from
        if wanted and not any(features == name or features.startswith(f"{name}.") for name in wanted):
            raise EncoderError(f"{self.card.name} takes tiles of {' or '.join(wanted)}, not of {features}")

    def encode(self, features: npt.NDArray[np.floating]) -> Floats:
        """Vector (dim,) of a slide's tiles (tile, dim).

        Raises
        ------
        EncoderError
            If there are no tiles.
        """
        if not len(features):
            raise EncoderError(f"{self.card.name} needs tiles, and the slide has none")
        return self._run(features)


def find_slide_encoder(name: str) -> SlideEncoder:
    """The encoder of a name or an alias.

    Raises
    ------
    EncoderError
        If it is none of slides, or is not built here: then why.
    """
    card = find_card(name)
    if card.kind != "slide":
        known = ", ".join(one.name for one in all_cards().values() if one.kind == "slide")
        raise EncoderError(f"{card.name} embeds {card.kind}s, not slides; those that embed slides: {known}")
    if card.why_not:
        raise EncoderError(
            f"{card.name} cannot be built here: {card.why_not}"
            + (f". It needs tiles of {' or '.join(card.tiles_from)}" if card.tiles_from else "")
        )
    if card.architecture not in _BUILT:
        raise EncoderError(f"{card.name}: of slide encoders, {', '.join(_BUILT)} are built, not {card.architecture}")
    return SlideEncoder(card, _BUILT[card.architecture])


def _mean(features: npt.NDArray[np.floating]) -> Floats:
    found: Floats = features.mean(0, dtype=np.float64).astype(np.float32)
    return found


_BUILT: dict[str, Callable[[npt.NDArray[np.floating]], Floats]] = {"mean": _mean}
