"""What a picture weighs in each form that its vectors may be kept in, against what is still found: a table, a picture.

    python scripts/make_scenes.py --output runs/demo/data
    python scripts/bytes_a_picture.py                              # goes on after a stop
    python scripts/bytes_a_picture.py --models shipped --only BEBR RaBitQ OPQ

Forms are numbers of fewer bits, or fewer of them; codes of the kinds of index, by themselves, none scored again by
full vectors; a vector a token, whole or near ones as their mean; encodings of these as one vector (FDE), alone and with
MaxSim over what they find; and words, alone and beside dense vectors. Adapters but the shipped one are trained before,
each by the demo's recipe with one change: what is missing is said with its command, and its rows are left out.

R@1 has its 95 % interval, drawn by reference pictures. Recall@10 is the share of the first ten by the same adapter's
own float32 vectors (of a vector a token: of MaxSim's) that a form has among its own first ten; words rank otherwise by
design. "Shared" is what all pictures have in common: tables, maps, rotations. Times are ratios to the exact search by
the shipped adapter's float32 vectors, in turns in one process: "a query" of one query, encoded before, at a time;
"build" of training and coding to that search for all of the test's queries. Of so few pictures times say little of
large stores: scripts/searching/bench_index.py does. Leaves OUTPUT/table.md and OUTPUT/bytes_a_picture.png.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from forms.measuring import Bench, Measured
from forms.models import MODELS, Encoded, Scenes
from forms.plot import draw
from forms.rows import ROWS, SERIES
from forms.table import table

from mllm_embed.errors import ConfigError, user_errors
from mllm_embed.files import write_file

CLOCK = "shipped"


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="FORM", choices=SERIES, help=f"these alone: {', '.join(SERIES)}")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="those of these alone")
    parser.add_argument("--data", type=Path, default=Path("runs/demo/data"), help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("runs/bytes-a-picture"), help="default: %(default)s")
    args = parser.parse_args()
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    scenes, vectors = Scenes(args.data), args.output / "vectors"
    models = _there(args.models, scenes, vectors)
    wanted = [row for row in ROWS.values() if row.model in models and (not args.only or row.series in args.only)]
    if not wanted:
        raise ConfigError(
            "--models and --only leave no row: what each model is kept in stands in scripts/forms/rows.py"
        )
    clock = models.get(CLOCK) or Encoded(CLOCK, MODELS[CLOCK], scenes, vectors)
    bench = Bench(models, clock, args.output / "results")
    found: dict[str, dict[str, Measured]] = {}
    for number, row in enumerate(wanted, 1):
        began = time.perf_counter()
        found[row.title] = bench.measured(row)
        spent = time.perf_counter() - began
        print(f"{number} of {len(wanted)}  {row.title}  {spent:.0f} s", file=sys.stderr, flush=True)
    text = table(found, scenes)
    write_file(args.output / "table.md", text.encode())
    draw(found, args.output / "bytes_a_picture.png")
    print(f"{text}\nwrote {args.output / 'table.md'} and {args.output / 'bytes_a_picture.png'}")
    return 0


def _there(names: list[str], scenes: Scenes, vectors: Path) -> dict[str, Encoded]:
    """Return the models whose adapters are there, and say of the others how they are trained."""
    models = {}
    for name in names:
        try:
            models[name] = Encoded(name, MODELS[name], scenes, vectors)
        except ConfigError as error:
            print(f"{name}: left out, since {error}", file=sys.stderr, flush=True)
    return models


if __name__ == "__main__":
    raise SystemExit(main())
