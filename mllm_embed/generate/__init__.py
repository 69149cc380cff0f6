"""The base model speaking again: answers, re-ranking, explanations, and the caches of what it said and thought.

The embedder's adapter is off while it speaks.
"""
