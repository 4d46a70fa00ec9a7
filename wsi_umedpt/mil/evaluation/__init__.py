"""Evaluation: held-out predictions in, figures with intervals, plots and a page out; independent of models."""
