"""The napari plugin of wsi_umedpt. It contributes nothing yet."""
