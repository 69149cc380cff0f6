"""From rows to batches: the order of the rows, their examples, and the collation into model input.

Each distinct input of a batch is encoded once.
"""
