"""The memory, tokens and steps that a recipe takes, counted before anything is loaded.

Shapes come from config files, never from weights.
"""
