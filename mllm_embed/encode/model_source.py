"""Where the parts of an embedder lie, base model, adapter and settings, from the names that a user gives."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError, ModelError
from ..inputs.item_processor import ItemProcessor
from ..inputs.lengths import token_limit
from ..inputs.prompts import PROMPT_SETS, PromptSet
from ..inputs.resize import check_agrees, warn_of_lost_pixels, with_picture_settings
from ..model.devices import dtype_for
from ..model.embedding_model import EmbeddingModel
from ..model.families import READING_PART, Family, family_of
from ..model.heads.files import check_heads, read_heads
from ..model.heads.picture_places import PicturePlaces
from ..model.loading import CONFIG_FILE, check_place, commit_of, read_config
from ..model.lora import ADAPTER_CONFIG, check_files, load_adapter
from ..model.pooling import Pooling, check_pooling
from ..model.position_ids import Positions
from ..model.processor_loading import check_fits, has_processor, has_tokenizer_alone, load_processor
from ..presets import catalog, unsupported
from ..presets.preset import PROMPTS_ALONE, Preset
from ..saving.base_lookup import base_of, check_named, check_same_tokens, has_weights
from ..saving.checkpoint import adapter_fingerprint, model_fingerprint, read_card, weights_digest
from ..saving.hub import small_files
from ..saving.identity import adapter_settings
from ..saving.reranker_settings import check_embedder
from ..saving.sentence_transformers_folder import SentenceFiles, read_sentence_files
from ..saving.settings import SETTINGS_FILE, Settings, read_settings


@dataclass(frozen=True)
class ModelSource:
    """Where the parts of an embedder lie.

    Args:
        base: folder or hub id of the image-text model.
        revision: commit, tag or branch of a hub id.
        folder: what was saved with the weights: settings, model card, projection, and the adapter where there is one.
        has_adapter: whether `folder` holds an adapter of the base.
        saved: the settings there, or those of the base of others' adapter; None for a model that was not saved by this
            library.
        adapter_settings: what an adapter's config says, as of `identity.adapter_settings`.
        preset: of the published model that it is, or that a user names.
        sentence_files: what sentence-transformers' files say, where nothing of ours does.
        of_others: whether the adapter was not saved by this library.
        bare: whether the base is made without the adapter, which is put on it to be trained.
    """

    base: str
    revision: str | None
    folder: str
    has_adapter: bool
    saved: Settings | None
    adapter_settings: dict[str, Any] | None = None
    preset: Preset | None = None
    sentence_files: SentenceFiles | None = None
    of_others: bool = False
    bare: bool = False

    def embedding_model(self, backbone: Any, settings: Settings) -> EmbeddingModel:
        """Return a loaded base with all that makes it an embedder, adapter included.

        Raises ModelError for an adapter that does not fit, ConfigError for a preset of another family.
        """
        if self.preset:
            self.preset.check(self.base, backbone.config.model_type)
        heads = read_heads(self._heads_folder)
        check_heads(heads, settings.picture_tokens, settings.lexical, self._heads_folder)
        model = EmbeddingModel(
            backbone,
            family_of(backbone.config),
            settings.pooling,
            settings.bidirectional,
            positions=settings.positions,
            **heads._asdict(),
        )
        if self.has_adapter and not self.bare:
            load_adapter(model, self.folder)
            model.backbone.to(backbone.dtype)  # adapters are trained, and saved, in float32
        return model

    def processor(self, model: Any) -> Any:
        """Return the processor that was saved with an adapter, else that of the base; set as the preset has it.

        `model` is the loaded base. Raises ModelError for one that cannot be loaded or does not fit the model,
        ConfigError where it lacks a setting of the preset, or the model has it otherwise.
        """
        processor = self.own_processor()
        if self.preset:
            check_agrees(model.config, self.preset.image_processor)
        if self._brings_processor:
            check_fits(processor, self.folder, model, self.base, self.revision)
        return processor

    def own_processor(self) -> Any:
        """Return the same without a look at the model, for those who only render prompts."""
        if self._brings_processor:
            processor = load_processor(self.folder, self.revision, self.base)
        else:
            processor = load_processor(self.base, self.revision)
        if self.sentence_files:
            self.sentence_files.prepare(processor)
        if self._brings_tokens:
            check_same_tokens(Path(self.folder), processor)
        pictures = self.preset.image_processor if self.preset else None
        return with_picture_settings(processor, pictures) if pictures else processor

    @property
    def _heads_folder(self) -> Path:
        if self.sentence_files:
            return self.sentence_files.folder
        return Path(small_files(self.base, self.revision) if self.of_others else self.folder)

    @property
    def _brings_processor(self) -> bool:
        return self.has_adapter and has_processor(Path(self.folder)) and not self._brings_tokens

    @property
    def _brings_tokens(self) -> bool:
        """Whether a tokenizer lies beside an adapter of others, as most trainers save it."""
        return self.of_others and has_tokenizer_alone(Path(self.folder))

    def dtype(self, asked: str | torch.dtype, place: torch.device) -> str | torch.dtype:
        """Return what to load the base in, as `dtype_for` says; "auto" is on a GPU what its preset's authors, or
        its files of sentence-transformers, compute in.

        Raises ConfigError for a dtype that does not exist.
        """
        known = self.preset or self.sentence_files
        usual = known.dtype if known and place.type != "cpu" else None
        return dtype_for(usual if usual and asked == "auto" else asked, place)

    @property
    def is_known(self) -> bool:
        """Whether anything says how it is to be asked."""
        return bool(self.saved or self.preset or self.sentence_files)

    @property
    def own_settings(self) -> Settings:
        """The saved settings, those of its preset or of sentence-transformers' files, or those of an ordinary model."""
        known = self.preset or self.sentence_files
        return self.saved or (known.settings if known else Settings(PROMPT_SETS["instructcir"]))

    def settings_for(self, config: Any) -> Settings:
        """Return the same for the base's config: a preset's limit, which was set for the published model, within the
        positions of this one."""
        own = self.own_settings
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        if self.saved or not own.max_tokens or not positions:
            return own
        return replace(own, max_tokens=min(own.max_tokens, positions))

    def settings(
        self,
        prompts: PromptSet | None,
        pooling: Pooling | None,
        bidirectional: bool | None,
        positions: Positions | None = None,
        *,
        config: Any,
    ) -> Settings:
        """Return the saved settings, those of its preset or of sentence-transformers' files, or those of an ordinary
        model, with what is given in their place.

        To be called with the config of the base, once that is loaded, and so in the cache. Raises ModelError for an
        adapter of another base.
        """
        saved = self.settings_for(config)
        fingerprint = model_fingerprint(self.base, commit_of(self.base, self.revision))
        if saved.base_fingerprint and saved.base_fingerprint != fingerprint:
            raise ModelError(
                f"the adapter in {self.folder} was trained on another base than {self.base} ({saved.base}); give that "
                f"one: --model BASE --adapter {self.folder}, in Python from_pretrained(BASE, adapter=...)"
            )
        return replace(
            saved.pooling_by(pooling),
            prompts=saved.prompts if prompts is None else prompts,
            bidirectional=saved.bidirectional if bidirectional is None else bidirectional,
            positions=saved.positions if positions is None else positions,
            base=self.base,
            base_fingerprint=fingerprint,
            weights=weights_digest(self.base, headed=self._heads_folder == Path(self.base)),
            card=read_card(self.folder) if self.saved and not self.of_others else None,
            adapter=adapter_fingerprint(self.folder) if self.has_adapter else None,
            adapter_settings=self.adapter_settings,
        )


def item_processor(processor: Any, settings: Settings, config: Any, family: Family | None = None) -> ItemProcessor:
    """Return what makes model input as the settings of a model have it.

    Args:
        processor: of the model.
        settings: its own, or others.
        config: of its base, as transformers has it.
        family: its record, by default as its config tells.

    Raises ConfigError for settings that the model cannot have.
    """
    family = family or family_of(config)
    check_pooling(settings.pooling, family)
    items = ItemProcessor(
        processor,
        settings.prompts,
        family,
        settings.pooled_tokens,
        token_limit(config, processor.tokenizer, settings.max_tokens, settings.truncate),
        settings.resize,
        settings.padding_side,
        settings.jpeg_side,
        PicturePlaces.of(config, processor.tokenizer, settings.picture_tokens),
    )
    warn_of_lost_pixels(items, config)
    return items


def find_model(
    model: str | os.PathLike[str],
    adapter: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    preset: Preset | str | os.PathLike[str] | None = None,
) -> ModelSource:
    """Return where the parts of a model lie; arguments as of `MLLMEmbedder.from_pretrained`.

    Raises ModelError for a model that is known not to load, a pickled adapter, and one of another base, or whose base
    is not where it was; ConfigError for a preset that does not exist, or is given to a model with settings of its own.
    """
    named = None if preset is None else catalog.preset(preset)
    given = os.fspath(adapter or model)
    folder, base, revision, has_adapter = places(os.fspath(model), adapter, revision)
    check_embedder(folder, given)
    saved = read_settings(folder)
    of_others = has_adapter and saved is None
    if has_adapter:
        _check_adapter(folder, given, base, of_others)
        # others trained it on the base as that was asked
        saved = saved or read_settings(small_files(base, revision))
    config = read_config(base, revision)
    unsupported.check_config(base, config)
    about = adapter_settings(folder) if has_adapter else None
    found = _preset(named, saved, folder, (given, base))
    _check_family(found, base, config.get("model_type"))
    theirs = _their_files(saved or found, folder, base, revision)
    source = ModelSource(base, revision, folder, has_adapter, saved, about, found, theirs, of_others)
    if of_others and not source.is_known:
        _warn_of_default(given)
    return source


def _check_family(preset: Preset | None, base: str, kind: object) -> None:
    """Raise ConfigError where a config.json tells, before weights are read, that a preset is for another family."""
    if preset and isinstance(kind, str) and kind not in READING_PART:
        preset.check(base, kind)


def places(
    model: str, adapter: str | os.PathLike[str] | None, revision: str | None
) -> tuple[str, str, str | None, bool]:
    """Return the folder with all but the weights, the base and its revision, and whether the folder holds an adapter.

    Raises ModelError for a model that is known not to load, for one that holds an adapter too, and where an adapter's
    base is not there.
    """
    unsupported.check_name(model)
    check_place(model)
    folder = small_files(model, revision)
    _check_one_kind(folder, model, revision)
    if adapter is not None:
        return small_files(os.fspath(adapter)), model, revision, True
    if (Path(folder) / ADAPTER_CONFIG).is_file():
        return folder, *base_of(folder), True
    return folder, model, revision, False


def _warn_of_default(adapter: str) -> None:
    """Warn of an adapter of others that nothing is known of."""
    warnings.warn(
        f"nothing says how {adapter} was trained to be asked: it is asked in InstructCIR's words, and its last token "
        "taken; if that is wrong so are its vectors: give a preset or prompts (--preset, --prompts, in Python preset=, "
        "prompts=)",
        stacklevel=4,
    )


def _their_files(known: object, folder: str, base: str, revision: str | None) -> SentenceFiles | None:
    """Return what sentence-transformers' files say of a model of which nothing is `known`: of an adapter that has none,
    what they say of its base, as which it was trained."""
    return None if known else read_sentence_files(folder) or read_sentence_files(small_files(base, revision))


def _check_adapter(folder: str, name: str, base: str, others: bool) -> None:
    """Raise ModelError for an adapter, by the `name` that it was given, that cannot be read, or is another base's; one
    of `others` has no fingerprint of its base."""
    check_files(folder, name)
    unsupported.check_name(base)
    if others:
        check_named(folder, base)


def _check_one_kind(folder: str, name: str, revision: str | None) -> None:
    """Raise ModelError for a model that holds an adapter, too; the config of its base may lie beside an adapter."""
    if (Path(folder) / ADAPTER_CONFIG).is_file() and has_weights(folder, name, revision):
        raise ModelError(
            f"{name} holds both an adapter ({ADAPTER_CONFIG}) and a whole model ({CONFIG_FILE}), which other tools add "
            "up; put the adapter into a folder of its own"
        )


def _preset(
    named: Preset | None, saved: Settings | None, folder: str, given: tuple[str | os.PathLike[str], str]
) -> Preset | None:
    """Return the preset that a user names, or that of a published model: an adapter's before that of its base; None for
    a model with settings of its own. Raises ConfigError where it has both."""
    check_one_form(named, saved, folder)
    return named or (None if saved else _preset_of(*given))


def check_one_form(named: Preset | None, saved: Settings | None, model: str) -> None:
    """Raise ConfigError where a preset is named for a model that was saved with settings of its own."""
    if named and saved:
        raise ConfigError(
            f"{model} was saved with prompts and settings of its own ({SETTINGS_FILE}), which the preset {named.name} "
            "would replace; leave out the preset, or give its prompts alone: " + PROMPTS_ALONE.format(named.name)
        )


def _preset_of(given: str | os.PathLike[str], base: str) -> Preset | None:
    """Return the preset of a published model, an adapter's before that of its base; None where none is known."""
    found = catalog.preset_of(given) or catalog.preset_of(base)
    like = None if found else catalog.namesake(given)
    if like:
        preset, model = like
        warnings.warn(
            f"{os.fspath(given)} has the name of {model.id}, whose prompts are not used, since its path does not tell "
            f"its owner; if it is that model, give the preset: --preset {preset.name}, in Python "
            f"from_pretrained(..., preset='{preset.name}')",
            stacklevel=5,
        )
    return found
