"""`mllm-embed search`: the pictures of a gallery that fit a query."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..model_options import add_model_options, load_embedder

if TYPE_CHECKING:
    from ..search import Hit, Searcher

_HELP = """\
what it does
  Embeds every picture of the gallery and the query, and shows the pictures nearest to the query: as a table,
  and as a contact sheet in PNG. Give a picture, an instruction, or both:
    picture and instruction   the picture as the instruction would change it
    picture alone             similar pictures
    instruction alone         pictures that the words describe

examples
  mllm-embed search --model runs/base --adapter runs/stage2 --gallery photos \\
      --image photos/shoe.jpg --instruction "the same shoe in blue" --exclude-reference
  mllm-embed search --model runs/merged --gallery photos --instruction "a red shoe" -k 10 --output red.png

the gallery
  A folder: the gallery of its benchmark.json if it has one, or else every picture in it and below.
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    search = commands.add_parser(
        "search",
        help="find the pictures of a folder that fit a query",
        description="Find the pictures of a folder that fit a query.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(search)
    search.add_argument("--gallery", required=True, metavar="DIR", type=Path, help="folder of pictures")
    search.add_argument("--image", metavar="F", type=Path, help="the reference picture")
    search.add_argument("--instruction", metavar="S", help="what to change in it, or what to look for")
    search.add_argument("-k", type=int, default=5, metavar="K", help="answers (default 5)")
    search.add_argument(
        "--output", type=Path, default=Path("runs/search.png"), metavar="PNG", help="default: runs/search.png"
    )
    search.add_argument("--exclude-reference", action="store_true", help="never answer with the reference itself")
    search.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    # Everything that can be wrong without a model is looked at before the slow imports.
    from ..contact_sheet import SheetRow, check_sheet_path, contact_sheet
    from ..images import load_image
    from ..search import Searcher
    from ..sources import gallery_of
    from ..types import Query

    if arguments.k < 1:
        raise ConfigError(f"-k must be at least 1, not {arguments.k}")
    if arguments.exclude_reference and arguments.image is None:
        raise ConfigError("--exclude-reference needs --image: there is no reference to leave out")
    if arguments.image is None and arguments.instruction is None:
        raise ConfigError("give --image, --instruction, or both: there is nothing to search for")
    query = Query(image=arguments.image, instruction=arguments.instruction)
    check_sheet_path(arguments.output)
    if arguments.image is not None:
        load_image(arguments.image)
    gallery_of(arguments.gallery)

    searcher = Searcher.from_folder(load_embedder(arguments), arguments.gallery, batch_size=arguments.batch_size)
    exclude = _copies(searcher, arguments.image) if arguments.exclude_reference else []
    hits = searcher.search(query, arguments.k, exclude)
    if not hits:
        raise ConfigError(f"{arguments.gallery} holds nothing but the reference: leave out --exclude-reference")
    row = SheetRow(arguments.image, arguments.instruction or "", [hit.image for hit in hits], [False] * len(hits))
    sheet = contact_sheet([row], arguments.output)
    sys.stdout.write(f"{_table(hits)}\n\nwrote {sheet}\n")
    return 0


def _copies(searcher: Searcher, image: Path) -> list[str]:
    """The gallery ids whose picture is the same file content as the reference."""
    from ..images import content_key

    wanted = content_key(image)
    return [name for name, other in zip(searcher.ids, searcher.images, strict=True) if content_key(other) == wanted]


def _table(hits: Sequence[Hit]) -> str:
    width = max(len("id"), *(len(hit.id) for hit in hits))
    lines = [f"rank   score  {'id'.ljust(width)}  file"]
    lines += [f"{rank:4d}  {hit.score:6.3f}  {hit.id.ljust(width)}  {hit.image}" for rank, hit in enumerate(hits, 1)]
    return "\n".join(lines)
