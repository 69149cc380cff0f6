"""What thinking first costs a composed query, and what it gains: with a cache of thoughts, and without.

    python scripts/searching/bench_thoughts.py runs/demo/data/seen runs/demo/data/unseen \\
        --model scripts/assets/base --adapter runs/demo-thoughts/instructions

A model that was taught to think (training/README.md), asked without its thoughts, with them, and with a cache that has
met every query. Alone: one query a call, as a search does it; all: the queries of the first folder in one call. In
turns in one process; the medians are of the ratios in each round. R@1 is of whole folders. A model asked without the
thoughts that it was taught is no model trained without: for that, give the adapter of `demo` to --beside.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from timeit import timeit
from typing import TYPE_CHECKING

from mllm_embed.commands.model_options import add_model_options, load_embedder
from mllm_embed.errors import ConfigError, user_errors

if TYPE_CHECKING:
    from mllm_embed import MLLMEmbedder

ALONE = 32  # queries


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders with a benchmark.json")
    add_model_options(parser)
    parser.add_argument("--beside", metavar="A", help="adapter that was trained without thoughts, measured too")
    parser.add_argument("--repeat", type=int, default=3, help="rounds (default 3)")
    args = parser.parse_args()

    from mllm_embed.eval.benchmarks import open_suite
    from mllm_embed.eval.reports.tables import ReportTable, markdown
    from mllm_embed.eval.scoring.evaluate import evaluate

    suites = [open_suite("folder", folder) for folder in args.folders]
    ways = _ways(args)
    queries = [items[0] for items in suites[0].tasks[0].queries]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(args.repeat + 1):
        for name, embedder in ways.items():
            alone = timeit(
                lambda e=embedder: [e.encode([one], show_progress=False) for one in queries[:ALONE]], number=1
            )
            together = timeit(lambda e=embedder: e.encode(queries, show_progress=False), number=1)
            if number:  # the first round fills the cache
                times[name].append((alone / ALONE, together / len(queries)))
    rows, first = [], next(iter(ways))
    for name, embedder in ways.items():
        alone, together = (statistics.median(part) for part in zip(*times[name], strict=True))
        ratios = [[b / a for a, b in zip(x, y, strict=True)] for x, y in zip(times[first], times[name], strict=True)]
        slower = [statistics.median(part) for part in zip(*ratios, strict=True)]
        found = [f"{evaluate(embedder, suite, progress=False).percent('R@1'):.1f}" for suite in suites]
        speed = [f"{1000 * alone:.1f} ms", f"{slower[0]:.2f} x", f"{1000 * together:.2f} ms", f"{slower[1]:.2f} x"]
        rows.append([name, *speed, *found])
    head = ["queries", "alone", "takes", "all", "takes", *(f"R@1 {suite.name}" for suite in suites)]
    sys.stdout.write(markdown([ReportTable(head, rows)]) + "\n")
    return 0


def _ways(args: argparse.Namespace) -> dict[str, MLLMEmbedder]:
    """Return the embedders that are compared, the one that everything is measured by first."""

    def load(**given: object) -> MLLMEmbedder:
        return load_embedder(argparse.Namespace(**{**vars(args), "thought_cache": None, **given}))

    thinking, remembering = load(), load()
    if thinking.thinking is None:
        raise ConfigError(f"{args.adapter or args.model} was not taught to think; give --thoughts N too")
    remembering.thought_cache = {}
    beside = {"trained without thoughts": load(adapter=args.beside, thoughts=0)} if args.beside else {}
    most = thinking.thinking.writer.thoughts.tokens
    return {
        **beside,
        "without its thoughts": load(thoughts=0),
        f"thoughts of {most} tokens at most": thinking,
        "thoughts remembered": remembering,
    }


if __name__ == "__main__":
    raise SystemExit(main())
