"""The recipe of a re-ranker: its keys, those of its stages, and the terms of their loss."""
