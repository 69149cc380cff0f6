"""A re-ranker is trained on lists: it learns to tell a row's answer, and a stopped run ends as an unstopped one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mllm_embed import MLLMEmbedder, Query, Reranker
from mllm_embed.errors import ConfigError, DataError, ModelError
from mllm_embed.training.cli import main
from mllm_embed.training.recipe.recipe_files import load_any, load_recipe
from mllm_embed.training.reranking.stages import run_rerank
from rerank_recipe import PROMPT, write_recipe


@pytest.fixture
def recipe(tiny_llava: Path, data: Path, tmp_path: Path) -> Callable[..., Path]:
    """A recipe of one stage with every form of its loss, some of its keys as given."""

    def written(**keys: Any) -> Path:
        stage = {
            "data": str(data), "negatives": ["query_image"], "candidates": 3, "batch_size": 2, "steps": 4,
            "save_steps": 2, "learning_rate": 1e-2, "chunk_tokens": 4096,
            "terms": [{"form": "softmax"}, {"form": "pointwise", "weight": 0.5}, {"form": "listwise"}],
        }  # fmt: skip
        return write_recipe(tmp_path, tiny_llava, stage | keys, dropout=0.1)

    return written


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def _margin(reranker: Reranker, rows: list[dict[str, Any]], data: Path) -> float:
    """Return by how much a row's answer is judged better than its own reference, in the mean."""
    found = []
    for row in rows:
        query = Query(image=data / row["image"], instruction=row["instruction"])
        right, wrong = reranker.scores(query, [data / row["target_image"], data / row["image"]])
        found.append(right - wrong)
    return sum(found) / len(found)


def test_it_learns_and_leaves_a_re_ranker(recipe: Callable[..., Path], tiny_llava: Path, data: Path, tmp_path: Path):
    assert main(["run", str(recipe(steps=20, save_steps=20))]) == 0
    run = tmp_path / "run"
    rows = [json.loads(line) for line in (data / "triplets.jsonl").read_text().splitlines()]
    before = Reranker.from_pretrained(tiny_llava, prompt=PROMPT, dtype="float32")
    after = Reranker.from_pretrained(tiny_llava, adapter=run / "rerank", dtype="float32")
    assert after.prompt == before.prompt
    assert _margin(after, rows, data) > _margin(before, rows, data) + 0.4
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert {"loss/softmax", "loss/pointwise", "loss/listwise", "accuracy/listwise"} <= {
        key for row in log for key in row
    }
    with pytest.raises(ModelError, match="is a re-ranker"):
        MLLMEmbedder.from_pretrained(tiny_llava, adapter=run / "rerank")


def test_a_stopped_run_ends_like_an_unstopped_one(recipe: Callable[..., Path], tmp_path: Path) -> None:
    path, run = recipe(), tmp_path / "run"
    whole = _weights(run_rerank(load_any(path)))
    shutil.rmtree(run / "rerank")  # as a kill between the second checkpoint and the end leaves it
    shutil.rmtree(run / "checkpoints" / "rerank" / "checkpoint-4")
    again = _weights(run_rerank(load_any(path)))
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
    with pytest.raises(ConfigError, match="holds a run of another recipe"):
        run_rerank(load_any(path, ["stages.rerank.learning_rate=0.02"]))


def test_a_batch_in_chunks_trains_as_a_whole_one(recipe: Callable[..., Path], tmp_path: Path) -> None:
    path, trained = recipe(steps=1), []
    for tokens in (60, 4096):
        keys = ["lora.dropout=0", f"stages.rerank.chunk_tokens={tokens}", f"output={tmp_path / str(tokens)}"]
        trained.append(_weights(run_rerank(load_any(path, keys))))
    cut, whole = trained
    assert all(torch.allclose(cut[name], tensor, atol=1e-5) for name, tensor in whole.items())
    assert any(tensor.abs().max() > 1e-3 for name, tensor in whole.items() if "lora_B" in name)


def test_a_query_read_once_trains_as_one_read_with_each_candidate(recipe: Callable[..., Path], tmp_path: Path) -> None:
    path, trained, tokens = recipe(steps=1, terms=[{"form": "softmax"}, {"form": "pointwise"}]), [], []
    for whole in ("false", "true"):  # with gradient checkpointing no keys are kept, and prompts are computed whole
        run = tmp_path / whole
        keys = ["lora.dropout=0", f"gradient_checkpointing={whole}", f"output={run}"]
        trained.append(_weights(run_rerank(load_any(path, keys))))
        log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        tokens.append(sum(row.get("tokens", 0) for row in log))
    shared, each = trained
    assert all(torch.allclose(shared[name], tensor, atol=1e-5) for name, tensor in each.items())
    assert 0 < tokens[0] < 0.9 * tokens[1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("reranker.prompt.list=null", "stage 'rerank' has a listwise term, and reranker.prompt has no `list`"),
        ("reranker.prompt.wrods=x", "wrods is no key of it; did you mean 'words'"),
        ("stages.rerank.terms=[{form: softmax}, {form: softmax}]", "each form stands once in terms"),
        ("stages.rerank.terms=[{form: pairwise}]", "must be 'pointwise', 'softmax' or 'listwise', not 'pairwise'"),
        ("stages.rerank.negatives=[target_image]", "query, positive and negatives are different roles"),
        ("stages.rerank.negatives=[caption]", "role 'caption' does not exist in rows: triplets"),
        ("stages.rerank.temperature=0.1", "unknown key 'stages.rerank.temperature'"),
        ("stages.rerank.rates.temperature=0.1", "a re-ranker's loss has no temperature"),
        ("stages.rerank.document_task=x", "a re-ranker's task is its query's"),
    ],
)
def test_what_does_not_fit_is_told(recipe: Callable[..., Path], override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_any(recipe(), [override])


def test_negatives_that_no_row_brings_are_told(recipe: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="no row brings a hard_negative, which a term needs; give mined"):
        run_rerank(load_any(recipe(negatives=["hard_negative"])))


def test_other_commands_say_that_it_is_no_embedder(recipe: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="trains a re-ranker, which is not taken here"):
        load_recipe(recipe())


def test_it_goes_on_from_a_re_ranker_that_reads_as_it_did(
    recipe: Callable[..., Path], tiny_llava: Path, other_llava: Path, tmp_path: Path
) -> None:
    first = run_rerank(load_any(recipe(steps=1), ["max_tokens=900", "jpeg_side=300"]))
    path = recipe(steps=1)
    values = yaml.safe_load(path.read_text())
    del values["lora"]  # nothing is said of the layers, nor of the prompt
    path.write_text(yaml.safe_dump(values | {"reranker": {}}))
    keys = [f"model={tiny_llava}", f"adapter={first}", f"output={tmp_path / 'more'}"]
    more = Reranker.from_pretrained(tiny_llava, adapter=run_rerank(load_any(path, keys)))
    before = Reranker.from_pretrained(tiny_llava, adapter=first)
    assert more.prompt == before.prompt and before.settings.reading.max_tokens == 900
    assert (more.settings.reading.max_tokens, more.settings.reading.jpeg_side) == (900, 300)
    keys[0] = f"model={other_llava}"
    with pytest.raises(ModelError, match="was trained on another base"):
        run_rerank(load_any(path, keys))


def test_more_candidates_than_labels_are_told(recipe: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="stage 'rerank': candidates 6 are more than the prompt's list.most, 4"):
        run_rerank(load_any(recipe(candidates=6)))
