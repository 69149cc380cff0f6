"""`mllm-embed search`: the pictures of a gallery that fit a query."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, ImageError
from .ids import read_ids
from .model_options import add_model_options, load_embedder

if TYPE_CHECKING:
    from ..encode.embedder import MLLMEmbedder
    from ..generate.generator import Generator
    from ..search.searcher import Hit
    from ..types import ImageLike, Query

_HELP = """\
what it does
  Embeds the query and shows the pictures nearest to it: as a table, and as a contact sheet in PNG. Give a picture, an
  instruction, or both:
    picture and instruction   the picture as the instruction would change it
    picture alone             similar pictures
    instruction alone         pictures that the words describe

the gallery
  a store                     what `mllm-embed encode` wrote
  an index                    what `mllm-embed index` wrote
  qdrant:URL/COLLECTION       what `mllm-embed upload` sent to a server
  a folder of pictures        which is embedded now: the gallery of its benchmark.json, or else every picture in it and
                              below

examples
  mllm-embed search --model runs/base --adapter runs/stage2 --gallery photos \\
      --image photos/shoe.jpg --instruction "the same shoe in blue" --exclude-reference
  mllm-embed search --model runs/merged --gallery runs/photos --instruction "a red shoe" -k 10 --output red.png
  mllm-embed search --model runs/merged --gallery runs/photos.index --image shoe.jpg --allow in-stock.txt
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    search = commands.add_parser(
        "search",
        help="find the pictures that fit a query",
        description="Find the pictures that fit a query.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(search)
    search.add_argument("--gallery", required=True, metavar="G", help="store, index, collection or folder of pictures")
    search.add_argument("--image", metavar="F", type=Path, help="the reference picture")
    search.add_argument("--instruction", metavar="S", help="what to change in it, or what to look for")
    search.add_argument("-k", type=int, default=5, metavar="K", help="answers (default 5)")
    search.add_argument(
        "--output", type=Path, default=Path("runs/search.png"), metavar="PNG", help="default: runs/search.png"
    )
    search.add_argument("--exclude-reference", action="store_true", help="never answer with the reference itself")
    search.add_argument(
        "--edit-strength",
        metavar="A",
        type=float,
        default=1.0,
        help="1: as asked; more changes the picture more, less less",
    )
    search.add_argument(
        "--rerank", metavar="N", type=int, default=0, help="let the model itself put the first N answers in order"
    )
    search.add_argument(
        "--explain", action="store_true", help="say in words what the model reads in the query and in each answer"
    )
    search.add_argument("--allow", type=Path, metavar="FILE", help="answer only with the ids of this file, one a line")
    search.add_argument("--exclude", type=Path, metavar="FILE", help="never answer with the ids of this file")
    search.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    # Everything that can be wrong without a model is looked at before the slow imports.
    from ..data.sources import gallery_of
    from ..inputs.images import load_image
    from ..search.contact_sheet import SheetRow, check_sheet_path, contact_sheet, text_tile
    from ..search.searcher import Searcher, stored_gallery
    from ..types import Query

    if arguments.k < 1:
        raise ConfigError(f"-k must be at least 1, not {arguments.k}")
    if arguments.exclude_reference and arguments.image is None:
        raise ConfigError("--exclude-reference needs --image: there is no reference to leave out")
    if arguments.image is None and arguments.instruction is None:
        raise ConfigError("give --image, --instruction, or both: there is nothing to search for")
    if arguments.rerank < 0:
        raise ConfigError(f"--rerank must be 0 or more, not {arguments.rerank}")
    if arguments.edit_strength != 1 and (arguments.image is None or arguments.instruction is None):
        raise ConfigError("--edit-strength needs --image and --instruction: without both there is no edit")
    query = Query(image=arguments.image, instruction=arguments.instruction)
    check_sheet_path(arguments.output)
    if arguments.image is not None:
        load_image(arguments.image)
    allow = read_ids(arguments.allow) if arguments.allow else None
    exclude = read_ids(arguments.exclude) if arguments.exclude else []
    gallery = stored_gallery(arguments.gallery)
    if gallery is None:
        gallery_of(arguments.gallery)

    embedder = load_embedder(arguments, merge=not arguments.rerank)  # its base is to speak
    generator = _generator(embedder) if arguments.rerank else None  # before hours go into a gallery
    if gallery is None:
        searcher = Searcher.from_folder(embedder, arguments.gallery, batch_size=arguments.batch_size)
    else:
        searcher = Searcher(embedder, gallery)
    hits = searcher.search(
        query,
        max(arguments.k, arguments.rerank),
        exclude,
        allow=allow,
        exclude_reference=arguments.exclude_reference,
        edit_strength=arguments.edit_strength,
    )
    if generator:
        from ..generate.rerank import rerank

        hits = rerank(generator, query, hits, arguments.rerank)
    hits = hits[: arguments.k]
    if not hits:
        raise ConfigError(f"{arguments.gallery} holds nothing but what may not answer: leave out --exclude-reference")
    shown = [_shown(hit) or text_tile(hit.id) for hit in hits]
    row = SheetRow(arguments.image, arguments.instruction or "", shown, [False] * len(hits))
    sheet = contact_sheet([row], arguments.output)
    told = f"\n\n{_explained(embedder, query, hits)}" if arguments.explain else ""
    sys.stdout.write(f"{_table(hits)}{told}\n\nwrote {sheet}\n")
    return 0


def _generator(embedder: MLLMEmbedder) -> Generator:
    from ..generate.generator import Generator

    return Generator(embedder)


def _explained(embedder: MLLMEmbedder, query: Query, hits: Sequence[Hit]) -> str:
    """What the model would say next where it reads off the query's vector and each answer's; shared words in front."""
    from ..generate.explain import Explainer, shared
    from ..types import Document

    there = [(rank, picture) for rank, hit in enumerate(hits, 1) if (picture := _shown(hit)) is not None]
    asked, *found = Explainer(embedder).read([query, *(Document(image=picture) for _, picture in there)])
    lines = ["what the model reads in them, words of query and answer before the bar", f"query  {_words(asked)}"]
    for (rank, _), answer in zip(there, found, strict=True):
        both = [word for word, _ in shared(asked, answer)]
        own = [(word, weight) for word, weight in answer if word not in both]
        lines.append(f"{rank:5d}  {', '.join(both)} | {_words(own)}")
    return "\n".join(lines)


def _words(reading: Sequence[tuple[str, float]]) -> str:
    return ", ".join(word for word, _ in reading)


def _shown(hit: Hit) -> ImageLike | None:
    """A hit's picture, None where there is none or it is gone: the answer is right all the same."""
    from ..inputs.images import load_image

    try:
        return None if hit.image is None else load_image(hit.image)
    except ImageError:
        return None


def _table(hits: Sequence[Hit]) -> str:
    width = max(len("id"), *(len(hit.id) for hit in hits))
    lines = [f"rank   score  {'id'.ljust(width)}  file"]
    lines += [f"{rank:4d}  {hit.score:6.3f}  {hit.id.ljust(width)}  {hit.image}" for rank, hit in enumerate(hits, 1)]
    return "\n".join(lines)
