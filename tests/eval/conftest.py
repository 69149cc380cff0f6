"""Made-up benchmarks, opened as real ones are."""

from __future__ import annotations

import pytest

from eval.benchmarks import open_suite
from eval.scoring.suite import Suite
from made_benchmarks import WRITERS


@pytest.fixture(scope="session")
def suites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Suite]:
    """Every benchmark that papers report, small, and opened by its own code."""
    made = {name: write(tmp_path_factory.mktemp(name)) for name, write in WRITERS.items()}
    return {name: open_suite(name, data, pictures=False) for name, data in made.items()}
