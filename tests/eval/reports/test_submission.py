"""Submission files: what is written passes the servers' rules, and each rule refuses what breaks it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.benchmarks import open_suite
from eval.reports.submission import (
    check_submission,
    read_ranking,
    read_submission,
    submission_of,
    uploads,
    write_submission,
)
from eval.scoring.score import Vectors
from eval.scoring.suite import Suite, Task, View
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.types import Document, Query

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "benchmarks"
needs_files = pytest.mark.skipif(not SHARED.is_dir(), reason="the benchmarks' annotation files are not here")
QUERIES, GALLERY = 12, 70


def made(name: str) -> Suite:
    """A suite with hidden labels, like CIRR's test1 (reference excluded, sets of six) or CIRCO's test."""
    ids = [str(1000 + at) for at in range(GALLERY)]
    gallery = [Document(image=f"{name}.png") for name in ids]
    queries = [(Query(image="r.png", instruction="x"),) for _ in range(QUERIES)]
    nothing: list[tuple[int, ...]] = [()] * QUERIES
    views: tuple[View, ...] = (View((), nothing),)
    if name == "cirr":
        sets = [tuple(range(at + 1, at + 6)) for at in range(QUERIES)]
        views = View((), nothing, exclude=[(at,) for at in range(QUERIES)]), View((), nothing, candidates=sets)
    task = Task("", ids, gallery, [str(at) for at in range(QUERIES)], queries, views)
    return Suite(name, "test", {}, (task,))


def vectors(suite: Suite) -> dict[str, Vectors]:
    rng = np.random.default_rng(0)
    (task,) = suite.tasks
    gallery, queries = (rng.standard_normal((len(ids), 16)).astype(np.float32) for ids in (task.gallery, task.queries))
    return {"": Vectors(gallery, {"composed": queries})}


def by_hand(suite: Suite, number: int, length: int, view: int) -> list[str]:
    """The best ids of one query, sorted in plain words."""
    made = vectors(suite)[""]
    scores = made.gallery.astype(np.float64) @ made.rows["composed"][number].astype(np.float64)
    asked = suite.tasks[0].views[view]
    allowed = range(GALLERY) if asked.candidates is None else asked.candidates[number]
    left_out = asked.exclude[number] if asked.exclude else ()
    order = sorted((at for at in allowed if at not in left_out), key=lambda at: -scores[at])
    return [suite.tasks[0].gallery_ids[at] for at in order[:length]]


def test_cirr_gets_two_files_without_the_reference(tmp_path: Path) -> None:
    suite = made("cirr")
    files = write_submission(suite, vectors(suite), tmp_path / "out")
    whole, subset = (json.loads(file.read_text()) for file in files)
    assert [file.name for file in files] == ["recall.json", "recall_subset.json"]
    assert (whole.pop("version"), whole.pop("metric")) == ("rc2", "recall")
    assert (subset.pop("version"), subset.pop("metric")) == ("rc2", "recall_subset")
    assert whole == {str(at): by_hand(suite, at, 50, 0) for at in range(QUERIES)}
    assert subset == {str(at): by_hand(suite, at, 3, 1) for at in range(QUERIES)}
    check_submission(suite, read_submission(files))


def test_a_gallery_too_small_for_a_list_is_refused_with_its_size(tmp_path: Path) -> None:
    suite = made("cirr")
    suite.tasks[0].views[0].exclude[4] = tuple(range(25))
    with pytest.raises(DataError, match='the list of query "4" must have 50 entries, not 45'):
        write_submission(suite, vectors(suite), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_circo_gets_one_file_of_numbers(tmp_path: Path) -> None:
    suite = made("circo")
    (file,) = write_submission(suite, vectors(suite), tmp_path)
    content = json.loads(file.read_text())
    assert content == {str(at): [int(name) for name in by_hand(suite, at, 50, 0)] for at in range(QUERIES)}
    assert read_ranking(file)["3"] == by_hand(suite, 3, 50, 0)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "cirr",
            ["upload recall.json and recall_subset.json to http://cirr.cecs.anu.edu.au", "https://cirr.junjie.au"],
        ),
        ("circo", ["upload circo.json to https://circo.micc.unifi.it", "https://www.codabench.org/competitions/10055"]),
    ],
)
def test_it_is_said_where_the_files_go_and_where_else(name: str, lines: list[str]) -> None:
    first, second = uploads(made(name))
    assert first.startswith(lines[0]) and second.startswith(f"  or, where that is down, to {lines[1]}")


def shorten(content: dict[str, Any]) -> None:
    content["recall.json"]["4"].pop()


def double(content: dict[str, Any]) -> None:
    content["recall.json"]["4"][0] = content["recall.json"]["4"][1]


def stranger(content: dict[str, Any]) -> None:
    content["recall.json"]["4"][0] = "9"


def reference(content: dict[str, Any]) -> None:
    content["recall.json"]["4"][0] = "1004"


def outside(content: dict[str, Any]) -> None:
    content["recall_subset.json"]["4"][0] = "1060"


def lose(content: dict[str, Any]) -> None:
    del content["recall_subset.json"]["4"]


def invent(content: dict[str, Any]) -> None:
    content["recall.json"]["77"] = content["recall.json"]["4"]


def header(content: dict[str, Any]) -> None:
    content["recall.json"]["version"] = "rc1"


def forget(content: dict[str, Any]) -> None:
    del content["recall_subset.json"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shorten, 'recall.json: the list of query "4" must have 50 entries, not 49'),
        (double, 'recall.json: the list of query "4" names a picture twice'),
        (stranger, 'names "9", which is not in the gallery'),
        (reference, "names the query's own reference picture"),
        (outside, "names a picture outside the query's set"),
        (lose, 'recall_subset.json: 1 of 12 queries are missing, first "4"'),
        (invent, 'the query "77" does not exist in this split'),
        (header, '"version" must be "rc2"'),
        (forget, "a submission to cirr is recall.json and recall_subset.json"),
    ],
)
def test_what_a_server_would_refuse_is_refused(spoil: Callable[[dict[str, Any]], None], message: str) -> None:
    suite = made("cirr")
    content = json.loads(json.dumps(submission_of(suite, vectors(suite))))
    check_submission(suite, content)
    spoil(content)
    with pytest.raises(DataError, match=message):
        check_submission(suite, content)


def test_a_file_over_the_servers_limit_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    suite = made("cirr")
    content = submission_of(suite, vectors(suite))
    monkeypatch.setattr("eval.reports.submission.LIMIT", 1000)
    with pytest.raises(DataError, match="recall.json has .* bytes; the server takes 1,000"):
        check_submission(suite, content)
    (tmp_path / "spaced.json").write_text(json.dumps({"metric": "recall"}) + " " * 2000)
    with pytest.raises(DataError, match="spaced.json has 2,020 bytes"):
        read_submission([tmp_path / "spaced.json"])
    (tmp_path / "circo.json").write_text(json.dumps({"0": []}) + " " * 2000)  # CIRCO's server names no limit
    assert list(read_submission([tmp_path / "circo.json"])) == ["circo.json"]


def test_two_files_of_one_kind_are_refused(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps({"version": "rc2", "metric": "recall"}))
    with pytest.raises(DataError, match="b.json is a second recall.json"):
        read_submission([tmp_path / "a.json", tmp_path / "b.json"])


def test_nothing_is_written_when_a_gallery_is_too_small(tmp_path: Path) -> None:
    suite = made("circo")
    (task,) = suite.tasks
    small = Task("", task.gallery_ids[:20], task.gallery[:20], task.query_ids, task.queries, task.views)
    short = Suite("circo", "test", {}, (small,))
    with pytest.raises(DataError, match="must have 50 entries"):
        write_submission(short, vectors(short), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_benchmarks_have_no_server() -> None:
    with pytest.raises(ConfigError, match="fashioniq has no server; there are servers for cirr and circo"):
        submission_of(Suite("fashioniq", "val", {}, made("cirr").tasks), {})


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[1")
    (tmp_path / "list.json").write_text("[1]")
    for name, message in (("none.json", "is missing"), ("bad.json", "is not JSON"), ("list.json", "JSON object")):
        with pytest.raises(DataError, match=message):
            read_submission([tmp_path / name])


@needs_files
def test_the_authors_own_example_of_cirr_is_fit() -> None:
    suite = open_suite("cirr", SHARED, split="test1", pictures=False)
    files = [SHARED / f"cirr/demo_files/test1_pred_ranks_recall{end}.json" for end in ("", "_subset")]
    check_submission(suite, read_submission(files))
    assert len(suite.tasks[0].queries) == 4148


@needs_files
def test_a_whole_test_split_of_cirr_is_fit(tmp_path: Path) -> None:
    suite = open_suite("cirr", SHARED, split="test1", pictures=False)
    files = write_submission(suite, vectors(suite), tmp_path)
    assert len(json.loads(files[0].read_text())) == 4150 and files[0].stat().st_size < 5 * 2**20


def test_a_ranking_that_lists_a_query_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"q1": ["a"], "q2": ["b"], "q1": ["b"]}')
    with pytest.raises(DataError, match='r.json is not JSON .the key "q1" stands twice'):
        read_ranking(tmp_path / "r.json")
