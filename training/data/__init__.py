"""Readers of training data, one module a format; each yields the canonical `TrainingRow`."""

from .row import TrainingRow
from .source import DataSource

__all__ = ["DataSource", "TrainingRow"]
