"""What a vector a token costs and gains, whole and in clusters, beside one vector an input.

    python scripts/searching/bench_multi.py runs/demo/data/seen runs/demo/data/unseen \\
        --model scripts/assets/base --adapter runs/demo-multi/instructions --beside runs/demo/instructions

A model that was trained with pooling: multi (training/README.md). With a pool factor of F so many near vectors of a
picture become their mean. Bytes are those of float32 vectors, the queries' not among them; ms are of a composed query
against the whole gallery of the first folder, all queries at once, no index. R@1 is of whole folders.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_embed.commands.model_options import add_model_options, load_embedder
from mllm_embed.errors import user_errors

if TYPE_CHECKING:
    from mllm_embed import MLLMEmbedder
    from mllm_embed.eval.scoring.suite import Suite

FACTORS = (1, 2, 3, 4, 6, 9)


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders with a benchmark.json")
    add_model_options(parser)
    parser.add_argument("--beside", metavar="A", help="adapter of one vector an input, measured too")
    parser.add_argument("--factors", metavar="F", type=int, nargs="+", default=FACTORS, help="pool factors")
    args = parser.parse_args()

    from mllm_embed.eval.benchmarks import open_suite
    from mllm_embed.eval.reports.tables import ReportTable, markdown

    suites = [open_suite("folder", folder) for folder in args.folders]
    rows = []
    if args.beside:
        beside = load_embedder(argparse.Namespace(**{**vars(args), "adapter": args.beside}))
        rows.append(_row("one vector", beside, suites, 1))
    several = load_embedder(args)
    rows += [_row(f"a token, factor {factor}", several, suites, factor) for factor in args.factors]
    head = ["vectors", "bytes a picture", "ms a query", *(f"R@1 {suite.name}" for suite in suites)]
    sys.stdout.write(markdown([ReportTable(head, rows)]) + "\n")
    return 0


def _row(name: str, embedder: MLLMEmbedder, suites: list[Suite], factor: int) -> list[str]:
    from mllm_embed.eval.scoring.evaluate import evaluate

    found = [evaluate(embedder, suite, progress=False, pool_factor=factor) for suite in suites]
    galleries = {id(task.gallery): len(task.gallery) for task in suites[0].tasks}  # tasks may share one
    ranked = sum(len(task.queries) * len(found[0].tasks[task.name].rows) for task in suites[0].tasks)
    size, spent = found[0].spent["index bytes"], found[0].spent["ranking seconds"]
    figures = [f"{size / sum(galleries.values()):,.0f}", f"{1000 * spent / ranked:.2f}"]
    return [name, *figures, *(f"{result.percent('R@1'):.1f}" for result in found)]


if __name__ == "__main__":
    raise SystemExit(main())
