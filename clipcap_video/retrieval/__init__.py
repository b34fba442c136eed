"""Text-video retrieval after CLIP4Clip."""
