"""Annotation readers, and the matching of captions with features and videos."""
