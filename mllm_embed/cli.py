"""The command line of the library, `mllm-embed`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .commands import card, check, convert, encode, export, index, presets, prompt, remove, search, serve, upload
from .errors import user_errors

_COMMANDS = (encode, index, search, serve, remove, check, export, upload, card, presets, prompt, convert)
_NAMES = [command.__name__.rpartition(".")[2] for command in _COMMANDS]
_HINT = "`mllm-embed COMMAND --help` explains each, with examples."


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Return the exit code, 2 after bad input."""
    arguments = _parser().parse_args(argv)
    return arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mllm-embed", description="Embeddings for composed image retrieval.", epilog=_HINT
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(_NAMES))
    for command in _COMMANDS:
        command.register(commands)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
