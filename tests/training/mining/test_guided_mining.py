"""Mining with a guide: what it finds nearer than the positive is no negative."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mllm_embed import MLLMEmbedder, Query
from mllm_embed.training.cli import main
from mllm_embed.training.data import TrainingRow
from mllm_embed.training.false_negatives.guide import GuideRule, without_nearer
from mllm_embed.training.mining.guided import MiningGuide
from mllm_embed.training.mining.mine import QuestionVectors
from mllm_embed.training.mining.questions import Questions
from mllm_embed.types import Document


def unit(shape: tuple[int, int], seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("rule", [GuideRule(), GuideRule(margin=-0.2), GuideRule(ceiling=0.8)])
def test_what_a_guide_leaves_is_what_the_obvious_loop_leaves(rule: GuideRule) -> None:
    rows = [
        TrainingRow(str(n), "", {"source_text": Document(text=f"q{n % 9}"), "target_text": Document(text=f"a{n}")})
        for n in range(12)
    ]
    questions = Questions.of(rows, "source_text", "target_text")
    queries, gallery = unit((9, 6), 1), unit((len(questions.gallery), 6), 2)
    gallery[5], queries[4] = 0, 0  # could not be read
    vectors = QuestionVectors(queries, gallery, {4: "torn"}, {5: "torn"})
    places = np.tile(np.arange(len(gallery)), (9, 1))
    places[:, 7] = -1
    left, some = MiningGuide(questions, vectors, rule).left(slice(0, 9), places), 0
    for q in range(9):
        own = [p for asked, p in zip(questions.query, questions.positive, strict=True) if asked == q]
        positive = np.mean([queries[q] @ gallery[p] for p in own])
        limit = positive + rule.margin if rule.ceiling is None else positive - (1 - rule.ceiling) * abs(positive)
        for place in range(len(gallery)):
            known = q != 4 and place != 5 and 5 not in own
            out = place == 7 or (known and queries[q] @ gallery[place] > limit + 1e-5)
            assert left[q, place] == (-1 if out else place)
            some += out
    assert some > 20
    assert np.array_equal(MiningGuide(questions, vectors, rule).left(slice(3, 6), places[3:6]), left[3:6])


def test_an_equal_candidate_is_not_nearer() -> None:
    query, gallery = unit((1, 96), 3), np.repeat(unit((1, 96), 4), 5, axis=0)
    positive = np.array([np.float32(np.sum(query[0].astype(np.float64) * gallery[0]))])
    places = np.arange(5)[None]
    assert np.array_equal(without_nearer(query, gallery, places, positive, GuideRule()), places)


def test_the_command_leaves_out_what_the_guide_finds_nearer(
    data: Path, tiny_llava: Path, saved_models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["mine", str(data), "--model", str(tiny_llava), "--dtype", "float32", "--ceiling", "1"]
    guided = ["--guide-adapter", str(saved_models["adapter"])]

    def mined(name: str, *more: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        assert main([*words, "--output", str(tmp_path / name), *more]) == 0
        header, *rows = map(json.loads, (tmp_path / name).read_text().splitlines())
        return header, rows

    guide = MLLMEmbedder.from_pretrained(tiny_llava, adapter=saved_models["adapter"], dtype="float32")
    asked = [json.loads(line) for line in (data / "triplets.jsonl").read_text().splitlines()]

    def nearer(rows: list[dict[str, Any]]) -> int:
        count = 0
        for row, ask in zip(rows, asked, strict=True):
            query = guide.encode([Query(data / ask["image"], ask["instruction"])])[0]
            names = [ask["target_image"], *(entry["image"] for entry in row["negatives"])]
            positive, *others = guide.encode([data / name for name in names]) @ query
            count += sum(other > positive + 1e-5 for other in others)
        return count

    assert nearer(mined("plain.jsonl")[1]) > 0
    capsys.readouterr()
    header, rows = mined("guided.jsonl", *guided)
    assert nearer(rows) == 0 and any(row["negatives"] for row in rows)
    assert "left out by the guide: " in capsys.readouterr().out
    assert header["guide"]["names"]["adapter"] == str(saved_models["adapter"]) and header["guide"]["margin"] == 0
    assert (tmp_path / "guided.jsonl.vectors/guide/vectors.json").is_file()
    for bad, told in (
        (["--guide-margin", "0.1"], "need a --guide or a --guide-adapter"),
        ([*guided, "--guide-ceiling", "2"], "--guide: ceiling: must be less than or equal to 1"),
        ([*guided, "--guide-margin", "0.1", "--guide-ceiling", "0.9"], "margin or ceiling, not both"),
    ):
        assert main([*words, "--output", str(tmp_path / "bad.jsonl"), *bad]) == 2
        assert told in capsys.readouterr().err
