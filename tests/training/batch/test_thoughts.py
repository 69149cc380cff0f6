"""Thoughts that are taught: what a row reads, its loss, which rows have to find without their own, and a whole run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from transformers import AutoModelForImageTextToText

from mllm_embed import DataFolder, MLLMEmbedder, Query
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.model.lora import LoraSpec, add_lora
from mllm_embed.training.batch.collator import ContrastiveBatch, ContrastiveCollator
from mllm_embed.training.batch.examples import Example, Reader
from mllm_embed.training.batch.thoughts import TaughtThoughts
from mllm_embed.training.data.folder import read_rows
from mllm_embed.training.data.numbers import Turn
from mllm_embed.training.distributed.gradient_caching import BatchEncoder
from mllm_embed.training.plan.plan import make_plan
from mllm_embed.training.recipe.recipe_files import load_recipe
from mllm_embed.training.recipe.stage_keys.terms import RoleUse
from mllm_embed.training.run.stages import run_recipe

MOST = 8
USES = [RoleUse("composed"), RoleUse("target_text")]


@pytest.fixture
def thinker(tiny_llava: Path) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu", thoughts=MOST)


def reader(thinker: MLLMEmbedder, teaching: TaughtThoughts) -> Reader:
    return Reader(thinker.item_processor.prepared, ["composed", "target_text"], thinking=teaching.of)


def examples(thinker: MLLMEmbedder, data: Path, teaching: TaughtThoughts) -> list[Example]:
    rows = read_rows(DataFolder.open(data), data, "triplets", ["composed", "target_text"])
    return list(map(reader(thinker, teaching), rows))


def batch_of(thinker: MLLMEmbedder, found: list[Example], teaching: TaughtThoughts, tokens: int) -> ContrastiveBatch:
    return ContrastiveCollator(thinker.item_processor, USES, tokens, thoughts=teaching)(found)["batch"]


def test_a_thought_and_its_loss_are_those_of_the_whole_text_token_by_token(
    thinker: MLLMEmbedder, tiny_llava: Path, data: Path
) -> None:
    teaching = TaughtThoughts(thinker.thinking.writer, 0.5)
    rows = examples(thinker, data, teaching)
    rows[1] = replace(rows[1], draw=0.1)  # thinks nothing
    rows[2] = replace(rows[2], draw=0.3)  # thinks what the next row does
    batch = batch_of(thinker, rows, teaching, 1 << 30)
    vectors, _, own = BatchEncoder(thinker.model, thoughts=2.0).eval()(batch)
    whole, processor = AutoModelForImageTextToText.from_pretrained(tiny_llava).eval(), thinker.processor
    after = processor.tokenizer("<|end|>\nin one word:", add_special_tokens=False)["input_ids"]
    told = json.loads("[" + ",".join((data / "triplets.jsonl").read_text().splitlines()) + "]")
    captions = [processor.tokenizer(row["target_text"], add_special_tokens=False)["input_ids"][:MOST] for row in told]
    thoughts = [captions[0], [], captions[3], *captions[3:]]
    total = torch.tensor(0.0)
    for row, (example, thought) in enumerate(zip(rows, thoughts, strict=True)):
        item = example.roles["composed"][0].item
        prompt = thinker.item_processor([item])
        ids = torch.cat([prompt["input_ids"], torch.tensor([thought + after])], 1)
        with torch.inference_mode():
            given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": prompt["pixel_values"]}
            state = whole.model(**given).last_hidden_state[0, -1]
            chances = whole(**given).logits[0].log_softmax(-1)
        place = batch.places[RoleUse("composed")][row]
        torch.testing.assert_close(vectors[place], state / state.norm(), atol=1e-5, rtol=0)
        start = prompt["input_ids"].shape[1]
        said = thought if len(thought) == MOST else [*thought, after[0]]  # a whole thought is taught to end, too
        wanted = -sum(chances[start + at - 1, token] for at, token in enumerate(said)) / len(said)
        total += 0 if row in (1, 2) else wanted
    torch.testing.assert_close(own["thoughts"], 2 * total / len(rows), atol=1e-5, rtol=0)


def test_gradients_through_chunks_are_those_of_one_forward(thinker: MLLMEmbedder, data: Path) -> None:
    add_lora(thinker.model, LoraSpec(rank=4, dropout=0.0), thinker.family)
    encoder, teaching = BatchEncoder(thinker.model, thoughts=1.0).train(), TaughtThoughts(thinker.thinking.writer)
    rows = read_rows(DataFolder.open(data), data, "triplets", ["composed", "target_text"])
    rows[0].roles["composed"] = replace(rows[0].roles["composed"], avoid="a dog")  # which is embedded apart
    found = list(map(reader(thinker, teaching), rows))

    def gradients(tokens: int) -> dict[str, Tensor]:
        batch = batch_of(thinker, found, teaching, tokens)
        assert batch.cached == (tokens < 1000) == (len(batch.live) > 2) and len(batch.avoided) == 1
        vectors, _, own = encoder(batch)
        (own["thoughts"] + (vectors[batch.places[USES[0]]] * torch.linspace(-1, 1, 64)).sum()).backward()
        grads = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
        encoder.zero_grad(set_to_none=True)
        return grads

    for (name, kept), cut in zip(gradients(1 << 30).items(), gradients(150).values(), strict=True):
        torch.testing.assert_close(cut, kept, atol=1e-5, rtol=1e-4, msg=name)
        assert "language_head" not in name


def test_a_share_of_the_rows_finds_without_its_thought(thinker: MLLMEmbedder, data: Path) -> None:
    teaching = TaughtThoughts(thinker.thinking.writer, 0.5)
    rows = [example for _ in range(25) for example in examples(thinker, data, teaching)]

    def kinds(epoch: int) -> list[str]:
        drawn = [replace(row, draw=Turn(7, epoch).draw(f"thought {at}")) for at, row in enumerate(rows)]
        found = []
        for row, chosen in zip(rows, teaching.chosen(drawn), strict=True):
            [before], [after] = row.roles["composed"], chosen.roles["composed"]
            assert after.tokens - before.tokens == len(after.thought) - len(before.thought)
            assert (
                after.learned == (after.thought == before.thought)
                and row.roles["target_text"] == chosen.roles["target_text"]
            )
            found.append("own" if after.learned else "other" if after.thought else "none")
        return found

    first = kinds(0)
    assert first == kinds(0) != kinds(1)
    assert 70 < first.count("own") < 130 and 30 < first.count("other") < 70 and 30 < first.count("none") < 70


@pytest.fixture
def recipe(tiny_llava: Path, data: Path, tmp_path: Path) -> dict[str, Any]:
    stage = {"data": str(data), "rows": "triplets", "batch_size": 4, "learning_rate": 3e-3, "chunk_tokens": 200}
    stage |= {"terms": [{"query": "composed", "positive": "target_text"}]}
    return {
        "model": str(tiny_llava),
        "output": str(tmp_path / "run"),
        "bf16": False,
        "trained_on": False,
        "lora": {"rank": 4, "dropout": 0.0},
        "thoughts": {"tokens": MOST, "dropped": 0.25},
        "stages": {"edits": stage | {"steps": 4, "save_steps": 2}},
    }


def run(values: dict[str, Any], folder: Path) -> Path:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return run_recipe(load_recipe(folder / "recipe.yaml"))


@pytest.mark.usefixtures("uncounted")
def test_a_run_teaches_thoughts_and_its_adapter_thinks(recipe: dict[str, Any], data: Path, tmp_path: Path) -> None:
    adapter = run(recipe, tmp_path)
    trained = MLLMEmbedder.from_pretrained(adapter, dtype="float32", device="cpu")
    assert trained.settings.thoughts.tokens == MOST
    assert trained.think([Query(data / "images/0.png", "make it like number 1")]) != [""]
    log = map(json.loads, (tmp_path / "run/log.jsonl").read_text().splitlines())
    first = next(row for row in log if "loss" in row)
    by_term = first["loss/composed-target_text"]
    assert first["loss"] == pytest.approx(by_term + first["loss/thoughts"], abs=1e-3) and first["loss/thoughts"] > 1
    before = make_plan(load_recipe(tmp_path / "recipe.yaml", ["thoughts=null"])).stages["edits"].inputs[0].length
    planned = make_plan(load_recipe(tmp_path / "recipe.yaml", ["thoughts.tokens=20"])).stages["edits"].inputs[0].length
    assert planned == before + 20 + len(trained.thinking.writer.suffix)
    with pytest.raises(ConfigError, match="thoughts.dropped: 0.25, now 0.5"):
        run(recipe | {"thoughts": {"tokens": MOST}}, tmp_path)
    others = {key: value for key, value in recipe.items() if key != "thoughts"}
    with pytest.raises(ConfigError, match="was taught to think before it embeds, .*give thoughts: {tokens: 8}"):
        run(others | {"adapter": str(adapter), "output": str(tmp_path / "on"), "lora": {"rank": 4}}, tmp_path)
    with pytest.raises(ConfigError, match="thoughts go without deepspeed"):
        run(recipe | {"deepspeed": "zero2"}, tmp_path)
    rows = [json.loads(line) for line in (data / "triplets.jsonl").read_text().splitlines()]
    (data / "triplets.jsonl").write_text("".join(json.dumps(row | {"target_text": None}) + "\n" for row in rows))
    recipe["stages"]["edits"]["terms"] = [{"query": "composed", "positive": "target_image"}]
    with pytest.raises(DataError, match="has no target_text, which a thought, or a term of the loss, needs"):
        run(recipe | {"output": str(tmp_path / "other")}, tmp_path)
