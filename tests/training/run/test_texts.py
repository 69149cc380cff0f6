"""Stages on words alone: no pictures needed, instructions learned, frozen targets left where they were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.training.recipe.recipe_files import load_recipe
from mllm_embed.training.run.stages import run_recipe

COLORS = ("red", "green", "blue", "white", "black", "orange", "purple", "yellow")
ROWS = [
    {"id": f"{a}-{b}", "source_text": f"a {a} thing", "instruction": f"make it {b}", "target_text": f"a {b} thing"}
    for a in COLORS
    for b in COLORS
    if a != b
]
FROZEN = {"query": "composed_text", "positive": "target_text", "negatives": ["source_text"], "frozen": True}


@pytest.fixture
def recipe(tiny_llava: Path, tmp_path: Path) -> Path:
    """A folder with texts.jsonl alone, and one stage with a frozen term."""
    (tmp_path / "words").mkdir()
    (tmp_path / "words/texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    stage = {"data": str(tmp_path / "words"), "rows": "texts", "terms": [FROZEN], "temperature": 0.1, "warmup": 0.0}
    values = {
        "model": str(tiny_llava),
        "output": str(tmp_path / "run"),
        "bf16": False,
        "lora": {"rank": 8, "dropout": 0.0, "projector": False},
        "stages": {"texts": stage | {"batch_size": 16, "learning_rate": 3e-3, "steps": 80}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "recipe.yaml"


def _found(queries: np.ndarray, targets: np.ndarray) -> float:
    """The share of changed texts that find their target in the index of all colours."""
    best = (queries @ targets.T).argmax(1)
    return float(np.mean([f"a {COLORS[at]} thing" == row["target_text"] for at, row in zip(best, ROWS, strict=True)]))


@pytest.mark.slow
def test_queries_learn_to_find_what_the_base_indexed(recipe: Path, embedder: MLLMEmbedder) -> None:
    asked = [Query(text=row["source_text"], instruction=row["instruction"]) for row in ROWS]
    index = embedder.encode([f"a {color} thing" for color in COLORS])
    loaded = load_recipe(recipe)
    trained = MLLMEmbedder.from_pretrained(loaded.model, adapter=run_recipe(loaded), dtype="float32")
    before, after = _found(embedder.encode(asked), index), _found(trained.encode(asked), index)
    assert before < 0.4 and after > 0.6
    names = {key for line in (loaded.output / "log.jsonl").read_text().splitlines() for key in json.loads(line)}
    assert {"loss/composed_text-target_text-frozen", "accuracy/composed_text-target_text-frozen"} <= names


def test_triplets_serve_a_text_stage_without_their_pictures(recipe: Path, data: Path) -> None:
    shutil.rmtree(data / "images")
    overrides = [f"stages.texts.data={data}", "stages.texts.batch_size=4", "stages.texts.steps=1"]
    with pytest.raises(DataError, match="has no texts.jsonl, from which texts are read"):
        run_recipe(load_recipe(recipe, overrides))
    run_recipe(load_recipe(recipe, [*overrides, "stages.texts.rows=triplets"]))
    terms = "stages.texts.terms=[{query: composed, positive: target_text}]"
    with pytest.raises(DataError, match="images/0.png.* does not exist"):
        run_recipe(load_recipe(recipe, [*overrides, "stages.texts.rows=triplets", terms]))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "instruction",
            r"texts.jsonl: row 'red-blue' has no composed_text \(source_text and instruction\), which a term",
        ),
        ("negative_text", "texts.jsonl: row 'red-blue' has no negative_text, which a term"),
    ],
)
def test_a_row_without_what_a_term_needs_is_named(recipe: Path, key: str, message: str) -> None:
    rows = [dict(row, negative_text="a stone") for row in ROWS]
    del rows[1][key]
    (recipe.parent / "words/texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=message):
        run_recipe(load_recipe(recipe, ["stages.texts.terms.0.negatives=[negative_text]"]))


def test_the_loss_is_the_mean_over_nested_dimensions(recipe: Path, embedder: MLLMEmbedder) -> None:
    """All rows in one batch, and the first step of LoRA is that of the base: the order of rows does not matter."""
    loaded = load_recipe(
        recipe, ["stages.texts.matryoshka=[4, 16]", f"stages.texts.batch_size={len(ROWS)}", "stages.texts.steps=1"]
    )
    run_recipe(loaded)
    first = json.loads((loaded.output / "log.jsonl").read_text().splitlines()[0])
    asked = embedder.encode([Query(text=row["source_text"], instruction=row["instruction"]) for row in ROWS])
    index = embedder.encode([f"a {color} thing" for color in COLORS])
    right = [COLORS.index(row["target_text"].split()[1]) for row in ROWS]
    losses = []
    for dim, name in ((4, "@4"), (16, "@16"), (64, "")):
        queries, answers = (v[:, :dim] / np.linalg.norm(v[:, :dim], axis=1, keepdims=True) for v in (asked, index))
        shares = np.exp(queries @ answers.T / 0.1)
        losses.append(np.mean(-np.log(shares[range(len(ROWS)), right] / shares.sum(1))))
        accuracy = np.mean(shares.argmax(1) == right)
        assert first[f"accuracy/composed_text-target_text-frozen{name}"] == pytest.approx(accuracy, abs=1e-3)
    assert first["loss"] == pytest.approx(np.mean(losses), rel=1e-3)


def test_the_refined_batch_knows_a_text_live_and_frozen(recipe: Path, embedder: MLLMEmbedder) -> None:
    """The step's loss against a loop over texts, in which a text is never wrong for itself or for a right answer.

    What leads to a text is right for it on either side: for the target that it is in one row, and as another's source.
    """
    terms = (
        "stages.texts.terms=[{query: [composed_text, source_text], positive: [target_text, source_text], "
        "frozen: true, symmetric: true, same_side: true}]"
    )
    keys = [terms, f"stages.texts.batch_size={len(ROWS)}", "stages.texts.steps=1", "stages.texts.temperature=5"]
    loaded = load_recipe(recipe, keys)  # so warm that each candidate counts
    run_recipe(loaded)
    first = json.loads((loaded.output / "log.jsonl").read_text().splitlines()[0])
    asked = [Query(text=row["source_text"], instruction=row["instruction"]) for row in ROWS]
    asked += [Document(text=row["source_text"]) for row in ROWS]
    answers = [Document(text=row[key]) for key in ("target_text", "source_text") for row in ROWS]
    live, frozen = ([("live", item.key) for item in asked], [("frozen", item.key) for item in answers])
    vectors = dict(zip([*live, *frozen], embedder.encode([*asked, *answers]), strict=True))  # LoRA starts as the base
    pairs = [*zip(live, frozen, strict=True), *zip(frozen, live, strict=True)]
    losses = []
    for questions, partners in ((live, frozen), (frozen, live)):
        for own, partner in zip(questions, partners, strict=True):
            fine = {own[1]} | {p[1] for q, p in pairs if q[1] == own[1]}
            shares = {c: np.exp(vectors[own] @ v / 5) for c, v in vectors.items() if c[1] not in fine or c == partner}
            losses.append(-np.log(shares[partner] / sum(shares.values())))
    assert first["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.slow
def test_recomputed_activations_leave_frozen_targets_and_gradients_alone(recipe: Path) -> None:
    weights = []
    for checkpointing in ("true", "false"):
        output = recipe.parent / checkpointing
        keys = [f"gradient_checkpointing={checkpointing}", "stages.texts.steps=3", f"output={output}"]
        weights.append(load_file(run_recipe(load_recipe(recipe, keys)) / "adapter_model.safetensors"))
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name])


def test_more_dimensions_than_the_model_has_are_refused(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stage 'texts': matryoshka 64 must be smaller than the 64 dimensions"):
        run_recipe(load_recipe(recipe, ["stages.texts.matryoshka=[16, 64]"]))
    assert not (tmp_path / "run").exists()
