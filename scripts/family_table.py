"""A table of what works with which family of models, made by running the tests: python scripts/family_table.py

Each cell is the outcome of a test in tests/mllm_embed/model/test_families.py on a tiny random model with the real
config and processor classes of the family. Prints Markdown; exit code 1 where a test fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import pytest

from mllm_embed.model.families import FAMILIES, TESTED, Family
from mllm_embed.saving.versions import versions

TESTS = Path(__file__).resolve().parents[1] / "tests/mllm_embed/model/test_families.py"
COLUMNS = {
    "test_encodes": "encodes every role",
    "test_same_alone_and_in_a_batch": "same alone, in a batch, padded",
    "test_same_packed": "same packed",
    "test_picture_and_words_matter": "picture and words matter",
    "test_trains_both_stages_saves_and_reloads": "trains, saves, reloads",
    "test_mean_pooling": "mean pooling",
    "test_bidirectional": "bidirectional",
    "test_quantised": "nf4, int8",
    "test_sentence_transformers": "sentence-transformers",
}


class Outcomes:
    """A pytest plugin that keeps what became of every test."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], set[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome of a phase of a test, as pytest reports it."""
        name, _, parameters = report.nodeid.split("::")[-1].partition("[")
        family = next((part for part in parameters.rstrip("]").split("-") if part in TESTED), None)
        if family and (report.when == "call" or report.outcome != "passed"):
            self.found.setdefault((family, name), set()).add(report.outcome)


def cell(family: str, test: str, outcomes: set[str]) -> str:
    """Return what became of a test of a family, in a word."""
    if outcomes - {"passed", "skipped"} or not outcomes:
        return "**fails**" if outcomes else "not run"
    entry = FAMILIES.get(family, Family())
    if test == "test_same_packed" and not entry.packs:
        return "yes, by padding"
    if "skipped" in outcomes:
        return "refused" if entry.texts_apart else "with torchvision"
    return "yes"


def main() -> int:
    """Run the command line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    outcomes, started = Outcomes(), time.perf_counter()
    code = pytest.main([str(TESTS), "-q", "--no-header", "--durations=0", "-p", "no:warnings"], [outcomes])
    print("\n| family | " + " | ".join(COLUMNS.values()) + " |")
    print("| --- " * (len(COLUMNS) + 1) + "|")
    for family in TESTED:
        cells = [cell(family, test, outcomes.found.get((family, test), set())) for test in COLUMNS]
        print(f"| {family} | " + " | ".join(cells) + " |")
    print(f"\n{time.perf_counter() - started:.0f} s; {', '.join(f'{k} {v}' for k, v in versions().items())}")
    return int(code != 0)


if __name__ == "__main__":
    sys.exit(main())
