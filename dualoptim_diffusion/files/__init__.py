"""Files on disk: written whole, read checked."""
