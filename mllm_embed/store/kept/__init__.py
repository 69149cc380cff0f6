"""Columns of sources that a store keeps beside its vectors: their files, their changes, where they come from."""
