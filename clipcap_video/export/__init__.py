"""What captions leave the program as: pages and files for people and players."""
