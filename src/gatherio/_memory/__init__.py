"""Pages, arrays on them, and lists of their segments. Knows nothing of files."""
