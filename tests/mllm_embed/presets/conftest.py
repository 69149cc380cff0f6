"""The tiny models of published embedders, each made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import published


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from a kind of model to its folder."""
    place = tmp_path_factory.mktemp("published")
    return cache(lambda kind: published.make_published(kind, place / kind))
