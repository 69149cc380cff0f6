"""What every section of a recipe is: unknown keys and other types are refused; and a value that several have."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from mllm_embed.errors import ConfigError
from mllm_embed.inputs.prompt_files import prompt_set

MOST_STEPS = 10**9  # of a stage: no run takes as many, a slip of the finger does


class Section(BaseModel):
    """A section of a recipe: unknown keys and other types are refused, and nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True, str_min_length=1)


def _prompts(value: Any) -> Any:
    """Return a name or file as it is, and keys of a prompt set once they are found to be one."""
    if isinstance(value, dict):
        try:
            prompt_set(value)
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("prompts: ")) from error
    elif not isinstance(value, str) or not value:
        raise ValueError(f"must be a name, a file, or the keys of a prompt set, not {value!r:.80}")
    return value


Prompts = Annotated[str | dict[str, Any], BeforeValidator(_prompts)]
"""A prompt set by its name or file, or its own keys."""
