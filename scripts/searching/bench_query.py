"""A distilled query encoder beside the model that taught it: size, speed and recall, in turns in one process.

    python scripts/searching/bench_query.py runs/demo/data/seen runs/demo/data/unseen --query-model runs/small-base \\
        --query-adapter runs/demo-query/queries

Both ask the same gallery vectors, those of the large model. Alone: one composed query a call, as a search does it; all:
the queries of the first folder in one call, where those on one picture share its work.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from timeit import timeit

from mllm_embed.commands.model_options import add_model_options, add_query_options, load_embedder, load_encoder
from mllm_embed.errors import user_errors

ASSETS = Path(__file__).parents[1] / "assets"
ALONE = 64  # queries


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders with a benchmark.json")
    add_model_options(parser, required=False)
    add_query_options(parser)
    parser.add_argument("--repeat", type=int, default=5, help="rounds (default 5)")
    args = parser.parse_args()
    if args.model is None:
        args.model, args.adapter = str(ASSETS / "base"), str(ASSETS / "adapters" / "instructions")

    from mllm_embed.eval.benchmarks import open_suite
    from mllm_embed.eval.reports.tables import ReportTable, markdown
    from mllm_embed.eval.scoring.evaluate import evaluate

    suites = [open_suite("folder", folder) for folder in args.folders]
    dual, full = load_encoder(args), load_embedder(args)
    asked = {"full": (full, full), "distilled": (dual.query, dual)} if args.query_model else {"full": (full, full)}
    queries = [items[0] for items in suites[0].tasks[0].queries]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in asked}
    for _ in range(args.repeat):
        for name, (encoder, _) in asked.items():
            alone = timeit(
                lambda e=encoder: [e.encode([one], show_progress=False) for one in queries[:ALONE]], number=1
            )
            together = timeit(lambda e=encoder: e.encode(queries, show_progress=False), number=1)
            times[name].append((alone / ALONE, together / len(queries)))
    rows = []
    for name, (encoder, asks) in asked.items():
        alone, together = (statistics.median(part) for part in zip(*times[name], strict=True))
        ratios = [[a / b for a, b in zip(x, y, strict=True)] for x, y in zip(times["full"], times[name], strict=True)]
        faster = [statistics.median(part) for part in zip(*ratios, strict=True)]
        weights = [parameter for parameter in encoder.model.parameters()]
        size = [sum(w.numel() for w in weights) / 1e6, sum(w.nbytes for w in weights) / 1e6]
        found = [f"{evaluate(asks, suite, progress=False).percent('R@1'):.1f}" for suite in suites]
        speed = [f"{1000 * alone:.1f} ms", f"{faster[0]:.2f} x", f"{1000 * together:.2f} ms", f"{faster[1]:.2f} x"]
        rows.append([name, f"{size[0]:.2f} M", f"{size[1]:.1f}", *speed, *found])
    head = ["queries by", "parameters", "MB", "alone", "faster", "all", "faster", *(f"R@1 {s.name}" for s in suites)]
    sys.stdout.write(markdown([ReportTable(head, rows)]) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
