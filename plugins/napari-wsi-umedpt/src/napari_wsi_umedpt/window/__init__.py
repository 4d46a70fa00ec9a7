"""The window itself: its start and end, runs, undo, messages."""
