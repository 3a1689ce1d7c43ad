"""Data: where rows come from, and the small world that ships with the package."""
