"""`mllm-embed search`: the pictures of a gallery that fit a query."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError, ImageError
from .ids import check_known, local_path, read_ids
from .model_options import add_model_options, load_embedder

if TYPE_CHECKING:
    from ..data.filters import Filter
    from ..data.picture_source import PictureSource
    from ..encode.embedder import MLLMEmbedder
    from ..search.lexical import LexicalSearcher
    from ..search.reranking import Judge
    from ..search.searcher import Hit, Searcher
    from ..store.gallery import Gallery
    from ..types import ImageLike, Query

_SHOWN = 1000  # answers on a contact sheet, where they stand beside one another
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
  qdrant:URL/COLLECTION       what `mllm-embed upload` sent to a Qdrant server
  postgresql://HOST/DB#TABLE  what it sent to PostgreSQL; the password comes best from PGPASSWORD or ~/.pgpass
  a folder of pictures        which is embedded now: the gallery of its benchmark.json, or else every picture in it and
                              below

examples
  mllm-embed search --model runs/base --adapter runs/stage2 --gallery photos \\
      --image photos/shoe.jpg --instruction "the same shoe in blue" --exclude-reference
  mllm-embed search --model runs/merged --gallery runs/photos --instruction "a red shoe" -k 10 --output red.png
  mllm-embed search --model Qwen/Qwen3-VL-Embedding-2B --gallery photos --image dress.jpg --instruction "in red" \\
      --task "Find a fashion image that fits the note."
  mllm-embed search --model runs/merged --gallery runs/photos.index --image shoe.jpg --allow in-stock.txt
  mllm-embed search --model runs/merged --gallery runs/photos --instruction "a red shoe" \\
      --filter '{"price": {"<": 40}, "brand": ["Acme", "Apex"], "sold_out": false}'
  mllm-embed search --model runs/merged --gallery runs/photos --image beach.jpg --instruction "at night" \\
      --avoid "a person"
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
    add_model_options(search, lexical=True)
    search.add_argument(
        "--gallery", required=True, metavar="G", help="store, index, collection, table or folder of pictures"
    )
    search.add_argument("--image", metavar="F", type=local_path, help="the reference picture")
    search.add_argument("--instruction", metavar="S", help="what to change in it, or what to look for")
    search.add_argument(
        "--task",
        metavar="S",
        help='what the model is to do, where it was trained on tasks: "Find a fashion image that ..." (default: the '
        "prompts' own)",
    )
    search.add_argument("-k", type=int, default=5, metavar="K", help="answers (default 5)")
    search.add_argument(
        "--output", type=local_path, default=Path("runs/search.png"), metavar="PNG", help="default: runs/search.png"
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
        "--avoid", metavar="S", help="what must not be seen, in words: the query's vector is turned away from theirs"
    )
    search.add_argument(
        "--rerank", metavar="N", type=int, default=0, help="let the model itself put the first N answers in order"
    )
    search.add_argument(
        "--reranker", metavar="R", help="folder or hub id of a re-ranker that does that, in the model's own place"
    )
    search.add_argument(
        "--rerank-weight",
        metavar="W",
        type=float,
        default=0.0,
        help="how much the search's own score counts beside the re-ranker's (default 0: not at all)",
    )
    search.add_argument(
        "--lexical",
        metavar="W",
        type=float,
        help="rank by W times the cosine of lexical vectors beside that of dense ones, of a model that has both",
    )
    search.add_argument(
        "--explain", action="store_true", help="say in words what the model reads in the query and in each answer"
    )
    search.add_argument(
        "--allow", type=local_path, metavar="FILE", help="answer only with the ids of this file, one a line"
    )
    search.add_argument(
        "--filter",
        metavar="JSON",
        help="answer only with rows whose columns fit, of those that `encode --keep` kept: a value, a list of values, "
        'null for none, or {"<": 40, "!=": 3} with <, <=, >, >=, =, !=',
    )
    search.add_argument("--exclude", type=local_path, metavar="FILE", help="never answer with the ids of this file")
    search.add_argument(
        "--no-verify",
        action="store_false",
        dest="verify",
        help="do not compare a store or index with its checksums, where reading all of it takes too long",
    )
    search.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    # Everything that can be wrong without a model is looked at before it is loaded.
    from ..data.picture_source import picture_folder
    from ..search.contact_sheet import check_sheet_path
    from ..search.hits_table import hits_table
    from ..search.lexical import check_lexical
    from ..search.places import shown_place, stored_gallery

    _check_numbers(arguments)
    query = _query(arguments)
    check_sheet_path(arguments.output)
    allow = read_ids(arguments.allow) if arguments.allow else None
    exclude = read_ids(arguments.exclude) if arguments.exclude else []
    where = _filter(arguments.filter)
    gallery = stored_gallery(arguments.gallery, arguments.verify)
    arguments.gallery = shown_place(arguments.gallery)  # in messages, without a password
    if gallery is None:
        folder = picture_folder(arguments.gallery)
        folder.check()
        sys.stderr.write("".join(f"{note}\n" for note in folder.notes))
    _check_ids(arguments, folder.ids if gallery is None else gallery, allow, exclude)
    _check_filter(arguments.gallery, where, folder if gallery is None else gallery)
    check_lexical(gallery, arguments.lexical)

    embedder = load_embedder(arguments, merge=not arguments.rerank)  # its base is to speak
    judge = _judge(arguments, embedder)  # before hours go into a gallery
    _remember_thought(embedder)
    limits: Any = {"allow": allow, "exclude_reference": arguments.exclude_reference, "where": where}
    by_words = _by_words(arguments, embedder, gallery)
    if by_words:
        hits = by_words.search(query, arguments.k, exclude, **limits)
    else:
        searcher = _by_vectors(arguments, embedder, gallery)
        asked = {"reranker": judge, "depth": arguments.rerank, "weight": arguments.rerank_weight}
        hits = searcher.search(query, arguments.k, exclude, edit_strength=arguments.edit_strength, **limits, **asked)
    if not hits:
        raise _nothing(arguments)
    sheet = _write_sheet(arguments, hits[:_SHOWN])
    shown = f" with the first {_SHOWN:,}" if len(hits) > _SHOWN else ""
    explanation = _explanation(embedder, query, hits, by_words) if arguments.explain else ""
    sys.stdout.write(f"{_thought(embedder, query)}{hits_table(hits)}{explanation}\n\nwrote {sheet}{shown}\n")
    return 0


def _check_ids(
    arguments: argparse.Namespace, gallery: Gallery | Collection[str], allow: list[str] | None, exclude: list[str]
) -> None:
    """Raise an error for ids that a gallery, or a folder's ids, has not got, and where nothing is left to answer."""
    if not len(gallery):
        raise DataError(f"{arguments.gallery} holds no vectors any more: all were removed, so encode some again")
    for path, names in ((arguments.allow, allow), (arguments.exclude, exclude)):
        try:
            check_known(arguments.gallery, gallery, names or [])
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
    never = set(exclude)
    if allow is not None and never.issuperset(allow):
        raise ConfigError(f"{arguments.exclude} excludes all that {arguments.allow} allows: nothing is left to answer")
    if len(never) >= len(gallery):
        raise ConfigError(f"{arguments.exclude} excludes all of {arguments.gallery}: nothing is left to answer")


def _filter(text: str | None) -> Filter | None:
    """Return the filter that is asked for. Raises DataError for one that is none."""
    from ..data.filters import parse_filter

    try:
        return None if text is None else parse_filter(text)
    except DataError as error:
        raise DataError(f"--filter: {error}") from error


def _check_filter(place: str, where: Filter | None, gallery: Gallery | PictureSource) -> None:
    """Raise an error for a filter that does not fit what is kept in a gallery, and for one that no row fits."""
    from ..data.picture_source import PictureSource
    from ..search.searcher import folder_metadata
    from ..store.columns import Columns

    if where is None:
        return
    try:
        if isinstance(gallery, PictureSource):
            fit = int(Columns.of(folder_metadata(gallery) or []).mask(where).sum())
        else:
            fit = gallery.page(0, 1, where)[1]
    except DataError as error:
        raise DataError(f"--filter: {error}") from error
    if not fit:
        raise ConfigError(f"--filter: no row of {place} fits: nothing is left to answer")


def _nothing(arguments: argparse.Namespace) -> ConfigError:
    """Return the error about answers of which none is left."""
    if arguments.filter is None or not (arguments.allow or arguments.exclude):
        return ConfigError(
            f"all that may answer of {arguments.gallery} is the reference: leave out --exclude-reference"
        )
    return ConfigError(
        f"no row of {arguments.gallery} that fits --filter may answer by --allow and --exclude, but perhaps the "
        "reference: leave one of them out"
    )


def _check_numbers(arguments: argparse.Namespace) -> None:
    if arguments.k < 1:
        raise ConfigError(f"-k must be at least 1, not {arguments.k}")
    beside = {"--rerank": arguments.rerank, "--edit-strength": arguments.edit_strength != 1, "--avoid": arguments.avoid}
    found = next((name for name, given in beside.items() if given), None)
    if arguments.lexical is not None and found:
        raise ConfigError(f"--lexical goes without {found}: leave one of them out")
    if arguments.rerank < 0:
        raise ConfigError(f"--rerank must be 0 or more, not {arguments.rerank}")
    if arguments.reranker is not None and not arguments.rerank:
        raise ConfigError("--reranker needs --rerank N: how many answers it is to put in order")
    if arguments.rerank_weight and not arguments.rerank:
        raise ConfigError("--rerank-weight needs --rerank N: how many answers are to be put in order")


def _query(arguments: argparse.Namespace) -> Query:
    """Return what is asked. Raises ConfigError for options that do not fit it, ImageError for an unreadable picture."""
    from ..inputs.images import load_image
    from ..types import Query

    image, instruction = arguments.image, arguments.instruction
    if arguments.exclude_reference and image is None:
        raise ConfigError("--exclude-reference needs --image: there is no reference to leave out")
    if image is None and instruction is None:
        raise ConfigError("give --image, --instruction, or both: there is nothing to search for")
    if arguments.edit_strength != 1 and None in (image, instruction):
        raise ConfigError("--edit-strength needs --image and --instruction: without both there is no edit")
    if image is not None:
        load_image(image)
    return Query(image=image, instruction=instruction, task=arguments.task, avoid=arguments.avoid)


def _judge(arguments: argparse.Namespace, embedder: MLLMEmbedder) -> Judge | None:
    """Return what is to put answers in order, None for nothing."""
    if not arguments.rerank:
        return None
    if arguments.reranker is not None:
        from ..rerank.choice import reranker_for

        return reranker_for(arguments.reranker, embedder)
    from ..generate.generator import Generator
    from ..generate.rerank import ZeroShotJudge

    return ZeroShotJudge(Generator(embedder))


def _write_sheet(arguments: argparse.Namespace, hits: Sequence[Hit]) -> Path:
    """Write the contact sheet of the answers, a tile with its id for one without a picture; return its path."""
    from ..search.contact_sheet import SheetRow, contact_sheet, text_tile

    answers = [_picture(hit) or text_tile(hit.id) for hit in hits]
    row = SheetRow(arguments.image, arguments.instruction or "", answers, [False] * len(hits))
    return contact_sheet([row], arguments.output)


def _remember_thought(embedder: MLLMEmbedder) -> None:
    """Let a model that thinks keep what it thinks of the query, for the line that tells it."""
    if embedder.thinking and embedder.thought_cache is None:
        embedder.thought_cache = {}


def _thought(embedder: MLLMEmbedder, query: Query) -> str:
    """Return what the model wrote before it embedded a query, remembered since; nothing where it does not think."""
    if embedder.thinking is None or not embedder.thinking.thinks(query):
        return ""
    return f"thought: {embedder.think([query])[0]}\n\n"


def _explanation(embedder: MLLMEmbedder, query: Query, hits: Sequence[Hit], by_words: LexicalSearcher | None) -> str:
    """Return the words that made the score of each answer; or what the model would say next where the query's vector
    and each answer's are read, shared words first."""
    from ..generate.explain import explanation

    if by_words:
        return f"\n\n{by_words.explained(hits)}"
    pictures = {rank: picture for rank, hit in enumerate(hits, 1) if (picture := _picture(hit)) is not None}
    return f"\n\n{explanation(embedder, query, pictures)}"


def _by_vectors(arguments: argparse.Namespace, embedder: MLLMEmbedder, gallery: Gallery | None) -> Searcher:
    from ..search.searcher import Searcher

    if gallery is None:
        return Searcher.from_folder(embedder, arguments.gallery, batch_size=arguments.batch_size)
    return Searcher(embedder, gallery)


def _by_words(arguments: argparse.Namespace, embedder: MLLMEmbedder, gallery: Gallery | None) -> LexicalSearcher | None:
    """Return the search by dense and lexical vectors together, None where that is not asked for."""
    from ..encode.encoder import check_single
    from ..search.lexical import LexicalSearcher

    if arguments.lexical is None:
        if arguments.explain:  # what one vector an input is read as
            check_single(embedder, "--explain")
        return None
    if gallery is None:
        place, weight = arguments.gallery, arguments.lexical
        return LexicalSearcher.from_folder(embedder, place, weight, batch_size=arguments.batch_size)
    return LexicalSearcher.over(_by_vectors(arguments, embedder, gallery), arguments.lexical)


def _picture(hit: Hit) -> ImageLike | None:
    """Return a hit's picture, None where there is none or it is gone: the answer is right all the same."""
    from ..inputs.images import load_image

    try:
        return None if hit.image is None else load_image(hit.image)
    except ImageError:
        return None
