"""Jobs of a run: its slides, and the paths of their files."""
