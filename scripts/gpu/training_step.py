"""A training step: all of a batch at once, and with gradient caching; and the chunk that `chunk_tokens: auto` finds."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mllm_embed import Document, MLLMEmbedder
from mllm_embed.model.lora import LoraSpec, add_lora
from mllm_embed.training.batch.collator import ContrastiveBatch, ContrastiveCollator
from mllm_embed.training.batch.examples import Reader
from mllm_embed.training.data.row import TrainingRow
from mllm_embed.training.distributed.chunking import find_chunk_tokens, total_memory
from mllm_embed.training.distributed.gathering import gather
from mllm_embed.training.distributed.gradient_caching import BatchEncoder
from mllm_embed.training.distributed.term_loss import term_loss
from mllm_embed.training.loss.losses import LossOptions
from mllm_embed.training.recipe.stage import Stage

from .measuring import Row, peak_bytes, seconds
from .workplace import Workplace

TERM = {"query": "composed", "positive": "target_image", "negatives": ["query_image"]}


class Step:
    """A step of LoRA on an embedder, forward and backward: queries of a picture and words must find a picture."""

    def __init__(self, place: Workplace, embedder: MLLMEmbedder):
        """Put an adapter of rank 32 on the model, whose weights stay as they are."""
        torch.manual_seed(0)
        add_lora(embedder.model, LoraSpec(rank=32, alpha=64, dropout=0.0), embedder.family)
        embedder.model.to(place.device)
        self.place, self.embedder = place, embedder
        self.stage = Stage(data=place.folder, rows="triplets", terms=[TERM])
        self.bf16 = place.device.type == "cuda"
        self.encoder = BatchEncoder(embedder.model, bf16=self.bf16).train()
        self._read = Reader(embedder.item_processor.prepared, self.stage.encoded)

    def batch(self, rows: int, chunk_tokens: int) -> ContrastiveBatch:
        """Return a batch, cached where it has more tokens than a chunk may have."""
        collate = ContrastiveCollator(self.embedder.item_processor, self.stage.uses, chunk_tokens)
        batch = collate([self._read(row) for row in _rows(self.place, rows)])["batch"]
        if not isinstance(batch, ContrastiveBatch):
            raise batch
        return batch

    def __call__(self, batch: ContrastiveBatch, rows: int) -> None:
        """Do a step; gradients are added up and never used."""
        vectors, temperature, _ = self.encoder(batch)
        gathered = gather(vectors, batch, rows)
        losses = [term_loss(term, gathered, LossOptions(temperature)).loss for term in self.stage.terms]
        torch.stack(losses).sum().backward()

    def measured(self, batch: ContrastiveBatch, rows: int) -> dict[str, float]:
        """Return the seconds of a step and the bytes of its worst moment, beyond weights and adapter."""
        with peak_bytes(self.place.device) as peak:
            self(batch, rows)
        spent = seconds(lambda: self(batch, rows), self.place.device)
        return {"seconds": spent, "bytes": peak.bytes, "tokens": batch.tokens, "chunks": len(batch.live)}


def _rows(place: Workplace, count: int) -> list[TrainingRow]:
    """Return triplets on the place's pictures; a query's target is the picture after its own."""
    pictures, queries = place.pictures, place.queries
    rows = []
    for at in range(count):
        query = queries[at % len(queries)]
        target = pictures[(at + 1) % len(pictures)]
        roles = {"composed": query, "query_image": Document(query.images[0]), "target_image": Document(target)}
        rows.append(TrainingRow(str(at), str(at % len(pictures)), roles))
    return rows


def training(place: Workplace) -> Iterator[Row]:
    """Measure Qwen2-VL's steps."""
    step = Step(place, place.embedder("qwen2_vl"))
    few, many = place.size.rows
    cached = step.batch(few, place.size.chunk_tokens)
    step(cached, few)  # gradients exist from here on
    with_caching = step.measured(cached, few)
    plain = step.batch(few, 1 << 40)
    try:
        without = step.measured(plain, few)
    except torch.OutOfMemoryError:
        without = None
    if without is not None:
        yield _row(f"step of {few} rows, all at once", without, "")
    else:
        yield Row(f"step of {few} rows, all at once", "does not fit in memory")
    said = "" if without is None else f"{with_caching['seconds'] / without['seconds']:.2f} times as long"
    yield _row(f"step of {few} rows, chunks of {place.size.chunk_tokens:,} tokens", with_caching, said)
    del plain, cached
    yield from _auto(place, step, many)


def _row(what: str, found: dict[str, float], said: str) -> Row:
    note = f"{found['bytes'] / 2**30:.2f} GiB at the worst moment; {found['chunks']} chunks"
    figure = f"{found['seconds']:.2f} s, {found['tokens'] / found['seconds']:,.0f} tokens/s"
    return Row(what, figure, f"{said}; {note}" if said else note, dict(found))


def _auto(place: Workplace, step: Step, rows: int) -> Iterator[Row]:
    """Measure a step with as many tokens alive as `chunk_tokens: auto` finds to fit."""
    query = max(place.queries, key=lambda query: len(query.words or ""))
    one, two = (step.embedder.item_processor([query] * count) for count in (1, 2))
    found: dict[str, int] = {}

    def find() -> None:
        found["tokens"] = find_chunk_tokens(step.encoder, one, two, step.bf16)

    spent = seconds(find, place.device)
    yield Row(
        "chunk_tokens: auto", f"{found['tokens']:,} tokens", f"found in {spent:.1f} s", {**found, "seconds": spent}
    )
    batch = step.batch(rows, found["tokens"])
    taken = step.measured(batch, rows)
    room = total_memory(place.device)
    alive = sum(parameter.nbytes for parameter in step.encoder.parameters()) + taken["bytes"]
    said = f"{alive / room:.0%} of the memory with the weights"
    yield _row(f"step of {rows} rows with it{'' if batch.cached else ', which are one chunk'}", taken, said)
