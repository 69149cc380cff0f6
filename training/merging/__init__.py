"""Adapters of one base added with weights.

`merge` is the command, `adapter_merge` the arithmetic.
"""
