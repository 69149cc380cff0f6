"""Released text-only data becomes texts.jsonl that a data folder reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mllm_embed import DataFolder

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "convert_texts.py"
TRIPLET = {"reference_caption": "a dog", "conditioning_caption": "as a cat", "target_caption": "a cat", "more": 1}


def _run(source: Path, output: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, source, "--output", output], capture_output=True, text=True)


def _converted(tmp_path: Path, name: str, content: str) -> tuple[DataFolder, str]:
    (tmp_path / name).write_text(content, encoding="utf-8")
    done = _run(tmp_path / name, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["texts.jsonl"]
    return DataFolder.open(tmp_path / "out"), done.stdout


def test_nli_from_csv(tmp_path: Path) -> None:
    content = '\ufeffsent0,sent1,hard_neg\n"a, b", c ,d\ne,,f\n"a, b",c,d\n"two\nlines",é,y\n'
    folder, said = _converted(tmp_path, "nli_for_simcse.csv", content)
    rows = [(row.id, row.source_text, row.target_text, row.negative_text, row.instruction) for row in folder.texts]
    assert rows == [("1", "a, b", "c", "d", None), ("4", "two\nlines", "é", "y", None)]
    assert "2 rows in" in said and "1 empty and 1 repeated rows dropped" in said


@pytest.mark.parametrize("form", ["list", "indented list", "lines"])
def test_triplets_from_json(tmp_path: Path, form: str) -> None:
    rows = [TRIPLET, TRIPLET | {"target_caption": None}, TRIPLET | {"reference_caption": "a wolf"}]
    lines = "\n\n".join(map(json.dumps, rows))
    content = lines if form == "lines" else "\n" + json.dumps(rows, indent=1 if "indented" in form else None)
    folder, said = _converted(tmp_path, "LLM_triplets.json", content)
    found = [(row.id, row.source_text, row.instruction, row.target_text) for row in folder.texts]
    assert found == [("1", "a dog", "as a cat", "a cat"), ("3", "a wolf", "as a cat", "a cat")]
    assert "1 empty and 0 repeated" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n", "in:2 has the columns a, b; known are sent0, sent1, hard_neg or reference_caption"),
        (b"sent0,sent1,hard_neg\na,b,c,d\n", "in:2 has more cells than columns"),
        (b"sent0,sent1,hard_neg\na\n", "in has no row with all its texts"),
        (b"", "in has no row with all its texts"),
        (b"sent0,\xff\n", "in is not UTF-8 text"),
        (json.dumps(TRIPLET).encode() + b"\n{\n", "in:2 is not JSON"),
        (b"[[1]]", "in row 1 is no JSON object but [1]"),
        (json.dumps([TRIPLET, TRIPLET | {"target_caption": 7}]).encode(), "in row 2: target_caption must be a text"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_leaves_nothing(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "in").write_bytes(content)
    done = _run(tmp_path / "in", tmp_path / "out")
    assert done.returncode == 2 and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list((tmp_path / "out").glob("*"))


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    _converted(tmp_path, "a.json", json.dumps([TRIPLET]))
    done = _run(tmp_path / "a.json", tmp_path / "out")
    assert done.returncode == 2 and "is already there" in done.stderr
    done = _run(tmp_path / "b.json", tmp_path / "out")
    assert done.returncode == 2 and "b.json is missing" in done.stderr
