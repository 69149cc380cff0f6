"""The commands that study an embedder beyond one figure: `python -m eval methods` and `python -m eval robustness`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_embed.commands.model_options import add_model_options, load_embedder
from mllm_embed.errors import ConfigError

from .suite_options import add_benchmark_options, add_command, named_suite, need_folder, slug

if TYPE_CHECKING:
    from ..scoring.suite import Suite

_METHODS = """\
what it does
  Embeds the benchmark once and tries every query-time method on its vectors: the field's baselines, a stronger or
  weaker edit, captions of the gallery, the instruction carried out in words, re-ranking of the first answers. Each is
  set beside the plain composed query: gain in points with a paired 95 % interval, milliseconds a query, what it needs.
  Methods that ask the language model ask the base of the adapter, and keep its answers: the next call is quicker.

settings
  A method's own defaults, or with --tune-on the best of its grid on another set, whose queries may not be those of the
  benchmark; the table says which.

what it leaves in the output folder
  methods.json        settings, gains, costs and sources
  gains.png           the gains, drawn
  METHOD/             result.json and per_query.json, as `python -m eval compare` reads them
  answers.jsonl       what the language model said

examples
  python -m eval methods my_folder --model runs/base --adapter runs/stage2 --tune-on my_validation
  python -m eval methods cirr --data ~/data/cirr --model M --adapter A --only "edit strength" "rerank yes no"
"""
_ROBUSTNESS = """\
what it does
  Asks every composed query again in other words, with another query's picture, and with another query's instruction,
  and measures: what the wordings find (mean, worst, best, how often the same first answer), how often the unchanged
  picture or an explicit negative stands above the target, and how far the vector moves when either half is exchanged.
  A vector that hardly moves ignores that half, and the last lines say so.

words and negatives
  A folder's benchmark.json may give each query "paraphrases" (a list of instructions) and "negatives" (gallery ids that
  its words rule out). Without the first, four wordings are made by rule.

what it leaves in the output folder
  robustness.json     every measure with its 95 % interval

examples
  python -m eval robustness my_folder --model runs/base --adapter runs/stage2
  python -m eval robustness cirr --data ~/data/cirr --model M --adapter A
"""


def register_studies(commands: Any) -> None:
    """Add both commands to those of a parser."""
    methods = add_command(
        commands, "methods", _methods, "try the query-time methods of the field on one embedder", _METHODS
    )
    add_benchmark_options(methods)
    add_model_options(methods)
    methods.add_argument("--only", metavar="M", nargs="+", help="these methods only, named as in the table")
    methods.add_argument("--tune-on", metavar="B", help="choose settings on another set: a folder, or NAME=ROOT")
    methods.add_argument(
        "--captions",
        metavar="FILE",
        type=Path,
        help="captions of the gallery (JSON); else the model writes them",
    )
    methods.add_argument("--output", metavar="DIR", type=Path, help="default: runs/methods/<benchmark>-<model>")
    robust = add_command(
        commands, "robustness", _robustness, "other words, explicit negatives, and either half exchanged", _ROBUSTNESS
    )
    add_benchmark_options(robust)
    add_model_options(robust)
    robust.add_argument("--output", metavar="DIR", type=Path, help="default: runs/robustness/<benchmark>-<model>")


def _methods(arguments: argparse.Namespace) -> int:
    from ..methods import methods

    known = methods()
    unknown = [name for name in arguments.only or () if name not in known]
    if unknown:
        raise ConfigError(f"--only: there is no method '{unknown[0]}'; there are {', '.join(known)}")
    suite = named_suite(arguments)
    validation = _tuning_suite(arguments.tune_on) if arguments.tune_on else None
    output = _output(arguments, suite, "runs/methods")

    from ..reports.report import settings_of
    from ..studies.compare_methods import composed_part, try_methods
    from ..studies.llm_texts import read_captions
    from ..studies.methods_report import trial_table, write_trial

    composed_part(suite)
    captions = read_captions(arguments.captions, suite) if arguments.captions else None
    embedder = load_embedder(arguments, merge=False)
    chosen = {name: method for name, method in known.items() if name in (arguments.only or known)}
    trial = try_methods(
        embedder,
        suite,
        chosen,
        output,
        tune_on=validation,
        captions=captions,
        batch_size=arguments.batch_size,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    written = write_trial(trial, output, settings_of(embedder, arguments.model, arguments.adapter))
    sys.stdout.write(f"{trial_table(trial)}\n\nwrote {', '.join(map(str, written))}\n")
    return 0


def _tuning_suite(text: str) -> Suite:
    from ..benchmarks import open_suite

    name, sign, root = text.partition("=")
    return open_suite(name, Path(root)) if sign and not Path(text).is_dir() else open_suite("folder", Path(text))


def _robustness(arguments: argparse.Namespace) -> int:
    suite = named_suite(arguments)
    output = _output(arguments, suite, "runs/robustness")

    from ..reports.report import settings_of
    from ..studies.compare_methods import composed_part
    from ..studies.robustness import robustness, robustness_table, write_robustness

    composed_part(suite)
    embedder = load_embedder(arguments)
    found = robustness(embedder, suite, batch_size=arguments.batch_size)
    written = write_robustness(found, output, settings_of(embedder, arguments.model, arguments.adapter))
    sys.stdout.write(f"{robustness_table(found)}\n\nwrote {written}\n")
    return 0


def _output(arguments: argparse.Namespace, suite: Suite, root: str) -> Path:
    output = arguments.output or Path(root) / slug(suite, arguments, arguments.adapter or arguments.model)
    need_folder(output, "--output")
    return output
