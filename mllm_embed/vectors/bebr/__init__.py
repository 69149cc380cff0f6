"""Recurrent binary embeddings, BEBR (arXiv 2302.08714): codes, the maps that make them, and how those are learned."""
