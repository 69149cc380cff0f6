"""The settings of a saved re-ranker: how it is asked, and what its scores depend on beside the weights, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..inputs.pairs.prompt import RerankPrompt
from ..inputs.prompts import PROMPT_SETS
from .identity import provenance_of
from .settings import FORMAT, PROCESSOR_FILES, RERANKER_FILE, Settings, parsed, read_object

# of an embedder's settings, those that a re-ranker has too
READING = ("positions", "padding_side", "resize", "jpeg_side", "max_tokens")
_OF_NOBODY = PROMPT_SETS["instructcir"]  # the prompts of vectors, of which it makes none


def _plain_reading() -> Settings:
    return Settings(_OF_NOBODY)


@dataclass(frozen=True)
class RerankSettings:
    """Beside the weights: the prompt, how pictures and tokens are read, and for an adapter which base it belongs to.

    Args:
        prompt: how it is asked, and its answer read.
        reading: positions, padding side, resizing and limits, and the base, as of an embedder's `Settings`, whose
            prompts and pooling say nothing here.
    """

    prompt: RerankPrompt = field(default_factory=RerankPrompt)
    reading: Settings = field(default_factory=_plain_reading)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the settings' file, as `from_dict` reads it."""
        base = {"name": self.reading.base, "fingerprint": self.reading.base_fingerprint}
        limit = {} if self.reading.max_tokens is None else {"max_tokens": self.reading.max_tokens}
        return {
            "format": FORMAT, "prompt": self.prompt.to_dict(), "base": base if self.reading.base else None,
            **self.reading.recipe, **limit,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RerankSettings:
        """Return the settings that `to_dict` wrote, or of a preset, which has no format and no base.

        Raises ValueError or ConfigError, which name the key, for anything else.
        """
        unknown = next((key for key in values if key not in (*READING, *_KEYS)), None)
        if unknown is not None:
            raise ValueError(f"{unknown} is no key of it")
        prompt = values.get("prompt")
        if not isinstance(prompt, Mapping):
            raise ValueError("prompt is no object of texts")
        given = {key: values[key] for key in READING if key in values}
        reading = Settings.from_dict(
            {"format": FORMAT, "pooling": "last", "base": values.get("base"), "prompts": _OF_NOBODY.to_dict(), **given}
        )
        return cls(RerankPrompt.from_dict(prompt), reading)

    def asked(self, prompt: RerankPrompt | Mapping[str, Any]) -> RerankSettings:
        """Return the settings with another prompt. Raises ConfigError for keys that are none."""
        return replace(self, prompt=prompt if isinstance(prompt, RerankPrompt) else RerankPrompt.from_dict(prompt))

    def on(self, base: str, **of_weights: Any) -> RerankSettings:
        """Return the settings for a base that was loaded, with what `Settings` keeps of its weights."""
        return replace(self, reading=replace(self.reading, base=base, **of_weights))

    def provenance(self, processor: Any, quantization: str | None, dtype: str) -> dict[str, Any]:
        """Return what tells this re-ranker's scores from others', as plain JSON."""
        about = provenance_of(
            self.reading, processor, cut=None, shortened=False, dimension=1, quantization=quantization, dtype=dtype
        )
        del about["dimension"]
        return about | {"settings": {"prompt": self.prompt.to_dict(), **self.reading.recipe}}


_KEYS = ("format", "prompt", "base", PROCESSOR_FILES)


def read_reranker(folder: str | Path) -> RerankSettings | None:
    """Return the settings of a re-ranker in a folder, None where it has none.

    Raises ModelError for a damaged file, a newer format, and a folder that lacks what was saved with it.
    """
    path = Path(folder) / RERANKER_FILE
    return parsed(path, read_object(path), RerankSettings.from_dict) if path.is_file() else None


def check_embedder(folder: str, given: str) -> None:
    """Raise ModelError for a folder that holds a re-ranker, by the name that it was given."""
    if (Path(folder) / RERANKER_FILE).is_file():
        raise ModelError(
            f"{given} is a re-ranker, which scores queries with candidates and makes no vectors; give it as such "
            "(--reranker of mllm-embed, in Python Reranker.from_pretrained)"
        )
