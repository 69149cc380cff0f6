"""`mllm-embed-eval run`: embed a benchmark with a model, and score it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mllm_embed.commands.model_options import add_model_options, add_query_options, load_encoder
from mllm_embed.errors import ConfigError

from .leak_options import add_leak_options, tell_leaks
from .suite_options import (
    add_benchmark_options,
    add_command,
    add_only_option,
    add_task_options,
    add_thumbnails_option,
    add_ties_option,
    check_tasks,
    check_thumbnails,
    named_suite,
    need_folder,
    output_folder,
)

_HELP = """\
what it does
  Embeds the gallery and the queries, ranks the gallery exactly, and prints the benchmark's metrics for the
  composed query (picture and instruction) beside the picture alone, the instruction alone and the sum of the
  two, which a composed query must beat to mean anything. Below it, at the benchmark's own K, which queries the picture
  alone finds, the words alone, each of them or neither, what the composed query finds of each, and its gap over the
  better half. Intervals draw reference pictures, each with all of its queries.

sessions
  Of sessions (circled, or "sessions" in your benchmark.json) each turn is a task: its "composed" row asks about the
  reference that the annotators chose for it, each turn by itself. Rows below carry what was said before, by a rule;
  those called target-free are told the first picture alone, and go on from their own answers. found@K counts the
  sessions with a target among the first K of any turn so far; for its intervals sessions with the same picture in their
  first turn are drawn together.

what it leaves in the output folder
  result.json         protocol, percentages with hits, counts and 95 %% intervals, versions, seconds and bytes
  per_query.json      for every query and row the value of every metric and the first answers; which queries share a
                      picture, and whether a half alone finds them
  report.html         a page for a browser, all in one file: the figures, and every query with its reference,
                      instruction and the answers of the whole query and of its halves, to be filtered and sorted
  contact_sheet.png   some queries: reference, instruction, first five answers, the right one framed green

examples
  %(prog)s fashioniq --data ~/data/fashioniq --model runs/base --adapter runs/stage2
  %(prog)s fashioniq --data ~/data/fashioniq --model runs/base --option gallery=val captions=comma
  %(prog)s data/shoes --model llava-hf/llava-1.5-7b-hf --dtype bfloat16 --sheet 20
  %(prog)s cirr --data ~/data/cirr --model Alibaba-NLP/gme-Qwen2-VL-2B-Instruct
  %(prog)s data/shoes --model Qwen/Qwen3-VL-Embedding-2B --task "Find the shoe that the change describes."
  %(prog)s cirr --data ~/data/cirr --model M --adapter A --only lists/neither.txt   (see mllm-embed-eval audit)
  %(prog)s data/shoes --model runs/big --query-model runs/small --query-adapter runs/demo-query/queries

your own folder's benchmark.json
  {"name": "shoes",
   "gallery": [{"id": "a", "image": "images/a.jpg", "caption": "a red shoe"}, ...],
   "queries": [{"id": "q1", "image": "images/a.jpg", "instruction": "in blue", "targets": ["b"],
                "exclude": ["a"], "kind": "colour"}, ...],
   "sessions": [{"id": "s1", "targets": ["c"], "turns": [{"image": "images/a.jpg", "instruction": "in blue"},
                                                         {"image": "images/b.jpg", "instruction": "with laces"}]}]}
  caption, exclude and kind may be left out, and so may queries or sessions; "paraphrases" and "negatives" of a query
  serve `robustness`. A turn without an image is about that of the turn before; a session may have exclude and kind.
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    run = add_command(commands, "run", _run, "embed and score with a model", _HELP)
    add_benchmark_options(run)
    add_model_options(run)
    add_query_options(run)
    add_task_options(run)
    add_ties_option(run, " (gallery: order)")
    add_only_option(run, "--only")
    add_leak_options(run)
    run.add_argument("--output", metavar="DIR", type=Path, help="default: runs/eval/<benchmark>-<model>")
    run.add_argument("--save-vectors", metavar="DIR", type=Path, help="keep the vectors, as `score` reads them")
    run.add_argument(
        "--edit-strength", metavar="A", type=float, default=1.0, help="1: as asked; more changes the picture more"
    )
    run.add_argument(
        "--pool-factor",
        metavar="N",
        type=int,
        default=1,
        help="pooling multi: N near vectors of an item become one",
    )
    run.add_argument("--sheet", metavar="N", type=int, default=8, help="queries on the contact sheet (default 8)")
    add_thumbnails_option(run)


def _run(arguments: argparse.Namespace) -> int:
    # Everything that can be wrong without a model is looked at before the slow imports.
    if arguments.sheet < 0:
        raise ConfigError(f"--sheet must be 0 or more, not {arguments.sheet}")
    suite = named_suite(arguments)
    output = output_folder(arguments, "runs/eval", suite, arguments.adapter or arguments.model)
    if arguments.save_vectors:
        need_folder(arguments.save_vectors, "--save-vectors")
    check_tasks(arguments)
    check_thumbnails(arguments)

    from ..reports.evaluation import Measuring, evaluate_into
    from ..reports.report import result_table, settings_of
    from ..scoring.asking import ask
    from ..scoring.evaluate import check_evaluable

    check_evaluable(suite, arguments.edit_strength)
    models = arguments.model, arguments.adapter, arguments.query_model, arguments.query_adapter
    tell_leaks(arguments, suite, models)
    embedder = load_encoder(arguments)
    asked = ask(embedder, suite, task=arguments.task, document_task=arguments.document_task)
    print(asked, end="\n\n", flush=True)  # before hours of encoding, so that a wrong word shows in time
    measuring = Measuring(
        arguments.batch_size,
        arguments.ties,
        arguments.edit_strength,
        arguments.pool_factor,
        arguments.sheet,
        arguments.thumbnails,
        arguments.save_vectors,
    )
    result, written = evaluate_into(output, embedder, suite, asked, settings_of(embedder, *models), measuring)
    sys.stdout.write(f"{result_table(result)}\n")
    sys.stdout.write(f"\nwrote {', '.join(map(str, written))}\n")
    return 0
