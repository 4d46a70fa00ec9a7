"""Logic of docks. No Qt."""
