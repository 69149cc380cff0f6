"""Gaps and seeds in comparisons: real result folders of made-up benchmarks, against loops over single queries."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.reports.compare import compare
from eval.scoring.paired import Seeds, paired, seeds_of
from eval.scoring.suite import Mean, Suite
from mllm_embed.errors import DataError


def test_the_gap_and_what_needs_both_stand_in_the_table_and_are_tested(
    suites: dict[str, Suite], scored: Any, tables: Any, tmp_path: Path
) -> None:
    results = [scored(tmp_path / name, suites["fashioniq"], seed, 0.2 * seed) for seed, name in enumerate("ab")]
    text = compare([tmp_path / "a", tmp_path / "b"], "markdown")
    ours, tests = tables(text)[0][:2], tables(text)[-1]
    needing, gaps, found = {}, [], []
    for task in suites["fashioniq"].tasks:
        values = [result.tasks[task.name].row_values for result in results]
        halves = [one[row]["R@10"] for one in values for row in ("image only", "text only")]
        needing[task.name] = ~np.any(halves, axis=0)
        found.append([one["composed"]["R@10"][needing[task.name]].mean() for one in values])
    for result in results:
        means = {row: figures["mean R@10"].percent for row, figures in result.means.items()}
        gaps.append(means["composed"] - max(means["image only"], means["text only"]))
    both = 100 * np.mean(found, axis=0)
    assert [float(line["gap mean R@10"]) for line in ours] == pytest.approx(gaps, abs=0.0051)
    assert [float(line["mean R@10, need both"]) for line in ours] == pytest.approx(both.tolist(), abs=0.0051)
    counts = ", ".join(f"{own.sum()} queries of {task}" for task, own in needing.items())
    assert f"need both: {counts}, which no half of any run here finds" in text
    by_column = {line["column"]: line for line in tests}
    assert float(by_column["gap mean R@10"]["difference"]) == pytest.approx(gaps[1] - gaps[0], abs=0.0051)
    assert float(by_column["mean R@10, need both"]["difference"]) == pytest.approx(both[1] - both[0], abs=0.0051)
    assert f"corrected for the {len(tests)} tests of this table" in text and len(tests) == 11
    assert "95 % of mean" in ours[0], "the headline is the benchmark's, not a gap"


def test_p_of_a_gap_equals_a_slow_loop(suites: dict[str, Suite], scored: Any, tables: Any, tmp_path: Path) -> None:
    results = [scored(tmp_path / name, suites["cirr"], seed, 0.4 * seed) for seed, name in enumerate("ab")]
    gaps = []
    for result in results:
        own = {row: values["R@5"].tolist() for row, values in result.tasks[""].row_values.items()}
        half = "image only" if sum(own["image only"]) >= sum(own["text only"]) else "text only"
        gaps.append([one - other for one, other in zip(own["composed"], own[half], strict=True)])
    more = [after - before for before, after in zip(*gaps, strict=True)]
    rng = np.random.default_rng(3)
    sums = []
    for _ in range(4000):
        signs = (2 * rng.integers(0, 2, len(more)) - 1).tolist()
        sums.append(sum(sign * value for sign, value in zip(signs, more, strict=True)))
    slow = (1 + sum(abs(one) >= abs(sum(more)) - 1e-9 for one in sums)) / 4001
    assert 0.02 < slow < 0.98, "the case says nothing"
    tests = tables(compare([tmp_path / "a", tmp_path / "b"], "markdown"))[-1]
    (line,) = [line for line in tests if line["column"] == "gap R@5"]
    assert float(line["difference"]) == pytest.approx(100 * sum(more) / len(more), abs=0.0051)
    assert float(line["p"]) == pytest.approx(slow, abs=0.035)


def test_the_interval_among_some_queries_is_that_of_their_mean(
    suites: dict[str, Suite], scored: Any, tables: Any, tmp_path: Path
) -> None:
    results = [scored(tmp_path / name, suites["fashioniq"], 3, 1.5 * at) for at, name in enumerate("ab")]
    text = compare([tmp_path / "a", tmp_path / "b"], "markdown")
    (line,) = [line for line in tables(text)[-1] if line["column"] == "mean R@10, need both"]
    rng, sums = np.random.default_rng(4), np.zeros(4000)
    for task in suites["fashioniq"].tasks:
        one, other = (result.tasks[task.name].row_values for result in results)
        halves = [own[row]["R@10"] for own in (one, other) for row in ("image only", "text only")]
        needing, more = ~np.any(halves, axis=0), other["composed"]["R@10"] - one["composed"]["R@10"]
        # pictures are drawn, and the mean is over what was drawn of these queries
        pictures = np.eye(task.references.max() + 1)[task.references]
        times = rng.multinomial(pictures.shape[1], np.full(pictures.shape[1], 1 / pictures.shape[1]), 4000) @ pictures.T
        sums += (times @ (needing * more)) / (times @ needing) / 3
    slow = 100 * np.percentile(sums, (2.5, 97.5))
    low, high = map(float, line["95 %"].split(" to "))
    assert abs(float(line["difference"])) > 15, "the case says nothing"
    assert high - low == pytest.approx(np.ptp(slow), rel=0.06)


def test_a_result_without_halves_has_no_gap_and_the_text_says_so(
    suites: dict[str, Suite], scored: Any, tables: Any, tmp_path: Path
) -> None:
    scored(tmp_path / "a", suites["cirr"])
    scored(tmp_path / "b", suites["cirr"], 1)
    scored(tmp_path / "bare", suites["cirr"], 2, rows=("composed",))
    text = compare([tmp_path / "a", tmp_path / "bare", tmp_path / "b"], "markdown")
    assert "No gap of bare: its halves were not measured." in text
    ours = tables(text)[0]
    assert ours[1]["gap R@5"] == "–" and float(ours[0]["gap R@5"]) > 0
    assert "gap R@5" not in {line["column"] for line in tables(text)[-1]}


def test_results_of_the_older_rule_are_read_and_their_intervals_told_apart(
    suites: dict[str, Suite], scored: Any, tmp_path: Path
) -> None:
    for seed, name in enumerate("ab"):
        scored(tmp_path / name, suites["cirr"], seed)
    old = json.loads((tmp_path / "b/result.json").read_text())
    old["protocol"]["interval"] = "95 %, percentiles of 1000 bootstrap samples of the queries"
    del old["tasks"][""]["composition"], old["composition"], old["protocol"]["composition"]
    (tmp_path / "b/result.json").write_text(json.dumps(old))
    kept = json.loads((tmp_path / "b/per_query.json").read_text())
    for key in ("references", "rows", "composition"):
        del kept["tasks"][""][key]
    (tmp_path / "b/per_query.json").write_text(json.dumps(kept))
    text = compare([tmp_path / "a", tmp_path / "b"], "markdown")
    assert "The intervals of b are made by another rule (95 %, percentiles of 1000 bootstrap samples of the q" in text
    assert "both by reference picture" in text and "No gap of b" in text
    for name in ("c", "d"):
        (tmp_path / name).mkdir()
        for file in ("result.json", "per_query.json"):
            (tmp_path / name / file).write_bytes((tmp_path / "b" / file).read_bytes())
    text = compare([tmp_path / "c", tmp_path / "d"], "markdown")
    assert "another rule" not in text and "by query, since no result here tells which of them share" in text


def test_seeds_have_their_mean_and_spread_and_one_test(
    suites: dict[str, Suite], scored: Any, tables: Any, tmp_path: Path
) -> None:
    figures: dict[str, list[float]] = {}
    for name, shift in (("A", 0.0), ("B", 0.3)):
        results = [scored(tmp_path / f"{name}{at}", suites["genecis"], 7 * at + ord(name), shift) for at in range(3)]
        figures[name] = [result.means["composed"]["mean R@1"].percent for result in results]
    given = [Path(f"{name}=" + ",".join(str(tmp_path / f"{name}{at}") for at in range(3))) for name in "AB"]
    text = compare(given, "markdown")
    ours, tests = tables(text)[0], tables(text)[-1]
    for line in ours[:2]:
        own = figures[line["method"]]
        assert line["mean R@1"] == f"{np.mean(own):.2f} ± {np.std(own, ddof=1):.2f}"
        assert "±" in line["gap mean R@1"]
        low, high = map(float, line["95 % of mean R@1"].split(" to "))
        assert low < np.mean(own) < high
    assert "A: mean and standard deviation of 3 seeds (" in text
    assert "both are moved by the spread between seeds (Student's t, pooled over the two runs)" in text
    (line,) = [line for line in tests if line["column"] == "mean R@1"]
    assert (line["run"], line["minus"]) == ("B", "A")
    assert float(line["difference"]) == pytest.approx(np.mean(figures["B"]) - np.mean(figures["A"]), abs=0.0051)
    assert f"corrected for the {len(tests)} tests" in text


def test_seeds_far_apart_reach_as_far_as_a_percentage_can(
    suites: dict[str, Suite], scored: Any, tables: Any, tmp_path: Path
) -> None:
    for name, shift in (("a", 0.0), ("b", 0.6)):
        scored(tmp_path / name, suites["genecis"], 0, shift)
    (line,) = tables(compare([Path(f"A={tmp_path / 'a'},{tmp_path / 'b'}")], "markdown"))[0][:1]
    assert line["95 % of mean R@1"] == "0.00 to 100.00"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("A={0}/a", "names no two seeds: give NAME=FOLDER,FOLDER"),
        ("={0}/a,{0}/b", "names no two seeds"),
        ("A={0}/a,", "names no two seeds"),
        ("A={0}/a,{0}/a", "gives a folder twice"),
        ("A={0}/a,{0}/nowhere", "nowhere is missing"),
        ("A={0}/a,{0}/circo", "A: .*circo is of another benchmark or protocol than .*a: seeds of one model"),
        ("A={0}/a,{0}/bare", "A: .*bare has no per_query.json, without which seeds have no mean"),
    ],
)
def test_seeds_that_are_none_are_named(
    given: str, message: str, suites: dict[str, Suite], scored: Any, tmp_path: Path
) -> None:
    for name, suite in (("a", "cirr"), ("b", "cirr"), ("bare", "cirr"), ("circo", "circo")):
        scored(tmp_path / name, suites[suite], rows=("composed",))
    (tmp_path / "bare/per_query.json").unlink()
    with pytest.raises(DataError, match=message):
        compare([Path(given.format(tmp_path))], "markdown")


def test_a_seed_that_was_asked_otherwise_is_told(suites: dict[str, Suite], scored: Any, tmp_path: Path) -> None:
    for at, name in enumerate("abc"):
        scored(tmp_path / name, suites["cirr"], at, rows=("composed",))
        saved = json.loads((tmp_path / name / "result.json").read_text())
        saved["protocol"] |= {"prompts": {"name": "own"}, "query task": "" if name != "b" else "Find it."}
        saved["protocol"] |= {"pictures": "one" if name != "b" else "other"}
        (tmp_path / name / "result.json").write_text(json.dumps(saved))
    text = compare([Path(f"A={tmp_path / 'a'},{tmp_path / 'b'}")], "markdown").replace("\\", "")
    assert f"A ({tmp_path / 'b'}) was asked otherwise than A ({tmp_path / 'a'}): query task:" in text
    assert f"The picture files of A ({tmp_path / 'b'}) are of other sizes than those of A ({tmp_path / 'a'})" in text
    text = compare([Path(f"A={tmp_path / 'a'},{tmp_path / 'c'}")], "markdown")
    assert "otherwise" not in text and "other sizes" not in text


def test_the_interval_is_that_of_the_mean_where_it_is_one_number_with_its_part(
    suites: dict[str, Suite], scored: Any, tables: Any, tmp_path: Path
) -> None:
    (task,) = (task for task in suites["genecis"].tasks if task.name == "focus_object")
    mean = Mean("mean R@1", ("focus_object/R@1",))
    suite = replace(suites["genecis"], name="made", tasks=(task,), means=(mean,), printed=())
    for at, name in enumerate("ab"):
        scored(tmp_path / name, suite, at, rows=("composed",))
    line = tables(compare([tmp_path / "a", tmp_path / "b"], "markdown"))[0][0]
    assert "95 % of focus_object/R@1 = mean R@1" in line and "95 % of focus_object/R@3" not in line


def test_a_folder_is_given_once_and_a_name_is_one_run(suites: dict[str, Suite], scored: Any, tmp_path: Path) -> None:
    for name in "abcd":
        scored(tmp_path / name, suites["cirr"], rows=("composed",))
    one, other = (Path(f"A={tmp_path / first},{tmp_path / second}") for first, second in ("ab", "cd"))
    with pytest.raises(DataError, match="a is given twice"):
        compare([one, tmp_path / "a"], "markdown")
    with pytest.raises(DataError, match="two runs are called A"):
        compare([one, other], "markdown")


def test_the_spread_between_seeds_is_that_of_students_test() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((3, 2)), rng.random((4, 2))
    found = seeds_of([first, second])
    assert found is not None and found.freedom == 5
    for column in range(2):
        squares = sum((value - first[:, column].mean()) ** 2 for value in first[:, column])
        squares += sum((value - second[:, column].mean()) ** 2 for value in second[:, column])
        assert found.errors[column] == pytest.approx(np.sqrt(squares / 5 * (1 / 3 + 1 / 4)))
    assert seeds_of([first[:1], second[:1]]) is None
    alone = seeds_of([first, second[:1]])  # the run of one seed spreads as the other does
    assert alone is not None and alone.freedom == 2
    assert alone.errors == pytest.approx(first.std(axis=0, ddof=1) * np.sqrt(1 / 3 + 1))


def test_p_over_pictures_and_seeds_equals_a_slow_loop() -> None:
    rng = np.random.default_rng(1)
    values, pictures = rng.normal(0.1, 0.5, (40, 1)), np.repeat(np.arange(10), 4)
    seeds = Seeds(np.array([0.06]), 4)
    (found,) = paired([values], [pictures], seeds)
    seen, slow = values.mean(), 0
    for _ in range(4000):
        signs = np.repeat(2 * rng.integers(0, 2, 10) - 1, 4)
        slow += abs((signs * values[:, 0]).sum() / 40 + 0.06 * rng.standard_t(4)) >= abs(seen)
    assert found.p == pytest.approx(slow / 4000, abs=0.035)
    (still,) = paired([values], [pictures])
    assert still.points == found.points and still.p < found.p
    assert found.low < still.low < still.high < found.high


def test_runs_that_differ_by_their_seeds_alone_are_rarely_told_apart() -> None:
    """Each seed moves all queries of its run: a test over queries alone takes that for a difference between models."""
    rng, columns = np.random.default_rng(2), 400
    runs = []
    for _ in range(2):
        moved = rng.normal(0, 0.05, (3, 1, columns))
        runs.append(np.clip(0.5 + moved + rng.normal(0, 0.3, (3, 200, columns)), 0, 1))
    more = runs[1].mean(axis=0) - runs[0].mean(axis=0)
    figures = [run.mean(axis=1) for run in runs]
    over_queries = np.array([one.p for one in paired([more])])
    over_both = np.array([one.p for one in paired([more], None, seeds_of(figures))])
    assert (over_queries <= 0.05).mean() > 0.25
    assert 0.005 < (over_both <= 0.05).mean() < 0.08
