"""What everything else stands on: rows, files, the store, settings, languages.

Imports nothing above it.
"""
