"""`mllm-embed index`: a store made quick to search, with a measured card."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..index.kinds import KINDS, kind_of
from .ids import local_path

if TYPE_CHECKING:
    import numpy as np

    from ..index.jpq.quantizer import TunedQuantizer
    from ..store.vector_store import VectorStore

_KINDS = "\n".join(f"  {name:13} {kind.about}" for name, kind in KINDS.items())
_HELP = f"""\
what it does
  Builds a FAISS index of a store, in little memory, and measures it: recall@10 against an exact search, size, seconds
  to build, milliseconds a query. The card is printed, and lies beside the index. Of some 100,000 vectors an exact
  search takes milliseconds: search such a store without an index.

  Kinds that keep less than the vectors score the best candidates again by the full vectors, which stay in the store.
  Settings are chosen so that recall@10 reaches 0.97, or what --target asks, and so that more answers are found as well.
  --target tries the kinds that can be so, those that are slow to train only where no other is. What is added to the
  store later is found at once, by comparing it exactly, and taken in by --update.

kinds
{_KINDS}

examples
  mllm-embed index runs/photos --kind rabitq
  mllm-embed index runs/photos --target "recall>=0.97,size<=1/16" --output runs/photos-small
  mllm-embed index runs/photos --target "recall>=0.99,latency<=2ms" --queries runs/queries
  mllm-embed index runs/photos --kind jpq --tuned runs/demo-jpq/queries
  mllm-embed index runs/photos --output runs/photos-small --update
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    index = commands.add_parser(
        "index",
        help="make a store quick to search",
        description="Make a store quick to search.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    index.add_argument("store", type=local_path, metavar="STORE", help="what `mllm-embed encode` wrote")
    index.add_argument("--output", type=local_path, metavar="INDEX", help="folder of the index (default: STORE.index)")
    choice = index.add_mutually_exclusive_group(required=True)
    choice.add_argument("--kind", metavar="K", help=f"one of {', '.join(KINDS)}")
    choice.add_argument(
        "--target", metavar="T", help='try the kinds and take the fastest that is so: "recall>=0.97,size<=1/16"'
    )
    choice.add_argument("--update", action="store_true", help="take in what the store has got since")
    index.add_argument(
        "--tuned",
        type=local_path,
        metavar="ADAPTER",
        help="of --kind jpq: the adapter, of a run, with which its codes were tuned",
    )
    index.add_argument(
        "--queries", type=local_path, metavar="STORE", help="measure with these vectors (default: rows moved by noise)"
    )
    index.add_argument("--seed", type=int, metavar="S", help="of the sample to train on (default 0)")
    index.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    from ..index.build import build_index, card_text, check_place
    from ..index.faiss_index import Index
    from ..index.target import Target, build_for, exact_cost
    from ..store.vector_store import VectorStore

    whole = Path(os.path.abspath(arguments.store))  # "." has no name
    output = arguments.output or whole.with_name(f"{whole.name}.index")
    target = Target.parse(arguments.target) if arguments.target is not None else None
    store = VectorStore.open(arguments.store)
    if arguments.update:
        index = Index.open(output, store)
        sys.stdout.write(f"took in {index.update():,} rows; {output} has {len(index.engine):,}\n")
        return 0
    check_place(output)
    queries, seed = _queries(arguments.queries, store), arguments.seed or 0
    if target:
        index = build_for(
            store, output, target, queries=queries, seed=seed, say=lambda line: sys.stdout.write(line + "\n")
        )
    else:
        sys.stdout.write(f"{exact_cost(store)}\n")
        tuned = _tuned(arguments.tuned)
        index = build_index(store, output, arguments.kind, queries=queries, seed=seed, tuned=tuned)
    sys.stdout.write(f"\n{card_text(index.card)}\nwrote {output}\n")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for options that are none, or do not fit together."""
    if arguments.seed is not None and arguments.seed < 0:
        raise ConfigError(f"--seed must be 0 or more, not {arguments.seed}")
    if arguments.kind is not None:
        kind_of(arguments.kind)
    if arguments.tuned is not None and arguments.kind is None:
        raise ConfigError("--tuned is of --kind jpq: give both")
    if arguments.update and (arguments.queries is not None or arguments.seed is not None):
        raise ConfigError("--update trains and measures nothing: leave out --queries and --seed, or build anew")


def _tuned(folder: Path | None) -> TunedQuantizer | None:
    """Return the quantizer that a run left beside its adapter."""
    if folder is None:
        return None
    from ..index.jpq.quantizer import QUANTIZER_FILE, TunedQuantizer

    return TunedQuantizer.read(
        folder / QUANTIZER_FILE,
        "give the adapter as a run with a stage that has `jpq` left it; what is saved anew has no codes",
    )


def _queries(path: Path | None, store: VectorStore) -> np.ndarray | None:
    """Return the vectors [Q, D] float32 of another store."""
    if path is None:
        return None
    from ..store.vector_store import VectorStore

    given = VectorStore.open(path)
    if given.dimension != store.dimension:
        raise ConfigError(f"{path} has vectors of {given.dimension} numbers, {store.folder} of {store.dimension}")
    return given.rows(0, len(given))
