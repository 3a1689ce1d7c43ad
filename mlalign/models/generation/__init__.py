"""Asking a model for answers to rows of prompts: its configuration (light), and the asking."""
