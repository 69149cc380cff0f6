"""Adapters of one base added with weights.

`merge` reads and writes folders, `adapter_merge` is the arithmetic.
"""
