"""Networks: encoders, their weights and what runs them. Nothing here knows of slides."""

from wsi_umedpt._lazy import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "DEFAULT_ENCODER": "models.cards",
        "Encoder": "models.encoder",
        "EncoderCard": "models.cards",
        "all_cards": "models.cards",
        "find_card": "models.cards",
        "load_encoder": "models.encoder",
        "load_release": "models.bundle",
        "register_encoder": "models.own",
        "release_card": "models.bundle",
        "release_heads": "models.bundle",
        "shipped": "models.bundle",
    },
)
