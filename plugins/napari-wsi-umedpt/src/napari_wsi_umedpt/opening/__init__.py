"""Paths to layers: slides and stores, read beside the window."""
