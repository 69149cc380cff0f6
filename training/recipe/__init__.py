"""Recipes: their YAML, their keys, and the checks that come before any training.

`config`, `stage_keys` and `lora` document every key.
"""
