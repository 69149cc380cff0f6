"""The form in which a model is trained: prompts, preset and settings, as whoever loads the model finds them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mllm_embed.encode.model_source import ModelSource, check_one_form, find_model
from mllm_embed.errors import ModelError, reason
from mllm_embed.inputs.prompt_files import is_file_name, prompt_set
from mllm_embed.inputs.prompts import PromptSet
from mllm_embed.model.lora import check_files
from mllm_embed.presets import catalog
from mllm_embed.presets.preset import Preset
from mllm_embed.saving.checkpoint import adapter_fingerprint
from mllm_embed.saving.hub import small_files
from mllm_embed.saving.reranker_settings import check_embedder
from mllm_embed.saving.settings import Settings, read_settings

from .checks import guiding_stage
from .config import Recipe
from .pixels import limited
from .stage_keys.guide import Guide
from .trained.lexical import with_lexical_setting
from .trained.multi import with_multi_tokens
from .trained.token_learner import with_learned_tokens

GUIDE_PRESET, GUIDE_PROMPTS = "guide preset ", "guide prompts "
"""How the names of a guide's fingerprints begin."""


def prompts_of(recipe: Recipe) -> PromptSet | None:
    """Return the prompt set that a recipe names, None for that of the model.

    Raise ConfigError for an unknown name, and for a file that cannot be read or holds anything else.
    """
    return None if recipe.prompts is None else prompt_set(recipe.prompts)


def preset_of(recipe: Recipe, folder: Path | None = None) -> Preset | None:
    """Return the preset that a recipe names, or that of its model's hub id; None where neither is one, and for a model
    that was saved with settings of its own. Nothing is fetched.

    `folder` is where the model lies, by default where its name says. Raise ConfigError as `catalog.preset`, and for a
    preset of a model with settings of its own.
    """
    saved = (read_settings(small_files(recipe.adapter)) if recipe.adapter else None) or read_settings(
        folder or recipe.model
    )
    named = None if recipe.preset is None else catalog.preset(recipe.preset)
    check_one_form(named, saved, recipe.adapter or recipe.model)
    if named or saved:
        return named
    return (catalog.preset_of(recipe.adapter) if recipe.adapter else None) or catalog.preset_of(recipe.model)


def source_of(recipe: Recipe, folder: Path | None) -> ModelSource:
    """Return where the parts of a recipe's model lie, without fetching the model: in `folder`, None where it is not on
    this disk. Raise as `preset_of` and `find_model`."""
    preset = preset_of(recipe, folder)
    if folder:
        return find_model(folder, recipe.adapter, preset=preset)
    if recipe.adapter is None:
        return ModelSource(recipe.model, None, recipe.model, has_adapter=False, saved=None, preset=preset)
    adapter = small_files(recipe.adapter)
    check_files(adapter, recipe.adapter)
    check_embedder(adapter, recipe.adapter)
    return ModelSource(recipe.model, None, adapter, has_adapter=True, saved=read_settings(adapter), preset=preset)


def asked_as(recipe: Recipe) -> dict[str, Any]:
    """Return the arguments of `MLLMEmbedder.from_pretrained` that say how the recipe's model is asked.

    Raise as `prompts_of`.
    """
    own = ("adapter", "preset", "pooling", "bidirectional", "positions", "max_tokens", "truncate")
    return {"prompts": prompts_of(recipe), **{key: getattr(recipe, key) for key in own}}


def settings_of(recipe: Recipe, source: ModelSource, config: Any) -> Settings:
    """Return the settings with which a run loads its model, of a transformers config. Raise as `prompts_of`."""
    own = {key: getattr(recipe, key) for key in ("pooling", "bidirectional", "positions", "max_tokens", "truncate")}
    given = {"prompts": prompts_of(recipe), **own}
    chosen = {key: value for key, value in given.items() if value is not None}
    settings = limited(recipe, replace(source.settings_for(config), **chosen).thinking(recipe.thought_tokens))
    return with_lexical_setting(recipe, with_multi_tokens(recipe, with_learned_tokens(recipe, settings)))


def guide_fingerprints(recipe: Recipe) -> dict[str, str]:
    """Return, for the adapter of each guide that no stage of the run makes, what changes with its tensors, and for the
    preset and the prompts that a guide names, with their content.

    A run that was stopped must not go on with another. Raise ModelError for an adapter that cannot be read, and as
    `prompts_of` and `catalog.preset`.
    """
    guides = {name: stage.guide for name, stage in recipe.stages.items() if stage.guide}
    given = (guide.adapter for guide in guides.values())
    found = [adapter for adapter in given if adapter is not None and guiding_stage(recipe, adapter) is None]
    forms: dict[str, Any] = {}
    for name, guide in guides.items():
        forms |= _form_of_guide(name, guide)
    try:
        adapters = {f"guide {adapter}": adapter_fingerprint(adapter) for adapter in found}
    except OSError as error:
        raise ModelError(f"{error.filename} cannot be read ({reason(error)}); name another guide.adapter") from error
    return adapters | _digests(forms)


def judge_fingerprints(recipe: Recipe) -> dict[str, str]:
    """Return, for the adapters of each stage's judge, what changes with their tensors: a run that was stopped must not
    go on with others. Raise ModelError for one that cannot be read."""
    judges = [stage.judge for stage in recipe.stages.values() if stage.judge]
    named = (adapter for judge in judges for adapter in (judge.adapter, judge.search))
    try:
        return {f"judge {adapter}": adapter_fingerprint(adapter) for adapter in named if adapter is not None}
    except OSError as error:
        raise ModelError(f"{error.filename} cannot be read ({reason(error)}); name another in judge") from error


def _form_of_guide(stage: str, guide: Guide) -> dict[str, Any]:
    """Return the content of the preset and the prompts that a stage's guide names."""
    form: dict[str, Any] = {}
    if guide.preset is not None:
        form[f"{GUIDE_PRESET}{guide.preset}"] = _content(catalog.preset(guide.preset))
    if guide.prompts is not None:
        prompts = _named(guide.prompts, prompt_set(guide.prompts), f"of stage '{stage}'")
        form |= {f"{GUIDE_PROMPTS}{named}": what for named, what in prompts.items()}
    return form


def form_fingerprints(recipe: Recipe) -> dict[str, str]:
    """Return, for the preset and for prompts from a file or the recipe itself, what changes with their content: a run
    that was stopped must not go on in another form. Raise as `prompts_of` and `preset_of`."""
    found: dict[str, Any] = {}
    preset, prompts = preset_of(recipe), prompts_of(recipe)
    if preset:
        found[f"preset {preset.name}"] = _content(preset)
    if prompts:
        found |= _named(recipe.prompts, prompts, "prompts")
    return _digests(found)


def _content(preset: Preset) -> list[Any]:
    return [preset.settings.to_dict(), dict(preset.image_processor), preset.dtype]


def _digests(found: dict[str, Any]) -> dict[str, str]:
    return {name: hashlib.sha256(json.dumps(what).encode()).hexdigest() for name, what in found.items()}


def _named(given: str | dict[str, Any] | None, prompts: PromptSet, own: str) -> dict[str, Any]:
    """Return prompts under the file that they are from, or as `own` where the recipe holds them: with the words that
    its keys leave to this version. A name of ours says enough."""
    if isinstance(given, dict):
        return {own: prompts.to_dict()}
    return {given: prompts.to_dict()} if given and is_file_name(given) else {}
