"""Annotations that people drew in other programs: QuPath's GeoJSON, and XML of ASAP, ImageScope and HALO."""
