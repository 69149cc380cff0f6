"""Training lexical vectors: the penalty is its formula, a run learns them whatever its chunks, and is told apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mllm_embed import MLLMEmbedder
from mllm_embed.errors import ConfigError
from mllm_embed.training.loss.flops import flops, share_of_penalty
from mllm_embed.training.loss.losses import BatchIndices, LossOptions, contrast
from mllm_embed.training.recipe.recipe_files import load_recipe
from mllm_embed.training.run.stages import run_recipe
from mllm_embed.types import Document, Query

TERM = "composed-target_image"


@pytest.fixture
def recipe(tiny_llava: Path, data: Path, tmp_path: Path) -> Path:
    values = {
        "model": str(tiny_llava), "output": str(tmp_path / "run"), "bf16": False, "lora": {"rank": 4, "dropout": 0.0},
        "lexical": {"words": 50, "weight": 0.5, "flops": 2.0}, "trained_on": False,
        "stages": {
            "queries": {
                "data": str(data), "rows": "triplets", "batch_size": 8, "learning_rate": 1e-2, "steps": 1,
                "chunk_tokens": 4096, "terms": [{"query": "composed", "positive": "target_image"}],
            }
        },
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "recipe.yaml"


def test_the_penalty_is_its_formula() -> None:
    torch.manual_seed(0)
    vectors = torch.rand(3, 5, dtype=torch.float64)
    slow = sum((sum(float(row[word]) for row in vectors) / 3) ** 2 for word in range(5))
    assert float(flops(vectors)) == pytest.approx(slow)
    assert [share_of_penalty(step, 12) for step in (0, 1, 3, 11)] == pytest.approx([1 / 16, 1 / 4, 1, 1])


def test_a_run_learns_words_whatever_its_chunks(recipe: Path, tiny_llava: Path, data: Path, tmp_path: Path) -> None:
    trained = {}
    for name, tokens in (("whole", 4096), ("cut", 60)):
        run_recipe(load_recipe(recipe, [f"output={tmp_path / name}", f"stages.queries.chunk_tokens={tokens}"]))
        lines = map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
        trained[name] = next(line for line in lines if "loss" in line)
        head = load_file(tmp_path / name / "queries/lexical_head/model.safetensors")
        assert all(tensor.abs().max() > 1e-3 for tensor in head.values())
    one, two = trained["whole"], trained["cut"]
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-4)
    assert one["loss"] == pytest.approx(one["loss/lexical"] + one["loss/flops"] + one[f"loss/{TERM}"], abs=1e-3)
    # the first step's losses are those of the untrained model's vectors
    base = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu").with_lexical(10**6)
    rows = [json.loads(line) for line in (data / "triplets.jsonl").read_text().splitlines()]
    asked = [Query(data / row["image"], row["instruction"]) for row in rows]
    found = [Document(data / row["target_image"]) for row in rows]
    words = [torch.from_numpy(base.encode_lexical(side).toarray()) for side in (asked, found)]
    indices = BatchIndices(torch.arange(8), torch.arange(8, 16))
    expected = float(contrast(torch.cat(words), indices, LossOptions(0.05)).loss)
    assert one["loss/lexical"] == pytest.approx(0.5 * expected, abs=1e-3)
    penalty = sum(float(flops(side.unique(dim=0))) for side in words)
    assert one["flops"] == pytest.approx(penalty, abs=1e-3)
    assert one["loss/flops"] == pytest.approx(2 * penalty, abs=1e-3)


def test_it_goes_on_and_is_told_apart(recipe: Path, tiny_llava: Path, tmp_path: Path) -> None:
    one = run_recipe(load_recipe(recipe, []))
    model = MLLMEmbedder.from_pretrained(tiny_llava, adapter=one, dtype="float32", device="cpu")
    assert model.settings.lexical.rank and model.encode_lexical(["red"]).nnz <= 50
    with pytest.raises(ConfigError, match=r"lexical.flops: 2.0, now 1"):
        run_recipe(load_recipe(recipe, ["lexical.flops=1.0"]))
    on = [f"adapter={one}", "lora=null", f"output={tmp_path / 'on'}"]
    with pytest.raises(ConfigError, match=r"was trained for lexical vectors, .* give lexical: {words: 50}"):
        run_recipe(load_recipe(recipe, [*on, "lexical=null"]))
    bank = "stages.queries.terms=[{query: composed, positive: target_image, bank: true}]"
    with pytest.raises(ConfigError, match="no term with bank, judged or frozen"):
        load_recipe(recipe, [bank])
