"""Adapters: which layers of a model get an update."""
