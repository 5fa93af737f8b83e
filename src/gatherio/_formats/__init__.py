"""Standard files."""
