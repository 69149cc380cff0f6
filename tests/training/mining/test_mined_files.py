"""Mined files: read for the rows of the sources that they were mined from, in both formats, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mllm_embed.errors import DataError
from mllm_embed.training.data.open import open_rows
from mllm_embed.training.data.rows import MixedRows
from mllm_embed.training.data.source import DataSource
from mllm_embed.training.mining.mined_file import described
from mllm_embed.training.mining.mined_rows import MinedRows
from mllm_embed.types import Document


def written(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def rows_of(*folders: Path) -> MixedRows:
    return open_rows([DataSource(path=folder) for folder in folders], "triplets", [])


def test_format_1_is_read_or_refused(data: Path, tmp_path: Path) -> None:
    """What was mined before rows were known by their numbers: one data folder, rows by id."""
    mixed = rows_of(data)
    path, fingerprint = tmp_path / "mined.jsonl", mixed.parts[0].files_fingerprint()
    head = {"format": 1, "data": fingerprint, "rows": "triplets"}
    first = {"id": "t1", "negatives": [{"image": "x/1.png"}, {"text": "no"}], "cluster": 4}
    second = {"id": "t0", "negatives": [{"image": ["1.png", "2.png"]}]}
    found = MinedRows(written(path, [head, first, second]), mixed, "triplets")
    assert found.negatives(0, 1) == (Document(image=data / "x/1.png"), Document(text="no"))
    assert found.negatives(0, 0)[0].images == (data / "1.png", data / "2.png") and found.negatives(0, 2) == ()
    assert found.clusters().tolist() == [-1, 4, *[-1] * 6]
    refused = [
        ([head | {"data": "abd"}], "mined from data other than"),
        ([head | {"rows": "pairs"}], "mined for pairs, not for triplets; mine again with --rows triplets"),
        ([head, first | {"id": "t8"}], ':2: there is no row "t8"'),
        ([head, first, first], 'row "t1" stands twice'),
        ([first], "no mined file of format 2"),
        ([head, first | {"cluster": -1}], '"cluster" must be a number from 0 on'),
        ([head, {"id": "t1"}], '"negatives" must be a list'),
        ([head, {"id": "t1", "negatives": [{"image": "../x.png"}]}], "must be a path inside"),
        ([head, {"id": "t1", "negatives": [{"picture": "x.png"}]}], 'a negative is an "image"'),
        ([head, {"id": "t1", "negatives": ["x.png"]}], 'a negative is an "image"'),
        ([head, {"id": "t1", "negatives": [{"text": 3}]}], ":2: the text of a Document is an int; give words"),
        ([head, {"id": "t1", "negatives": [{}]}], ":2: a Document needs"),
        ([], "is empty"),
        ([1], ":1 must be a JSON object"),
    ]
    for lines, said in refused:
        with pytest.raises(DataError, match=said):
            MinedRows(written(path, lines), mixed, "triplets")
    path.unlink()
    with pytest.raises(DataError, match="is missing: make it with mllm-embed-train mine"):
        MinedRows(path, mixed, "triplets")


def test_rows_of_a_list_are_known_by_source_and_number(data: Path, tmp_path: Path) -> None:
    """Two sources with the same ids, read in another order than they were mined in."""
    other = Path(shutil.copytree(data, tmp_path / "other"))
    lines = (other / "triplets.jsonl").read_text().splitlines(keepends=True)
    (other / "triplets.jsonl").write_text("".join(reversed(lines)))
    mixed, turned = rows_of(data, other), rows_of(other, data)
    head = {"format": 2, "rows": "triplets", "sources": [described(part) for part in mixed.parts]}
    body = [
        {"source": 0, "row": 3, "negatives": [{"image": "a.png", "source": 1}, {"row": 2, "role": "target_image"}]},
        {"source": 1, "row": 3, "negatives": [{"image": "b.png"}, {"row": 2, "role": "composed", "source": 0}],
         "cluster": 1},
    ]  # fmt: skip
    path = tmp_path / "mined.jsonl"
    found = MinedRows(written(path, [head, *body]), turned, "triplets")
    rows = mixed.parts[0]
    assert found.negatives(1, 3) == (Document(image=other / "a.png"), rows[2].roles["target_image"])
    assert found.negatives(0, 3) == (Document(image=other / "b.png"), rows[2].roles["composed"])
    assert found.negatives(0, 2) == () and found.clusters().tolist() == [*[-1] * 3, 1, *[-1] * 12]
    line = body[0]
    refused = [
        ([head, line | {"source": 2}], ':2: there is no "source" 2 in its first line'),
        ([head, line | {"source": None}], ':2: there is no "source" null'),
        ([head, line | {"row": 8}], f":2: there is no row 8 in {data}"),
        ([head, line | {"row": True}], ":2: there is no row true"),
        ([head, line | {"negatives": [{"row": 9, "role": "target_image"}]}], ":2: there is no row 9"),
        ([head, line | {"negatives": [{"row": 1, "role": 5}]}], 'a negative of a row is a "row" and its "role"'),
        ([head, line | {"negatives": [{"image": "a.png", "folder": 1}]}], '"folder" 1 is none of its source'),
        ([head, line, line], "row 3 stands twice"),
        ([head | {"sources": [described(rows)]}, line], f"was mined without {other}; mine again from all sources"),
        ([head | {"sources": [described(rows)] * 2}, line], f"mined from data other than {other} as it is now"),
        ([head | {"sources": ["a"]}, line], "no mined file of format 2"),
    ]  # fmt: skip
    for lines_, said in refused:
        with pytest.raises(DataError, match=said):
            MinedRows(written(path, lines_), mixed, "triplets")
    # of a row that offers another role
    gone = MinedRows(
        written(path, [head, line | {"negatives": [{"row": 1, "role": "negative_text"}]}]), mixed, "triplets"
    )
    with pytest.raises(DataError, match="row 't1' has no negative_text; mine again"):
        gone.negatives(0, 3)
