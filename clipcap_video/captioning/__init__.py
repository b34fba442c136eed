"""Captions of videos: the captioner as a library, its runs, and what they leave on disk."""
