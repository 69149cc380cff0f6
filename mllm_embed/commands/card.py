"""`mllm-embed card`: the model card of a saved model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..errors import ConfigError

_HELP = """\
what it does
  Rewrites README.md in a folder that training or save_pretrained wrote: how to load the model, prompts, licence,
  training, results. What the card says already is kept, sections and metadata of your own included.

examples
  mllm-embed card runs/shoes/instructions --result runs/eval/fashioniq --license apache-2.0
  mllm-embed card runs/merged --result runs/eval/cirr runs/eval/circo --dataset someone/some-triplets
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    card = commands.add_parser(
        "card",
        help="write the model card of a saved model",
        description="Write the model card of a saved model.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    card.add_argument("model", metavar="DIR", type=Path, help="adapter folder or merged model")
    card.add_argument(
        "--result", metavar="R", type=Path, nargs="+", default=[], help="outputs of `mllm-embed-eval run`"
    )
    card.add_argument("--license", metavar="L", help="licence id of the hub (default: the base model's where known)")
    card.add_argument("--dataset", metavar="D", nargs="+", default=[], help="hub ids of the training data")
    card.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..saving.card_header import CARD_FILE
    from ..saving.checkpoint import read_card
    from ..saving.model_card import ModelCardInfo, write_card
    from ..saving.settings import SETTINGS_FILE, read_settings

    settings = read_settings(arguments.model)
    if settings is None:
        raise ConfigError(f"{arguments.model} is no saved model: it has no {SETTINGS_FILE}")
    info = ModelCardInfo(license=arguments.license, datasets=arguments.dataset, results=arguments.result)
    place = arguments.model / CARD_FILE
    old, public = read_card(arguments.model), not settings.base_is_folder
    write_card(arguments.model, info, base=settings.base, public=public, old=old, came_from=place)
    sys.stdout.write(f"wrote {place}\n")
    return 0
