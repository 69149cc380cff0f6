"""`mllm-embed-eval submit`: files for the servers that hold hidden labels."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_embed.commands.model_options import add_model_options, load_embedder
from mllm_embed.errors import ConfigError

from .suite_options import (
    add_benchmark_options,
    add_command,
    add_task_options,
    add_thumbnails_option,
    check_tasks,
    check_thumbnails,
    named_benchmark,
    named_suite,
    output_folder,
)

if TYPE_CHECKING:
    from ..scoring.score import Vectors
    from ..scoring.suite import Suite

_SOURCES = ("model", "vectors", "files")
_MODEL_OPTIONS = ("adapter", "preset", "prompts", "quantization", "dim", "task", "document_task")


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    submit = add_command(commands, "submit", _run, "write and check files for the servers of CIRR and CIRCO")
    add_benchmark_options(submit)
    add_model_options(submit, required=False)
    add_task_options(submit)
    submit.add_argument("--vectors", metavar="DIR", type=Path, help="folder with vectors, instead of a model")
    submit.add_argument("--files", metavar="FILE", type=Path, nargs="+", help="only check these files")
    submit.add_argument("--output", metavar="DIR", type=Path, help="default: runs/submit/<benchmark>-<model>")
    add_thumbnails_option(submit)


def _run(arguments: argparse.Namespace) -> int:
    from ..benchmarks import benchmark_named
    from ..reports.pages.result_page import write_report
    from ..reports.submission import check_submission, need_server, read_submission, uploads, write_submission
    from ..scoring.unscored import unscored

    name, _ = named_benchmark(arguments)
    # the hidden split is the last one, and the only one that a server takes
    arguments.split = arguments.split or benchmark_named(name).splits[-1]
    _check_flags(arguments)
    # given vectors need no pictures, and the page shows those that are there
    suite = named_suite(arguments, pictures=True if arguments.model else None if arguments.vectors else False)
    need_server(suite)
    if arguments.files:
        check_submission(suite, read_submission(arguments.files))
        sys.stdout.write(f"{', '.join(map(str, arguments.files))}: fit for the server of {suite.title}\n")
        sys.stdout.write("\n".join(uploads(suite)) + "\n")
        return 0
    source = arguments.vectors or arguments.adapter or arguments.model
    output = output_folder(arguments, "runs/submit", suite, source)
    vectors = _vectors(arguments, suite)
    written = write_submission(suite, vectors, output)
    sys.stdout.write(f"wrote {' and '.join(map(str, written))} for the server of {suite.title}\n")
    settings = {"model": arguments.model, "adapter": arguments.adapter, "scored": arguments.vectors}
    page = write_report(unscored(suite, vectors), suite, output, settings, arguments.thumbnails)
    sys.stdout.write(f"wrote {page}, a page of the answers for you\n")
    sys.stdout.write("\n".join(uploads(suite)) + "\n")
    return 0


def _check_flags(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for flags that do not go together."""
    if sum(bool(getattr(arguments, flag)) for flag in _SOURCES) != 1:
        raise ConfigError("give one of --model, --vectors and --files")
    for flag in _MODEL_OPTIONS:
        if getattr(arguments, flag) and not arguments.model:
            raise ConfigError(
                f"--{flag.replace('_', '-')} needs --model: given vectors and files are taken as they are"
            )
    if arguments.files and arguments.output:
        raise ConfigError("--files only checks: there is nothing to write to --output")
    check_tasks(arguments)
    check_thumbnails(arguments)


def _vectors(arguments: argparse.Namespace, suite: Suite) -> Mapping[str, Vectors]:
    if arguments.vectors:
        from ..scoring.vectors import read_vectors

        return read_vectors(arguments.vectors, suite)

    from ..scoring.asking import ask
    from ..scoring.evaluate import embed

    embedder = load_embedder(arguments)
    asked = ask(embedder, suite, task=arguments.task, document_task=arguments.document_task)
    print(asked, flush=True)
    vectors, _ = embed(embedder, suite, batch_size=arguments.batch_size, asked=asked)
    return vectors
