"""Readers of training data, one module a format; each yields the canonical `Row`."""

from .row import Row
from .source import Source

__all__ = ["Row", "Source"]
