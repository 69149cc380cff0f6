"""The embedding model: a Hugging Face base model without LM head, pooled and normalised."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError, ModelError, first_line
from .families import Family, states_width
from .heads.latent_attention import LatentAttention
from .heads.lexical_head import LexicalHead, lexical_vectors
from .heads.projection import Projection
from .heads.token_learner import TokenLearner
from .packing import pack, unpack
from .pooling import MULTI, POOLINGS, Pooling, joined
from .position_ids import POSITIONS, Positions, check_apart, position_ids
from .prefix_cache import SharedBatch, hidden_states
from .vision_features import check_learner, learn_tokens, reuse_features

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class EmbeddingModel(nn.Module):
    """A base model with its pooling and, for vectors of another length, a projection: model input in, vectors out."""

    def __init__(
        self,
        backbone: nn.Module,
        family: Family,
        pooling: Pooling = "last",
        bidirectional: bool = False,
        projection: Projection | None = None,
        positions: Positions = "model",
        latent_attention: LatentAttention | None = None,
        token_learner: TokenLearner | None = None,
        lexical_head: LexicalHead | None = None,
    ):
        """Wrap a base model, whose attention `bidirectional` changes in place.

        Args:
            backbone: what `AutoModel` gives for an image-text model, perhaps wrapped by peft. Its `last_hidden_state`
                comes after the final norm and has one row a token, image placeholders included.
            family: its record (families.py).
            pooling: which hidden states make a vector: a key of `POOLINGS` (pooling.py).
            bidirectional: whether tokens see what comes after them.
            projection: dense layers after pooling, for vectors as long as another model's.
            positions: how tokens are numbered: "model" as the base does it, "sequential" one after the other on all
                axes of M-RoPE, as embedders were trained whose code went past its base's method.
            latent_attention: what hidden states go through before pooling.
            token_learner: what makes a few tokens of a picture's, before they enter the language model.
            lexical_head: what training added to the language head, of lexical vectors.

        Raises ConfigError for a pooling or positions that do not exist, ModelError for heads of another width than the
        base, and for a token learner where none can stand.
        """
        super().__init__()
        if pooling not in POOLINGS:
            raise ConfigError(f"pooling '{pooling}' is not known; use one of {', '.join(POOLINGS)}")
        if not isinstance(bidirectional, bool):  # "no" would be true
            raise ConfigError(f"bidirectional is True or False, not {bidirectional!r:.60}")
        if positions not in POSITIONS:
            raise ConfigError(f"positions '{positions}' are not known; use {' or '.join(POSITIONS)}")
        self.backbone = backbone
        self.family = family
        self.pooling = pooling
        self.bidirectional = bidirectional
        self.projection, self.latent_attention = projection, latent_attention
        # of a model that thinks first (thoughts/), or has lexical vectors
        self.language_head: nn.Linear | None = None
        self.lexical_head = lexical_head
        self.positions = positions
        self.token_learner = token_learner
        self._check_widths()
        if bidirectional:
            make_bidirectional(self.base, family)

    def _check_widths(self) -> None:
        taken = {
            "projection": None if self.projection is None else self.projection.in_features,
            "latent attention": None if self.latent_attention is None else self.latent_attention.spec.width,
            "lexical head": None if self.lexical_head is None else self.lexical_head.spec.width,
        }
        for name, width in taken.items():
            if width is not None and width != self.states_width:
                raise ModelError(
                    f"the {name} takes states of {width} numbers, and the model's have {self.states_width}: the two do "
                    "not belong together; save the model again"
                )
        if self.token_learner is not None:
            check_learner(self.base, self.family, self.token_learner)

    @property
    def base(self) -> PreTrainedModel:
        """The backbone without its adapter's wrapper."""
        base: Any = getattr(self.backbone, "get_base_model", lambda: self.backbone)()
        return base

    @property
    def states_width(self) -> int:
        """The length of a pooled state."""
        return states_width(self.base.config)

    @property
    def multi(self) -> bool:
        """Whether it makes several vectors of an input, one a token (late interaction)."""
        return self.pooling in MULTI

    @property
    def width(self) -> int:
        """The length of a whole vector."""
        return self.states_width if self.projection is None else self.projection.out_features

    @property
    def vocabulary(self) -> int:
        """The words that a lexical vector weighs. Raises ModelError for a model without its head."""
        return self._spoken.out_features

    @property
    def _spoken(self) -> nn.Linear:
        if self.language_head is None:
            raise ModelError("this model was loaded without its language-model head, and has no lexical vectors")
        return self.language_head

    @property
    def speaks_by_embeddings(self) -> bool:
        """Whether the head, of a model that has one, is the matrix of its embeddings."""
        base: Any = self.base
        head = self.language_head
        return head is not None and head.weight is base.get_input_embeddings().weight

    @property
    def adapted(self) -> bool:
        """Whether the backbone has an adapter."""
        return hasattr(self.backbone, "peft_config")

    def forward(self, packed: bool = False, **batch: Tensor) -> Tensor:
        """Return the vectors of a batch: [B, D] float32, L2-normalised; where it is `multi` [B, T, D], zeros behind the
        last of an input.

        Args:
            packed: lay several inputs in one row (packing.py); what cannot be packed, some families and bidirectional
                attention, is computed padded all the same.
            batch: model input as the processor makes it: `input_ids` and `attention_mask` [B, L] int64, pixels, ...
                Where not all tokens are pooled it holds `content_mask` [B, L] too. `first_shown` [B] int64 is the first
                row that shows the same picture, where rows may share its features.
        """
        return self.vectors(self.states(packed, **batch))

    def states(self, packed: bool = False, **batch: Tensor) -> Tensor:
        """Return what `forward` makes vectors of: the pooled hidden states [B, H] float32 after the final norm."""
        return self._pooled(*self._hidden(packed, batch))

    def with_hidden(self, **batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of a batch as `forward` does, and the hidden states [B, L, H] that they are made of."""
        hidden, chosen = self._hidden(False, batch)
        return self.vectors(self._pooled(hidden, chosen)), hidden

    def with_words(self, tokens: int, packed: bool = False, **batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of a batch as `forward` does, and its lexical vectors [B, V] float32 of the same pass, off
        the last `tokens` that are pooled (heads/lexical_head.py)."""
        hidden, chosen = self._hidden(packed, batch)
        return self.vectors(self._pooled(hidden, chosen)), self._words(hidden, chosen, tokens)

    def _words(self, hidden: Tensor, chosen: Tensor, tokens: int) -> Tensor:
        return lexical_vectors(hidden, chosen, tokens, self._spoken, self.lexical_head)

    def _hidden(self, packed: bool, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the hidden states [B, L, H] of a batch, and which of them are pooled [B, L]."""
        self._check_apart(batch)
        inputs = self.in_dtype(batch)
        content, mask = inputs.pop("content_mask", None), inputs["attention_mask"]
        first = inputs.pop("first_shown", None)
        with _refusals():
            if packed and self.family.packs and not self.bidirectional:
                given = self.seen(inputs)
                rows, places = pack(given, self.base, self.family.rope_index, self.positions)
                hidden = unpack(self.backbone(**rows, use_cache=False).last_hidden_state, places, mask)
            else:
                given = self.seen(inputs, first)
                hidden = self.backbone(**given, **self._places(given), use_cache=False).last_hidden_state
        return hidden, mask if content is None else content

    def shared(self, batch: SharedBatch) -> Tensor:
        """Return the vectors of inputs that share prefixes, [N, D] float32: what `forward` gives, for less work.

        Raises ConfigError where tokens see what comes after them (`shares_prefixes` says so).
        """
        return self.vectors(self.shared_states(batch))

    def shared_with_words(self, tokens: int, batch: SharedBatch) -> tuple[Tensor, Tensor]:
        """Return what `with_words` does, for less work. Raises as `shared`."""

        def both(hidden: Tensor, chosen: Tensor) -> Tensor:
            return torch.cat([self._pooled(hidden, chosen), self._words(hidden, chosen, tokens)], 1)

        found = self._shared(batch, both)
        return self.vectors(found[:, : self.states_width]), found[:, self.states_width :]

    def shared_states(self, batch: SharedBatch) -> Tensor:
        """Return what `shared` makes vectors of, [N, H] float32: what `states` gives, for less work. Raises as it."""
        return self._shared(batch, self._pooled)

    def _shared(self, batch: SharedBatch, read: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return what is read off the hidden states [n, L, H] of inputs, of which [n, L] are pooled: [N, ...]."""
        if not self.shares_prefixes:
            raise ConfigError("this model's tokens see what comes after them: prefixes cannot be shared")
        self._check_apart(batch.prefixes)
        with _refusals():
            parts = tuple(replace(part, inputs=self.seen(self.in_dtype(part.inputs))) for part in batch.suffixes)
            inputs = replace(batch, prefixes=self.seen(self.in_dtype(batch.prefixes)), suffixes=parts)
            hidden = hidden_states(self.backbone, self.base, inputs, self.family.rope_index, self.positions)
        states = []
        for part, whole in zip(batch.suffixes, hidden, strict=True):
            chosen = batch.whole("attention_mask", part) if part.content is None else part.content
            states.append(read(whole, chosen))
        # the parts are in order of their length: back to the order of the inputs
        rows = torch.cat([part.rows for part in batch.suffixes])
        return joined(states)[rows.argsort()]

    def _check_apart(self, batch: dict[str, Tensor]) -> None:
        if self.family.rope_index and self.positions == "model":
            check_apart(batch)

    def seen(self, inputs: dict[str, Tensor], first: Tensor | None = None) -> dict[str, Any]:
        """Return model input, in the model's dtype, as the backbone takes it: where a token learner makes their tokens,
        or rows share a picture (`first`, as `first_shown`), with pictures that were looked at already."""
        if self.token_learner is not None:
            return learn_tokens(self.base, inputs, self.token_learner, first)
        return inputs if first is None else reuse_features(self.base, inputs, first)

    def _places(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the positions of tokens where the base is not to number them itself."""
        if self.positions == "model":
            return {}
        return {"position_ids": position_ids(self.base, inputs, self.family.rope_index, self.positions)}

    @property
    def shares_prefixes(self) -> bool:
        """Whether inputs that begin alike may share that part of the work."""
        return self.family.shares_prefixes and not self.bidirectional

    def in_dtype(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a batch with its floating tensors in the type that the model computes in."""
        dtype = self.base.dtype
        return {name: t.to(dtype) if t.is_floating_point() else t for name, t in batch.items()}

    def vectors(self, states: Tensor) -> Tensor:
        """Return the vectors [B, ..., D] float32, L2-normalised, of pooled states [B, ..., H] float32; of zeros, which
        several an input may end with, zeros."""
        found = states if self.projection is None else self.projection(states).float()
        if self.multi:
            found = found * states.any(-1, keepdim=True)  # a projection may have a bias
        return F.normalize(found, dim=-1)

    def _pooled(self, hidden: Tensor, chosen: Tensor) -> Tensor:
        if self.latent_attention is not None:
            hidden = self.latent_attention(hidden)
        return POOLINGS[self.pooling](hidden, chosen).float()

    def set_attention(self, kind: str) -> None:
        """Compute attention by one of transformers' kinds ("eager", "sdpa", ...), in all parts that are used.

        Raises ValueError or ImportError, as transformers does, for a kind that does not work here.
        """
        parts = set(self.base.config.sub_configs) - set(self.family.unused)  # which may not know the kind
        self.base.set_attn_implementation({"": kind, **dict.fromkeys(parts, kind)})

    def train(self, mode: bool = True) -> EmbeddingModel:
        """Set train mode, but for a vision tower that is frozen, whose dropout stays off; return the model."""
        super().train(mode)
        still = self.family.beside_tower if self.trains_vision else self.family.vision
        for name, module in self.named_modules():
            if is_part(name, still):
                module.eval()
        return self

    @property
    def trains_vision(self) -> bool:
        """Whether something of the vision tower is trained; a projector that lies in it is none of it."""
        trained = (name for name, parameter in self.named_parameters() if parameter.requires_grad)
        return any(is_part(name, self.family.vision) and not is_part(name, self.family.projector) for name in trained)

    @property
    def trains_projector(self) -> bool:
        """Whether something of the projector is trained."""
        return any(p.requires_grad and is_part(name, self.family.projector) for name, p in self.named_parameters())

    def gradient_checkpointing_enable(self) -> None:
        """Recompute activations in the backward pass: about a third more time, much less memory."""
        self.activation_checkpointing_enable()

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Do the same under the name by which transformers' Trainer calls it; options as in `PreTrainedModel`."""
        # non-reentrant: gradients reach LoRA although the embeddings, the first layer's input, need none
        kwargs = {"use_reentrant": False, **(activation_checkpointing_kwargs or {})}
        self.base.activation_checkpointing_enable(kwargs, **options)
        if kwargs["use_reentrant"]:
            self.base.enable_input_require_grads()
        else:
            # transformers makes every embedding ask for a gradient, the patches' too: the frozen vision tower would
            # keep all its activations for a backward pass that changes nothing
            self.base.disable_input_require_grads()


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise what a base model says of input that it cannot take, of another processor say, as a ModelError."""
    try:
        yield
    except (ValueError, IndexError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _OTHER_SHAPE.search(str(error)):
            raise
        raise ModelError(
            f"the model cannot take what its processor makes of the input ({first_line(error)}): the two do not belong "
            "together; give the processor's own model, or save it again"
        ) from error


_OTHER_SHAPE = re.compile("size of tensor|must match|shapes cannot be multiplied|is invalid for input of size")


def make_bidirectional(base: PreTrainedModel, family: Family) -> None:
    """Let the language model's attention see what comes after, as well as before.

    transformers makes such masks for a text config with `is_causal` false; flash attention, which takes no mask, goes
    by each layer's own flag.
    """
    base.config.get_text_config().is_causal = False
    for name, module in base.named_modules():
        if hasattr(module, "is_causal") and not is_part(name, family.vision):
            module.is_causal = False


def is_part(module_name: str, fragments: tuple[str, ...]) -> bool:
    """Return whether a module is, or lies in, a part that one of the name fragments names."""
    return not set(module_name.split(".")).isdisjoint(fragments)
