"""Reports on runs: status, catalog, outliers, web page."""
