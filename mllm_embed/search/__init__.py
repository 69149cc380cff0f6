"""Queries in, pictures out, wherever the vectors live: `Searcher`, its sessions, Qdrant, PostgreSQL, contact sheets.

A gallery in memory or in a store is in `store`, an index of one in `index`.
"""
