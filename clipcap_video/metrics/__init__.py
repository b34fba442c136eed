"""Official caption metrics, and retrieval metrics."""
