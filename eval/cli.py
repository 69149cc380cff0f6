"""The command line of the evaluator: `mllm-embed-eval` where it is installed, `python -m eval` in a clone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mllm_embed.errors import user_errors

from .commands import audit, check, compare, listing, methods, robustness, rows, run, score, submit, table

_COMMANDS = (listing, run, score, check, rows, submit, methods, robustness, compare, audit, table)
_ABOUT = """\
Evaluate composed image retrieval: FashionIQ, CIRR, CIRCO, GeneCIS, i-CIR, PinPoint, LaSCo, Shoes, what MMEB and
MTEB make of them, Flickr30k, COCO, or a folder of your own, each by the rules of its official scorer, which stand in
the result."""
_EXAMPLES = """\
examples
  %(prog)s list                                         which benchmarks there are, and where to get them
  %(prog)s check fashioniq --data ~/data/fashioniq      is all there, before hours are spent?
  %(prog)s run cirr --data ~/data/cirr --model llava-hf/llava-1.5-7b-hf --adapter runs/stage2
  %(prog)s run my_folder --model runs/stage2            a folder with a benchmark.json
  %(prog)s score circo --data ~/data/circo --vectors my_vectors
  %(prog)s submit cirr --data ~/data/cirr --vectors my_vectors --output to_server
  %(prog)s compare runs/eval/a runs/eval/b
  %(prog)s audit runs/eval/a --lists lists              which queries need both halves, and lists of them for --only
  %(prog)s table --models M A=M+ADAPTER --data ~/data   every model on every benchmark found
  %(prog)s methods my_folder --model runs/base --adapter runs/stage2
  %(prog)s robustness my_folder --model runs/base --adapter runs/stage2

`%(prog)s COMMAND --help` explains each."""


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, 2 after bad input."""
    arguments = _parser().parse_args(argv)
    return arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval" if __package__ == "eval" else "mllm-embed-eval",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.register(commands)
    return parser
