"""Searches of several turns: `Session`, what a turn is, and the rules for carrying what was said before."""
