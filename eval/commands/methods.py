"""`mllm-embed-eval methods`: the query-time methods of the field on one embedder."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_embed.commands.model_options import add_model_options, load_embedder
from mllm_embed.errors import ConfigError

from .leak_options import add_leak_options, tell_leaks
from .suite_options import add_benchmark_options, add_command, add_only_option, named_suite, output_folder

if TYPE_CHECKING:
    from ..scoring.suite import Suite
    from ..studies.method import Method

_HELP = """\
what it does
  Embeds the benchmark once and tries every query-time method on its vectors: the field's baselines, a stronger or
  weaker edit, captions of the gallery, the instruction carried out in words, re-ranking of the first answers. Each is
  set beside the plain composed query: gain in points with a paired 95 %% interval, milliseconds a query, what it needs.
  Methods that ask the language model ask the base of the adapter, and keep its answers: the next call is quicker.

settings
  A method's own defaults, or with --tune-on the best of its grid on another set, whose queries may not be those of the
  benchmark; the table says which. --set gives one by hand, which is then not chosen.

what it leaves in the output folder
  methods.json        settings, gains, costs and sources
  gains.png           the gains, drawn
  METHOD/             result.json and per_query.json, as `mllm-embed-eval compare` reads them
  answers.jsonl       what the language model said
  judged.jsonl        what the re-ranker scored: a run that was stopped goes on from there

examples
  %(prog)s my_folder --model runs/base --adapter runs/stage2 --tune-on my_validation
  %(prog)s cirr --data ~/data/cirr --model M --adapter A --only "edit strength" "rerank yes no"
  %(prog)s my_folder --model M --adapter A --set weimocir.beta=0.5 "edit strength.strength=0.8"
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    methods = add_command(commands, "methods", _run, "try the query-time methods of the field on one embedder", _HELP)
    add_benchmark_options(methods)
    add_model_options(methods)
    methods.add_argument("--only", metavar="M", nargs="+", help="these methods only, named as in the table")
    methods.add_argument("--tune-on", metavar="B", help="choose settings on another set: a folder, or NAME=ROOT")
    methods.add_argument("--set", metavar="M.S=V", nargs="+", action="extend", default=[], help="a setting of a method")
    add_only_option(methods)
    add_leak_options(methods)
    methods.add_argument(
        "--captions",
        metavar="FILE",
        type=Path,
        help="captions of the gallery (JSON); else the model writes them",
    )
    methods.add_argument(
        "--reranker", metavar="R", help="folder or hub id of a re-ranker, for the method `rerank`: left out without"
    )
    methods.add_argument("--output", metavar="DIR", type=Path, help="default: runs/methods/<benchmark>-<model>")


def _run(arguments: argparse.Namespace) -> int:
    chosen = _with_settings(_chosen(arguments.only, arguments.reranker is not None), arguments.set)
    suite = named_suite(arguments)
    validation = _tuning_suite(arguments.tune_on) if arguments.tune_on else None
    output = output_folder(arguments, "runs/methods", suite, arguments.adapter or arguments.model)

    from mllm_embed.rerank.choice import reranker_for

    from ..reports.report import settings_of
    from ..studies.compare_methods import compare_methods, composed_part
    from ..studies.llm_texts import read_captions
    from ..studies.methods_report import methods_table, write_methods

    # raises for a suite that has nothing to work on, before the model is loaded
    composed_part(suite)
    tell_leaks(arguments, suite, (arguments.model, arguments.adapter), validation)
    captions = read_captions(arguments.captions, suite) if arguments.captions else None
    embedder = load_embedder(arguments, merge=False)  # its base is to speak
    reranker = None if arguments.reranker is None else reranker_for(arguments.reranker, embedder)
    comparison = compare_methods(
        embedder,
        suite,
        chosen,
        output,
        tune_on=validation,
        captions=captions,
        batch_size=arguments.batch_size,
        progress=lambda text: print(text, file=sys.stderr, flush=True),
        reranker=reranker,
    )
    settings = settings_of(embedder, arguments.model, arguments.adapter)
    if reranker is not None:
        settings |= {"reranker": arguments.reranker, "reranker_made_by": reranker.provenance}
    written = write_methods(comparison, output, settings)
    sys.stdout.write(f"{methods_table(comparison)}\n\nwrote {', '.join(map(str, written))}\n")
    return 0


def _chosen(names: Sequence[str] | None, reranks: bool) -> dict[str, Method]:
    """Return the methods of these names, for None all of them, of which one needs a re-ranker. Raises ConfigError for
    an unknown name, and for a re-ranker that none of them asks."""
    from ..methods import methods
    from ..methods.rerank import METHOD

    known = methods()
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ConfigError(f"--only: there is no method '{unknown[0]}'; there are {', '.join(known)}")
    wanted = names or [name for name in known if reranks or name != METHOD.name]
    if reranks and METHOD.name not in wanted:
        raise ConfigError("--reranker is for the method rerank, which --only leaves out; leave out one of them")
    return dict(filter(lambda method: method[0] in wanted, known.items()))


def _with_settings(chosen: Mapping[str, Method], given: Sequence[str]) -> dict[str, Method]:
    """Return the methods with the settings of --set. Raises ConfigError for one that cannot be set so."""
    changed = dict(chosen)
    for text in given:
        place, sign, value = text.partition("=")
        name, dot, setting = place.rpartition(".")
        if not sign or not dot:
            raise ConfigError(f"--set takes METHOD.SETTING=VALUE, not '{text}'")
        if name not in changed:
            raise ConfigError(f"--set {text}: there is no method '{name}' here; there are {', '.join(changed)}")
        changed[name] = changed[name].with_settings({setting: _number(value, text)})
    return changed


def _number(value: str, where: str) -> float:
    """Return a finite number. Raises ConfigError for another word."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"--set {where}: '{value}' is no number")
    return number


def _tuning_suite(text: str) -> Suite:
    """Open the suite of --tune-on: a folder, or NAME=ROOT."""
    from ..benchmarks import open_suite

    # a folder may have "=" in its name
    name, sign, root = text.partition("=")
    return open_suite(name, Path(root)) if sign and not Path(text).is_dir() else open_suite("folder", Path(text))
