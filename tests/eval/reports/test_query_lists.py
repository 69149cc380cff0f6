"""Lists of queries: read, refused and written; and what is scored of them is what the whole says of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.cli import main
from eval.reports.compare import compare
from eval.reports.query_lists import only, read_query_list, write_query_list
from eval.reports.report import write_result
from eval.scoring.score import Vectors, score
from eval.scoring.suite import Suite, Task
from eval.scoring.vectors import write_vectors
from made_benchmarks import KNOWN, cirr_files
from mllm_embed.errors import DataError


def vectors(task: Task) -> Vectors:
    rng = np.random.default_rng(len(task.name))
    gallery = rng.standard_normal((len(task.gallery), 16)).astype(np.float32)
    wanted = gallery[[row[0] for row in task.views[0].targets]]
    rows = {}
    for row, noise in (("composed", 1.2), ("image only", 2.0), ("text only", 2.5)):
        rows[row] = (wanted + noise * rng.standard_normal(wanted.shape)).astype(np.float32)
    return Vectors(gallery, rows)


def written(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


@pytest.mark.parametrize("name", KNOWN)
def test_some_queries_have_the_values_that_they_have_in_the_whole(
    name: str, suites: dict[str, Suite], tmp_path: Path
) -> None:
    suite = suites[name]
    given = {task.name: vectors(task) for task in suite.tasks}
    whole = score(suite, given)
    members = {task.name: [7, 2, 4, 11] for task in suite.tasks}
    ids = {task.name: [task.query_ids[at] for at in members[task.name]] for task in suite.tasks}
    assert write_query_list(tmp_path / "some.txt", ids) == 4 * len(suite.tasks)
    assert read_query_list(tmp_path / "some.txt", suite) == members
    some = only(tmp_path / "some.txt", suite)
    assert some.title == f"{suite.title} only=some:{4 * len(suite.tasks)}"
    assert some.fingerprint() != suite.fingerprint() and [mean.name for mean in some.means] == [
        mean.name for mean in suite.means
    ]
    found = score(some, {task: own.of([2, 4, 7, 11]) for task, own in given.items()})
    for task in some.tasks:
        assert task.gallery is suite.tasks[[other.name for other in suite.tasks].index(task.name)].gallery
        for row, metrics in found.tasks[task.name].row_values.items():
            for metric, values in metrics.items():
                assert (values == whole.tasks[task.name].row_values[row][metric][[2, 4, 7, 11]]).all(), (row, metric)


def test_a_category_without_chosen_queries_is_left_out_with_its_means(suites: dict[str, Suite], tmp_path: Path) -> None:
    some = only(written(tmp_path / "two words.txt", "dress/3\n\n shirt/1 \n"), suites["fashioniq"])
    assert [task.name for task in some.tasks] == ["dress", "shirt"] and some.means == ()
    assert some.title.endswith(" only=two_words:2")
    assert some.protocol["only"] == "2 of 190 queries, the galleries whole: two_words"
    one = only(written(tmp_path / "one.json", '{"focus_object": [1, "0"]}'), suites["genecis"])
    assert [task.query_ids for task in one.tasks] == [["0", "1"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("3\n", '"3" is a query of dress, shirt, toptee; name the task too: dress/3'),
        ("dress/3\ndress/3\n", '"dress/3" stands twice'),
        (
            "dress/3\nhat/3\nhat/4\n",
            "list: 2 ids are unknown to fashioniq .*, the first is 'hat/3'; .* like \"dress/0\"",
        ),
        ("\n  \n", "names no query: give a query id a line"),
        ("[1, 2", "is not JSON"),
        ('{"dress": 3}', "is no list of query ids"),
        ("[true]", "is no list of query ids"),
    ],
)
def test_wrong_lists_are_named(content: str, message: str, suites: dict[str, Suite], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_query_list(written(tmp_path / "list", content), suites["fashioniq"])


def test_files_that_are_none_are_named(suites: dict[str, Suite], tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name, message in (("nowhere", "nowhere is missing"), ("bytes", "bytes is no text"), (".", "cannot be read")):
        with pytest.raises(DataError, match=message):
            read_query_list(tmp_path / name, suites["cirr"])


def test_ids_that_no_line_can_hold_are_written_as_json(suites: dict[str, Suite], tmp_path: Path) -> None:
    (task,) = suites["cirr"].tasks
    odd = replace(suites["cirr"], tasks=(replace(task, query_ids=["a\nb", " c", *task.query_ids[2:]]),))
    write_query_list(tmp_path / "odd", {"": ["a\nb", " c"]})
    assert read_query_list(tmp_path / "odd", odd) == {"": [0, 1]}


def test_the_whole_and_some_queries_never_share_a_table(suites: dict[str, Suite], tmp_path: Path) -> None:
    suite = suites["cirr"]
    some = only(written(tmp_path / "few.txt", "1\n2\n3\n"), suite)
    given = {"": vectors(suite.tasks[0])}
    for name, one, own in (("whole", suite, given), ("some", some, {"": given[""].of([1, 2, 3])})):
        write_result(score(one, own), one, tmp_path / name, {"model": None, "adapter": None})
    text = compare([tmp_path / "whole", tmp_path / "some"], "markdown")
    first, second = text.split("## ")[1:]
    assert second.startswith("cirr val only=few:3\n") and "| some" in second and "| some" not in first
    assert "not to be compared with the first: only: few:3 (there all queries)." in second
    assert "SEARLE" in first and "SEARLE" not in second and "published results are of all queries" in second
    assert "Paired" not in text


def test_score_takes_a_list_with_vectors_and_rankings_of_the_whole(tmp_path: Path) -> None:
    from eval.benchmarks import open_suite

    data = cirr_files(tmp_path / "data")
    suite = open_suite("cirr", data, pictures=False)
    own = vectors(suite.tasks[0])
    write_vectors(tmp_path / "vectors", suite, {"": Vectors(own.gallery, {"composed": own.rows["composed"]})})
    few = written(tmp_path / "few.json", "[4, 2]")
    out = tmp_path / "out"
    asked = ["score", "cirr", "--data", str(data), "--vectors", str(tmp_path / "vectors")]
    assert main([*asked, "--only", str(few), "--output", str(out)]) == 0
    saved = json.loads((out / "per_query.json").read_text())["tasks"][""]
    whole = score(suite, {"": own}).tasks[""].values
    assert saved["ids"] == ["2", "4"]
    some = only(few, suite)
    rows = {row: queries[[2, 4]] for row, queries in own.rows.items()}
    write_vectors(tmp_path / "vectors", some, {"": Vectors(own.gallery, rows)})  # as run --only --save-vectors does
    assert main([*asked, "--only", str(few), "--output", str(tmp_path / "again")]) == 0
    again = json.loads((tmp_path / "again/per_query.json").read_text())["tasks"][""]
    assert again["metrics"] == saved["metrics"] and list(again["rows"]) == [
        "composed",
        "image only",
        "text only",
        "sum",
    ]
    gallery, lists = suite.tasks[0].gallery_ids, {}
    for at, name in enumerate(suite.tasks[0].query_ids):  # the reference, which is left out, has the query's number
        lists[name] = [*gallery[:at], *gallery[at + 1 :]]
    (tmp_path / "lists.json").write_text(json.dumps(lists))
    ranked = ["score", "cirr", "--data", str(data), "--ranking", str(tmp_path / "lists.json"), "--only", str(few)]
    assert main([*ranked, "--output", str(tmp_path / "ranked")]) == 0
    assert json.loads((tmp_path / "ranked/per_query.json").read_text())["tasks"][""]["metrics"]["R@5"] == [1.0, 1.0]
    assert main([*ranked[:-1], str(tmp_path / "none"), "--output", str(tmp_path / "no")]) != 0
    assert {name: values for name, values in saved["metrics"].items() if name.startswith("R@")} == {
        name: values[[2, 4]].tolist() for name, values in whole.items() if name.startswith("R@")
    }
