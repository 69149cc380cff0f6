"""The model of a re-ranker: from a batch of queries with candidates to scores, by the logits of a few words."""

from __future__ import annotations

from torch import Tensor, nn

from ..model.embedding_model import EmbeddingModel
from ..model.prefix_cache import SharedBatch
from .head import WordLogits


class RerankModel(nn.Module):
    """A base model, perhaps with an adapter, and the rows of its head that belong to its answers."""

    def __init__(self, model: EmbeddingModel, words: WordLogits, yes: int, labels: int = 0):
        """Read answers off a model.

        Args:
            model: without its head; its pooling is "last".
            words: the rows of the head for the ways to say yes, then those for no, then the labels of a list in order.
            yes: how many of them say yes.
            labels: how many of them are labels.
        """
        super().__init__()
        self.model, self.words = model, words
        self.yes, self.labels = yes, labels

    def forward(self, **batch: Tensor) -> Tensor:
        """Return how much likelier yes is than no as the next word, the difference of their logits: [B] float32.

        Args:
            batch: model input of pairs, as `PairProcessor.batch` makes it.
        """
        return self.margins(self.model.states(False, **batch))

    def shared(self, batch: SharedBatch) -> Tensor:
        """Return what `forward` gives, [N] float32, of pairs that share their queries' part."""
        return self.margins(self.model.shared_states(batch))

    def list_logits(self, **batch: Tensor) -> Tensor:
        """Return the logits of the labels as the next word, [B, labels] float32, of lists in one prompt each.

        Args:
            batch: model input of lists, as `PairProcessor.list_batch` makes it.
        """
        return self.words(self.model.states(False, **batch))[:, self.words.weight.shape[0] - self.labels :]

    def margins(self, states: Tensor) -> Tensor:
        """Return the difference of the logits of yes and no at states [B, H]: [B] float32.

        A word's logit is the largest over the ways to say it.
        """
        logits = self.words(states)
        said = logits.shape[1] - self.labels
        return logits[:, : self.yes].amax(1) - logits[:, self.yes : said].amax(1)
