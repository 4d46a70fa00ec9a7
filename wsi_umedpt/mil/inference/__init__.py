"""Trained slide models on further slides: predictions, heatmaps, answers while a region is drawn."""
