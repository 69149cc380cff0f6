"""The composition audit against loops over single queries, on given vectors of a made-up FashionIQ and CIRR."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eval.reports.report import result_table, write_result
from eval.scoring.composition import LABELS
from eval.scoring.estimate import bootstrap_means
from eval.scoring.result import Result
from eval.scoring.score import Vectors, score
from eval.scoring.suite import Suite, Task, View
from mllm_embed.errors import DataError

NOISE = {"composed": 1.2, "image only": 2.0, "text only": 2.5, "sum": 1.6}
AUDITED = {"fashioniq": ("R@10",), "cirr": ("R@5", "R@10"), "circo": ("R@5", "R@10"), "genecis": ("R@1",)}


def vectors(task: Task) -> Vectors:
    rng = np.random.default_rng(len(task.name))
    gallery = rng.standard_normal((len(task.gallery), 16)).astype(np.float32)
    wanted = gallery[[row[0] for row in task.views[0].targets]]
    rows = {row: wanted + noise * rng.standard_normal(wanted.shape).astype(np.float32) for row, noise in NOISE.items()}
    return Vectors(gallery, {row: made.astype(np.float32) for row, made in rows.items()})


@pytest.fixture(scope="module")
def results(suites: dict[str, Suite]) -> dict[str, Result]:
    return {
        name: score(suite, {task.name: vectors(task) for task in suite.tasks})
        for name, suite in suites.items()
        if name in AUDITED
    }


def label(image: float, text: float) -> str:
    if image > 0 and text > 0:
        return "both"
    return "image only" if image > 0 else "text only" if text > 0 else "neither"


@pytest.mark.parametrize("name", AUDITED)
def test_labels_shares_hits_and_gaps_are_those_of_a_loop(name: str, results: dict[str, Result]) -> None:
    for task in results[name].tasks.values():
        assert tuple(task.composition) == AUDITED[name]
        for metric, audit in task.composition.items():
            image, text, composed = (
                task.row_values[row][metric].tolist() for row in ("image only", "text only", "composed")
            )
            labels = [label(one, other) for one, other in zip(image, text, strict=True)]
            assert audit.labels.tolist() == labels and list(audit.labelled) == list(LABELS)
            for kind, own in audit.labelled.items():
                members = [value for value, found in zip(composed, labels, strict=True) if found == kind]
                assert (own.queries, own.hits) == (len(members), sum(members))
                assert own.share.percent == pytest.approx(100 * len(members) / len(labels))
                assert (own.composed is None) == (not members)
                if own.composed is not None:
                    assert own.composed.percent == pytest.approx(100 * sum(members) / len(members))
            half = max(sum(image), sum(text))
            assert audit.gap.points.percent == pytest.approx(100 * (sum(composed) - half) / len(composed))
            assert audit.gap.better == ("image only" if sum(image) >= sum(text) else "text only")


def test_intervals_are_percentiles_over_drawn_pictures_with_all_their_queries(suites: dict[str, Suite]) -> None:
    """CIRR's made-up queries have a picture each; here every five share one."""
    (task,) = suites["cirr"].tasks
    queries = [task.queries[5 * (at // 5)] for at in range(len(task.queries))]
    shared = Task("", task.gallery_ids, task.gallery, task.query_ids, queries, task.views, found_at=("R@5",))
    found = score(Suite("made", "", {}, (shared,)), {"": vectors(shared)}).tasks[""]
    audit = found.composition["R@5"]
    rng, values = np.random.default_rng([0, 0]), found.row_values  # the stream of a task without a name
    gaps, within, shares = [], [], []
    for _ in range(10):
        for times in rng.multinomial(20, np.full(20, 1 / 20), size=100):
            drawn = np.repeat(np.arange(100), np.repeat(times, 5))
            gaps.append((values["composed"]["R@5"] - values["image only"]["R@5"])[drawn].mean())
            needing = audit.labels[drawn] == "neither"
            shares.append(needing.mean())
            within.append(values["composed"]["R@5"][drawn][needing].mean())
    neither = audit.labelled["neither"]
    assert audit.gap.better == "image only" and neither.composed is not None
    for share, samples in ((audit.gap.points, gaps), (neither.share, shares), (neither.composed, within)):
        assert [share.low, share.high] == pytest.approx(100 * np.percentile(samples, (2.5, 97.5)), rel=1e-9)
    by_picture = bootstrap_means(values["composed"]["R@5"][:, None], np.random.default_rng([0, 0]), shared.references)
    assert found.rows["composed"]["R@5"].low == pytest.approx(100 * np.percentile(by_picture, 2.5))


def test_the_gap_of_a_mean_is_over_one_half_in_all_tasks(results: dict[str, Result]) -> None:
    assert {name: list(result.gaps) for name, result in results.items()} == {
        "fashioniq": ["mean R@10"], "cirr": [], "circo": [], "genecis": ["mean R@1"]
    }  # fmt: skip
    means = {row: figures["mean R@10"].percent for row, figures in results["fashioniq"].means.items()}
    gap = results["fashioniq"].gaps["mean R@10"]
    assert gap.points.percent == pytest.approx(means["composed"] - max(means["image only"], means["text only"]))
    assert means[gap.better] == max(means["image only"], means["text only"])
    assert gap.points.low < gap.points.percent < gap.points.high


def test_without_halves_or_composed_queries_there_is_no_audit(suites: dict[str, Suite]) -> None:
    (task,) = suites["cirr"].tasks
    whole = vectors(task)
    for rows in (("composed",), ("composed", "image only"), ("composed", "text only", "sum")):
        result = score(suites["cirr"], {"": Vectors(whole.gallery, {row: whole.rows[row] for row in rows})})
        assert result.tasks[""].composition == {} == result.gaps and "composition" not in result.protocol
        assert "found at" not in result_table(result)


def test_a_query_counts_as_found_at_a_metric_that_exists(suites: dict[str, Suite]) -> None:
    (task,) = suites["cirr"].tasks
    ids, asked = task.query_ids, task.queries
    with pytest.raises(DataError, match="found_at names R@7, no metric of it"):
        Task("", task.gallery_ids, task.gallery, ids, asked, task.views, found_at=("R@5", "R@7"))
    plain = Task("", task.gallery_ids, task.gallery, ids, asked, (View(task.views[2].metrics, task.views[2].targets),))
    assert plain.audited == ()  # soft scores alone: nothing says what is found
    assert Task("", task.gallery_ids, task.gallery, ids, asked, task.views).audited == ("R@1",)


def test_the_files_and_the_table_say_what_was_found(
    suites: dict[str, Suite], results: dict[str, Result], tmp_path: Path
) -> None:
    result = results["fashioniq"]
    write_result(result, suites["fashioniq"], tmp_path, {"model": "m", "adapter": None})
    saved = json.loads((tmp_path / "result.json").read_text())
    one = saved["tasks"]["shirt"]["composition"]["R@10"]
    audit = result.tasks["shirt"].composition["R@10"]
    assert one["better half"] == audit.gap.better and one["gap"]["percent"] == audit.gap.points.percent
    assert list(one["found by"]) == list(LABELS)
    assert one["found by"]["neither"]["queries"] == audit.labelled["neither"].queries
    assert saved["composition"]["mean R@10"]["gap"]["low"] == result.gaps["mean R@10"].points.low
    assert "image only, text only, both" in saved["protocol"]["composition"]
    assert "bootstrap samples of the reference pictures" in saved["protocol"]["interval"]
    kept = json.loads((tmp_path / "per_query.json").read_text())["tasks"]["shirt"]
    assert kept["composition"] == audit.labels.tolist() and kept["references"] == list(range(60))
    text = result_table(result)
    assert text.count("found at R@10 by") == 3
    assert f"gap at R@10: {audit.gap.points.percent:+.2f}" in text
    assert f"gap of mean R@10: {result.gaps['mean R@10'].points.percent:+.2f}" in text
    assert f"among the {audit.labelled['neither'].queries} that need both" in text
