"""The large model of a distillation: its vectors are made once, and then it leaves the memory.

Its vectors are those that an index holds already. The student learns to find in them, so the index stays as it is.
"""

from __future__ import annotations

import gc
import hashlib
import json
from typing import Any

import torch

from mllm_embed import MLLMEmbedder
from mllm_embed.inputs.prompt_files import prompt_set
from mllm_embed.saving.provenance import SPACE_FIELDS, facts

from ..recipe.config import TeacherSection


class Teacher:
    """The `teacher` of a recipe, loaded when it is needed."""

    def __init__(self, section: TeacherSection, bf16: bool):
        """Load the model that `section` names; in float32, or with `bf16` in what it was saved in.

        Raise ModelError where it cannot be loaded.
        """
        self._section, self._bf16 = section, bf16
        self._loaded: MLLMEmbedder | None = None
        embedder = self.embedder()
        self.provenance: dict[str, Any] = embedder.provenance
        self.dimension = embedder.dimension

    @property
    def fingerprint(self) -> str:
        """The sha256 of what queries must have in common with its vectors."""
        return hashlib.sha256(json.dumps(facts(self.provenance, SPACE_FIELDS)).encode()).hexdigest()

    def embedder(self) -> MLLMEmbedder:
        """Return the model, its adapter merged. Raise ModelError where it cannot be loaded."""
        if self._loaded is None:
            prompts = self._section.prompts
            self._loaded = MLLMEmbedder.from_pretrained(
                self._section.model, adapter=self._section.adapter, dtype="auto" if self._bf16 else "float32",
                preset=self._section.preset, prompts=None if prompts is None else prompt_set(prompts),
            ).merge_adapter()  # fmt: skip
        return self._loaded

    def unload(self) -> None:
        """Give its memory back; `embedder` loads it again."""
        self._loaded = None
        release_memory()


def release_memory() -> None:
    """Give back the memory of models that nothing holds any more, a GPU's too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
