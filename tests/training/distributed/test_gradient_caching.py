"""Gradient caching against its twin that keeps everything, and against one forward of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from mllm_embed import DataFolder, Document, MLLMEmbedder
from mllm_embed.errors import ModelError
from mllm_embed.model.lora import LoraSpec, add_lora
from mllm_embed.training.batch.collator import ContrastiveBatch, ContrastiveCollator
from mllm_embed.training.batch.examples import Reader
from mllm_embed.training.data.folder import read_rows
from mllm_embed.training.distributed.chunking import RESERVE, find_chunk_tokens
from mllm_embed.training.distributed.gathering import gather
from mllm_embed.training.distributed.gradient_caching import BatchEncoder
from mllm_embed.training.distributed.memory_tracker import MemoryTracker
from mllm_embed.training.distributed.term_loss import term_loss
from mllm_embed.training.loss.losses import LossOptions
from mllm_embed.training.loss.temperature import Temperature
from mllm_embed.training.recipe.stage import Stage

STAGES = {
    "pairs": {"rows": "pairs", "terms": [{"query": "image", "positive": "caption", "symmetric": True}]},
    "triplets": {
        "rows": "triplets",
        "terms": [
            {"query": "composed", "positive": "target_image", "negatives": ["query_image", "hard_negative"]},
            {"query": "composed", "positive": "target_text", "negatives": ["source_text"], "frozen": True},
        ],
    },
    "texts alone": {"rows": "triplets", "terms": [{"query": "composed_text", "positive": "target_text"}]},
}  # fmt: skip


def _batch(embedder: MLLMEmbedder, data: Path, stage: Stage, chunk_tokens: int) -> tuple[ContrastiveBatch, int]:
    rows = read_rows(DataFolder.open(data), data, stage.rows, [r for r in stage.roles if r != "hard_negative"])
    rows = [replace(row, hard_negatives=(Document(text=f"not {row.id}"),)) for row in rows]
    read = Reader(embedder.item_processor.prepared, stage.encoded)
    return ContrastiveCollator(embedder.item_processor, stage.uses, chunk_tokens)([read(r) for r in rows])[
        "batch"
    ], len(rows)


def _gradients(encoder: BatchEncoder, batch: ContrastiveBatch, rows: int, stage: Stage) -> dict[str, Tensor]:
    torch.manual_seed(1)
    vectors, temperature, _ = encoder(batch)
    gathered = gather(vectors, batch, rows)
    sum(term_loss(term, gathered, LossOptions(temperature)).loss for term in stage.terms).backward()
    found = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
    encoder.zero_grad(set_to_none=True)
    return found


def _encoder(
    embedder: MLLMEmbedder,
    dropout: float,
    bounds: tuple[float, float] | None = (0.01, 0.2),
    more: dict[str, Any] | None = None,
) -> BatchEncoder:
    torch.manual_seed(0)
    add_lora(embedder.model, LoraSpec(rank=4, dropout=dropout, **(more or {})), embedder.family)
    for name, parameter in embedder.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return BatchEncoder(embedder.model, Temperature(0.05, bounds)).train()


@pytest.mark.slow
@pytest.mark.parametrize("layers", [False, True], ids=["", "layers recomputed"])
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", STAGES)
def test_gradients_are_those_of_keeping_everything_bit_for_bit(
    embedder: MLLMEmbedder, data: Path, name: str, bf16: bool, layers: bool
) -> None:
    """With dropout, which the second computation must repeat."""
    stage = Stage(data=data, **STAGES[name])
    encoder = _encoder(embedder, dropout=0.3)
    if layers:
        embedder.model.gradient_checkpointing_enable()
    batch, rows = _batch(embedder, data, stage, 100)
    assert batch.cached and len(batch.live) > 2
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        cached = _gradients(encoder, batch, rows, stage)
        kept = _gradients(encoder, replace(batch, cached=False), rows, stage)
    assert cached.keys() == kept.keys() and any("temperature" in key for key in cached)
    for key in kept:
        assert torch.equal(cached[key], kept[key]), key
    assert any(grad.abs().max() > 1e-4 for grad in kept.values())


@pytest.mark.parametrize("name", STAGES)
def test_gradients_are_those_of_one_forward(embedder: MLLMEmbedder, data: Path, name: str) -> None:
    stage = Stage(data=data, **STAGES[name])
    encoder = _encoder(embedder, dropout=0.0)
    whole, rows = _batch(embedder, data, stage, 1 << 30)
    assert not whole.cached and len(whole.live) <= 3
    expected = _gradients(encoder, whole, rows, stage)
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for tokens in (1, 60, 200):
        found = _gradients(encoder, _batch(embedder, data, stage, tokens)[0], rows, stage)
        assert found.keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], atol=1e-5 * largest, rtol=1e-4, msg=key)


def test_a_quantised_base_too(tiny_llava: Path, data: Path) -> None:
    pytest.importorskip("bitsandbytes")
    embedder = MLLMEmbedder.from_pretrained(tiny_llava, quantization="nf4", dtype="float32", device="cpu")
    stage = Stage(data=data, **STAGES["triplets"])
    encoder = _encoder(embedder, dropout=0.3)
    batch, rows = _batch(embedder, data, stage, 100)
    cached, kept = (_gradients(encoder, part, rows, stage) for part in (batch, replace(batch, cached=False)))
    assert all(torch.equal(cached[key], kept[key]) for key in kept)


def test_a_trained_vision_tower_too(embedder: MLLMEmbedder, data: Path) -> None:
    """What a picture's features are is computed again with its chunk, dropout and all."""
    stage = Stage(data=data, **STAGES["triplets"])
    encoder = _encoder(embedder, dropout=0.3, more={"vision": True, "dora": True})
    batch, rows = _batch(embedder, data, stage, 100)
    assert batch.cached
    cached, kept = (_gradients(encoder, part, rows, stage) for part in (batch, replace(batch, cached=False)))
    assert all(torch.equal(cached[key], kept[key]) for key in kept)
    tower = [grad for key, grad in cached.items() if "vision_tower" in key]
    assert len(tower) == 2 * 6 * 3 and all(grad.abs().max() > 0 for grad in tower)  # layers x linear layers x (A, B, m)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_batch(embedder: MLLMEmbedder, data: Path) -> None:
    """Bytes alive beyond the batch's own inputs and its vectors, counted operation by operation."""
    stage = Stage(data=data, **STAGES["triplets"])
    encoder = _encoder(embedder, dropout=0.0)

    batch, _ = _batch(embedder, data, stage, 150)
    _step(encoder, batch)  # gradients exist from here on

    def peak(copies: int, cached: bool) -> int:
        many = replace(batch, live=batch.live * copies, cached=cached, frozen=[])
        vectors = copies * sum(len(chunk["input_ids"]) for chunk in batch.live) * embedder.dimension * 4
        return _measured(lambda: _step(encoder, many)) - 3 * vectors  # they, their product, their gradients

    one, four = peak(1, True), peak(4, True)
    assert four < 1.05 * one
    assert peak(2, False) > 3 * four


def _step(encoder: BatchEncoder, batch: ContrastiveBatch) -> None:
    vectors, *_ = encoder(batch)
    (vectors * torch.linspace(0, 1, vectors.shape[1])).sum().backward()


def _measured(step: Callable[[], None]) -> int:
    with MemoryTracker() as live:
        step()
    return live.peak


def test_the_size_of_a_chunk_follows_from_the_memory(
    embedder: MLLMEmbedder, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(data=data, **STAGES["triplets"])
    encoder = _encoder(embedder, dropout=0.3)
    one, two = _one_and_two(embedder)
    state = torch.get_rng_state()

    def size(memory: int) -> int:
        monkeypatch.setattr("mllm_embed.training.distributed.chunking.total_memory", lambda _: RESERVE["cpu"] + memory)
        return find_chunk_tokens(encoder, one, two, bf16=False)

    sizes = [size(memory) for memory in (1 << 20, 1 << 28, 1 << 32)]
    assert sizes == sorted(set(sizes)) and all(tokens & (tokens - 1) == 0 for tokens in sizes)
    assert 8 <= sizes[2] / sizes[1] <= 32
    assert torch.equal(torch.get_rng_state(), state) and all(p.grad is None for p in encoder.parameters())
    # what it promises: a batch of that size takes a quarter of the memory, or half of that, rounded to a power of two
    batch, rows = _batch(embedder, data, stage, 1 << 30)
    tokens = sum(chunk["input_ids"].numel() for chunk in batch.live)
    taken = _measured(lambda: _gradients(encoder, batch, rows, stage))
    assert 0.1 < taken / tokens * sizes[2] / (1 << 32) < 0.3
    embedder.model.gradient_checkpointing_enable()
    assert size(1 << 32) > sizes[2]  # a layer's activations are not kept


def test_what_does_not_fit_twice_is_measured_alone(embedder: MLLMEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, (one, two) = _encoder(embedder, dropout=0.0), _one_and_two(embedder)
    monkeypatch.setattr("mllm_embed.training.distributed.chunking.total_memory", lambda _: RESERVE["cpu"] + (1 << 32))
    whole, encode = find_chunk_tokens(encoder, one, two, bf16=False), encoder.encode

    def small(most: int) -> Callable[..., torch.Tensor]:
        def encode_few(chunk: dict[str, torch.Tensor]) -> torch.Tensor:
            if len(chunk["input_ids"]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return encode(chunk)

        return encode_few

    monkeypatch.setattr(encoder, "encode", small(1))
    assert whole / 4 <= find_chunk_tokens(encoder, one, two, bf16=False) <= whole
    monkeypatch.setattr(encoder, "encode", small(0))
    with pytest.raises(ModelError, match=r"an input of \d+ tokens does not fit in 4\.7 GiB beside the model"):
        find_chunk_tokens(encoder, one, two, bf16=False)
    assert all(parameter.grad is None for parameter in encoder.parameters())


def _one_and_two(embedder: MLLMEmbedder) -> tuple[dict[str, torch.Tensor], ...]:
    item = Document(image=Image.effect_noise((56, 56), 80).convert("RGB"), text="a red circle beside a blue square")
    return tuple(embedder.item_processor([item] * count) for count in (1, 2))


def test_a_learned_temperature_stays_within_its_bounds() -> None:
    temperature = Temperature(0.05, (0.01, 0.1))
    assert temperature().item() == pytest.approx(0.05)
    for sign, bound in ((1, 0.01), (-1, 0.1)):
        optimiser = torch.optim.Adam(temperature.parameters(), lr=0.5)
        for _ in range(200):
            optimiser.zero_grad()
            (sign * temperature()).backward()
            optimiser.step()
        assert 0.01 <= temperature().item() <= 0.1 and temperature().item() == pytest.approx(bound, rel=0.01)
    assert not list(Temperature(0.05).parameters())
