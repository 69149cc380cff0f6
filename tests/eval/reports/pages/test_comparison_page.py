"""The page of two results: wins, losses and ties, from what both folders keep."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.reports.pages.comparison_page import incomparable, write_comparison
from eval.reports.pages.html_page import read_page
from eval.reports.pages.result_page import write_report
from eval.reports.pages.saved_content import chosen_as
from eval.reports.report import PER_QUERY, RESULT, write_result
from eval.reports.saved_result import PerQuery, SavedResult
from eval.reports.seeds import read_runs
from eval.scoring.result import Result
from eval.scoring.suite import Suite
from mllm_embed.errors import DataError

from .conftest import HOSTILE, QUERIES

SETTINGS = {"model": "m", "adapter": None}
Folders = tuple[Path, Path]


@pytest.fixture(scope="module")
def kept(suite: Suite, scored: Callable[[int], Result], tmp_path_factory: pytest.TempPathFactory) -> Folders:
    folders = tmp_path_factory.mktemp("a") / "one", tmp_path_factory.mktemp("b") / "other"
    for seed, folder in enumerate(folders):
        write_result(scored(seed), suite, folder, SETTINGS)
        write_report(scored(seed), suite, folder, SETTINGS, progress=False)
    return folders


@pytest.fixture
def folders(kept: Folders, tmp_path: Path) -> Folders:
    """Copies, which a test may change."""
    for folder in kept:
        shutil.copytree(folder, tmp_path / folder.name)
    return tmp_path / "one", tmp_path / "other"


def compared(folders: Folders, output: Path, **options: Any) -> tuple[dict[str, Any], list[str]]:
    return read_page(write_comparison(read_runs(folders), output, progress=False, **options))


def _of_only(result: SavedResult) -> SavedResult:
    """Return a result as if it had been measured on four queries of a list called "some"."""
    per_query = PerQuery({"": ["q1", "q2", "q3"], "few": ["q0"]}, {})
    return replace(result, title="hostile only=some:4", per_query=per_query)


def test_both_runs_stand_side_by_side(
    folders: Folders, scored: Callable[[int], Result], suite: Suite, tmp_path: Path
) -> None:
    data, files = compared(folders, tmp_path / "page")
    assert data["runs"] == ["one", "other"] and data["title"] == "one and other: hostile"
    names = [f"{run}: {row}" for row in ("composed", "image only", "text only", "sum", "image") for run in data["runs"]]
    rows = {row["name"]: row for row in data["rows"]}
    assert list(rows) == names and [row["shown"] for row in rows.values()] == [True] * 2 + [False] * 6 + [True] * 2
    for seed, run in enumerate(data["runs"]):
        own = scored(seed).tasks[""]
        for name in ("composed", "image only"):
            row = rows[f"{run}: {name}"]
            assert row["run"] == seed and dict(row["values"])["MRR"][:QUERIES] == own.row_values[name]["MRR"].tolist()
            found = [[data["entries"]["ids"][entry] for entry in ids] for ids in row["answers"][:QUERIES]]
            wanted = [
                [suite.tasks[0].gallery_ids[at] for at in ids if at >= 0] for ids in own.row_answers[name].tolist()
            ]
            assert found == wanted and row["answers"][-1] is not None
    alone, own_files = read_page(folders[0] / "report.html")
    for key in ("ids", "tasks", "words", "targets", "sizes"):
        names_of = (lambda page, own: own) if key != "targets" else _ids
        assert names_of(data, data["queries"][key]) == names_of(alone, alone["queries"][key]), key
    assert set(own_files) <= set(files) and len(set(files)) == len(files)
    found_by = [f"{run}: found at R@1 by" for run in data["runs"]]
    assert [facet["name"] for facet in data["facets"]] == ["task", "kind", *found_by]
    assert any(block.get("head", [""])[0] == "run" for block in data["blocks"]), "the paired tests are there"


def _ids(page: dict[str, Any], lists: list[list[int]]) -> list[list[str]]:
    return [[page["entries"]["ids"][entry] for entry in own] for own in lists]


def test_what_counts_the_turns_of_sessions_is_no_task_of_queries(folders: Folders, tmp_path: Path) -> None:
    for folder in folders:
        content = json.loads((folder / RESULT).read_text())
        (folder / RESULT).write_text(json.dumps({**content, "turns to find": {"few": {}}}))
    data, _ = compared(folders, tmp_path / "page")
    assert len(data["queries"]["ids"]) == QUERIES + 4 and "few" not in data["queries"]["tasks"]


def test_the_same_folders_give_the_same_bytes(folders: Folders, tmp_path: Path) -> None:
    results = read_runs(folders)
    pages = [write_comparison(results, tmp_path / name, progress=False).read_bytes() for name in ("a", "b")]
    assert pages[0] == pages[1]


def test_results_of_an_earlier_version_have_ids_alone(folders: Folders, tmp_path: Path) -> None:
    for folder in folders:
        (folder / "report.html").unlink()
        content = json.loads((folder / PER_QUERY).read_text())
        for task in content["tasks"].values():
            for key in ("rows", "ranks", "composition", "references"):
                task.pop(key, None)
        (folder / PER_QUERY).write_text(json.dumps(content))
        figures = json.loads((folder / RESULT).read_text())
        for part in (figures, *figures["tasks"].values()):
            part.pop("composition", None)
        (folder / RESULT).write_text(json.dumps(figures))
    data, files = compared(folders, tmp_path / "page")
    assert files == [] and data["queries"]["words"] == [[]] * len(data["queries"]["ids"])
    assert [row["name"] for row in data["rows"]] == ["one: composed", "other: composed", "one: image", "other: image"]
    assert set(data["rows"][0]["ranks"]) == {None} and data["rows"][0]["answers"][0]
    missing = [f"Words and pictures of {folder} are missing: " for folder in folders]
    assert [note[: len(said)] for note, said in zip(data["notes"], missing, strict=True)] == missing
    assert data["notes"][0].endswith("run `mllm-embed-eval run` or `score` again, or give --data.")


def test_one_page_gives_what_it_has(folders: Folders, tmp_path: Path) -> None:
    (folders[0] / "report.html").unlink()
    data, files = compared(folders, tmp_path / "page")
    assert data["queries"]["words"][0] == [HOSTILE[0]] and len(files) > 20
    assert len([note for note in data["notes"] if "are missing: " in note]) == 1


def test_what_one_page_has_left_out_is_taken_from_the_other(
    folders: Folders, suite: Suite, scored: Callable[[int], Result], tmp_path: Path
) -> None:
    whole, _ = compared(folders, tmp_path / "whole")
    write_report(scored(0), suite, folders[0], SETTINGS, 0, progress=False)
    data, files = compared(folders, tmp_path / "page")
    there, wanted = ([place >= 0 for own in page["queries"]["pictures"] for place in own] for page in (data, whole))
    assert there == wanted and there.count(False) == 1 and len(files) > 20


def test_a_page_of_another_benchmark_is_not_believed(
    folders: Folders, suite: Suite, scored: Callable[[int], Result], tmp_path: Path
) -> None:
    other = replace(scored(0), fingerprint="0" * 64)
    write_report(other, suite, folders[0], SETTINGS, 0, progress=False)
    (folders[1] / "report.html").write_text("somebody's own page")
    data, _ = compared(folders, tmp_path / "page")
    assert data["queries"]["words"][0] == [] and len(data["notes"]) == 2
    assert "is of another benchmark, or of other files of it" in data["notes"][0]
    assert "is no page of this version" in data["notes"][1]


def test_the_benchmark_itself_gives_words_and_pictures(folders: Folders, suite: Suite, tmp_path: Path) -> None:
    for folder in folders:
        (folder / "report.html").unlink()
    data, files = compared(folders, tmp_path / "page", suite=suite)
    assert data["queries"]["words"][0] == [HOSTILE[0]] and len(files) > 20
    assert len(data["notes"]) == 1 and data["notes"][0].startswith("Thumbnails: ")
    chosen = suite.only({"": [3, 1, 2], "few": [0]}, "some")
    assert chosen_as(suite, _of_only(read_runs(folders)[0])).fingerprint() == chosen.fingerprint()
    another = replace(suite, split="other")
    with pytest.raises(DataError, match="is not what .*one was measured on"):
        compared(folders, tmp_path / "page", suite=another)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda task: task["rows"]["composed"]["answers"].pop(), "a row has not one entry for each of 20 queries"),
        (lambda task: task.update(rows=3), "is not of this version"),
        (lambda task: task["composition"].pop(), "19 composition labels for 20 queries"),
        (lambda task: task["composition"].__setitem__(0, "what"), "is not of this version"),
    ],
)
def test_a_file_of_another_shape_is_refused(
    folders: Folders, tmp_path: Path, change: Callable[[Any], Any], wrong: str
) -> None:
    content = json.loads((folders[1] / PER_QUERY).read_text())
    change(content["tasks"][""])
    (folders[1] / PER_QUERY).write_text(json.dumps(content))
    with pytest.raises(DataError, match=wrong):
        compared(folders, tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_what_cannot_be_compared_query_by_query_has_no_page(folders: Folders) -> None:
    first, second = read_runs(folders)
    assert incomparable([first, second]) is None
    assert incomparable([first]) == "a page compares two results, and 1 are given"
    assert "are not of the same benchmark, files and rules" in str(incomparable([first, replace(second, ties="x")]))
    assert f"{second.folder} has no {PER_QUERY}" == incomparable([first, replace(second, per_query=None)])


def test_thumbnails_of_both_pages_take_no_more_room_than_they_may(folders: Folders, tmp_path: Path) -> None:
    whole, _ = compared(folders, tmp_path / "whole")
    room = sum(whole["thumbnails"]) / 3e6
    data, files = compared(folders, tmp_path / "page", megabytes=room)
    assert 0 < len(files) < len(whole["thumbnails"]) and sum(map(len, files)) <= room * 1e6
    assert "are left out" in data["notes"][-1]
