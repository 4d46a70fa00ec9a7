"""The napari plugin of wsi_umedpt: whole slides and what was found on them. Importing it loads nothing."""
