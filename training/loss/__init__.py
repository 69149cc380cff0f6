"""Contrastive losses: pure functions of vectors, computed whole or in tiles, with a temperature.

Nothing here knows of a model, a file or a process.
"""
