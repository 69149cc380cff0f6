"""A run for people: its log as curves, and what they say in a few lines.

Reads `log.jsonl` alone, so it can be made again at any time.
"""
