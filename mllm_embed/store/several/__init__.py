"""Stores that keep several vectors a row, as a model with a vector a token makes them."""
