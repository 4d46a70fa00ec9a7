"""`wsi-umedpt encoders`: what tiles can be embedded with."""


def encoders() -> None:
    """List the encoders that can be named with -m.

    Examples
    --------
        wsi-umedpt encoders

        wsi-umedpt embed slide.svs -o out -m timm:resnet50@weights.safetensors
    """
    from wsi_umedpt.models.cards import DEFAULT_ENCODER, ENCODERS

    for card in ENCODERS.values():
        print(f"{card.name}{' (default)' if card.name == DEFAULT_ENCODER else ''}")
        print(f"    {card.about}")
        at = "at any um/px" if card.mpp is None else f"at {card.mpp:g} um/px"
        print(f"    {card.size_px} px {at} -> {card.dim} numbers; {card.licence}; {card.source}")
    print("timm:NAME, timm:NAME@FILE, timm:NAME@random")
    print("    any model of timm, with weights from its hub or cache, from a file, or random;")
    print("    they state no um/px: choose it with --tile-mpp")
