"""`run` and `methods` tell of queries that were asked in training, or in the set on which settings are chosen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mllm_embed.eval.cli import main


@pytest.fixture
def asked(data: Path) -> Path:
    """The folder's benchmark with two queries that its triplets ask, one with another answer."""
    content = json.loads((data / "benchmark.json").read_text())
    rows = [json.loads(line) for line in (data / "triplets.jsonl").read_text().splitlines()]
    for query, row, answer in zip(content["queries"], rows[:2], (0, 1), strict=False):
        name = row["target_image"].removeprefix("images/").removesuffix(".png")
        other = next(item["id"] for item in content["gallery"] if item["id"] not in (name, "0", "1"))
        query |= {"image": row["image"], "instruction": row["instruction"], "targets": [other if answer else name]}
        query["exclude"] = []
    (data / "benchmark.json").write_text(json.dumps(content))
    return data


def test_what_a_model_was_trained_on_is_named_or_lies_beside_it(
    asked: Path, tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", str(asked), "--model", str(tiny_llava), "--output", str(tmp_path / "out"), "--sheet", "0"]
    assert main([*run, "--strict"]) == 2
    assert "nothing says what the model was trained on" in capsys.readouterr().err
    assert main([*run, "--trained-on", str(asked), "--strict"]) == 2
    told = "of its 16 queries are asked in training too"
    assert told in capsys.readouterr().err and not (tmp_path / "out/result.json").exists()
    assert main([*run, "--trained-on", str(tmp_path)]) == 2
    assert "is no data folder" in capsys.readouterr().err


def test_settings_are_not_chosen_on_what_is_measured(
    asked: Path, tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["methods", str(asked), "--model", str(tiny_llava), "--only", "edit strength", "--tune-on", str(asked)]
    assert main([*words, "--output", str(tmp_path / "out"), "--strict"]) == 2
    told = capsys.readouterr()
    assert "halves: 16 of its 16 queries are asked in --tune-on too, 16 of them with the same right answer" in told.out
    assert "error: halves: 16 of its 16" in told.err
