"""Rows that say what must not be seen: the vector that is trained is the one that a search would ask with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mllm_embed import DataFolder, MLLMEmbedder, Query
from mllm_embed.errors import DataError
from mllm_embed.eval.cli import main as eval_main
from mllm_embed.inputs.prompts import PROMPT_SETS
from mllm_embed.model.lora import LoraSpec, add_lora
from mllm_embed.training.batch.collator import ContrastiveCollator
from mllm_embed.training.batch.examples import Reader
from mllm_embed.training.data.folder import read_rows
from mllm_embed.training.data.open import open_rows
from mllm_embed.training.data.row import RowTasks
from mllm_embed.training.data.source import DataSource
from mllm_embed.training.distributed.gathering import gather
from mllm_embed.training.distributed.gradient_caching import BatchEncoder
from mllm_embed.training.distributed.term_loss import term_loss
from mllm_embed.training.loss.losses import LossOptions
from mllm_embed.training.recipe.config import Recipe
from mllm_embed.training.recipe.sides import Sides
from mllm_embed.training.recipe.stage import Stage
from mllm_embed.training.run.stages import run_recipe
from mllm_embed.vectors.avoiding import WEIGHT

AVOIDS = {0: "blue", 3: "red", 4: "blue"}
TERM = {"query": "composed", "positive": "target_image", "negatives": ["query_image"]}


@pytest.fixture
def avoiding(data: Path) -> Path:
    """The data, some rows of which avoid something; a query of the benchmark too."""
    rows = [json.loads(line) for line in (data / "triplets.jsonl").read_text().splitlines()]
    benchmark = json.loads((data / "benchmark.json").read_text())
    for number, words in AVOIDS.items():
        rows[number]["avoid"] = benchmark["queries"][number]["avoid"] = words
    (data / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "benchmark.json").write_text(json.dumps(benchmark))
    return data


def _gradients(loss: Tensor, encoder: BatchEncoder) -> dict[str, Tensor]:
    loss.backward()
    found = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
    encoder.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("chunk_tokens", [1, 1 << 30])
def test_a_batch_contrasts_what_a_search_asks_with(embedder: MLLMEmbedder, avoiding: Path, chunk_tokens: int) -> None:
    torch.manual_seed(0)
    add_lora(embedder.model, LoraSpec(rank=4, dropout=0.0), embedder.family)
    encoder, stage = BatchEncoder(embedder.model), Stage(data=avoiding, rows="triplets", terms=[TERM])
    rows = read_rows(DataFolder.open(avoiding), avoiding, "triplets", ["composed", "target_image", "query_image"])
    read = Reader(embedder.item_processor.prepared, stage.encoded)
    batch = ContrastiveCollator(embedder.item_processor, stage.uses, chunk_tokens)([read(row) for row in rows])["batch"]
    assert batch.cached == (chunk_tokens == 1) and len(batch.avoided) == len(AVOIDS)
    assert len(batch.inputs) == sum(len(chunk["input_ids"]) for chunk in batch.live) + len(AVOIDS)
    vectors, *_ = encoder(batch)
    asked = vectors[batch.places[stage.uses[0]]].detach().numpy()
    expected = embedder.encode([row.roles["composed"] for row in rows], show_progress=False)
    torch.testing.assert_close(asked, expected, atol=1e-5, rtol=0)
    gathered = gather(vectors, batch, len(rows))
    loss = term_loss(stage.terms[0], gathered, LossOptions(0.1)).loss

    # the slow way: each vector by itself, each score by itself
    def one(item: Query) -> Tensor:
        return encoder.encode(embedder.item_processor([read.prepare(item)[0]]))[0]

    queries = []
    for number, row in enumerate(rows):
        query = one(Query(row.roles["composed"].image, row.roles["composed"].instruction))
        if number in AVOIDS:
            words = one(Query(text=AVOIDS[number]))
            query = query - WEIGHT * (words - (words @ query) * query)
            query = query / query.norm()
        queries.append(query)
    pictures = {path: one(item) for row in rows for role in ("target_image", "query_image")
                for item in [row.roles[role]] for path in item.images}  # fmt: skip
    losses = []
    for row, query in zip(rows, queries, strict=True):
        right = row.roles["target_image"].images[0]
        scores = torch.stack([query @ vector for vector in pictures.values()]) / 0.1
        losses.append(scores.logsumexp(0) - scores[list(pictures).index(right)])
    slow = torch.stack(losses).mean()
    torch.testing.assert_close(loss, slow, atol=1e-5, rtol=0)
    found, wanted = _gradients(loss, encoder), _gradients(slow, encoder)
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    assert found.keys() == wanted.keys() and largest > 1e-3
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4 * largest, rtol=0, msg=name)


def test_a_run_on_such_rows_validates_as_an_evaluation_does(tiny_llava: Path, avoiding: Path, tmp_path: Path) -> None:
    table = avoiding / "table.jsonl"
    rows = [json.loads(line) for line in (avoiding / "triplets.jsonl").read_text().splitlines()]
    table.write_text("".join(json.dumps({("not" if key == "avoid" else key): row[key] for key in row}) + "\n"
                             for row in rows))  # fmt: skip
    columns = {name: name for name in ("id", "image", "instruction", "target_image")} | {"avoid": "not"}
    source = {"path": table, "format": "columns", "columns": columns}
    [read] = [open_rows([DataSource(**source)], "triplets", ["composed"])]
    assert [row.roles["composed"].avoid for row in read] == [AVOIDS.get(number) for number in range(len(rows))]
    stage = {"data": source, "rows": "triplets", "terms": [TERM], "batch_size": 4, "steps": 2, "learning_rate": 1e-2}
    stage |= {"evaluate": {"data": avoiding, "every": 2}}
    recipe = {"model": str(tiny_llava), "output": tmp_path / "run", "bf16": False, "lora": {"rank": 4}, "workers": 1}
    adapter = run_recipe(Recipe(**recipe, stages={"one": stage}))
    out = tmp_path / "eval"
    assert eval_main(["run", str(avoiding), "--model", str(adapter), "--output", str(out), "--sheet", "0"]) == 0
    figures = json.loads((out / "result.json").read_text())["tasks"][""]["rows"]
    best = json.loads((tmp_path / "run/checkpoints/one/best/validation.json").read_text())
    assert [100 * best[f"recall@{k}"] for k in (1, 5)] == [figures["composed"][f"R@{k}"]["percent"] for k in (1, 5)]
    assert list(figures)[:2] == ["composed", "nothing avoided"]


def test_a_task_without_a_place_cannot_stand_before_what_avoids_something(avoiding: Path) -> None:
    [row] = read_rows(DataFolder.open(avoiding), avoiding, "triplets", ["composed"])[:1]
    sides = Sides(prompts=PROMPT_SETS["instructcir"])
    with pytest.raises(DataError, match=r"something to avoid \('blue'\), and the prompts have no place for its task"):
        sides.put(type(row)(row.id, row.group, row.roles, tasks=RowTasks(("Find it.",))))
