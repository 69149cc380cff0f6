"""Hard negatives and clusters of rows, found by an embedder, written for later training.

Vectors that are being made are kept, so that a stopped search goes on.
"""
