"""Beyond one figure: query-time methods side by side, and robustness of composed queries.

What a language model says for them is kept on disk.
"""
