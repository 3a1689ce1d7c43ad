"""Pure functions that stages call by name, one per file."""
