"""`mllm-embed-train make-triplets DATA`: stage 2's rows, made by a language model from captions."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_embed.errors import ConfigError

if TYPE_CHECKING:
    from ..triplets.make import Answerer

KEY_VARIABLE = "OPENAI_API_KEY"
_HELP = """\
examples:
  %(prog)s my_data --dry-run
  %(prog)s my_data --endpoint https://api.openai.com/v1 --model gpt-4o-mini --limit 20
  %(prog)s my_data --endpoint http://localhost:8000/v1 --model Qwen/Qwen3-8B \\
      --concurrency 64 --extra '{"chat_template_kwargs": {"enable_thinking": false}}'
  %(prog)s my_data --local Qwen/Qwen2.5-7B-Instruct --concurrency 32

The first shows what would be asked for the first caption. The second tries 20 captions on a paid service; look at the
triplets and at what was dropped, then run it without --limit: the 20 are not asked for again. The third asks a server
of one's own (vLLM, llama.cpp and Ollama have such an address), the fourth a model that is loaded here.

It reads DATA/pairs.jsonl and writes beside it
  triplets.jsonl         the triplets, as `rows: triplets` of a recipe reads them
  triplets.report.json   how many were made and dropped, why, with an example of each reason
  triplets.cache.jsonl   every answer, under the model, its settings and the prompt
A run that was stopped goes on when the same command is given again, and asks for nothing it has an answer to. A new
model, prompt, --per-caption or temperature asks anew and keeps the other answers. Only a triplets.jsonl that this
command made is replaced.

A --prompt is a text file with the mark {caption}, and {count} and {kinds} where it wants them; it must ask for JSON
with "instruction" and "modified_caption". training/triplets/prompt.txt is the one that is used without. The checks of
length, placeholders and repetition hold in any language, those of wording in English.

The key is read from the environment and sent to the --endpoint alone. --extra adds fields to the request, or takes one
away that the server does not know: '{"max_tokens": null, "max_completion_tokens": 2000, "temperature": null}'.
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    parser = commands.add_parser(
        "make-triplets",
        help="make triplets from image-caption pairs by a language model",
        description="Make triplets from image-caption pairs: a language model reads each caption and returns "
        "instructions, with the caption that is true after each.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="data folder with pairs.jsonl, or a file of that form in its folder")
    asked = parser.add_argument_group("who is asked (one of two)")
    asked.add_argument("--endpoint", metavar="URL", help="address of an OpenAI-compatible server, with --model")
    asked.add_argument("--model", metavar="NAME", help="the model's name at the endpoint")
    asked.add_argument("--local", metavar="MODEL", help="folder or hub id of a model with a chat template")
    add("--per-caption", type=_count, default=3, metavar="N", help="changes asked for each caption (default 3)")
    add("--prompt", type=Path, metavar="FILE", help="another prompt than the library's")
    add("--temperature", type=_at_least_0, default=0.7, metavar="T", help="0 takes the likeliest words (default 0.7)")
    add("--max-tokens", type=_count, default=1024, metavar="N", help="longest answer (default 1024)")
    add("--concurrency", type=_count, default=8, metavar="N", help="captions asked at a time (default 8)")
    add("--limit", type=_count, metavar="N", help="use the first N pairs only")
    add("--cache", type=Path, metavar="FILE", help="where answers are kept (default: in the data folder)")
    add("--dry-run", action="store_true", help="show the prompt of the first caption, ask nobody")
    asked.add_argument(
        "--key-variable", metavar="NAME",
        help=f"environment variable with the endpoint's key (default {KEY_VARIABLE}, if it is set)",
    )  # fmt: skip
    asked.add_argument("--timeout", type=_count, default=120, metavar="S", help="seconds to wait (default 120)")
    asked.add_argument("--extra", type=_object, default={}, metavar="JSON", help="further fields of the request")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from mllm_embed.data.folder import PAIRS, read_pairs

    from ..triplets.make import CACHE, OUTPUT, make_triplets
    from ..triplets.prompt import Prompt

    prompt = Prompt.load(arguments.prompt, arguments.per_caption)
    file = arguments.data / PAIRS if arguments.data.is_dir() else arguments.data
    pairs = read_pairs(file)[: arguments.limit]
    if arguments.dry_run:
        count = len({pair.caption for pair in pairs})
        sys.stdout.write(f"{prompt.fill(pairs[0].caption)}\n\n")
        sys.stdout.write(f"This is for '{pairs[0].id}', one of {count:,} captions.\n")
        return 0
    make_triplets(pairs, file.parent, prompt, _answerer(arguments), arguments.cache)
    cache = arguments.cache or file.parent / CACHE
    sys.stdout.write(f"{file.parent / OUTPUT} is written; the answers are in {cache}\n")
    return 0


def _answerer(arguments: argparse.Namespace) -> Answerer:
    """Return who is asked. Raises ConfigError where not exactly one of the two is, or the key is missing."""
    if bool(arguments.endpoint) == bool(arguments.local):
        raise ConfigError("give either --endpoint URL with --model NAME, or --local MODEL (--dry-run needs neither)")
    return _local(arguments) if arguments.local else _endpoint(arguments)


def _local(arguments: argparse.Namespace) -> Answerer:
    from ..triplets.local import Local

    for option in ("model", "key_variable", "extra"):
        if getattr(arguments, option):
            raise ConfigError(f"--{option.replace('_', '-')} belongs to --endpoint and has no meaning with --local")
    return Local(arguments.local, arguments.temperature, arguments.max_tokens, arguments.concurrency)


def _endpoint(arguments: argparse.Namespace) -> Answerer:
    from ..triplets.endpoint import Endpoint

    if not arguments.model:
        raise ConfigError("--endpoint needs --model NAME, as the server calls it")
    key = os.environ.get(arguments.key_variable or KEY_VARIABLE, "").strip()
    if arguments.key_variable and not key:
        raise ConfigError(f"the environment variable {arguments.key_variable} is empty or not set: put the key there")
    fields = {"temperature": arguments.temperature, "max_tokens": arguments.max_tokens} | arguments.extra
    body = {name: value for name, value in fields.items() if value is not None}
    return Endpoint(arguments.endpoint, arguments.model, key or None, body, arguments.concurrency, arguments.timeout)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def _at_least_0(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of at least 0")
    return value


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON ({error})") from error
    if not isinstance(value, dict) or {"messages", "model", "stream"} & value.keys():
        raise argparse.ArgumentTypeError("must be a JSON object, without messages, model and stream")
    return value
