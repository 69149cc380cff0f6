"""The settings of a saved embedder: what its vectors depend on beside the weights, as a JSON file in its folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..inputs.prompts import PromptSet
from .sentence_transformers_files import saved_settings

if TYPE_CHECKING:
    from ..model.pooling import Pooling

SETTINGS_FILE = "mllm_embed.json"
_FORMAT = 1
# The key of `target_space` in the file. It stays as it was first written: a new one would lose it of saved models.
_TARGET_SPACE = "finds"


@dataclass(frozen=True)
class Settings:
    """Beside the weights: what makes a vector of hidden states, and for an adapter which base it belongs to.

    Args:
        prompts: the prompt set.
        pooling, bidirectional: as in `EmbeddingModel`.
        matryoshka: the lengths at which truncated vectors were trained.
        base, base_fingerprint: the base's name as given, and `model_fingerprint` of it; None for a whole model.
        target_space: provenance of the vectors that its queries are to find (`MLLMEmbedder.provenance` of a teacher);
            None for those that it makes itself.
        card: the text of the model card that the weights came with; it is no part of the settings' file.
        adapter: sha256 of the adapter's tensors that were loaded, no part of the file either.
    """

    prompts: PromptSet
    pooling: Pooling = "last"
    bidirectional: bool = False
    matryoshka: tuple[int, ...] = ()
    base: str | None = None
    base_fingerprint: str | None = None
    target_space: dict[str, Any] | None = field(default=None, repr=False)
    card: str | None = field(default=None, repr=False, compare=False)
    adapter: str | None = field(default=None, repr=False, compare=False)

    @property
    def base_is_folder(self) -> bool:
        """Whether the base was read from a folder, by the length of its fingerprint: a commit's is shorter."""
        return len(self.base_fingerprint or "") == hashlib.sha256().digest_size * 2

    @property
    def base_revision(self) -> str | None:
        """The commit of a base that is a hub id; None for a folder, and where it is not known."""
        return None if self.base_is_folder else self.base_fingerprint or None

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the settings' file, as `from_dict` reads it."""
        return {
            "format": _FORMAT, "pooling": self.pooling, "bidirectional": self.bidirectional, "normalize": True,
            "matryoshka": list(self.matryoshka), "prompts": self.prompts.to_dict(),
            "base": {"name": self.base, "fingerprint": self.base_fingerprint} if self.base else None,
            **({_TARGET_SPACE: self.target_space} if self.target_space else {}),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Return the settings that `to_dict` wrote. Raises KeyError, TypeError or AttributeError for anything else."""
        base = values["base"] or {}
        return cls(
            prompts=PromptSet.from_dict(values["prompts"]),
            pooling=values["pooling"],
            bidirectional=values.get("bidirectional", False),
            matryoshka=tuple(values.get("matryoshka", ())),
            base=base.get("name"),
            base_fingerprint=base.get("fingerprint"),
            target_space=values.get(_TARGET_SPACE),
        )


def read_settings(folder: str | Path) -> Settings | None:
    """Return the settings in a folder, None where it has none.

    Raises ModelError for a damaged file or a newer format.
    """
    path = Path(folder) / SETTINGS_FILE
    values = read_object(path) if path.is_file() else saved_settings(Path(folder))
    if values is None:
        return None
    if values.get("format") != _FORMAT:
        raise ModelError(f"{path} has format {values.get('format')}, this version reads {_FORMAT}; update mllm_embed")
    try:
        return Settings.from_dict(values)
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is damaged ({error}); save the model again") from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a saved model. Raises ModelError when it holds anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ModelError(f"{path} is damaged ({error}); save the model again") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} is damaged (it holds no JSON object); save the model again")
    return values
