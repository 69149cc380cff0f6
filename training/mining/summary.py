"""A summary of mined negatives for a person: a few lines, and a contact sheet of a few rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mllm_embed.search.contact_sheet import SheetRow, contact_sheet, text_tile
from mllm_embed.types import ImageLike, Item

from .chance import Chance
from .clusters import nearness
from .mine import MiningResult, QuestionVectors
from .negatives import Negatives
from .questions import Questions

SHOWN_ROWS = 8
SHOWN_REASONS = 5


def mining_summary(questions: Questions, vectors: QuestionVectors, mined: MiningResult) -> list[str]:
    """Return, a line each, how many negatives were found, how near they are, and how hard clusters are."""
    negatives, count = mined.negatives, mined.rules.count
    of_rows = (negatives.places >= 0).sum(axis=1)[questions.query]
    above = negatives.above[questions.query]
    fewer = (of_rows > 0) & (of_rows < count)
    lines = [
        f"{len(of_rows):,} rows, {len(questions.queries):,} distinct queries, {len(questions.gallery):,} candidates",
        f"rows with {count} negatives: {int((of_rows == count).sum()):,}; with fewer: {int(fewer.sum()):,}; "
        f"without: {int((of_rows == 0).sum()):,}",
        f"mean similarity of positives {negatives.positive[questions.query].mean():.3f}"
        + _similarity_of_negatives(negatives, questions, of_rows),
        f"left out as probably right: {int(above.sum()):,} candidates of {int((above > 0).sum()):,} rows",
    ]
    if mined.siblings is not None:
        siblings = mined.siblings[questions.query]
        lines.append(
            f"answers to other instructions on a row's picture: {int(siblings.sum()):,} of the {int(of_rows.sum()):,} "
            f"negatives; rows without: {int((siblings == 0).sum()):,}"
        )
    if mined.guided is not None:
        guided = mined.guided[questions.query]
        lines.append(f"left out by the guide: {int(guided.sum()):,} candidates of {int((guided > 0).sum()):,} rows")
    if mined.clusters is not None:
        sizes = np.bincount(mined.clusters)
        together, apart = nearness(
            vectors.queries, vectors.gallery, questions.query, questions.positive, mined.clusters
        )
        lines.append(
            f"{len(sizes):,} clusters of {sizes.min()} to {sizes.max()} rows; mean similarity of a query and the "
            f"others' positives: {together:.3f} within a cluster, {apart:.3f} between rows by chance"
        )
    if mined.chance:
        lines += _chance_in_words(mined.chance)
    return lines


def _chance_in_words(chance: Chance) -> list[str]:
    if not chance.edges:
        return [
            "warning: no two rows are hard for each other past the ranks that --cluster-skip passes over, so that the "
            "clusters mean nothing; do not train with per_cluster on them"
        ]
    found = [
        f"of {chance.edges:,} edges between rows that are hard for each other, clusters keep {chance.kept:.1%}; of a "
        f"graph with as many edges to rows drawn at random they would keep {chance.rewired:.1%}, drawn at random "
        f"themselves {chance.drawn:.1%}"
    ]
    if not chance.better:
        found.append(
            "warning: these clusters are hardly better than chance: the rows are too few, nothing in them lies in "
            "groups of that size, or the model does not tell them apart yet; leave per_cluster out, or cluster with a "
            "model that was trained on such rows, or in clusters of another size"
        )
    return found


def _similarity_of_negatives(negatives: Negatives, questions: Questions, of_rows: np.ndarray) -> str:
    """`of_rows`: [R] how many negatives a row has."""
    if not of_rows.any():
        return ""
    hardest = negatives.similarity[questions.query, 0][of_rows > 0].mean()
    return f", of the hardest negatives {hardest:.3f}, of all {negatives.similarity[negatives.places >= 0].mean():.3f}"


def unmade_lines(questions: Questions) -> list[str]:
    """Return, a line each, how many rows could not be made, and why the first few; none where all could."""
    unmade = questions.unmade
    if not unmade.count:
        return []
    return [
        f"left out, for they are not as they should be: {unmade.count:,} rows; training leaves them out too",
        *(f"  {reason}" for reason in unmade.reasons),
    ]


def unreadable_lines(vectors: QuestionVectors) -> list[str]:
    """Return, a line each, how many inputs could not be read, and why the first few; none where all could."""
    found = (*vectors.unreadable_queries.values(), *vectors.unreadable_gallery.values())
    reasons = list(dict.fromkeys(found))
    if not reasons:
        return []
    return [
        f"passed over, for they cannot be read: {len(reasons):,} inputs; rows that need them have no negatives (mend "
        "them, remove the folder of vectors and mine again)",
        *(f"  {reason}" for reason in reasons[:SHOWN_REASONS]),
    ]


def write_mining_sheet(path: Path, questions: Questions, vectors: QuestionVectors, negatives: Negatives) -> bool:
    """Draw query, positive (framed) and mined negatives of a few rows, spread over the data, as a PNG.

    Returns whether there was anything to draw.
    """
    rows = np.flatnonzero(negatives.places[questions.query, 0] >= 0)
    if not len(rows):
        return False
    spread = rows[np.linspace(0, len(rows) - 1, min(SHOWN_ROWS, len(rows))).astype(int)]
    contact_sheet([_sheet_row(row, questions, vectors, negatives) for row in spread.tolist()], path)
    return True


def _sheet_row(row: int, questions: Questions, vectors: QuestionVectors, negatives: Negatives) -> SheetRow:
    query = questions.query[row]
    asked = questions.queries[query]
    mined = [place for place in negatives.places[query].tolist() if place >= 0]
    places = [int(questions.positive[row]), *mined]
    cosines = map(_short, vectors.gallery[places] @ vectors.queries[query])
    names = ["positive", *["negative"] * len(mined)]
    return SheetRow(
        asked.images[0] if asked.images else None,
        asked.words or "",
        [_tile(questions.gallery[place]) for place in places],
        [name == "positive" for name in names],
        [f"{name} {cosine}" for name, cosine in zip(names, cosines, strict=True)],
    )


def _tile(item: Item) -> ImageLike:
    return item.images[0] if item.images else text_tile(item.words or "")


def _short(cosine: float) -> str:
    """Return .98 and -.12, since tiles are small."""
    return f"{cosine:.2f}".replace("0.", ".", 1)
