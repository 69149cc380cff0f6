"""What an embedder that thinks first has beyond others: a memory of its thoughts, and these as words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..inputs.plain_values import items_of
from ..model.heads.language_head import give_head
from ..types import Item, as_query
from .thinking import Thinking, ThoughtMemory
from .writer import ThoughtWriter

if TYPE_CHECKING:
    from torch import Tensor

    from ..inputs.item_processor import ItemProcessor
    from ..model.embedding_model import EmbeddingModel
    from ..saving.settings import Settings


class ThinksFirst:
    """A mixin of an embedder whose settings may have thoughts."""

    model: EmbeddingModel
    item_processor: ItemProcessor
    settings: Settings
    thinking: Thinking | None
    plan: Any
    execute: Any

    def _prepare_to_think(self) -> None:
        """Take the settings' thoughts, and give the model its head back where it has some.

        Raises ConfigError for a model that cannot think, ModelError for one without a head in its files.
        """
        self.thinking = None
        if self.settings.thoughts is None:
            return
        _check(self.model, self.settings)
        writer = ThoughtWriter(self.item_processor, self.settings.thoughts)
        give_head(self.model, self.settings.base or "", self.settings.base_revision)
        self.thinking = Thinking(writer, lambda: getattr(self, "provenance"), None)  # noqa: B009

    @property
    def thought_cache(self) -> ThoughtMemory | None:
        """Thoughts that are not thought again: a dict, or a `generate.thought_cache.ThoughtCache` for those of a file.

        None, as it is at first, thinks each time; so it must be while weights are trained, which no key tells.
        """
        return self.thinking.memory if self.thinking else None

    @thought_cache.setter
    def thought_cache(self, memory: ThoughtMemory | None) -> None:
        if self.thinking:
            self.thinking.memory = memory
        elif memory is not None:
            raise ConfigError("this model does not think first, and has no thoughts to keep: load it with thoughts=N")

    def think(self, inputs: Sequence[Any], *, batch_size: int = 32) -> list[str]:
        """Return what the model writes before it embeds each query; empty for what does not think.

        Args:
            inputs: queries, as of `encode_query`.
            batch_size: as of `encode`.

        Raises ConfigError for a model without thoughts, and as `encode`.
        """
        if self.thinking is None:
            raise ConfigError("this model does not think first: load it with thoughts=N")
        work = self.plan(items_of(inputs, as_query), batch_size=batch_size)
        thoughts = self.execute(work, show_progress=False).thoughts
        return [self.thinking.writer.words(thoughts.get(place, ())) for place in range(len(inputs))]

    def model_input(self, item: Item) -> dict[str, Tensor]:
        """Return the model input of which an item's vector is pooled, its thought in it where it thinks first.

        Raises as `encode`.
        """
        room = self.thinking.writer.room(item) if self.thinking else 0
        prepared, _ = self.item_processor.prepared(item, room)
        if self.thinking is None or not self.thinking.thinks(item):
            return self.item_processor([prepared])
        thoughts = self.execute(self.plan([item]), show_progress=False).thoughts
        return self.thinking.recalled([prepared], [thoughts[0]])


def _check(model: EmbeddingModel, settings: Settings) -> None:
    """Raise ConfigError for a model whose vectors cannot be read off behind a thought."""
    why = {
        "it is an encoder, which writes nothing": model.family.headless,
        "its tokens see what comes after them, a thought that is not written yet": not model.shares_prefixes,
        f"it pools '{settings.pooling}', and a thought goes on to the last token": settings.pooling != "last",
        "its states go through latent attention, which needs all of them at once": model.latent_attention is not None,
        "nothing says from where it was loaded, and its head must be read there": settings.base is None,
    }
    found = next((reason for reason, is_so in why.items() if is_so), None)
    if found:
        raise ConfigError(f"this model cannot think first: {found}; give thoughts=0, or leave thoughts out")
