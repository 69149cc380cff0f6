"""Re-ranking of the first answers by the language model itself: is this what was asked for, yes or no?

MM-Embed (arXiv 2411.02571) re-ranks so, zero-shot, and gains 7 to 10 points of mAP@5 on CIRCO with the first 10.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..search.searcher import Hit
from ..types import ImageLike, Item, Query
from .generator import Generator, Question

EDITED = (
    'The first image is to be modified with "{instruction}". Does the second image show the result? '
    "Answer with yes or no."
)
DESCRIBED = 'Does the image show "{instruction}"? Answer with yes or no.'
ALIKE = "Do both images show the same? Answer with yes or no."


def question(query: Item, answer: Sequence[ImageLike]) -> Question:
    """Return the question whether the pictures of an answer are what a query asks for."""
    form = (EDITED if query.images else DESCRIBED) if query.words else ALIKE
    return Question(form.replace("{instruction}", query.words or ""), (*query.images, *answer))


def rerank(generator: Generator, query: Query, hits: Sequence[Hit], depth: int = 10, batch_size: int = 8) -> list[Hit]:
    """Return the first `depth` hits by how much likelier the model says yes than no, and the rest as they are.

    Scores stay those of the search. Hits whose picture is not known stay behind those that were judged. Raises
    ModelError for a model without the words.
    """
    judged, unseen, asked = [], [], []
    for hit in hits[:depth]:
        if hit.image is None:
            unseen.append(hit)
        else:
            judged.append(hit)
            asked.append(question(query, [hit.image]))
    margins = list(generator.yes_no_margin(asked, batch_size=batch_size))
    order = sorted(range(len(judged)), key=lambda at: -margins[at])  # stable: equal margins keep the search's order
    return [*(judged[at] for at in order), *unseen, *hits[depth:]]
