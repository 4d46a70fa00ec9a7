"""Files and names as others leave them, and our own written whole or not at all."""

from wsi_umedpt._lazy import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "TABLE_SUFFIXES": "io.spreadsheet",
    },
)
