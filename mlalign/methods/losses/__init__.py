"""Losses of preference training: one pure function to a file."""
