"""The published rows that stand beside ours: of known benchmarks, with a source, and true to themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eval.benchmarks import BENCHMARKS
from eval.reports.compare import published, published_otherwise
from eval.scoring.suite import Suite
from made_benchmarks import CATEGORIES, KNOWN


def columns_of(suite: Suite) -> set[str]:
    names = {(task.name, metric.name) for task in suite.tasks for view in task.views for metric in view.metrics}
    return {f"{task}/{metric}" if task else metric for task, metric in names} | {mean.name for mean in suite.means}


@pytest.mark.parametrize("name", KNOWN)
def test_published_rows_name_known_splits_options_columns_and_a_source(name: str, suites: dict[str, Suite]) -> None:
    rows, benchmark = published(name), BENCHMARKS[name]
    assert rows
    for row in rows:
        assert row["split"] in benchmark.splits
        assert all(value in benchmark.options[key] for key, value in row.get("options", {}).items())
        assert row["method"] and row["setting"].startswith(("zero-shot", "supervised"))
        assert re.search("table|repository|arXiv|MegaPairs|AAAI|CVPR", row["source"])
        assert row["metrics"] and set(row["metrics"]) <= columns_of(suites[name])
        assert all(0 < float(value) < 100 for value in row["metrics"].values())
    named = [(row["method"], row["backbone"]) for row in rows]
    assert len(set(named)) == len(named)


def test_every_published_row_is_of_a_known_benchmark() -> None:
    import yaml

    import eval.reports

    rows = yaml.safe_load(Path(eval.reports.__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    assert {row["benchmark"] for row in rows} == set(KNOWN) <= set(BENCHMARKS)
    otherwise = [row for name in KNOWN for found in published_otherwise(name).values() for row in found]
    assert sum(len(published(name)) for name in KNOWN) + len(otherwise) == len(rows)


@pytest.mark.parametrize("name", ["cirr", "fashioniq"])
def test_figures_by_other_rules_share_no_name_with_ours(name: str, suites: dict[str, Suite]) -> None:
    """Hit@1 among 1,000 candidates, as MMEB counts it, is no recall@1."""
    ((protocol, rows),) = published_otherwise(name).items()
    assert protocol == "MMEB" and len(rows) == 7
    for row in rows:
        assert not set(row["metrics"]) & columns_of(suites[name]) and "VLM2Vec 6e1e1d4" in row["source"]
        values = [float(row["metrics"][f"Hit@{k} among 1,000"]) for k in (1, 5, 10)]
        assert values == sorted(values) and len(row["metrics"]) == 3


@pytest.mark.parametrize("name", KNOWN)
def test_published_numbers_agree_with_themselves(name: str) -> None:
    """A mistyped digit shows: recall grows with K (mAP too, as all these rows have it), and means are means."""
    for row in published(name):
        values = {column: float(value) for column, value in row["metrics"].items()}
        series: dict[str, list[float]] = {}
        for column, value in values.items():
            if "@" in column and not column.startswith("("):
                series.setdefault(column.split("@")[0], []).append(value)
        assert all(found == sorted(found) for found in series.values()), row
        for k in (10, 50):
            parts = [values.get(f"{category}/R@{k}") for category in CATEGORIES]
            if all(parts) and (row["method"], k) != ("SPRC", 10):  # published.yaml tells of this one
                assert values[f"mean R@{k}"] == pytest.approx(sum(parts) / 3, abs=0.011), row
        if {"(R@5 + Rsub@1) / 2", "R@5"} <= set(values):
            assert values["(R@5 + Rsub@1) / 2"] == pytest.approx((values["R@5"] + values["Rsub@1"]) / 2, abs=0.011)
