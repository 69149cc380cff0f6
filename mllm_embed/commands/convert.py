"""`mllm-embed convert`: models and adapters in forms that are not opened, written as stock folders."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

_HELP = """\
what it does
  Writes a folder that loads, of a model or an adapter that does not: OUTPUT is new, FOLDER stays as it is. Weights in
  pickles are read for tensors alone, so that no code in them runs; a pickle that holds more is refused. Configs,
  tokenizer, templates and cards are copied, code is not.

  A published model in a folder is asked as its authors do where the path ends in its hub id, or with --preset NAME;
  instructcir and llave write their prompts into OUTPUT.

kinds
  adapter     an adapter of peft in adapter_model.bin (VLM2Vec's, say)
  weights     a whole model in pytorch_model*.bin, names and values as they are
  instructcir InstructCIR's released checkpoint, as a stock LLaVA with its prompts
  llave       LLaVE (llava_qwen), as a stock LLaVA-OneVision with its prompts

examples
  mllm-embed convert adapter TIGER-Lab/VLM2Vec-Qwen2VL-2B models/TIGER-Lab/VLM2Vec-Qwen2VL-2B
  mllm-embed convert instructcir uta-smile/instructcir_llava_phi35_clip224_lp models/instructcir
  mllm-embed search --gallery photos --model models/instructcir --instruction "at night"
"""
_KINDS = ("adapter", "weights", "instructcir", "llave")


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    convert = commands.add_parser(
        "convert",
        help="write a published model in a form that loads",
        description="Write a published model, or an adapter, in a form that loads.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument("kind", choices=_KINDS, help="what FOLDER holds")
    convert.add_argument("folder", metavar="FOLDER", help="where that is, or its hub id")
    convert.add_argument("output", metavar="OUTPUT", type=Path, help="a new folder, or an empty one")
    convert.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..convert.models import convert_model
    from ..convert.pickled import convert_adapter, convert_weights

    told: list[str] = []
    plain = {"adapter": convert_adapter, "weights": convert_weights}.get(arguments.kind)
    if plain:
        lines = plain(arguments.folder, arguments.output)
    else:
        lines, told = convert_model(arguments.kind, arguments.folder, arguments.output)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stderr.write("".join(f"note: {line}\n" for line in told))
    return 0
