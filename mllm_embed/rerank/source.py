"""Where the parts of a re-ranker lie, from the names that a user gives."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..encode.model_source import ModelSource, places
from ..errors import ConfigError, ModelError
from ..model.loading import commit_of, read_config
from ..model.lora import check_files
from ..presets import unsupported
from ..presets.rerankers.catalog import RerankPreset, reranker_preset, reranker_preset_of
from ..saving.checkpoint import adapter_fingerprint, model_fingerprint, weights_digest
from ..saving.identity import adapter_settings
from ..saving.reranker_settings import RerankSettings, read_reranker
from ..saving.settings import RERANKER_FILE, SETTINGS_FILE, Settings


@dataclass(frozen=True)
class RerankSource:
    """Where the parts of a re-ranker lie.

    Args:
        parts: base, adapter and processor.
        own: the settings that were saved with it, or those of its preset; those of an untrained model otherwise.
        preset: of the published re-ranker that it is.
    """

    parts: ModelSource
    own: RerankSettings
    preset: RerankPreset | None = None

    def reading(self, config: Any) -> Settings:
        """Return how it reads pictures and tokens, for the config of its base."""
        reading, positions = self.own.reading, getattr(config.get_text_config(), "max_position_embeddings", None)
        if self.preset and reading.max_tokens and positions:  # which was set for the published model
            return replace(reading, max_tokens=min(reading.max_tokens, positions))
        return reading

    def settings(self, config: Any) -> RerankSettings:
        """Return the settings for the config of the loaded base. Raises ModelError for an adapter of another base."""
        parts, reading = self.parts, self.reading(config)
        fingerprint = model_fingerprint(parts.base, commit_of(parts.base, parts.revision))
        if reading.base_fingerprint and reading.base_fingerprint != fingerprint:
            raise ModelError(
                f"the re-ranker in {parts.folder} was trained on another base than {parts.base} ({reading.base}); give "
                "that one, and the re-ranker as its adapter"
            )
        return replace(self.own, reading=reading).on(
            parts.base,
            base_fingerprint=fingerprint,
            weights=weights_digest(parts.base, headed=False),
            adapter=adapter_fingerprint(parts.folder) if parts.has_adapter else None,
            adapter_settings=parts.adapter_settings,
        )


def find_reranker(
    model: str | os.PathLike[str],
    adapter: str | os.PathLike[str] | None = None,
    preset: RerankPreset | str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> RerankSource:
    """Return where the parts of a re-ranker lie; arguments as of `Reranker.from_pretrained`.

    Raises ModelError for a model that is known not to load, an adapter that is an embedder's, pickled or of another
    base, ConfigError for a preset that does not exist, or is given to a re-ranker with settings of its own.
    """
    folder, base, base_revision, has_adapter = places(os.fspath(model), adapter, revision)
    if has_adapter:
        check_files(folder, os.fspath(adapter or model))
    _check_kind(folder)
    unsupported.check_config(base, read_config(base, base_revision))
    saved = read_reranker(folder)
    found = _preset(None if preset is None else reranker_preset(preset), saved, folder, (adapter or model, base))
    about = adapter_settings(folder) if has_adapter else None
    form, of_others = found.about if found else None, has_adapter and saved is None
    parts = ModelSource(base, base_revision, folder, has_adapter, None, about, form, of_others=of_others)
    return RerankSource(parts, saved or (found.settings if found else RerankSettings()), found)


def _preset(
    named: RerankPreset | None,
    saved: RerankSettings | None,
    folder: str,
    given: tuple[str | os.PathLike[str], str],
) -> RerankPreset | None:
    """Return the preset that a user names, or that of a published re-ranker; None for one with settings of its own.

    Raises ConfigError where it has both.
    """
    if named and saved:
        raise ConfigError(
            f"{folder} was saved with a prompt and settings of its own ({RERANKER_FILE}), which the preset "
            f"{named.about.name} would replace; leave out the preset"
        )
    return named or (None if saved else next(filter(None, map(reranker_preset_of, given)), None))


def _check_kind(folder: str) -> None:
    """Raise ModelError for an embedder, its adapter or the whole of it."""
    if (Path(folder) / SETTINGS_FILE).is_file():
        raise ModelError(
            f"{folder} holds an embedder, which was not trained to judge; give a re-ranker's folder, which has "
            f"{RERANKER_FILE}, or a base model"
        )
