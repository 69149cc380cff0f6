"""`python -m training mine DATA`: hard negatives for the rows of a data folder, and clusters of rows for batches."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_embed.commands.model_options import add_model_options, load_embedder
from mllm_embed.errors import ConfigError, DataError, user_errors
from mllm_embed.saving.provenance import VECTOR_FIELDS

if TYPE_CHECKING:
    import numpy as np

    from mllm_embed import MLLMEmbedder
    from mllm_embed.data.folder import DataFolder

    from ..data import TrainingRow
    from .mining import Negatives, Questions, Rules

# what is asked and what is found where the command line does not say: the first that all rows have
ASKED = {"triplets": ("composed",), "pairs": ("image",), "texts": ("composed_text", "source_text")}
FOUND = {"triplets": ("target_image", "target_text"), "pairs": ("caption",), "texts": ("target_text",)}
SHOWN = 8
SHOWN_LOST = 5
EPILOG = """\
what it does
  Embeds what the rows ask (--query) and what they answer (--positive) with a model, and finds for every row the
  answers of other rows that are near: wrong answers that are hard to tell from the right one. Roles are those of a
  recipe's terms (python -m training --help lists them). Never taken: the row's own positive, and those of rows that
  ask the same, also where the same picture stands under another name. Taken for right although no row says so, and
  left out: what is nearer than --ceiling times the positive. Without such a limit, mined negatives can do more harm
  than good: look at the contact sheet. Up to 1 % of pictures may be unreadable; their rows get no negatives.

  --clusters K groups rows that are hard for each other in clusters of about K, by B3's method (arXiv 2505.11293).
  Rows of one cluster belong into one batch: K divides the batch size, and is smaller.

  A run that was stopped goes on: vectors are kept in OUTPUT.vectors, and another --ceiling or --count takes no new
  ones. Remove that folder when the file is as you want it. The search is exact; its time grows with rows times
  candidates, so that for millions of rows a machine with many cores is needed.

examples
  python -m training mine my_data --model llava-hf/llava-1.5-7b-hf --adapter runs/shoes/captions --output mined.jsonl
  python -m training mine my_data --rows pairs --query caption --positive image --model runs/base --output mined.jsonl
  python -m training mine my_data --model runs/base --also query_image --clusters 16 --output mined.jsonl
"""


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    rules = _rules(args)

    from mllm_embed.data.folder import DataFolder
    from mllm_embed.files import check_writable
    from mllm_embed.search.contact_sheet import check_sheet_path

    from .clusters import check_clusters
    from .mining import Questions

    if args.output.is_dir():
        raise ConfigError(f"{args.output} is a folder; give the name of a file")
    sheet = check_sheet_path(args.sheet or args.output.with_suffix(".png"))
    if sheet == args.output:
        raise ConfigError(f"{sheet} is both --output and the contact sheet; name the one .jsonl")
    folder = DataFolder.open(args.data)
    kind = args.rows or next((k for k in ASKED if getattr(folder, k)), "triplets")
    rows = _rows(folder, args.data, kind)
    query = args.query or _default("--query", ASKED[kind], rows)
    positive = args.positive or _default("--positive", FOUND[kind], rows)
    for path in (args.output, sheet):
        check_writable(path)
    questions = Questions.of(rows, query, positive, args.also)
    rules.check(len(questions.gallery))
    if args.clusters is not None:
        check_clusters(args.clusters, args.cluster_skip, len(rows), rules.depth, questions.answers)

    embedder = load_embedder(args)
    roles = {"rows": kind, "query": query, "positive": positive, "also": args.also}
    facts = {"data": folder.fingerprint(), **roles, "model": {key: embedder.provenance[key] for key in VECTOR_FIELDS}}
    *vectors, lost = _vectors(args, facts, questions, embedder)
    negatives, clusters = _search(args, questions, *vectors, lost, rules)
    _write(args, facts, folder.root, rows, questions, negatives, clusters)
    said = _summary(questions, negatives, clusters, rules, *vectors) + _told_lost(lost)
    sys.stdout.write("\n".join(said) + "\n")
    written = _sheet(sheet, questions, negatives, *vectors)
    sys.stdout.write(f"wrote {args.output}" + (f" and {sheet}, to look at\n" if written else "\n"))
    return 0


def _parser() -> argparse.ArgumentParser:
    from .clusters import SKIP

    parser = argparse.ArgumentParser(
        prog="python -m training mine", formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EPILOG,
        description="Mine hard negatives, and cluster rows for batches, with an embedding model.",
    )  # fmt: skip
    add_model_options(parser)
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="data folder")
    add("--output", type=Path, required=True, metavar="FILE", help="the mined file, JSON lines")
    add("--rows", choices=sorted(ASKED), help="which rows (default: triplets, pairs or texts, the first there are)")
    add("--query", metavar="ROLE", help="what asks (default: composed; image; composed_text or source_text)")
    add("--positive", metavar="ROLE", help="what is found (default: target_image or target_text; caption; target_text)")
    add("--also", metavar="ROLE", nargs="+", default=[], help="further candidates, say query_image")
    add("--count", type=int, default=5, metavar="K", help="negatives a row, at most (default 5)")
    add("--skip", type=int, default=0, metavar="P", help="pass over the nearest P candidates (default 0)")
    add("--ceiling", type=float, default=0.95, metavar="C",
        help="leave out what is nearer than C times the positive (default 0.95)")  # fmt: skip
    add("--at-most", type=float, metavar="S", help="and what is nearer than the cosine S (default: no such limit)")
    add("--depth", type=int, default=200, metavar="N", help="candidates looked at for a row (default 200)")
    add("--clusters", type=int, metavar="K", help="also cluster the rows, about K in each")
    add("--cluster-skip", type=int, default=SKIP, metavar="P",
        help=f"ranks passed over as probably right when clustering (default {SKIP})")  # fmt: skip
    add("--vectors", type=Path, metavar="DIR", help="where vectors are kept (default: OUTPUT.vectors)")
    add("--sheet", type=Path, metavar="PNG", help="contact sheet of a few rows (default: OUTPUT as .png)")
    return parser


def _rules(args: argparse.Namespace) -> Rules:
    from .mining import Rules

    return Rules(args.count, args.skip, args.ceiling, args.at_most, args.depth)


def _rows(folder: DataFolder, path: Path, kind: str) -> list[TrainingRow]:
    from ..data.folder import read_rows

    return read_rows(folder, path, kind, [])


def _default(option: str, roles: Sequence[str], rows: Sequence[TrainingRow]) -> str:
    for role in roles:
        if all(role in row.roles for row in rows):
            return role
    raise DataError(f"not every row has {' or '.join(roles)}: say with {option} what to take")


def _vectors(
    args: argparse.Namespace, facts: dict[str, Any], questions: Questions, embedder: MLLMEmbedder
) -> tuple[np.ndarray, np.ndarray, dict[str, dict[int, str]]]:
    """Vectors of queries [Q, D] and gallery [N, D], and the places of those that could not be read, and why."""
    from .vector_cache import VectorCache

    store = VectorCache(args.vectors or Path(f"{args.output}.vectors"), facts)
    return (
        store.encode("queries", questions.queries, embedder, args.batch_size),
        store.encode("gallery", questions.gallery, embedder, args.batch_size),
        store.lost,
    )


def _search(
    args: argparse.Namespace,
    questions: Questions,
    queries: np.ndarray,
    gallery: np.ndarray,
    lost: dict[str, dict[int, str]],
    rules: Rules,
) -> tuple[Negatives, np.ndarray | None]:
    """Negatives of all queries, and the cluster [R] of every row where that was asked for."""
    import numpy as np

    from .clusters import Graph, partition
    from .mining import Negatives, choose, positive_similarity, searched, without_twins

    gone = list(lost["gallery"])
    # a row whose query or positive cannot be read gets no negatives
    silent = {*lost["queries"], *questions.query[np.isin(questions.positive, gone)].tolist()}
    own = positive_similarity(queries, gallery, questions)
    graph = Graph(questions.query, questions.positive, args.cluster_skip) if args.clusters else None
    parts, right = [], questions.right()
    for part, scores, places in searched(queries, gallery, right, rules.depth):
        places[np.isin(places, gone) | np.isin(np.arange(part.start, part.stop), list(silent))[:, None]] = -1
        clean = without_twins(queries[part], gallery, scores, places, right[part])
        parts.append(choose(scores, clean, own[part], rules))
        if graph:
            graph.add(part.start, places, questions.answers)
    names = ("places", "similarity", "above", "positive")
    found = Negatives(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
    if graph is None:
        return found, None
    return found, partition(*graph.mutual(), len(questions.query), args.clusters)


def _write(
    args: argparse.Namespace,
    facts: dict[str, Any],
    root: Path,
    rows: Sequence[TrainingRow],
    questions: Questions,
    negatives: Negatives,
    clusters: np.ndarray | None,
) -> None:
    from mllm_embed.saving.versions import versions

    from .mined_file import write_mined, written_item

    names = ("count", "skip", "ceiling", "at_most", "depth", "clusters")
    header = facts | {
        "names": {"model": args.model, "adapter": args.adapter},
        "rules": {name: getattr(args, name) for name in names},
        "versions": versions(),
    }
    if clusters is not None:
        header["rules"]["cluster_skip"] = args.cluster_skip

    def lines() -> Iterator[dict[str, Any]]:
        for number, row in enumerate(rows):
            query = questions.query[number]
            places = [place for place in negatives.places[query].tolist() if place >= 0]
            similarity = negatives.similarity[query, : len(places)]
            line: dict[str, Any] = {
                "id": row.id,
                "negatives": [written_item(questions.gallery[place], root) for place in places],
                "similarity": [round(float(value), 4) for value in similarity],
            }
            yield line if clusters is None else line | {"cluster": int(clusters[number])}

    write_mined(args.output, header, lines())


def _summary(
    questions: Questions,
    negatives: Negatives,
    clusters: np.ndarray | None,
    rules: Rules,
    queries: np.ndarray,
    gallery: np.ndarray,
) -> list[str]:
    import numpy as np

    from .clusters import nearness

    of_rows = (negatives.places >= 0).sum(axis=1)[questions.query]
    above = negatives.above[questions.query]
    lines = [
        f"{len(of_rows):,} rows, {len(questions.queries):,} distinct queries, {len(questions.gallery):,} candidates",
        f"rows with {rules.count} negatives: {int((of_rows == rules.count).sum()):,}; with fewer: "
        f"{int(((of_rows > 0) & (of_rows < rules.count)).sum()):,}; without: {int((of_rows == 0).sum()):,}",
        f"mean similarity of positives {negatives.positive[questions.query].mean():.3f}"
        + (
            f", of the hardest negatives {negatives.similarity[questions.query, 0][of_rows > 0].mean():.3f}, of all "
            f"{negatives.similarity[negatives.places >= 0].mean():.3f}"
            if of_rows.any()
            else ""
        ),
        f"left out as probably right: {int(above.sum()):,} candidates of {int((above > 0).sum()):,} rows",
    ]
    if clusters is not None:
        sizes = np.bincount(clusters)
        together, apart = nearness(queries, gallery, questions.query, questions.positive, clusters)
        lines.append(
            f"{len(sizes):,} clusters of {sizes.min()} to {sizes.max()} rows; mean similarity of a query and the "
            f"others' positives: {together:.3f} within a cluster, {apart:.3f} between rows by chance"
        )
    return lines


def _told_lost(lost: dict[str, dict[int, str]]) -> list[str]:
    """What could not be read: how many, and the first few."""
    reasons = list(dict.fromkeys(reason for found in lost.values() for reason in found.values()))
    if not reasons:
        return []
    return [
        f"passed over, for they cannot be read: {len(reasons):,} inputs; rows that need them have no negatives (mend "
        "them, remove the folder of vectors and mine again)",
        *(f"  {reason}" for reason in reasons[:SHOWN_LOST]),
    ]


def _sheet(path: Path, questions: Questions, negatives: Negatives, queries: np.ndarray, gallery: np.ndarray) -> bool:
    """Query, positive (framed) and mined negatives of a few rows, spread over the data; whether there was anything."""
    import numpy as np

    from mllm_embed.search.contact_sheet import SheetRow, contact_sheet, text_tile

    some = np.flatnonzero(negatives.places[questions.query, 0] >= 0)
    if not len(some):
        return False
    lines = []
    for row in some[np.linspace(0, len(some) - 1, min(SHOWN, len(some))).astype(int)].tolist():
        query = questions.query[row]
        asked = questions.queries[query]
        places = [questions.positive[row], *(place for place in negatives.places[query] if place >= 0)]
        items = [questions.gallery[place] for place in places]
        names = ["positive"] + ["negative"] * (len(places) - 1)
        cosines = [f"{value:.2f}".replace("0.", ".", 1) for value in gallery[places] @ queries[query]]
        answers = [item.images[0] if item.images else text_tile(item.words or "") for item in items]
        lines.append(
            SheetRow(
                asked.images[0] if asked.images else None,
                asked.words or "",
                answers,
                [name == "positive" for name in names],
                [f"{name} {cosine}" for name, cosine in zip(names, cosines, strict=True)],
            )
        )
    contact_sheet(lines, path)
    return True
