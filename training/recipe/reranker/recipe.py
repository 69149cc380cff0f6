"""The recipe of a re-ranker: the keys of every run, and how the model is asked."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from mllm_embed.errors import ConfigError
from mllm_embed.inputs.pairs.prompt import RerankPrompt

from ..run_keys import RunKeys, StageName
from ..section import Section
from .stage import RerankStage


def _prompt(value: Any) -> Any:
    """Return the keys of a re-ranker's prompt once they are found to be one."""
    if not isinstance(value, dict):
        raise ValueError(f"must be keys of a re-ranker's prompt, not {value!r:.80}")
    try:
        RerankPrompt.from_dict(value)
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("re-ranker's prompt: ")) from error
    return value


class RerankerSection(Section):
    """How the re-ranker is asked. The section, even without a key, makes a recipe one of a re-ranker."""

    prompt: Annotated[dict[str, Any], BeforeValidator(_prompt)] | None = Field(
        default=None,
        description="its keys, {words: ..., composed: ..., yes: ..., no: ...}; by default those that the adapter to go "
        "on from was saved with, or else the library's own",
    )


class RerankRecipe(RunKeys):
    """A run that makes a re-ranker: it reads a query with a candidate, and judges how well they fit."""

    reranker: RerankerSection
    stages: dict[StageName, RerankStage] = Field(min_length=1, description="in order; each goes on from the one before")

    @model_validator(mode="after")
    def _lists_have_a_prompt(self) -> RerankRecipe:
        prompt = self.reranker.prompt
        listed = [name for name, stage in self.stages.items() if "listwise" in stage.weights]
        if listed and prompt is not None and not prompt.get("list"):
            raise ValueError(f"stage '{listed[0]}' has a listwise term, and reranker.prompt has no `list`; give one")
        return self
