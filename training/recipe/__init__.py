"""What a recipe may say, how its YAML is read, and what is refused before anything is trained.

`config` documents every key.
"""
