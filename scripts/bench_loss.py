"""The tiled InfoNCE beside the plain one: time and memory by batch size.

    python scripts/bench_loss.py                        # up to 65,536 vectors of 1,024 numbers
    python scripts/bench_loss.py --batches 4096 16384 --dimensions 3072

Each is a forward and a backward pass over B queries and B candidates, float32, in a process of its own so that its peak
of resident memory is its own. The plain loss is cross-entropy over all scores; it is left out where its scores, their
softmax and their gradient (12 B^2 bytes) would not fit the memory. The floor of memory is the vectors and their
gradients (16 B D bytes), that of time the three products of B x D x B that any InfoNCE has (forward one, backward two;
tiles make it four) at the rate which the machine reaches on one of them. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from mllm_embed.files import write_json
from mllm_embed.training.loss.tiled import info_nce


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1024, 4096, 16384, 65536], help="B")
    parser.add_argument("--dimensions", type=int, default=1024, help="D")
    parser.add_argument("--output", type=Path, default=Path("runs/bench_loss.json"), help="where the JSON goes")
    args = parser.parse_args()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    rows = []
    print(f"{'B':>7}  {'loss':<6}{'seconds':>9}{'times its floor':>17}{'MB above the vectors':>22}{'loss value':>12}")
    for batch in args.batches:
        for way in ("plain", "tiled"):
            if way == "plain" and 12 * batch**2 > 0.7 * memory:
                print(
                    f"{batch:>7}  plain  not run: its scores alone take {4 * batch**2 / 1e9:.1f} GB, three times over"
                )
                continue
            row = _in_its_own_process(way, batch, args.dimensions)
            rows.append(row)
            print(
                f"{batch:>7}  {way:<6}{row['seconds']:>9.2f}{row['seconds'] / row['floor_seconds']:>17.2f}"
                f"{row['peak_mb']:>22.0f}{row['loss']:>12.5f}",
                flush=True,
            )
    write_json(args.output, {"dimensions": args.dimensions, "threads": torch.get_num_threads(), "rows": rows})
    print(json.dumps({"written": str(args.output)}))


def _in_its_own_process(way: str, batch: int, dimensions: int) -> dict[str, float | int | str]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (way, batch, dimensions))


def _measure(way: str, batch: int, dimensions: int) -> dict[str, float | int | str]:
    torch.manual_seed(0)
    middle = F.normalize(torch.randn(batch, dimensions), dim=1)
    queries, candidates = (
        F.normalize(middle + 0.5 * F.normalize(torch.randn_like(middle), dim=1), dim=1) for _ in "qc"
    )
    del middle
    queries.requires_grad_(), candidates.requires_grad_()
    queries.grad, candidates.grad = torch.zeros_like(queries), torch.zeros_like(candidates)
    rate = _rate(queries, candidates)
    before = _peak()
    started = time.perf_counter()
    right = torch.arange(batch)
    if way == "tiled":
        loss = info_nce(queries, candidates, right, 0.05).loss
    else:
        loss = F.cross_entropy(queries @ candidates.T / 0.05, right)
    loss.backward()
    seconds = time.perf_counter() - started
    return {
        "batch": batch, "way": way, "seconds": seconds, "floor_seconds": 3 * 2 * batch**2 * dimensions / rate,
        "peak_mb": (_peak() - before) / 1e6, "loss": loss.item(), "gflops": rate / 1e9,
    }  # fmt: skip


def _rate(queries: torch.Tensor, candidates: torch.Tensor) -> float:
    """Measure the operations a second of one product of 1,024 rows with 4,096, the best of five."""
    left, right = queries.detach()[:1024], candidates.detach()[:4096].T
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        _ = left @ right
        best = min(best, time.perf_counter() - started)
    return 2 * left.numel() * right.shape[1] / best


def _peak() -> int:
    """Return the bytes of the process's largest resident set so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
