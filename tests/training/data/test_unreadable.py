"""Rows that cannot be read: replaced, written down once, fatal when they are many."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mllm_embed.errors import DataError
from mllm_embed.training.data import DataSource
from mllm_embed.training.data.open import open_rows
from mllm_embed.training.data.replacement import ATTEMPTS, replacement
from mllm_embed.training.data.unreadable import UnreadableLog


@pytest.mark.parametrize("streaming", [False, True])
def test_replacements_come_from_the_same_source(tmp_path: Path, streaming: bool) -> None:
    sources = []
    for name, count in (("one", 30), ("two", 5)):
        row = json.dumps({"source_text": "a", "target_text": "b"})
        (tmp_path / f"{name}.jsonl").write_text((row + "\n") * count)
        columns = {"source_text": "source_text", "target_text": "target_text"}
        source = DataSource(path=tmp_path / f"{name}.jsonl", format="columns", columns=columns, streaming=streaming)
        sources.append(source)
    rows = open_rows(sources, "texts", ["source_text"])
    tried = [replacement(rows, 7, attempt, seed=1) for attempt in range(1, ATTEMPTS + 1)]
    assert tried == [replacement(rows, 7, attempt, seed=1) for attempt in range(1, ATTEMPTS + 1)]
    assert len(set(tried)) == ATTEMPTS and 7 not in tried and max(tried) < 30
    assert (tried[:3] == [8, 9, 10]) == streaming
    assert {replacement(rows, 34, attempt, 0) for attempt in range(1, 5)} == {30, 31, 32, 33}
    with pytest.raises(DataError, match="two.jsonl: no row can be read in place of .*two.jsonl: row 5; check"):
        replacement(rows, 34, 5, 0)


def test_each_row_is_written_once_even_by_a_run_that_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run/unreadable.jsonl"
    for _ in range(2):
        log = UnreadableLog(path, rows=100_000)
        log.count(1000)
        log.add("7", "cc3m", "broken")
        log.add("7", "cc3m", "broken")
        log.add("7", "other", "broken")
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"id": "7", "source": "cc3m", "reason": "broken"},
        {"id": "7", "source": "other", "reason": "broken"},
    ]
    told = log.close()
    assert told.startswith("2 rows could not be read and others took their place: ") and str(path) in told
    assert UnreadableLog(tmp_path / "none.jsonl").close() is None


def test_a_line_names_its_row_once(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"source_text": "a", "target_text": "b"}\n{broken\n')
    columns = {"source_text": "source_text", "target_text": "target_text"}
    rows = open_rows(
        [DataSource(path=tmp_path / "r*.jsonl", format="columns", columns=columns)], "texts", ["source_text"]
    )
    with pytest.raises(DataError) as error:
        rows[1]
    log = UnreadableLog(tmp_path / "unreadable.jsonl")
    log.add(*rows.where(1), str(error.value))
    told = json.loads(log.path.read_text())
    assert (told["id"], told["source"]) == ("row 2", str(file)) and told["reason"].startswith("it is not JSON")
    with pytest.raises(DataError, match=f"the last: {file}: row 2: it is not JSON"):
        log.close()


def test_more_than_the_share_is_fatal(tmp_path: Path) -> None:
    log = UnreadableLog(tmp_path / "a.jsonl", share=0.01)
    for row in range(11):
        log.add(str(row), "s", "gone")
    log.count(988)  # too few to judge
    with pytest.raises(DataError, match="11 of the 1,000 rows tried.* 0.01 .*a.jsonl lists.* or raise max_unreadable$"):
        log.count(1)
    few = UnreadableLog(tmp_path / "b.jsonl", rows=50)
    few.add("1", "s", "gone")
    few.count(48)
    with pytest.raises(DataError, match="1 of the 50 rows"):
        few.count(1)
    short = UnreadableLog(tmp_path / "c.jsonl", rows=5000)
    short.add("1", "s", "gone")
    short.count(10)
    with pytest.raises(DataError, match="1 of the 11 rows tried"):
        short.close()


def test_a_share_counts_rows_tried_and_outlives_a_stop(tmp_path: Path) -> None:
    half = UnreadableLog(tmp_path / "a.jsonl", rows=8, share=0.5)
    for _ in range(8):  # each asked for, and another read in its place
        half.add("1", "s", "gone")
    half.count(8)
    assert half.state() == {"seen": 16, "met": 8} and half.close()
    log = UnreadableLog(tmp_path / "b.jsonl", rows=8)
    log.add("1", "s", "gone")
    with pytest.raises(DataError, match="1 of the 9 rows tried"):
        log.count(8)
    later = UnreadableLog(tmp_path / "b.jsonl", rows=8)
    later.restore(json.loads(json.dumps(log.state())))
    with pytest.raises(DataError, match="1 of the 9 rows tried cannot be read.*lists them; replace them, or raise"):
        later.close()
    with pytest.raises(DataError, match="1 of the 10 rows tried"):
        later.count(1)
