"""From a batch of tokens and pixels to vectors: the base model, its families, adapters, pooling and devices.

Nothing here knows of a query or a document; `inputs` makes the batches.
"""
