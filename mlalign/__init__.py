"""Align multilingual language models with human preferences, and show the evidence language by
language.
"""

__version__ = "0.1.0"
