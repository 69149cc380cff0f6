"""The command line of the evaluator: `python -m eval`, installed as `mllm-embed-eval`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_embed.commands.model_options import add_model_options, add_query_options, load_embedder, load_encoder
from mllm_embed.errors import ConfigError, user_errors

from .commands.studies import register_studies
from .commands.suite_options import (
    TIES,
    add_benchmark_options,
    add_command,
    given_options,
    named_benchmark,
    named_suite,
    need_folder,
    slug,
)

if TYPE_CHECKING:
    pass

_ABOUT = """\
Evaluate composed image retrieval: FashionIQ, CIRR, CIRCO, GeneCIS, Flickr30k, COCO, or a folder of your own,
each by the rules of its official scorer, which stand in the result."""
_EXAMPLES = """\
examples
  python -m eval check fashioniq --data ~/data/fashioniq      is all there, before hours are spent?
  python -m eval run cirr --data ~/data/cirr --model llava-hf/llava-1.5-7b-hf --adapter runs/stage2
  python -m eval run my_folder --model runs/stage2            a folder with a benchmark.json
  python -m eval score circo --data ~/data/circo --vectors my_vectors
  python -m eval submit cirr --data ~/data/cirr --vectors my_vectors --output to_server
  python -m eval compare runs/eval/a runs/eval/b
  python -m eval methods my_folder --model runs/base --adapter runs/stage2
  python -m eval robustness my_folder --model runs/base --adapter runs/stage2

`python -m eval COMMAND --help` explains each."""
_RUN = """\
what it does
  Embeds the gallery and the queries, ranks the gallery exactly, and prints the benchmark's metrics for the
  composed query (picture and instruction) beside the picture alone, the instruction alone and the sum of the
  two, which a composed query must beat to mean anything.

what it leaves in the output folder
  result.json         protocol, percentages with hits, counts and 95 % intervals, versions, seconds and bytes
  per_query.json      the value of every metric for every query, and its first answers
  contact_sheet.png   some queries: reference, instruction, first five answers, the right one framed green

examples
  python -m eval run fashioniq --data ~/data/fashioniq --model runs/base --adapter runs/stage2
  python -m eval run fashioniq --data ~/data/fashioniq --model runs/base --option gallery=val captions=comma
  python -m eval run data/shoes --model llava-hf/llava-1.5-7b-hf --dtype bfloat16 --sheet 20
  python -m eval run data/shoes --model runs/big --query-model runs/small --query-adapter runs/demo-query/queries

your own folder's benchmark.json
  {"name": "shoes",
   "gallery": [{"id": "a", "image": "images/a.jpg", "caption": "a red shoe"}, ...],
   "queries": [{"id": "q1", "image": "images/a.jpg", "instruction": "in blue", "targets": ["b"],
                "exclude": ["a"], "kind": "colour"}, ...]}
  caption, exclude and kind may be left out; "paraphrases" and "negatives" of a query serve `robustness`.
"""
_SCORE = """\
vectors
  DIR/gallery.npy and queries.npy (floats, one vector a row) with gallery_ids.json and query_ids.json (lists of
  strings); FashionIQ, GeneCIS, Flickr30k and COCO have one such folder a task (DIR/dress/gallery.npy ...).
  They are ranked by inner product: make them unit length for cosines. Ids: CIRR the picture's name and the
  pairid; CIRCO the COCO id and the query's id; FashionIQ the ASIN and the row number in the annotation file;
  GeneCIS the COCO id, or ID:X,Y,W,H for a crop, and the row number. Rows count from 0.

rankings
  A JSON object: query id -> list of gallery ids, best first, such as a file for CIRCO's server.

examples
  python -m eval score cirr --data ~/data/cirr --vectors my_vectors --ties pessimistic
  python -m eval score circo --data ~/data/circo --ranking submission_val.json
"""


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, 2 after bad input."""
    arguments = _parser().parse_args(argv)
    return arguments.command(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = add_command(commands, "run", _run, "embed and score with a model", _RUN)
    add_benchmark_options(run)
    add_model_options(run)
    add_query_options(run)
    run.add_argument("--ties", choices=TIES, default=TIES[0], help="which of equal scores comes first (gallery: order)")
    run.add_argument("--output", metavar="DIR", type=Path, help="default: runs/eval/<benchmark>-<model>")
    run.add_argument("--save-vectors", metavar="DIR", type=Path, help="keep the vectors, as `score` reads them")
    run.add_argument(
        "--edit-strength", metavar="A", type=float, default=1.0, help="1: as asked; more changes the picture more"
    )
    run.add_argument("--sheet", metavar="N", type=int, default=8, help="queries on the contact sheet (default 8)")
    score = add_command(commands, "score", _score, "score anybody's vectors or rankings", _SCORE)
    add_benchmark_options(score)
    given = score.add_mutually_exclusive_group(required=True)
    given.add_argument("--vectors", metavar="DIR", type=Path, help="folder with vectors, see below")
    given.add_argument("--ranking", metavar="FILE", type=Path, help="JSON with ranked lists, see below")
    score.add_argument("--ties", choices=TIES, default=TIES[0], help="which of equal scores comes first")
    score.add_argument("--output", metavar="DIR", type=Path, help="default: runs/eval/<benchmark>-<vectors>")
    check_benchmark = add_command(commands, "check", _check, "say what is there, what is missing, and where to get it")
    add_benchmark_options(check_benchmark)
    submit = add_command(commands, "submit", _submit, "write and check files for the servers of CIRR and CIRCO")
    add_benchmark_options(submit)
    add_model_options(submit, required=False)
    submit.add_argument("--vectors", metavar="DIR", type=Path, help="folder with vectors, instead of a model")
    submit.add_argument("--files", metavar="FILE", type=Path, nargs="+", help="only check these files")
    submit.add_argument("--output", metavar="DIR", type=Path, help="default: runs/submit/<benchmark>-<model>")
    register_studies(commands)
    compare = add_command(commands, "compare", _compare, "results side by side, with published ones and paired tests")
    compare.add_argument("results", metavar="RESULT", type=Path, nargs="+", help="output folders of run or score")
    compare.add_argument("--format", choices=("markdown", "latex"), default="markdown", help="default: markdown")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    if arguments.sheet < 0:
        raise ConfigError(f"--sheet must be 0 or more, not {arguments.sheet}")
    suite = named_suite(arguments)
    output = arguments.output or Path("runs/eval") / slug(suite, arguments, arguments.adapter or arguments.model)
    need_folder(output, "--output")
    if arguments.save_vectors:
        need_folder(arguments.save_vectors, "--save-vectors")

    from .reports.report import result_table, settings_of, write_result, write_sheet
    from .scoring.evaluate import described, embed, strengthened
    from .scoring.score import need_labels, score
    from .scoring.vectors import write_vectors

    need_labels(suite)
    if arguments.edit_strength != 1 and not any(task.composed for task in suite.tasks):
        raise ConfigError(f"--edit-strength: {suite.title} has no composed queries, and no edit to make stronger")
    embedder = load_encoder(arguments)
    vectors, spent = embed(embedder, suite, batch_size=arguments.batch_size)
    vectors = strengthened(vectors, suite, arguments.edit_strength)
    result = described(score(suite, vectors, arguments.ties, spent), suite, embedder.prompts)
    if arguments.edit_strength != 1:
        result = replace(result, protocol={**result.protocol, "edit strength": arguments.edit_strength})
    settings = settings_of(embedder, arguments.model, arguments.adapter)
    if arguments.query_model:
        settings |= {"query model": arguments.query_model, "query adapter": arguments.query_adapter}
    written = write_result(result, suite, output, settings)
    sys.stdout.write(f"{result_table(result)}\n")
    if arguments.save_vectors:
        write_vectors(arguments.save_vectors, suite, vectors)
        written.append(arguments.save_vectors)
    if arguments.sheet:
        sheet = write_sheet(result, suite, output / "contact_sheet.png", arguments.sheet)
        written += [sheet] if sheet else []
    sys.stdout.write(f"\nwrote {', '.join(str(path) for path in written)}\n")
    return 0


def _score(arguments: argparse.Namespace) -> int:
    from .reports.report import result_table, write_result
    from .reports.submission import read_ranking
    from .scoring.score import score, score_rankings
    from .scoring.vectors import read_vectors

    suite = named_suite(arguments, pictures=False)
    if arguments.ranking and arguments.ties != TIES[0]:
        raise ConfigError("--ties is for --vectors: a given ranking has settled its ties")
    output = arguments.output or Path("runs/eval") / slug(suite, arguments, arguments.vectors or arguments.ranking)
    need_folder(output, "--output")
    if arguments.vectors:
        result = score(suite, read_vectors(arguments.vectors, suite), arguments.ties)
    else:
        result = score_rankings(suite, read_ranking(arguments.ranking))
    made = "vectors" if arguments.vectors else "rankings"
    unknown = f"unknown: the {made} were given, and only their maker knows how the query text was asked"
    result = replace(result, protocol={**result.protocol, "prompts": unknown})
    source = {"model": None, "adapter": None, "scored": str(arguments.vectors or arguments.ranking)}
    written = write_result(result, suite, output, source)
    sys.stdout.write(f"{result_table(result)}\n\nwrote {', '.join(str(path) for path in written)}\n")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from .benchmarks import benchmark_named, check_benchmark

    name, data = named_benchmark(arguments)
    counts, suite = check_benchmark(
        name, data, images=arguments.images, split=arguments.split, options=given_options(arguments)
    )
    for count in counts:
        state = "ok     " if count.found == count.of else "MISSING"
        lost = f", first missing: {count.missing}" if count.missing else ""
        sys.stdout.write(f"{state} {count.what}: {count.found:,} of {count.of:,}{lost}\n")
    for task in suite.tasks if suite else ():
        where = f"{task.name}: " if task.name else ""
        sys.stdout.write(f"        {where}{len(task.queries):,} queries, gallery of {len(task.gallery):,}\n")
    if suite and all(count.found == count.of for count in counts):
        command = "run" if suite.labelled else "submit"
        sys.stdout.write(f"ready: python -m eval {command} {arguments.benchmark} ...\n")
        return 0
    benchmark = benchmark_named(name)
    sys.stdout.write(f"annotations: {benchmark.annotations}\n")
    sys.stdout.write(f"pictures: {benchmark.pictures}\n" if benchmark.pictures else "")
    return 1


def _submit(arguments: argparse.Namespace) -> int:
    from .benchmarks import benchmark_named
    from .reports.submission import check_submission, need_server, read_submission, write_submission

    name, _ = named_benchmark(arguments)
    arguments.split = arguments.split or benchmark_named(name).splits[-1]
    sources = [flag for flag in ("model", "vectors", "files") if getattr(arguments, flag)]
    if len(sources) != 1:
        raise ConfigError("give one of --model, --vectors and --files")
    for flag in ("adapter", "quantization", "dim"):
        if getattr(arguments, flag) and not arguments.model:
            raise ConfigError(f"--{flag} needs --model: given vectors and files are taken as they are")
    if arguments.files and arguments.output:
        raise ConfigError("--files only checks: there is nothing to write to --output")
    suite = named_suite(arguments, pictures=sources == ["model"])
    need_server(suite)
    if arguments.files:
        check_submission(suite, read_submission(arguments.files))
        sys.stdout.write(f"{', '.join(map(str, arguments.files))}: fit for the server of {suite.title}\n")
        return 0
    source = arguments.vectors or arguments.adapter or arguments.model
    output = arguments.output or Path("runs/submit") / slug(suite, arguments, source)
    need_folder(output, "--output")
    if arguments.vectors:
        from .scoring.vectors import read_vectors

        vectors = read_vectors(arguments.vectors, suite)
    else:
        from .scoring.evaluate import embed

        vectors, _ = embed(load_embedder(arguments), suite, batch_size=arguments.batch_size)
    written = write_submission(suite, vectors, output)
    sys.stdout.write(f"wrote {' and '.join(str(path) for path in written)} for the server of {suite.title}\n")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from .reports.compare import compare

    sys.stdout.write(f"{compare(arguments.results, arguments.format)}\n")
    return 0
