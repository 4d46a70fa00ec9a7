"""Training of slide models: fits, folds, ensembles, calibration, and what is unlike the training data."""
