"""Many slides: which they are, and one run over all of them."""
