"""`mllm-embed-eval score`: measure vectors or rankings that anybody has made."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_embed.errors import ConfigError

from ..scoring.score import DEFAULT_TIES
from .suite_options import (
    add_benchmark_options,
    add_command,
    add_only_option,
    add_thumbnails_option,
    add_ties_option,
    check_thumbnails,
    output_folder,
    whole_suite,
)

if TYPE_CHECKING:
    from ..scoring.result import Result
    from ..scoring.score import Vectors
    from ..scoring.suite import Suite

_HELP = """\
vectors
  DIR/gallery.npy and queries.npy (floats, one vector a row) with gallery_ids.json and query_ids.json (lists of
  strings); benchmarks of several tasks (FashionIQ, GeneCIS, MMEB, M-BEIR, Flickr30k, COCO) have one such folder a
  task (DIR/dress/gallery.npy ...). The rows of the halves and the composition audit need image_only.npy and
  text_only.npy beside queries.npy, in its order, as `run --save-vectors` writes them.
  They are ranked by inner product: make them unit length for cosines. Ids: CIRR the picture's name and the
  pairid; CIRCO the COCO id and the query's id; FashionIQ the ASIN and the row number in the annotation file;
  GeneCIS the COCO id, or ID:X,Y,W,H for a crop, and the row number; i-CIR the picture's path in its file (and #2
  where one stands again) and the line number; PinPoint the signature and the query_id; LaSCo the COCO id and the qid;
  Shoes the picture's name and the row number; MMEB the picture's path and the row number; M-BEIR did and qid. Rows
  count from 0.

stores
  --vectors STORE is what `mllm-embed encode` wrote, or `mllm-embed export --to npy`: it holds the gallery, and the
  queries too unless --queries STORE does. Where several tasks call different things alike, as the queries of FashionIQ,
  give a folder with a store a task (DIR/dress ...). A store may hold more than is asked for. The command `rows` writes
  what `mllm-embed encode` reads, with the ids of above:
    mllm-embed-eval rows cirr --data ~/data/cirr --output rows
    mllm-embed encode rows/gallery.jsonl --output stores/gallery --model M
    mllm-embed encode rows/queries.jsonl --output stores/queries --model M
    mllm-embed-eval score cirr --data ~/data/cirr --vectors stores/gallery --queries stores/queries
  They are asked in the model's own words: where a preset or the benchmark has words of its own, `run` asks otherwise.

rankings
  A JSON object: query id -> list of gallery ids, best first, such as a file for CIRCO's server.

what it leaves in the output folder
  result.json and per_query.json as `run` does, and report.html, with the pictures that are there

examples
  %(prog)s cirr --data ~/data/cirr --vectors my_vectors --ties pessimistic
  %(prog)s cirr --data ~/data/cirr --vectors my_vectors --only lists/neither.txt
  %(prog)s circo --data ~/data/circo --ranking submission_val.json
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    score = add_command(commands, "score", _run, "score anybody's vectors or rankings", _HELP)
    add_benchmark_options(score)
    given = score.add_mutually_exclusive_group(required=True)
    given.add_argument("--vectors", metavar="DIR", type=Path, help="folder with vectors, or a store, see below")
    given.add_argument("--ranking", metavar="FILE", type=Path, help="JSON with ranked lists, see below")
    score.add_argument("--queries", metavar="STORE", type=Path, help="store of the queries, where --vectors is one")
    add_ties_option(score)
    add_only_option(score, "--only")
    score.add_argument("--output", metavar="DIR", type=Path, help="default: runs/eval/<benchmark>-<vectors>")
    add_thumbnails_option(score)


def _run(arguments: argparse.Namespace) -> int:
    from ..reports.pages.result_page import write_report
    from ..reports.query_lists import only
    from ..reports.report import result_table, write_result

    check_thumbnails(arguments)
    # the page shows those that are there
    whole = whole_suite(arguments, pictures=None if arguments.thumbnails else False)
    if arguments.ranking and arguments.ties != DEFAULT_TIES:
        raise ConfigError("--ties is for --vectors: a given ranking has settled its ties")
    if arguments.queries and not arguments.vectors:
        raise ConfigError("--queries is for --vectors: a ranking names its queries")
    given = arguments.vectors or arguments.ranking
    suite = only(arguments.only_queries, whole) if arguments.only_queries else whole
    output = output_folder(arguments, "runs/eval", suite, given)
    result = _scored(arguments, suite, whole)
    settings = {"model": None, "adapter": None, "scored": str(given)}
    written = [
        *write_result(result, suite, output, settings),
        write_report(result, suite, output, settings, arguments.thumbnails),
    ]
    sys.stdout.write(f"{result_table(result)}\n\nwrote {', '.join(map(str, written))}\n")
    return 0


def _scored(arguments: argparse.Namespace, suite: Suite, whole: Suite) -> Result:
    """Return what is measured on a suite, the whole or some of its queries; what is given may be of the whole."""
    from ..reports.submission import read_ranking
    from ..scoring.rankings import score_rankings
    from ..scoring.score import score

    if arguments.vectors:
        result = score(suite, _vectors(arguments, suite, whole), arguments.ties)
    else:
        rankings = read_ranking(arguments.ranking)
        left_out = set(whole.tasks[0].query_ids) - set(suite.tasks[0].query_ids)
        result = score_rankings(suite, {name: row for name, row in rankings.items() if name not in left_out})
    made = "vectors" if arguments.vectors else "rankings"
    unknown = f"unknown: the {made} were given, and only their maker knows how the query text was asked"
    return replace(result, protocol={**result.protocol, "prompts": unknown})


def _vectors(arguments: argparse.Namespace, suite: Suite, whole: Suite) -> Mapping[str, Vectors]:
    """Return the vectors of each task, from stores or from files."""
    from ..scoring.stored import holds_stores, read_stored
    from ..scoring.vectors import read_vectors

    if holds_stores(arguments.vectors, suite):
        return read_stored(arguments.vectors, arguments.queries, suite)
    if arguments.queries:
        raise ConfigError(f"--queries belongs to a store, and {arguments.vectors} is none")
    return read_vectors(arguments.vectors, suite, whole)
