"""Tests of the plugin; what they share is in `tests.support`."""
