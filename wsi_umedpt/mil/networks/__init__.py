"""Networks over bags of tiles: pooling, attention, transformer."""
