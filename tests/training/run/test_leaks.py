"""A run tells of queries that its validation asks too, and leaves what it was trained on beside each adapter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from mllm_embed.data.trained_on import TRAINED_ON, record_beside
from mllm_embed.eval.cli import main as eval_main
from mllm_embed.training.cli import main
from mllm_embed.training.report import leaks as leaks_module


@pytest.fixture
def validation(data: Path, tmp_path: Path) -> Path:
    """A benchmark of other pictures, but for one query that a row of the training data asks, under other names."""
    folder = tmp_path / "validation"
    (folder / "images").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (32, 32), (10 * number, 200, 90)).save(folder / f"images/{number}.png")
    rows = [json.loads(line) for line in (data / "triplets.jsonl").read_text().splitlines()]
    shutil.copy(data / rows[3]["image"], folder / "images/asks.png")
    shutil.copy(data / rows[3]["target_image"], folder / "images/answers.png")
    names = ("0", "1", "2", "3", "asks", "answers")
    queries = [{"id": "leaked", "image": "images/asks.png", "instruction": f" {rows[3]['instruction'].upper()}",
                "targets": ["answers"]}]  # fmt: skip
    queries += [
        {"id": f"q{n}", "image": f"images/{n}.png", "instruction": "x", "targets": [str(n + 1)]} for n in (0, 1)
    ]
    gallery = [{"id": name, "image": f"images/{name}.png"} for name in names]
    (folder / "benchmark.json").write_text(json.dumps({"name": "val", "gallery": gallery, "queries": queries}))
    return folder


@pytest.fixture
def train(tiny_llava: Path, data: Path, validation: Path, tmp_path: Path) -> Callable[..., int]:
    def run(*words: str, **keys: Any) -> int:
        stage = {"data": str(data), "batch_size": 4, "steps": 1, "chunk_tokens": 4096}
        pairs = {"rows": "pairs", "terms": [{"query": "image", "positive": "caption"}]}
        triplets = {"rows": "triplets", "terms": [{"query": "composed", "positive": "target_image"}]}
        values = {
            "model": str(tiny_llava), "output": str(tmp_path / "run"), "bf16": False,
            "stages": {
                "captions": stage | pairs,
                "changes": stage | triplets | {"evaluate": {"data": str(validation), "every": 1}},
            },
        } | keys  # fmt: skip
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
        return main(["run", str(tmp_path / "recipe.yaml"), *words])

    return run


TOLD = (
    "1 of its 3 queries are asked in training too, 1 of them with the same right answer; 2 of its 6 pictures are seen"
)


def test_leaks_are_told_and_refused(
    train: Callable[..., int], tmp_path: Path, tiny_llava: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    assert train("--strict") == 2
    told = capsys.readouterr()
    error = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and TOLD in error[0] and not (tmp_path / "run/captions").exists()
    assert train() == 0
    assert f"changes  validation val: {TOLD}" in capsys.readouterr().out
    first, last = (record_beside(tmp_path / "run" / name) for name in ("captions", "changes"))
    assert (len(first.asked), len(first.pictures)) == (8, 8) and len(last.asked) == 16
    assert set(first.asked) < set(last.asked)
    # a start that has a stage to train reads no row again
    monkeypatch.setattr(leaks_module, "_record", lambda *_: pytest.fail("the rows were read again"))
    shutil.rmtree(tmp_path / "run/changes")
    (tmp_path / "run/captions" / TRAINED_ON).unlink()  # as if the process had died before it was written
    assert train() == 0 and TOLD in capsys.readouterr().out
    again = record_beside(tmp_path / "run/captions")
    assert again is not None and np.array_equal(again.asked, first.asked)


def test_an_evaluation_tells_what_its_adapter_was_trained_on(
    train: Callable[..., int], tmp_path: Path, tiny_llava: Path, validation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train() == 0
    capsys.readouterr()
    words = ["run", str(validation), "--model", str(tiny_llava), "--adapter", str(tmp_path / "run/changes")]
    assert eval_main([*words, "--sheet", "0", "--output", str(tmp_path / "out")]) == 0
    assert f"val: {TOLD}" in capsys.readouterr().out
    assert eval_main([*words, "--output", str(tmp_path / "strict"), "--strict"]) == 2
    assert TOLD in capsys.readouterr().err and not (tmp_path / "strict/result.json").exists()


def test_a_run_may_do_without(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaks_module, "_record", lambda *_: pytest.fail("the rows were read"))
    assert train("--strict", trained_on=False) == 2
    assert "trained_on: false" in capsys.readouterr().err
    assert train(trained_on=False) == 0
    assert "are asked in training" not in capsys.readouterr().out
    assert not (tmp_path / "run/changes" / TRAINED_ON).exists()
