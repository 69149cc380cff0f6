"""Readers of training data, one module a format; each yields the canonical `Row`."""

from .row import Row

__all__ = ["Row"]
