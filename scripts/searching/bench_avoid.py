"""What turning away from words gains where they tell what is right, and costs where they say nothing.

    python scripts/make_scenes.py --output runs/negatives --negatives 0.3
    python scripts/searching/bench_avoid.py runs/negatives
    python scripts/searching/bench_avoid.py runs/negatives --model scripts/assets/base --adapter runs/my-adapter

R@1 by the weight of what is avoided (vectors/avoiding.py; 0 is the query without it), on the queries of DATA/seen-
negatives and DATA/unseen-negatives, which nothing else answers, and on those of DATA/seen and DATA/unseen, of which
each is told to avoid an object that is neither in its picture nor in its answer. Each vector is made once.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

import numpy as np

from mllm_embed.commands.model_options import add_model_options, load_embedder
from mllm_embed.errors import user_errors

ASSETS = Path(__file__).parents[1] / "assets"
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
PARTS = ("seen", "unseen")


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that make_scenes.py --negatives wrote")
    add_model_options(parser, required=False)
    args = parser.parse_args()
    if args.model is None:
        args.model, args.adapter = str(ASSETS / "base"), str(ASSETS / "adapters" / "instructions")

    from mllm_embed.eval.benchmarks import open_suite
    from mllm_embed.eval.reports.tables import ReportTable, markdown
    from mllm_embed.vectors.avoiding import WEIGHT

    tasks = {
        f"{part}, avoiding tells": open_suite("folder", args.data / f"{part}-negatives").tasks[0] for part in PARTS
    }
    tasks |= {f"{part}, nothing there": _needless(args.data / part) for part in PARTS}
    embedder = load_embedder(args)
    found = {name: _found(embedder, task) for name, task in tasks.items()}
    rows = [[f"{weight:g}", *(f"{100 * own[weight].mean():.1f}" for own in found.values())] for weight in WEIGHTS]
    gains = [_gain(tasks[name], own[WEIGHT] - own[0.0]) for name, own in found.items()]
    rows.append([f"{WEIGHT:g} against 0", *gains])
    sys.stdout.write(markdown([ReportTable(["weight", *found], rows)]) + "\n")
    return 0


def _needless(folder: Path):
    """Return the task of a folder of scenes whose queries each avoid an object that is nowhere in them, seeded."""
    from dataclasses import replace

    from mllm_embed.eval.benchmarks import open_suite

    task, rng = open_suite("folder", folder).tasks[0], random.Random(0)
    things = [entry["things"] for entry in json.loads((folder / "benchmark.json").read_text())["gallery"]]
    nouns = sorted({noun for own in things for noun in own})
    [view], queries = task.views, []
    for (item,), targets, exclude in zip(task.queries, view.targets, view.exclude or (), strict=True):
        shown = {noun for at in (*targets, *exclude) for noun in things[at]}
        noun = rng.choice([noun for noun in nouns if noun not in shown])
        queries.append((replace(item, avoid=f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"),))
    return replace(task, queries=queries)


def _found(embedder, task) -> dict[float, np.ndarray]:
    """Return by weight whether each query finds a target first, [Q] float64."""
    from mllm_embed.encode.avoiding import without_avoid, words_to_avoid
    from mllm_embed.eval.scoring.score import best_ranks, ranks_of
    from mllm_embed.vectors.avoiding import avoiding

    asked = [items[0] for items in task.queries]
    items = [*map(without_avoid, asked), *map(words_to_avoid, asked), *task.gallery]
    vectors = embedder.encode(items, show_progress=False)
    queries, words, gallery = np.split(vectors, [len(asked), 2 * len(asked)])
    found = {}
    for weight in WEIGHTS:
        ranks = ranks_of(task.views[0], avoiding(queries, words, weight), gallery)
        found[weight] = (best_ranks(ranks.gallery) == 1).astype(np.float64)
    return found


def _gain(task, difference: np.ndarray) -> str:
    """Return a mean difference in points with its 95 % interval, drawn by reference pictures."""
    from mllm_embed.eval.scoring.estimate import INTERVAL, resamples

    low, high = 100 * np.percentile(resamples(difference[:, None], task.name, task.references), INTERVAL)
    return f"{100 * difference.mean():+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    raise SystemExit(main())
