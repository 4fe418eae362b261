"""ESP4, memory and needless work."""
