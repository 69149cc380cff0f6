"""Queries in, pictures out, wherever the vectors live: `Searcher`, Qdrant, PostgreSQL, and the contact sheet.

A gallery in memory or in a store is in `store`, an index of one in `index`.
"""
