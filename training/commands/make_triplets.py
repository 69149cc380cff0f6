"""`mllm-embed-train make-triplets DATA ...`: stage 2's rows, made by a language model from captions."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_embed.errors import ConfigError

from .answerer_options import KEY_HELP, add_answerer_options, check_one_asked, count, endpoint_of, local_of
from .data_options import DATA_HELP, add_data_options, read_sources

if TYPE_CHECKING:
    from ..data.rows import MixedRows
    from ..triplets.asking import Answerer
    from ..triplets.captions import Captions
    from ..triplets.prompt import Prompt

ROLES = ("image", "caption")
_HELP = """\
examples:
  %(prog)s my_data --dry-run
  %(prog)s my_data --endpoint https://api.openai.com/v1 --model gpt-4o-mini --limit 20
  %(prog)s my_data --endpoint http://localhost:8000/v1 --model Qwen/Qwen3-8B \\
      --concurrency 64 --extra '{"chat_template_kwargs": {"enable_thinking": false}}'
  %(prog)s my_data --local Qwen/Qwen2.5-7B-Instruct --concurrency 32
  %(prog)s LLaVA-Pretrain/blip_laion_cc_sbu_558k.json --format llava --output my_triplets \\
      --endpoint http://localhost:8000/v1 --model Qwen/Qwen3-8B

The first shows what would be asked for the first caption. The second tries 20 captions on a paid service; look at the
triplets and at what was dropped, then run it without --limit: the 20 are not asked for again. The third asks a server
of one's own (vLLM, llama.cpp and Ollama have such an address), the fourth a model that is loaded here.

It reads the pairs of DATA and writes into --output, for a data folder by default beside its pairs.jsonl,
  triplets.jsonl         the triplets, as `rows: triplets` of a recipe reads them
  triplets.report.json   how many were made and dropped, why, with an example of each reason
  triplets.cache.jsonl   every answer, under the model, its settings and the prompt
  images/                pictures that lie as bytes in parquet or tar, those of the triplets, named by content
and prints what a recipe's `data` takes. Pictures that are files stay where they are: `images` says where that is.
A run that was stopped goes on when the same command is given again, and asks for nothing it has an answer to. A new
model, prompt, --per-caption or temperature asks anew and keeps the other answers. Only a triplets.jsonl that this
command made is replaced; beside others, say written by people, give --output, and train on both.

A --prompt is a text file with the mark {caption}, and {count} and {kinds} where it wants them; it must ask for JSON
with "instruction" and "modified_caption". training/triplets/prompt.txt is the one that is used without. The checks of
length, placeholders and repetition hold in any language, those of wording in English.
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    parser = commands.add_parser(
        "make-triplets",
        help="make triplets from image-caption pairs by a language model",
        description="Make triplets from image-caption pairs: a language model reads each caption and returns "
        "instructions, with the caption that is true after each.",
        epilog=f"{DATA_HELP}\n{_HELP}\n{KEY_HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_data_options(parser)
    add("--output", type=Path, metavar="FOLDER", help="where the triplets go (default: the data folder)")
    add_answerer_options(parser, "captions")
    add("--per-caption", type=count, default=3, metavar="N", help="changes asked for each caption (default 3)")
    add("--prompt", type=Path, metavar="FILE", help="another prompt than the library's")
    add("--limit", type=count, metavar="N", help="use the first N pairs only")
    add("--cache", type=Path, metavar="FILE", help="where answers are kept (default: in --output)")
    add("--dry-run", action="store_true", help="show the prompt of the first caption, ask nobody")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..triplets.captions import Captions
    from ..triplets.make import CACHE, OUTPUT, make_triplets
    from ..triplets.picture_names import PICTURES, source_line
    from ..triplets.prompt import Prompt

    prompt = Prompt.load(arguments.prompt, arguments.per_caption)
    rows = _pairs(arguments)
    output = _output(rows, arguments.output)
    if arguments.dry_run:
        _show(prompt, Captions.read(rows, output or Path(), arguments.limit))
        return 0
    if output is None:
        raise ConfigError(
            "say with --output which folder the triplets go to; beside the pairs they go only where DATA is one data "
            "folder"
        )
    check_one_asked(arguments)
    answerer: Answerer[str] = local_of(arguments) if arguments.local else endpoint_of(arguments)
    captions = Captions.read(rows, output, arguments.limit)
    report = make_triplets(captions, prompt, answerer, arguments.cache)
    cache = arguments.cache or output / CACHE
    sys.stdout.write(f"{output / OUTPUT} is written; the answers are in {cache}\n")
    if report.pictures:
        sys.stdout.write(
            f"{report.pictures:,} pictures that lay as bytes in tables are now files of {output / PICTURES}, named by "
            "the sha256 of their content\n"
        )
    sys.stdout.write(
        "train on them with\n"
        f"    data:\n      - {source_line(captions.output, captions.start)}\n"
        "    rows: triplets\n"
        "    terms:\n"
        "      - {query: composed, positive: target_text, negatives: [source_text]}\n"
    )
    return 0


def _pairs(arguments: argparse.Namespace) -> MixedRows:
    """Return the rows that the arguments name: pictures and their captions."""
    from mllm_embed.data.folder import DataFolder, read_pairs

    from ..data.folder import read_rows
    from ..data.open import open_rows
    from ..data.rows import ListRows, MixedRows
    from ..data.source import DataSource

    file = Path(arguments.data[0])
    if len(arguments.data) == 1 and file.suffix.lower() == ".jsonl" and file.is_file() and not _written(arguments):
        folder = DataFolder(file.parent, pairs=read_pairs(file))
        return MixedRows([ListRows(DataSource(path=file.parent), read_rows(folder, file, "pairs", ROLES), "")])
    return open_rows(read_sources(arguments).sources, "pairs", ROLES, "make-triplets")


def _written(arguments: argparse.Namespace) -> bool:
    """Return whether the arguments say how DATA is written."""
    return bool(arguments.format or arguments.images or arguments.pool or arguments.column)


def _output(rows: MixedRows, given: Path | None) -> Path | None:
    """Return the folder that the triplets go to: the given one, or a data folder that is the only source."""
    sources = [part.source for part in rows.parts]
    own = len(sources) == 1 and sources[0].format == "folder" and not sources[0].images
    return given or (sources[0].path if own else None)


def _show(prompt: Prompt, captions: Captions) -> None:
    """Print the prompt of the first caption."""
    first = captions.listed[0]
    count = len({caption.text for caption in captions.listed})
    sys.stdout.write(f"{prompt.fill(first.text)}\n\nThis is for '{first.id}', one of {count:,} captions.\n")
