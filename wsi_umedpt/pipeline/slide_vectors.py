"""The vector of a slide, made of its tiles' features and put beside them."""

from wsi_umedpt import __version__
from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.slide_encoders import SlideEncoder
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.slide_vectors import slide_vector_attrs, slide_vector_ids, write_slide_vector


def embed_slide(store: SlideStore, encoder: SlideEncoder, encoder_id: str, grid_id: str) -> bool:
    """Make the vector of a slide, if the store does not have it of these features.

    Parameters
    ----------
    store
        Committed.
    encoder
        Encoder of slides.
    encoder_id, grid_id
        Features of tiles to use.

    Returns
    -------
    bool
        True if it was made now.

    Raises
    ------
    EncoderError
        If it is not for such features, or there are no tiles.
    StoreError
        If the features cannot be read, or the store cannot be written.
    """
    encoder.check_tiles(encoder_id)
    name = f"{encoder.card.name}.{encoder_id}"
    features = store.feature_attrs(encoder_id, grid_id)
    made_of = features.get("sha256")
    if (grid_id, name) in slide_vector_ids(store):
        if slide_vector_attrs(store, name, grid_id).get("tiles_sha256") == made_of:
            return False
    bag = store.features(encoder_id, grid_id)
    if not len(bag):
        raise EncoderError(f"{store.slide_id} has no tiles, and so no vector")
    made_by = {
        "card": encoder.card.to_dict(), "tiles": encoder_id, "tiles_sha256": made_of,
        "weights_sha256": features.get("weights_sha256"), "precision": features.get("precision"),
        "count": len(bag), "wsi_umedpt": __version__,
    }  # fmt: skip
    write_slide_vector(store, name, encoder.encode(bag.features), made_by, grid_id)
    return True
