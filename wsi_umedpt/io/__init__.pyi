from wsi_umedpt.io.spreadsheet import TABLE_SUFFIXES as TABLE_SUFFIXES
