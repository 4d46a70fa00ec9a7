"""Slide classifiers by multiple-instance learning: trained on tile features, evaluated so that nothing leaks."""
