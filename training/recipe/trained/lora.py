"""The recipe's section `lora`: what is trained of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from ..section import Section

if TYPE_CHECKING:
    from mllm_embed.model.lora import LoraSpec


def _listed(value: Any) -> Any:
    """Return a list of patterns, of which one may stand without a list; anything else as it is."""
    return [value] if isinstance(value, str) else value


Patterns = Annotated[list[str], Field(min_length=1, strict=False)]
Rank = Annotated[int, Field(gt=0, le=16_384)]
Scale = Annotated[float, Field(gt=0)]


class Lora(Section):
    """The trainable part: LoRA on the language model, on the vision tower too where that is asked for, and the
    projector between the two."""

    rank: Rank = Field(default=16, description="width of the two small matrices on each linear layer")
    alpha: Scale = Field(default=32, description="their product is scaled by alpha / rank")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="share of their inputs dropped in training")
    projector: bool = Field(default=True, description="train the projector too, in full")
    targets: Annotated[Patterns | None, BeforeValidator(_listed)] = Field(
        default=None,
        description="the language model's layers that get them: ends of their names or regular expressions, "
        "[q_proj, v_proj] say; by default all linear ones",
    )
    vision: Annotated[bool | Patterns, BeforeValidator(_listed)] = Field(
        default=False,
        description="on the vision tower's linear layers too: true for all, or a list as in targets; else it is frozen",
    )
    rank_pattern: dict[str, Rank] = Field(
        default={}, description="ranks of some layers, by names as in targets, the first that fits: {down_proj: 64}"
    )
    alpha_pattern: dict[str, Scale] = Field(default={}, description="likewise alphas, which rank_pattern leaves alone")
    dora: bool = Field(default=False, description="DoRA: train each layer's direction and length apart; slower")
    rslora: bool = Field(default=False, description="rsLoRA: scale by alpha / sqrt(rank), for high ranks")

    def spec(self) -> LoraSpec:
        """Return the same as the options of a new adapter."""
        from mllm_embed.model.lora import LoraSpec

        return LoraSpec(**self.model_dump())
