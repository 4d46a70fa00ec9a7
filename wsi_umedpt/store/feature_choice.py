"""Choice of a store's features that a model was made for: its encoder and grid, out of several."""

from collections.abc import Callable

from wsi_umedpt.errors import StoreError
from wsi_umedpt.store.slide_store import SlideStore

Fits = Callable[[str, str], str]
"""Function that says why the features of an encoder on a grid cannot be used; empty if they can."""


def features_for(
    store: SlideStore, fits: Fits, wanted: str, *, encoder_id: str | None = None, grid_id: str | None = None
) -> tuple[str | None, str | None]:
    """Find the features that a model takes.

    Parameters
    ----------
    store
        May hold features of several encoders, and on several grids.
    fits
        Verdict of the model on each.
    wanted
        Features that the model was made for, in words.
    encoder_id, grid_id
        Only these, where they are named.

    Returns
    -------
    encoder_id, grid_id
        As they were named, where there is no choice: what is wrong with those is said where they are read.

    Raises
    ------
    StoreError
        If none of several fits, or more than one does.
    """
    there = [
        (encoder, grid)
        for grid in store.grid_ids
        for encoder in store.encoder_ids(grid)
        if encoder_id in (None, encoder) and grid_id in (None, grid)
    ]
    if len(there) < 2:
        return encoder_id, grid_id
    reasons = {pair: fits(*pair) for pair in there}
    fitting = [pair for pair, reason in reasons.items() if not reason]
    if not fitting:
        listed = "; ".join(f"{encoder}, grid {grid}: {reason}" for (encoder, grid), reason in reasons.items())
        raise StoreError(f"{store.path} holds no features of the kind that is asked for ({wanted}). It holds {listed}")
    if len(fitting) > 1:
        grids = sorted({grid for _, grid in fitting})
        what = f"grids {', '.join(grids)} fit; name one with `grid_id`"
        if len(grids) == 1:
            what = f"features {', '.join(encoder for encoder, _ in fitting)} fit; name one with `encoder_id`"
        raise StoreError(f"{store.path}: several {what}")
    return fitting[0]
