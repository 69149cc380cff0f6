"""The command line of the evaluator: `python -m eval`, installed as `mllm-embed-eval`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mllm_embed.errors import user_errors

from .commands import check, compare, methods, robustness, run, score, submit

_COMMANDS = (run, score, check, submit, methods, robustness, compare)
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


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, 2 after bad input."""
    arguments = _parser().parse_args(argv)
    return arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.register(commands)
    return parser
