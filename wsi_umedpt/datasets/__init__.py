"""Labelled images for tasks: from folders and tables to batches."""
