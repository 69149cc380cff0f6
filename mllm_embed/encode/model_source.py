"""Where the parts of an embedder lie, base model, adapter and settings, from the names that a user gives."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, ModelError
from ..inputs.prompts import PROMPT_SETS, PromptSet
from ..model.loading import CONFIG_FILE, check_fits, commit_of, has_processor, load_processor
from ..model.lora import ADAPTER_CONFIG
from ..model.pooling import Pooling
from ..saving.base_lookup import base_of
from ..saving.checkpoint import adapter_fingerprint, model_fingerprint, read_card, weights_digest
from ..saving.hub import fetched
from ..saving.identity import adapter_settings
from ..saving.settings import SETTINGS_FILE, Settings, read_settings


@dataclass(frozen=True)
class ModelSource:
    """Where the parts of an embedder lie.

    Args:
        base: folder or hub id of the image-text model.
        revision: commit, tag or branch of a hub id.
        folder: what was saved with the weights: settings, model card, projection, and the adapter where there is one.
        has_adapter: whether `folder` holds an adapter of the base.
        saved: the settings there; None for a model that was not saved by this library.
        adapter_settings: what an adapter's config says, as of `identity.adapter_settings`.
    """

    base: str
    revision: str | None
    folder: str
    has_adapter: bool
    saved: Settings | None
    adapter_settings: dict[str, Any] | None = None

    def processor(self, model: Any) -> Any:
        """Return the processor that was saved with an adapter, else that of the base.

        To be called with the loaded model. Raises ModelError for one that cannot be loaded or does not fit the model.
        """
        if not (self.has_adapter and has_processor(Path(self.folder))):
            return load_processor(self.base, self.revision)
        processor = load_processor(self.folder, self.revision, self.base)
        check_fits(processor, self.folder, model, self.base, self.revision)
        return processor

    def settings(self, prompts: PromptSet | None, pooling: Pooling | None, bidirectional: bool | None) -> Settings:
        """Return the saved settings, or those of an ordinary model, with what is given in their place.

        To be called once the base is loaded, and so in the cache. Raises ModelError for an adapter of another base,
        ConfigError for a prompt set's name.
        """
        saved = self.saved or Settings(PROMPT_SETS["instructcir"])
        fingerprint = model_fingerprint(self.base, commit_of(self.base, self.revision))
        if saved.base_fingerprint and saved.base_fingerprint != fingerprint:
            raise ModelError(
                f"the adapter in {self.folder} was trained on another base than {self.base} ({saved.base}); give that "
                f"one: --model BASE --adapter {self.folder}, in Python from_pretrained(BASE, adapter=...)"
            )
        if isinstance(prompts, str):
            raise ConfigError(
                f"prompts is a PromptSet, not a name; give PROMPT_SETS['{prompts}'] of mllm_embed.inputs.prompts"
            )
        return replace(
            saved,
            prompts=saved.prompts if prompts is None else prompts,
            pooling=saved.pooling if pooling is None else pooling,
            bidirectional=saved.bidirectional if bidirectional is None else bidirectional,
            base=self.base,
            base_fingerprint=fingerprint,
            weights=weights_digest(self.base),
            card=read_card(self.folder) if self.saved else None,
            adapter=adapter_fingerprint(self.folder) if self.has_adapter else None,
            adapter_settings=self.adapter_settings,
        )


def find_model(
    model: str | os.PathLike[str], adapter: str | os.PathLike[str] | None = None, revision: str | None = None
) -> ModelSource:
    """Return where the parts of a model lie; arguments as of `MLLMEmbedder.from_pretrained`.

    Raises ModelError for an adapter folder that this library did not write, or whose base is not where it was.
    """
    base = os.fspath(model)
    folder = fetched(base, SETTINGS_FILE, revision)
    has_adapter = adapter is not None or (Path(folder) / ADAPTER_CONFIG).is_file()
    if all((Path(folder) / name).is_file() for name in (ADAPTER_CONFIG, CONFIG_FILE)):
        raise ModelError(
            f"{base} holds both an adapter ({ADAPTER_CONFIG}) and a whole model ({CONFIG_FILE}), which other tools add "
            "up; put the adapter into a folder of its own"
        )
    if adapter is not None:
        folder = fetched(os.fspath(adapter), SETTINGS_FILE)
    elif has_adapter:
        base, revision = base_of(folder)
    saved = read_settings(folder)
    if has_adapter and saved is None:
        raise ModelError(f"{folder} is not an adapter folder of mllm_embed: it has no {SETTINGS_FILE}")
    return ModelSource(base, revision, folder, has_adapter, saved, adapter_settings(folder) if has_adapter else None)
