"""`mllm-embed-train mine DATA`: hard negatives for the rows of any sources, and clusters of rows for batches."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_embed.commands.model_options import add_model_options, load_embedder
from mllm_embed.errors import ConfigError

from .data_options import DATA_HELP, NamedData, add_data_options, read_sources

if TYPE_CHECKING:
    from ..mining.clusters import Clustering
    from ..mining.guided import MiningGuide
    from ..mining.questions import Questions
    from ..mining.rows import RowsToMine
    from ..recipe.stage_keys.guide import Guide

_HELP = """\
what it does
  Embeds what the rows ask (--query) and what they answer (--positive) with a model, and finds for every row the
  answers of other rows that are near: wrong answers that are hard to tell from the right one. Roles are those of a
  recipe's terms (`run --help` lists them). Never taken: the row's own positive, and those of rows that ask the same,
  also where the same picture stands under another name. Taken for right although no row says so, and left out: what is
  nearer than --ceiling times the positive. Without such a limit, mined negatives can do more harm than good: look at
  the contact sheet. What cannot be read is passed over, up to --max-unreadable; its rows get no negatives.

  --guide or --guide-adapter name another embedder, which judges in the place of the one that searches: what it finds
  nearer to the query than the positive is left out as probably right (GISTEmbed's rule, arXiv 2402.16829), and makes no
  two rows neighbours in a cluster. Its vectors are kept in OUTPUT.vectors/guide.

  --clusters K groups rows that are hard for each other in clusters of about K, by B3's method (arXiv 2505.11293).
  Rows of one cluster belong into one batch: K divides the batch size, and is smaller. Compared with clusters of the
  same graph rewired at random, which are told beside them, they say whether there was anything to find.

  A run that was stopped goes on: vectors are kept in OUTPUT.vectors, and another --ceiling or --count takes no new
  ones. Remove that folder when the file is as you want it. The search is exact; its time grows with rows times
  candidates, so that for millions of rows a machine with many cores is needed. A stage of a recipe can mine by itself,
  too, while it trains (its section `mine`).

examples
  %(prog)s my_data --model llava-hf/llava-1.5-7b-hf --adapter runs/shoes/captions --output mined.jsonl
  %(prog)s my_data --rows pairs --query caption --positive image --model runs/base --output mined.jsonl
  %(prog)s my_data --model runs/base --also query_image --clusters 16 --output mined.jsonl
  %(prog)s my_data --model runs/base --guide Alibaba-NLP/gme-Qwen2-VL-2B-Instruct --output mined.jsonl
  %(prog)s recipe.yaml --stage instructions --model runs/base --output mined.jsonl

"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    from ..mining.clusters import SKIP

    mine = commands.add_parser(
        "mine",
        help="find hard negatives for rows of training data, and clusters of rows for batches",
        description="Mine hard negatives, and cluster rows for batches, with an embedding model.",
        epilog=_HELP + DATA_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data_options(mine)
    add_model_options(mine)
    add = mine.add_argument
    add("--output", type=Path, required=True, metavar="FILE", help="the mined file, JSON lines")
    add("--rows", choices=("pairs", "texts", "triplets"),
        help="which rows (default: the recipe's stage's; triplets, pairs or texts, the first there are)")  # fmt: skip
    add("--query", metavar="ROLE", help="what asks (default: composed; image; composed_text or source_text)")
    add("--positive", metavar="ROLE", help="what is found (default: target_image or target_text; caption; target_text)")
    add("--also", metavar="ROLE", nargs="+", default=[], help="further candidates, say query_image")
    add(
        "--query-task",
        metavar="TASK",
        help="what a model of many tasks is told of the queries' (default: its prompts')",
    )
    add("--document-task", metavar="TASK", help="and of that of the candidates")
    add("--count", type=int, default=5, metavar="K", help="negatives a row, at most (default 5)")
    add("--siblings", type=int, default=0, metavar="N", help="of these, so many are the answers to other instructions "
        "on the row's picture, the nearest first, where it has as many (default 0)")  # fmt: skip
    add("--skip", type=int, default=0, metavar="P", help="pass over the nearest P candidates (default 0)")
    add(
        "--ceiling",
        type=float,
        default=0.95,
        metavar="C",
        help="leave out what is nearer than C times the positive (default 0.95); inf leaves out nothing but what is "
        "known to be right",
    )
    add("--at-most", type=float, metavar="S", help="and what is nearer than the cosine S (default: no such limit)")
    add("--guide", metavar="M", help="another embedder, which leaves out what it finds nearer than the positive "
        "(default with --guide-adapter: --model)")  # fmt: skip
    add("--guide-adapter", metavar="A", help="adapter folder to put on the guide")
    add("--guide-margin", type=float, default=0.0, metavar="S",
        help="nearer by more than this; below 0 also what is nearly as near (default 0)")  # fmt: skip
    add("--guide-ceiling", type=float, metavar="C", help="in its place: nearer than C times the positive")
    add("--depth", type=int, default=200, metavar="N", help="candidates looked at for a row (default 200)")
    add("--clusters", type=int, metavar="K", help="also cluster the rows, about K in each")
    add("--cluster-skip", type=int, default=SKIP, metavar="P",
        help=f"ranks passed over as probably right when clustering (default {SKIP})")  # fmt: skip
    add("--max-unreadable", type=float, metavar="S", help="share of unreadable queries, and of candidates, that are "
        "passed over; more of them end the run (default: the recipe's stage's; 0.01)")  # fmt: skip
    add("--vectors", type=Path, metavar="DIR", help="where vectors are kept (default: OUTPUT.vectors)")
    add("--sheet", type=Path, metavar="PNG", help="contact sheet of a few rows (default: OUTPUT as .png)")
    mine.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from mllm_embed.files import check_writable

    from ..mining.mine import embed_questions, mine, vectors_made_by, write_mined
    from ..mining.negatives import Rules
    from ..mining.pictures import PictureContents
    from ..mining.questions import Questions
    from ..mining.summary import mining_summary, unmade_lines, unreadable_lines, write_mining_sheet
    from ..mining.vector_cache import PICTURES, VectorCache, check_folder

    # Everything that can be wrong without a model is looked at before it is loaded.
    output, sheet = arguments.output, _sheet_path(arguments)
    rules = Rules(arguments.count, arguments.skip, arguments.ceiling, arguments.at_most, arguments.depth,
                  arguments.siblings)  # fmt: skip
    clustering, guide = _clustering(arguments), _guide(arguments)
    kept = arguments.vectors or Path(f"{output}.vectors")
    check_folder(kept)
    named = read_sources(arguments)
    most = _max_unreadable(arguments, named)
    data = _rows(arguments, named)
    for path in (output, sheet):
        check_writable(path)
    roles = data.roles
    contents = PictureContents(kept / PICTURES)
    questions = Questions.of(data, roles.query, roles.positive, roles.also, contents)
    sys.stdout.write("".join(f"{line}\n" for line in unmade_lines(questions)))
    rules.check(len(questions.gallery))
    if clustering:
        clustering.check(len(questions.rows), rules.depth, questions.answers)
    contents.save()

    embedder = load_embedder(arguments)
    if data.ask_with(embedder.prompts):
        questions = Questions.of(data, roles.query, roles.positive, roles.also, contents)
    made_by = vectors_made_by(questions, embedder)
    vectors = embed_questions(questions, embedder, VectorCache(kept, made_by, most), arguments.batch_size)
    header = made_by | {"names": {"model": arguments.model, "adapter": arguments.adapter}}
    guiding = None
    if guide:
        del embedder  # two models need not fit into the memory together
        guiding, guided_by = _guiding(arguments, guide, questions, kept, most)
        header |= {"guide": guided_by}
    mined = mine(questions, vectors, rules, clustering, guiding)
    write_mined(output, header, data, questions, mined)
    lines = mining_summary(questions, vectors, mined) + unreadable_lines(vectors)
    sys.stdout.write("\n".join(lines) + "\n")
    drawn = write_mining_sheet(sheet, questions, vectors, mined.negatives)
    sys.stdout.write(f"wrote {output}" + (f" and {sheet}, to look at\n" if drawn else "\n"))
    return 0


def _max_unreadable(arguments: argparse.Namespace, named: NamedData) -> float:
    """Return the share of unreadable inputs that are passed over. Raises ConfigError for one that is none."""
    from ..mining.vector_cache import MAX_UNREADABLE

    given = arguments.max_unreadable
    if given is None:
        return named.stage.max_unreadable if named.stage else MAX_UNREADABLE
    if not 0 <= given < 1:
        raise ConfigError(f"--max-unreadable is a share, from 0 to below 1, not {given:g}")
    return float(given)


def _rows(arguments: argparse.Namespace, named: NamedData) -> RowsToMine:
    from ..mining.rows import RowsToMine

    tasks = arguments.query_task, arguments.document_task
    return RowsToMine.open(
        named.sources, arguments.rows, arguments.query, arguments.positive, arguments.also, tasks, named.stage
    )


def _guide(arguments: argparse.Namespace) -> Guide | None:
    """Return the guide that the options name. Raises ConfigError for ones that make no sense."""
    from pydantic import ValidationError

    from ..recipe.recipe_files import one_sentence
    from ..recipe.stage_keys.guide import Guide

    if arguments.guide is None and arguments.guide_adapter is None:
        if arguments.guide_margin or arguments.guide_ceiling is not None:
            raise ConfigError("--guide-margin and --guide-ceiling need a --guide or a --guide-adapter")
        return None
    try:
        return Guide(
            model=arguments.guide, adapter=arguments.guide_adapter, margin=arguments.guide_margin,
            ceiling=arguments.guide_ceiling,
        )  # fmt: skip
    except ValidationError as error:
        raise ConfigError(f"--guide: {one_sentence(error)}") from error


def _guiding(
    arguments: argparse.Namespace, guide: Guide, questions: Questions, kept: Path, most: float
) -> tuple[MiningGuide, dict[str, Any]]:
    """Return a guide's vectors with its rule, and what made them for the mined file."""
    from ..false_negatives.guide import GuideRule
    from ..mining.guided import MiningGuide
    from ..mining.mine import embed_questions, vectors_made_by
    from ..mining.vector_cache import VectorCache

    # the other options, of number format and device, hold for both
    named = {"model": arguments.guide or arguments.model, "adapter": arguments.guide_adapter, "dim": None}
    named |= {"preset": None, "prompts": None}  # a guide is asked as it was saved, or as its name's preset says
    embedder = load_embedder(argparse.Namespace(**{**vars(arguments), **named}))
    made_by = vectors_made_by(questions, embedder)
    vectors = embed_questions(questions, embedder, VectorCache(kept / "guide", made_by, most), arguments.batch_size)
    told = {
        "names": {"model": str(named["model"]), "adapter": arguments.guide_adapter},
        "model": made_by["model"], "margin": guide.margin, "ceiling": guide.ceiling,
    }  # fmt: skip
    return MiningGuide(questions, vectors, GuideRule(guide.margin, guide.ceiling)), told


def _clustering(arguments: argparse.Namespace) -> Clustering | None:
    from ..mining.clusters import Clustering

    return None if arguments.clusters is None else Clustering(arguments.clusters, arguments.cluster_skip)


def _sheet_path(arguments: argparse.Namespace) -> Path:
    """Return where the contact sheet goes. Raises ConfigError or DataError where it or the output cannot be a file."""
    from mllm_embed.search.contact_sheet import check_sheet_path

    if arguments.output.is_dir():
        raise ConfigError(f"{arguments.output} is a folder; give the name of a file")
    sheet = check_sheet_path(arguments.sheet or arguments.output.with_suffix(".png"))
    if sheet == arguments.output:
        raise ConfigError(f"{sheet} is both --output and the contact sheet; name the one .jsonl")
    return sheet
