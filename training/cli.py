"""The command line of the trainer: `mllm-embed-train` where it is installed, `python -m training` in a clone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mllm_embed.errors import ConfigError, did_you_mean, user_errors

from .commands import make_triplets, merge, mine, pair_pictures, plan, report, run, show
from .commands.recipe_options import add_help_with_keys

_COMMANDS = {
    "run": run,
    "plan": plan,
    "show": show,
    "mine": mine,
    "merge": merge,
    "report": report,
    "make-triplets": make_triplets,
    "pair-pictures": pair_pictures,
}
_HELP = """\
examples:
  %(prog)s run demo
  %(prog)s run my.yaml --override stages.instructions.steps=200 --override output=runs/short
  %(prog)s plan qwen2-vl-2b --memory 24      (memory, tokens and steps, before anything is loaded)

`%(prog)s COMMAND --help` explains each, with examples.
`%(prog)s RECIPE` is short for `%(prog)s run RECIPE`.
"""


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, 2 after bad input."""
    arguments = _parser().parse_args(_with_command(sys.argv[1:] if argv is None else argv))
    code: int = arguments.run(arguments)
    return code


def _with_command(argv: Sequence[str]) -> list[str]:
    """Return `argv` with `run` before the name of a recipe, or an option of `run`, that comes first.

    Raises ConfigError for a word that is no command, where more than options follow it.

    A recipe that is called like a command is still reached as ./plan or plan.yaml.
    """
    words = list(argv)
    if len(words) > 1 and words[0] not in _COMMANDS and not any(word.startswith("-") for word in words[:2]):
        # only options come after a recipe's name
        cure = did_you_mean(words[0], _COMMANDS) or f"; there are {', '.join(_COMMANDS)}"
        raise ConfigError(f"'{words[0]}' is no command{cure}")
    return words if not words or words[0] in (*_COMMANDS, "-h", "--help") else ["run", *words]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training" if __package__ == "training" else "mllm-embed-train",
        description="Turn a multimodal LLM into an instruction-aware embedder, and the work around it.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    add_help_with_keys(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(_COMMANDS))
    for command in _COMMANDS.values():
        command.register(commands)
    return parser
