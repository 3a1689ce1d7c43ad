"""Recipes: the YAML in which a method is written, and the graph of steps that it stands for."""
