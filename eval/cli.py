"""The command line of the evaluator: `python -m eval run`, installed as `mllm-embed-eval run`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from mllm_embed.errors import ConfigError, user_errors

DTYPES = ("auto", "float32", "bfloat16", "float16")

_HINT = "`python -m eval run --help` explains the results and gives examples."
_EXAMPLES = """\
what it does
  Embeds the gallery and the queries of BENCHMARK_DIR/benchmark.json, ranks the gallery exactly, and prints
  recall at 1, 5 and 10, mAP and MRR for the composed query (picture and instruction) beside the picture
  alone, the instruction alone and the sum of the two, which a composed query must beat to mean anything.

what it leaves in the output folder
  result.json         protocol, hits, counts, package versions, benchmark fingerprint, seconds
  contact_sheet.png   some queries: reference, instruction, first five answers, the right one framed green

examples
  python -m eval run data/shoes --model runs/base
  python -m eval run data/shoes --model llava-hf/llava-1.5-7b-hf --adapter runs/stage2 --dtype bfloat16
  python -m eval run data/shoes --model runs/base --adapter runs/stage2 --output runs/eval/today --sheet 20

benchmark.json
  {"name": "shoes",
   "gallery": [{"id": "a", "image": "images/a.jpg", "caption": "a red shoe"}, ...],
   "queries": [{"id": "q1", "image": "images/a.jpg", "instruction": "in blue", "targets": ["b"],
                "exclude": ["a"], "kind": "colour"}, ...]}
  caption, exclude and kind may be left out.
"""


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, 2 after bad input."""
    arguments = _parser().parse_args(argv)
    return _run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval", description="Evaluate composed image retrieval.", epilog=_HINT
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="run")
    run = commands.add_parser(
        "run",
        help="evaluate a model on a benchmark folder",
        description="Evaluate a model on a benchmark folder.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("benchmark", metavar="BENCHMARK_DIR", type=Path, help="folder with a benchmark.json")
    run.add_argument("--model", required=True, metavar="M", help="model folder or hub id, or an adapter folder")
    run.add_argument("--adapter", metavar="A", help="adapter folder to put on the model")
    run.add_argument("--output", metavar="DIR", type=Path, help="default: runs/eval/<benchmark name>")
    run.add_argument("--batch-size", metavar="B", type=int, default=32, help="items at once (default 32)")
    run.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 (default: the GPU where there is one)")
    run.add_argument("--dtype", choices=DTYPES, default="auto", help="auto: as stored in the model (default)")
    run.add_argument(
        "--sheet",
        metavar="N",
        type=int,
        default=8,
        help="queries on the contact sheet, 0 for none (default 8)",
    )
    return parser


def _run(arguments: argparse.Namespace) -> int:
    # Everything that can be wrong without a model is looked at before the slow imports.
    from mllm_embed.folder import open_benchmark

    if arguments.batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1, not {arguments.batch_size}")
    if arguments.sheet < 0:
        raise ConfigError(f"--sheet must be 0 or more, not {arguments.sheet}")
    benchmark = open_benchmark(arguments.benchmark)
    output = arguments.output or Path("runs/eval") / (
        re.sub(r"[^\w.-]+", "_", benchmark.name).strip("._-") or "benchmark"
    )
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output} is a file: give a folder")

    from mllm_embed.encoder import MLLMEmbedder

    from .evaluate import evaluate
    from .report import table, write_result, write_sheet

    embedder = MLLMEmbedder.from_pretrained(
        arguments.model, adapter=arguments.adapter, dtype=arguments.dtype, device=arguments.device
    )
    result = evaluate(embedder, benchmark, batch_size=arguments.batch_size)
    settings = {"model": arguments.model, "adapter": arguments.adapter, "dtype": arguments.dtype}
    written = [write_result(result, output, settings)]
    sys.stdout.write(f"{table(result)}\n")
    if arguments.sheet:
        written.append(write_sheet(result, benchmark, output / "contact_sheet.png", arguments.sheet))
    sys.stdout.write(f"\nwrote {' and '.join(str(path) for path in written)}\n")
    return 0
