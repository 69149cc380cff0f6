"""What gradient caching costs and saves: one step at several batch sizes, beside the same rows in small batches.

    python scripts/make_scenes.py --output runs/demo/data
    python scripts/bench_caching.py                     # 64, 512 and 4,096 rows, the embedded model

For each batch size a step of stage 2 (a picture with an instruction must find the caption of its target) runs once with
caching, in chunks of --chunk-tokens, counting the bytes alive at its worst moment beyond the batch's own inputs, and
once more for its time; the same rows then run as batches of the smallest size without caching, as one would train them
otherwise. Bytes are counted operation by operation (training/distributed/memory_tracker.py), so they are exact and
repeatable; times are not. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from mllm_embed import DataFolder, MLLMEmbedder
from mllm_embed.files import write_json
from mllm_embed.model.devices import bfloat16_pays
from mllm_embed.model.lora import LoraSpec, add_lora
from mllm_embed.training.batch.collator import ContrastiveBatch, ContrastiveCollator
from mllm_embed.training.batch.examples import Example, Reader
from mllm_embed.training.data.folder import read_rows
from mllm_embed.training.distributed.gathering import gather
from mllm_embed.training.distributed.gradient_caching import BatchEncoder
from mllm_embed.training.distributed.memory_tracker import MemoryTracker
from mllm_embed.training.distributed.term_loss import term_loss
from mllm_embed.training.loss.losses import LossOptions
from mllm_embed.training.recipe.stage import Stage


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scripts/assets/base", help="folder of an image-text model")
    parser.add_argument("--data", type=Path, default=Path("runs/demo/data/train"), help="folder with triplets.jsonl")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 512, 4096], help="rows a step")
    parser.add_argument("--chunk-tokens", type=int, default=2048, help="as in a recipe")
    parser.add_argument("--output", type=Path, default=Path("runs/bench_caching.json"), help="where the JSON goes")
    args = parser.parse_args()

    embedder = MLLMEmbedder.from_pretrained(args.model, dtype="float32", device="cpu")
    torch.manual_seed(0)
    add_lora(embedder.model, LoraSpec(rank=32, alpha=64, dropout=0.0), embedder.family)
    embedder.model.base.set_attn_implementation("eager")
    term = {"query": "composed", "positive": "target_text", "negatives": ["source_text"]}
    stage = Stage(data=args.data, rows="triplets", terms=[term])
    encoder = BatchEncoder(embedder.model).train()
    read = Reader(embedder.item_processor.prepared, stage.encoded)
    rows = read_rows(DataFolder.open(args.data), args.data, stage.rows, stage.roles)
    least = min(args.batches)
    table = []
    print(f"{'batch':>6}{'chunks':>8}{'MB beyond inputs':>18}{'seconds':>9}{f'in batches of {least}':>18}{'ratio':>7}")
    for size in args.batches:
        examples = [read(rows[number % len(rows)]) for number in range(size)]
        collate = ContrastiveCollator(embedder.item_processor, stage.uses, args.chunk_tokens)
        batch = _cached(_batch(collate, examples))
        if not table:
            _step(encoder, stage, batch, size)  # gradients exist from here on
        with MemoryTracker() as live:
            _step(encoder, stage, batch, size)
        cached = _timed(encoder, stage, [batch], size)
        parts = [_batch(ContrastiveCollator(embedder.item_processor, stage.uses, 1 << 30), examples[at : at + least])
                 for at in range(0, size, least)]  # fmt: skip
        plain = _timed(encoder, stage, parts, least)
        row = {"batch": size, "chunks": len(batch.live), "bytes": live.peak, "seconds": cached, "plain": plain}
        table.append(row)
        print(
            f"{size:>6}{row['chunks']:>8}{live.peak / 1e6:>18.1f}{cached:>9.2f}{plain:>18.2f}{cached / plain:>7.2f}",
            flush=True,
        )
    write_json(args.output, {"model": args.model, "chunk_tokens": args.chunk_tokens, "rows": table})


def _batch(collate: ContrastiveCollator, examples: list[Example]) -> ContrastiveBatch:
    return collate(examples)["batch"]


def _cached(batch: ContrastiveBatch) -> ContrastiveBatch:
    batch.cached = True
    return batch


def _step(encoder: BatchEncoder, stage: Stage, batch: ContrastiveBatch, rows: int) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_pays(torch.device("cpu"))):
        vectors, temperature, _ = encoder(batch)
    gathered = gather(vectors, batch, rows)
    sum(term_loss(term, gathered, LossOptions(temperature)).loss for term in stage.terms).backward()


def _timed(encoder: BatchEncoder, stage: Stage, batches: list[ContrastiveBatch], rows: int) -> float:
    started = time.perf_counter()
    for batch in batches:
        _step(encoder, stage, batch, rows)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
