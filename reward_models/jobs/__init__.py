"""Scoring of files that survives everything: rows checked and cut into windows, finished windows
kept, outputs put together.
"""
