"""A model on disk and on the hub: its settings, checkpoints, model card, and files for sentence-transformers.

`provenance` says what made vectors, so that those of another model are never mixed with them.
"""
