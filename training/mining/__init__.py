"""Hard negatives and clusters of rows, found by an embedder, written for later training.

`mine` holds the steps; vectors that are being made lie in a `vector_cache`, so that a stopped run goes on.
"""
