"""Pages that show captions with their frames."""
