"""The section `guide` of a stage: an embedder that tells which candidates are probably right answers too."""

from __future__ import annotations

from pydantic import Field, model_validator

from ...data.source import LocalPath
from ..section import Prompts, Section


class Guide(Section):
    """A frozen embedder that masks: what it finds nearer to a query than the positive is no negative (GISTEmbed, arXiv
    2402.16829)."""

    model: str | None = Field(
        default=None, description="folder or hub id of the guide; by default the recipe's model, as the recipe asks it"
    )
    adapter: LocalPath | None = Field(
        default=None,
        description="adapter folder to put on it: an earlier run's, or OUTPUT/NAME of an earlier stage of this run",
    )
    preset: str | None = Field(default=None, description="as of the recipe, for a guide with a model of its own")
    prompts: Prompts | None = Field(
        default=None, description="as of the recipe; by default what the guide was saved with"
    )
    margin: float = Field(
        default=0.0,
        ge=-2,
        le=2,
        description="leave out what the guide finds nearer than the positive by more than this; below 0 also what it "
        "finds nearly as near (sentence-transformers' margin 0.05 is -0.05 here)",
    )
    ceiling: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="in place of margin: leave out what is nearer than this share of the positive's cosine, as "
        "`mine --ceiling`",
    )

    @model_validator(mode="after")
    def _one_limit(self) -> Guide:
        if self.ceiling is not None and self.margin:
            raise ValueError("takes margin or ceiling, not both: each is the limit that a candidate must stay below")
        return self

    @model_validator(mode="after")
    def _preset_of_own_model(self) -> Guide:
        if self.preset is not None and self.model is None:
            raise ValueError("preset goes with a model of the guide's own; the recipe's model has the recipe's preset")
        return self
