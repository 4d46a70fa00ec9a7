"""Slides and patients with their labels: tables in, cohorts, splits and bags of features out."""
