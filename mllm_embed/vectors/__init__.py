"""Arithmetic on finished vectors: number formats, mixtures, exact ranking, learned bits.

Everything here takes arrays and gives arrays; nothing knows of a model or a file of vectors.
"""
