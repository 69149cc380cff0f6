"""`mllm-embed-eval table`: every model on every benchmark, in one table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_embed.commands.model_options import add_loading_options, load_encoder
from mllm_embed.errors import ConfigError

from .suite_options import add_command, add_thumbnails_option, add_ties_option, check_thumbnails, need_folder

if TYPE_CHECKING:
    from mllm_embed.encode.dual_encoder import DualEncoder
    from mllm_embed.encode.embedder import MLLMEmbedder

    from ..table.named import NamedBenchmark, NamedModel

_HELP = """\
what it does
  Measures every model on every benchmark as `run` does, one cell at a time, each model loaded once, in a process of its
  own, for all of its benchmarks. What cannot be made (a model that does not load, a missing package or picture, no
  memory left) stands in its cell as a sentence, the others go on, and the exit code is 1.

models
  MODEL                    a model folder, an adapter folder, or a hub id, whose preset is found by it
  MODEL+ADAPTER            an adapter on a model
  NAME=MODEL[+ADAPTER]     the same under a name of your own
  ...,KEY=VALUE,...        with options of its own: adapter, preset, prompts, dtype, quantization, device, dim,
                           max-tokens, truncate, jpeg-side, thoughts, thought-cache, batch-size, task, document-task,
                           query-model, query-adapter, trained-on
  FILE.yaml                a list of models, each with `model`, and perhaps `name` and those options (max_tokens: 512)
  published                all models of the presets, by their hub ids

benchmarks
  FOLDER, NAME=FOLDER      a folder with a benchmark.json
  cirr=ROOT                a benchmark of `mllm-embed-eval check`, and where it lies
  cirr=ROOT,split=test1    of another split; `images` and the benchmark's options likewise
  FILE.yaml                a list of benchmarks, each with `benchmark`, `data`, and perhaps split, images, options, name
  --data ROOT              all that `check` finds whole in ROOT and the folders below it, the servers' splits too

what it leaves in the output folder
  table.md, .tex, .html    one line a model, one column a benchmark; then each benchmark with all its figures, how much
                           of it each model was trained on, seconds and memory; numbers tell what differs in a column
  BENCHMARK/MODEL/         what `run` writes, so that `mllm-embed-eval compare` reads it; where a server holds the
                           labels (CIRR test1, CIRCO test) the files for it, checked; cell.json: what it was made of

again
  The same command goes on where it was stopped: a kill costs the cell that was being made. A finished cell is kept
  while the model's files (a hub id's commit), its options, the benchmark's files and pictures, and the versions of this
  library, torch, transformers, pillow (peft, bitsandbytes) are the same, and is made again, with the reason, where they
  are not. Batch size and device do not count. --again makes all of them again.

examples
  %(prog)s --models runs/base ours=runs/base+runs/stage2 --benchmarks data/shoes cirr=~/data/cirr --output runs/table
  %(prog)s --models Alibaba-NLP/gme-Qwen2-VL-2B-Instruct royokong/e5-v runs/stage2 --data ~/data --output runs/table
  %(prog)s --models gme=~/models/gme,preset=gme,dtype=bfloat16 --data ~/data --output runs/table
  %(prog)s --models models.yaml --benchmarks cirr=~/data/cirr cirr=~/data/cirr,split=test1 --output runs/table
"""
_GIVEN = (
    "preset",
    "prompts",
    "batch_size",
    "device",
    "dtype",
    "quantization",
    "dim",
    "max_tokens",
    "truncate",
    "jpeg_side",
    "thoughts",
    "thought_cache",
)  # fmt: skip - all of add_loading_options


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    table = add_command(commands, "table", _run, "measure every model on every benchmark, in one table", _HELP)
    table.add_argument("--models", metavar="M", nargs="+", action="extend", required=True, help="see below")
    table.add_argument("--benchmarks", metavar="B", nargs="+", action="extend", default=[], help="see below")
    table.add_argument(
        "--data",
        metavar="ROOT",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        help="folders to look for benchmarks in",
    )
    table.add_argument("--output", metavar="T", type=Path, default=Path("runs/table"), help="default: runs/table")
    add_loading_options(table)
    add_ties_option(table, " (gallery: order)")
    table.add_argument(
        "--trained-on",
        metavar="DATA",
        nargs="+",
        default=[],
        help="data folders that all models were trained on besides what lies beside them",
    )
    table.add_argument("--sheet", metavar="N", type=int, default=8, help="queries on each contact sheet (default 8)")
    add_thumbnails_option(table)
    table.add_argument("--again", action="store_true", help="make finished cells again, too")


def _run(arguments: argparse.Namespace) -> int:
    from ..table.named import read_models

    if arguments.sheet < 0:
        raise ConfigError(f"--sheet must be 0 or more, not {arguments.sheet}")
    if arguments.batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1, not {arguments.batch_size}")
    check_thumbnails(arguments)
    given = {key: getattr(arguments, key) for key in _GIVEN}
    models = read_models(arguments.models, given | {"trained_on": tuple(arguments.trained_on)})
    for place in arguments.trained_on:
        if not Path(place).exists():
            raise ConfigError(f"--trained-on {place} is missing: give a data folder, or a trained_on.safetensors")
    benchmarks = _benchmarks(arguments)
    need_folder(arguments.output, "--output")

    from ..reports.evaluation import Measuring
    from ..reports.tables import STYLES
    from ..table.document import overview, write_document
    from ..table.make import Table

    measuring = Measuring(arguments.batch_size, arguments.ties, sheet=arguments.sheet, thumbnails=arguments.thumbnails)
    table = Table(models, benchmarks, arguments.output, _load, measuring=measuring, again=arguments.again, tell=_tell)
    table.make(write_document)
    sys.stdout.write(f"{STYLES['markdown'](overview(table))}\n\n")
    sys.stdout.write(f"wrote {', '.join(map(str, write_document(table)))}\n")
    for cell in table.failed:
        _tell(f"failed: {cell.model.name} on {cell.benchmark.name}: {cell.failure}")
    return 1 if table.failed else 0


def _benchmarks(arguments: argparse.Namespace) -> list[NamedBenchmark]:
    """Return the benchmarks of --benchmarks and those under --data, each once.

    Raises ConfigError for none, for words that name none, and for two of one name.
    """
    from ..table.found import benchmarks_under
    from ..table.named import apart, read_benchmarks

    named = read_benchmarks(arguments.benchmarks)
    for root in arguments.data:
        # what is named outright is measured as it is named
        known = {(one.benchmark, one.data.resolve(), one.split) for one in named}
        found = benchmarks_under(root, _tell)
        named += [one for one in found if (one.benchmark, one.data.resolve(), one.split) not in known]
    if not named:
        raise ConfigError(
            "there is nothing to measure: name benchmarks with --benchmarks, or folders of them with --data"
        )
    return apart(named)


def _load(model: NamedModel) -> MLLMEmbedder | DualEncoder:
    """Return a model as `run` loads it; a process of its own calls this."""
    from ..table.measuring import BATCH_SIZE

    unsaid = {"dtype": "auto", "batch_size": BATCH_SIZE}
    values = {key: value for key, value in model.model_dump().items() if value is not None or key not in unsaid}
    return load_encoder(argparse.Namespace(**(unsaid | values)))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
