"""The base model speaking again: answers, re-ranking, explanations, and the cache of what it said.

The embedder's adapter is off while it speaks.
"""
