"""Re-ranking of the first answers by the language model itself: is this what was asked for, yes or no?

MM-Embed (arXiv 2411.02571) re-ranks so, zero-shot, and gains 7 to 10 points of mAP@5 on CIRCO with the first 10.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..inputs.pairs.prompt import RerankPrompt
from ..types import ImageLike, Item
from .generator import Generator, Question

EDITED = (
    'The first image is to be modified with "{instruction}". Does the second image show the result? '
    "Answer with yes or no."
)
DESCRIBED = 'Does the image show "{instruction}"? Answer with yes or no.'
_ASKED = RerankPrompt()  # whose way to say what a query avoids is this one's, too
ALIKE = "Do both images show the same? Answer with yes or no."


def question(query: Item, answer: Sequence[ImageLike]) -> Question:
    """Return the question whether the pictures of an answer are what a query asks for, and show nothing of what it
    avoids."""
    query = _ASKED.said(query)
    form = (EDITED if query.images else DESCRIBED) if query.words else ALIKE
    return Question(form.replace("{instruction}", query.words or ""), (*query.images, *answer))


class ZeroShotJudge:
    """A base model that nobody trained for it, asked whether a candidate is what a query looks for."""

    def __init__(self, generator: Generator, batch_size: int = 8):
        """Ask a generator, so many questions at once."""
        self._generator, self._batch_size = generator, batch_size

    def scores(self, query: Item, candidates: Sequence[Item]) -> list[float]:
        """Return how much likelier the model says yes than no of each candidate's pictures.

        Raises ModelError for a model without the words.
        """
        asked = [question(query, candidate.images) for candidate in candidates]
        return list(self._generator.yes_no_margin(asked, batch_size=self._batch_size))
