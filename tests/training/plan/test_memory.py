"""The memory that a plan tells: that of a real step, and that which the shipped recipes say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from mllm_embed import MLLMEmbedder
from mllm_embed.data.folder import DataFolder
from mllm_embed.model.lora import add_lora
from mllm_embed.training.batch.collator import ContrastiveCollator
from mllm_embed.training.batch.examples import Reader
from mllm_embed.training.data.folder import read_rows
from mllm_embed.training.distributed.gradient_caching import BatchEncoder
from mllm_embed.training.distributed.memory_tracker import MemoryTracker
from mllm_embed.training.plan.plan import check_fits, describe, make_plan
from mllm_embed.training.recipe.layers import RECIPES
from mllm_embed.training.recipe.recipe_files import load_any, load_recipe

BASE = Path(__file__).resolve().parents[3] / "scripts/assets/base"
# a tower's code does not run on fake tensors: what it keeps is a formula
TOWER_TRAINED = (
    ["lora.vision=true"], ["lora.vision=true", "lora.dora=true", "lora.dropout=0.1"],
    ["lora.vision=true", "bf16=true", "gradient_checkpointing=true"],
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("options", [
    [], ["gradient_checkpointing=true"], ["attention=eager"], ["lora.dropout=0.1", "lora.projector=false"],
    ["bf16=true", "lora.dropout=0.1"], ["bf16=true", "gradient_checkpointing=true"],
    ["stages.captions.chunk_tokens=90"],
    *TOWER_TRAINED,
], ids=" ".join)  # fmt: skip
def test_memory_is_what_a_real_step_takes(
    recipe: Path, data: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of the embedded model, counted by the storages that are alive: the plan's peak is within a tenth, of one
    whose vision tower is trained within a quarter."""
    near = 0.25 if options in TOWER_TRAINED else 0.1
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)  # so that a bfloat16 base stays one
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = [f"model={BASE}", "stages.captions.batch_size=8", "stages.captions.chunk_tokens=100000", *options]
    loaded = load_recipe(recipe, options)
    planned = make_plan(loaded).stages["captions"].step
    assert planned.peak == pytest.approx(_real_peak(loaded, data), rel=near)


def _real_peak(recipe, data: Path) -> int:
    embedder = MLLMEmbedder.from_pretrained(BASE, dtype="auto" if recipe.bf16 else "float32", device="cpu")
    add_lora(embedder.model, recipe.lora.spec(), embedder.family)
    embedder.model.base.set_attn_implementation(recipe.attention)
    if recipe.gradient_checkpointing:
        embedder.model.gradient_checkpointing_enable()
    encoder = BatchEncoder(embedder.model).train()
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    stage = recipe.stages["captions"]
    rows = read_rows(DataFolder.open(data), data, "pairs", stage.roles)
    read = Reader(embedder.item_processor.prepared, stage.encoded)
    batch = ContrastiveCollator(embedder.item_processor, stage.uses, stage.chunk_tokens)([read(row) for row in rows])[
        "batch"
    ]
    assert batch.cached is (stage.chunk_tokens < 100)
    with MemoryTracker() as live:
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(recipe.bf16)):
            vectors, *_ = encoder(batch)
        vectors.sum().backward()
    return live.peak + sum(chunk["pixel_values"].nbytes for chunk in batch.live if "pixel_values" in chunk)


@pytest.mark.slow
def test_layers_that_are_not_run_are_counted(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mllm_embed.training.plan import memory as plan_memory

    loaded = load_recipe(recipe, [f"model={BASE}", "gradient_checkpointing=true"])
    short = make_plan(loaded).stages["captions"].step.language
    monkeypatch.setattr(plan_memory, "FEW", (2, 99))  # all five are run
    assert make_plan(loaded).stages["captions"].step.language == pytest.approx(short, rel=0.01)


SAID = re.compile(r"mllm-embed-train plan (\S+) --memory (\S+)  # memory (\S+) GiB")


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [path for path in sorted(RECIPES.glob("*.yaml")) if SAID.search(path.read_text())],
    ids=lambda path: path.stem,
)
def test_shipped_recipes_plan_and_say_their_memory(path: Path) -> None:
    said = SAID.search(path.read_text())
    loaded = load_any(path)
    plan = make_plan(loaded, float(said[2]))
    check_fits(loaded, plan)
    assert said[1] == path.stem and f"memory      {said[3]} of {said[2]}.0 GiB" in describe(loaded, plan)


@pytest.mark.usefixtures("uncounted")
@pytest.mark.slow
def test_quantised_weights_take_what_bitsandbytes_keeps(recipe: Path) -> None:
    whole, small = (
        make_plan(load_recipe(recipe, [f"model={BASE}", "bf16=true", f"quantization={mode}"]), 24).base
        for mode in ("null", "nf4")
    )
    linear = 5 * (4 * 256 * 256 + 3 * 256 * 704)  # of the language model: bfloat16, then 4.127 bits
    assert whole - small == pytest.approx(linear * (2 - 4.127 / 8), rel=1e-3)


@pytest.mark.slow
def test_a_larger_picture_takes_more(recipe: Path) -> None:
    keys = ("batch_size=40", "chunk_tokens=100000")
    whole = [f"stages.{stage}.{key}" for stage in ("captions", "instructions") for key in keys]
    loaded = load_recipe("qwen3-vl-2b", whole)
    small, large = make_plan(loaded, 24), make_plan(loaded, 24, (1024, 768))
    assert large.total > 1.5 * small.total
    assert large.stages["captions"].inputs[0].image_tokens == 32 * 24


@pytest.mark.usefixtures("uncounted")
def test_half_the_memory_of_training_is_adamw(tiny_llava: Path) -> None:
    planned = make_plan(load_recipe("demo", [f"model={tiny_llava}"]), 24)
    moments = {stage.moments for stage in planned.stages.values()}
    assert planned.trained == planned.counts.trainable * (4 + 4) and moments == {planned.counts.trainable * 8}
