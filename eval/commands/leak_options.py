"""The options by which commands are told what a model was trained on, and what they tell of a benchmark's leaks."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_embed.errors import ConfigError

if TYPE_CHECKING:
    from mllm_embed.data.trained_on import TrainedOn

    from ..scoring.suite import Suite


def add_leak_options(parser: argparse.ArgumentParser) -> None:
    """Add --trained-on and --strict."""
    parser.add_argument(
        "--trained-on",
        metavar="DATA",
        type=Path,
        nargs="+",
        default=[],
        help="data folders, or a trained_on.safetensors, that the model was trained on besides what lies beside it",
    )
    parser.add_argument(
        "--strict", action="store_true", help="end where a query of the benchmark was asked in training or --tune-on"
    )


def tell_leaks(
    arguments: argparse.Namespace, suite: Suite, models: Iterable[str | Path | None], tuned: Suite | None = None
) -> None:
    """Print how much of a suite is in what the models were trained on, and in the suite that settings are chosen on.

    `models` are folders of models and adapters, hub ids, or None. Nothing is printed where nothing is known. Raise
    ConfigError for --strict where nothing is, DataError for leaks with --strict, and for a damaged file.
    """
    from mllm_embed.data.trained_on import Contents

    from ..scoring.leaks import asked_by, known_training, suite_leaks

    contents = Contents()
    known = known_training(models, arguments.trained_on, contents)
    if arguments.strict and known is None and tuned is None:
        raise ConfigError(
            "--strict: nothing says what the model was trained on, since no trained_on.safetensors lies beside it; "
            "name its data with --trained-on, or leave --strict out"
        )
    others: list[tuple[str, TrainedOn]] = [("training", known)] if known else []
    others += [("--tune-on", asked_by(tuned, contents))] if tuned else []
    for where, found in others:
        leaks = suite_leaks(found, suite, contents)
        print(leaks.in_words(suite.title, where) + _unknown(found), flush=True)
        if arguments.strict:
            leaks.check(suite.title, where)


def _unknown(found: TrainedOn) -> str:
    return f"; what is in {', '.join(found.unknown)} is not known" if found.unknown else ""
