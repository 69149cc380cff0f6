"""Recipes: their YAML, their keys, and the checks that come before any training.

`config` and `terms` document every key.
"""
