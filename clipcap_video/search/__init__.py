"""Finding videos by a text or by another video, among frame features."""
