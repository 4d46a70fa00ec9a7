"""Weights as the authors of UMedPT and Tissue Concepts publish them, as networks of ours."""
