"""Attacks on the service, tried against a real one. `PYTHONPATH=.:tests python -m attacks` prints their table."""
