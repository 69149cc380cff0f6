"""What a run tells of itself: its log, its warnings, its curves and its closing lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mllm_embed import MLLMEmbedder
from mllm_embed.errors import ModelError
from mllm_embed.training.cli import main
from mllm_embed.training.data import TrainingRow
from mllm_embed.training.recipe.config import Recipe
from mllm_embed.training.recipe.stage import Stage
from mllm_embed.training.report.curves import draw
from mllm_embed.training.report.run_log import line_in_words, read_log
from mllm_embed.training.run.advice import candidates_in_words, unused_roles, weaknesses
from mllm_embed.training.run.stages import run_recipe
from mllm_embed.training.run.throughput import mean_cosine
from mllm_embed.training.run.trainer import ContrastiveTrainer
from mllm_embed.types import Document

PAIRS = {"query": "image", "positive": "caption", "symmetric": True}
TRIPLETS = {"query": "composed", "positive": "target_image"}


def _stage(data: Path, term: dict, **keys: object) -> dict[str, object]:
    rows = "pairs" if term is PAIRS else "triplets"
    stage = {"data": data, "rows": rows, "batch_size": 4, "steps": 4, "save_steps": 2, "learning_rate": 1e-3}
    return stage | {"terms": [term]} | keys


def _recipe(model: Path, output: Path, **stages: dict[str, object]) -> Recipe:
    return Recipe(model=str(model), output=output, bf16=False, stages=stages)


@pytest.mark.slow
def test_a_run_leaves_curves_and_closing_lines(
    tiny_llava: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    evaluate = {"data": data, "every": 2}
    second = _stage(data, TRIPLETS, evaluate=evaluate, temperature=0.03)
    recipe = _recipe(tiny_llava, run, first=_stage(data, PAIRS), second=second)
    run_recipe(recipe)
    printed = capsys.readouterr()
    assert (run / "report.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "first: 4 steps, 16 rows, " in printed.out and "first: 4 steps, 16 rows, " in (run / "report.md").read_text()
    assert "second 4/4  loss " in printed.out and "second 0/4  validation  recall@1 " in printed.out
    assert "{" not in printed.out and max(map(len, printed.out.splitlines())) < 400
    rows = read_log(run / "log.jsonl")
    axes = {axis.get_title(loc="left"): axis for axis in draw(rows).axes}
    logged = [row["loss/composed-target_image"] for row in rows if "loss/composed-target_image" in row]
    lines = {line.get_gid(): line for line in axes["loss"].get_lines() if line.get_gid()}
    assert list(lines["loss/composed-target_image"].get_ydata()) == logged
    assert list(lines["loss/composed-target_image"].get_xdata()) == [5, 6, 8]  # behind the four steps of the first
    for title, name in {
        "learning rate": "learning_rate", "temperature": "temperature", "tokens per second": "tokens_per_s",
        "pictures per second": "pictures_per_s", "share of the time waiting for data": "data_wait",
        "peak memory, GiB": "memory_gib", "recall on the validation": "recall@10", "mean cosine of all vectors":
        "mean_cosine", "accuracy in the batch": "accuracy/image-caption",
        "cosine: positive —, hardest negative - -": "hardest/composed-target_image",
    }.items():  # fmt: skip
        assert name in {line.get_gid() for line in axes[title].get_lines()}, title
    one_stage = draw([row for row in rows if row["stage"] == "first"]).axes
    assert "temperature" not in {axis.get_title(loc="left") for axis in one_stage}  # a flat line
    (run / "report.png").unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "report.png").is_file() and "second: 4 steps" in capsys.readouterr().out


def test_a_run_that_was_stopped_is_reported_too(
    tiny_llava: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ContrastiveTrainer.compute_loss

    def lost(self, *args, **kwargs):
        loss = real(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 3 else loss

    monkeypatch.setattr(ContrastiveTrainer, "compute_loss", lost)
    with pytest.raises(ModelError, match="stopped at step 4"):
        run_recipe(_recipe(tiny_llava, tmp_path / "run", first=_stage(data, PAIRS, steps=20)))
    assert (tmp_path / "run/report.png").is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing"),
        ("", "is empty"),
        ("{\n", "is damaged"),
        ('{"step": 1}\n', "damaged"),
        (r'{"stage": "\ud800", "step": 1}' + "\n", "damaged"),
    ],
)
def test_a_folder_that_holds_no_run_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content)
    assert main(["report", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


def test_counts_are_those_of_the_inputs(tiny_llava: Path, embedder: MLLMEmbedder, data: Path, tmp_path: Path) -> None:
    run_recipe(_recipe(tiny_llava, tmp_path / "run", first=_stage(data, PAIRS, steps=2)))
    rows = [row for row in read_log(tmp_path / "run/log.jsonl") if "loss" in row]
    pairs = [json.loads(line) for line in (data / "pairs.jsonl").read_text().splitlines()]
    items = [Document(image=data / pair["image"]) for pair in pairs] + [Document(text=p["caption"]) for p in pairs]
    tokens = sum(int(embedder.item_processor([item])["attention_mask"].sum()) for item in items)
    assert [sum(row[name] for row in rows) for name in ("rows", "pictures", "tokens")] == [8, 8, tokens]
    for row in rows:
        assert row["tokens_per_s"] == pytest.approx(row["tokens"] / row["seconds"], rel=0.05)
        assert 0 < row["data_wait"] < 1 and 0.05 < row["memory_gib"] < 100 and row["grad_norm"] > 0


def test_the_mean_cosine_is_that_of_all_pairs() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(7, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    slow = [float(vectors[i] @ vectors[j]) for i in range(7) for j in range(7) if i != j]
    assert mean_cosine(vectors).item() == pytest.approx(sum(slow) / len(slow), abs=1e-6)
    assert mean_cosine(vectors[:1]).isnan()


def test_what_nobody_compares_is_told_once(
    tiny_llava: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in (data / "triplets.jsonl").read_text().splitlines()]
    same = [row | {"target_image": "images/7.png"} for row in rows]
    (data / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in same))
    run_recipe(_recipe(tiny_llava, tmp_path / "run", first=_stage(data, TRIPLETS)))
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: stage 'first': ")]
    logged = [row["warning"] for row in read_log(tmp_path / "run/log.jsonl") if "warning" in row]
    assert [line.removeprefix("warning: stage 'first': ") for line in warnings] == logged and len(logged) == 3
    assert logged[0].startswith("8 of 8 rows have a source_text that no term uses")
    assert logged[1].startswith("term composed-target_image saw no negative")
    assert "75% of the targets of a batch repeat another row's" in logged[2]
    assert all(sentence in (tmp_path / "run/report.md").read_text() for sentence in logged)


def _of(*terms: dict[str, object], **keys: object) -> Stage:
    return Stage(data="data", rows="triplets", batch_size=8, terms=list(terms), **keys)


def test_hard_negatives_that_no_term_uses_are_named() -> None:
    rows = [TrainingRow(str(i), "g", {}, (Document(text="no"),) * i) for i in range(3)]
    assert list(unused_roles(_of(TRIPLETS), rows)) == ["unused/hard_negative"]
    assert unused_roles(_of(TRIPLETS), rows)["unused/hard_negative"].startswith(
        "2 of 3 rows have a hard_negative that no"
    )
    assert unused_roles(_of(TRIPLETS | {"negatives": ["hard_negative"]}), rows) == {}


@pytest.mark.parametrize(
    ("keys", "none", "repeated"),
    [
        ({}, "add rows with other targets", "its rows have few different ones: add rows with others, or lower batch"),
        ({"per_image": 4}, "add rows with other targets", "lower per_image, which keeps like rows together"),
        ({"mask_margin": 0.0}, "let mask_margin leave out less or add rows", "its rows have few different ones"),
        ({"guide": {}}, "let guide leave out less or add rows", "its rows have few different ones"),
        (
            {"data": [{"path": "a.tar", "format": "columns", "columns": {"image": "png"}, "streaming": True}]},
            "add rows with other targets",
            "a stream keeps the order of its shards nearly: shuffle the rows as the shards are written",
        ),
    ],
)
def test_the_cure_of_a_weakness_can_be_taken(keys: dict[str, Any], none: str, repeated: str) -> None:
    stage = Stage(**{"data": "data", "rows": "triplets", "batch_size": 8, "terms": [TRIPLETS], **keys})
    name = stage.terms[0].name
    told = weaknesses(stage, {f"negatives/{name}": 0.0, f"repeated/{name}": 0.5})
    assert f"teaches nothing; {none}" in told[f"negatives/{name}"]
    assert f"says; {repeated}" in told[f"repeated/{name}"]


def test_a_learned_temperature_at_its_bound_is_named() -> None:
    stage = _of(TRIPLETS, learn_temperature=(0.01, 0.1))
    assert weaknesses(stage, {"temperature": 0.05}) == {} and weaknesses(_of(TRIPLETS), {"temperature": 0.01}) == {}
    assert "sits at its bound (0.01 of 0.01 to 0.1)" in weaknesses(stage, {"temperature": 0.0101})["temperature"]
    assert "sits at its bound (0.1 of 0.01 to 0.1)" in weaknesses(stage, {"temperature": 0.0999})["temperature"]


@pytest.mark.parametrize(
    ("term", "line"),
    [
        (TRIPLETS, "composed -> target_image: candidates are 8 target_image, at most 7 negatives a query"),
        (
            TRIPLETS | {"negatives": ["query_image", "hard_negative"]},
            "composed -> target_image: candidates are 8 target_image, 8 query_image, 16 hard_negative, at most 31 "
            "negatives a query",
        ),
        (
            {"query": "composed_text", "positive": "target_text", "same_side": True, "symmetric": True, "frozen": True},
            "composed_text <-> target_text: candidates are 8 target_text, the other 7 queries, by the model without "
            "adapter, at most 14 negatives a query",
        ),
    ],
)
def test_a_term_says_what_it_compares(term: dict[str, object], line: str) -> None:
    rows = [TrainingRow(str(i), "g", {}, (Document(text="no"),) * i) for i in range(3)]
    assert candidates_in_words(_of(term).terms[0], _of(term), rows, {}) == line


def test_a_line_for_people_is_short() -> None:
    row = {"loss": 1.5, "learning_rate": 2e-4, "accuracy/a-b": 0.5, "accuracy/a-b@64": 0.1, "accuracy/c-d": 0.25}
    row |= {"tokens_per_s": 1234.4, "data_wait": 0.3}
    assert line_in_words(row) == (
        "loss 1.5000  accuracy 0.500 / 0.250  lr 2.00e-04  1,234 tokens/s  30% of the time waiting for data"
    )
