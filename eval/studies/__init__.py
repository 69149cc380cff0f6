"""Beyond one figure: query-time methods side by side, and robustness of composed queries.

Texts that a language model writes for them are kept on disk.
"""
