"""Vectors on disk with their ids, filled by many processes, and galleries over them.

A store is never half-written, and never mixes vectors of two models.
"""
