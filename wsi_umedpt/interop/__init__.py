"""Objects and features of tiles to and from the files of other tools."""
