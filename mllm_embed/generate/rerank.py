"""The first answers put in order by the language model itself: is this what was asked for, yes or no?

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
    """Whether the pictures of an answer are what a query asks for."""
    form = (EDITED if query.images else DESCRIBED) if query.words else ALIKE
    return Question(form.replace("{instruction}", query.words or ""), (*query.images, *answer))


def rerank(generator: Generator, query: Query, hits: Sequence[Hit], depth: int = 10, batch_size: int = 8) -> list[Hit]:
    """The first `depth` hits by how much likelier the model says yes than no; the rest, and their scores, as they are.

    Hits whose picture is not known stay behind those that were judged. Raises ModelError for a model without the words.
    """
    first = [hit for hit in hits[:depth] if hit.image is not None]
    asked = [question(query, [hit.image]) for hit in first if hit.image is not None]
    found = list(generator.yes_no_margin(asked, batch_size=batch_size))
    order = sorted(range(len(first)), key=lambda at: -found[at])
    unseen = [hit for hit in hits[:depth] if hit.image is None]
    return [*(first[at] for at in order), *unseen, *hits[depth:]]
