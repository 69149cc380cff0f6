"""Saved re-rankers: an adapter folder or a whole model with its head, both with the settings that made its scores."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..encode.model_source import item_processor
from ..errors import ConfigError
from ..files import atomic_folder, write_json
from ..inputs.pairs.pair_processor import PairProcessor
from ..model.loading import load_errors, part_options
from ..model.quantization import quantization_of
from ..saving.checkpoint import check_target, write_adapter
from ..saving.reranker_settings import RerankSettings
from ..saving.settings import PROCESSOR_FILES, RERANKER_FILE
from .card import write_reranker_card
from .cross_encoder_files import write_cross_encoder_files
from .model import RerankModel
from .words import answers_of


def save_reranker(
    path: str | Path,
    model: RerankModel,
    processor: Any,
    settings: RerankSettings,
    merge: bool = False,
) -> None:
    """Write an adapter folder, or with `merge` (or without an adapter) a whole model, in one step.

    A whole model is a stock Hugging Face folder, head included: AutoModelForImageTextToText loads it. Raises
    ModelError, and writes nothing, where that would replace a file, a folder that holds something else, or the
    adapter's own base; ConfigError for a whole model of quantised weights, into which no adapter can be merged.
    """
    base = settings.reading.base
    as_adapter = model.model.adapted and not merge
    check_target(Path(path), Path(base) if base else None, RERANKER_FILE)
    if not as_adapter and quantization_of(model.model.base):
        raise ConfigError("4 or 8 bits would round the adapter away: load the re-ranker unquantised to save it whole")
    with atomic_folder(path) as folder:
        if as_adapter:
            write_adapter(folder, model.model.backbone, base)
        else:
            _with_head(model, settings).save_pretrained(folder)
            settings = replace(settings, reading=replace(settings.reading, base=None, base_fingerprint=None))
            items = item_processor(processor, settings.reading, model.model.base.config, model.model.family)
            answers = answers_of(processor.tokenizer, settings.prompt)
            pairs = PairProcessor(items, settings.prompt)
            write_cross_encoder_files(folder, pairs, model.model.family, settings, answers)
        before = set(folder.iterdir())
        processor.save_pretrained(folder)
        files = sorted(path.name for path in set(folder.iterdir()) - before if path.is_file())
        write_json(folder / RERANKER_FILE, settings.to_dict() | {PROCESSOR_FILES: files})
        write_reranker_card(folder, settings)


def _with_head(model: RerankModel, settings: RerankSettings) -> Any:
    """Return the whole model, the adapter merged into its weights; the re-ranker keeps its own apart."""
    from transformers import AutoModelForImageTextToText

    name, revision = settings.reading.base, settings.reading.base_revision
    if name is None:
        raise ConfigError("of a model that was not loaded from files there is no head to save")
    with load_errors(name):
        whole: Any = AutoModelForImageTextToText.from_pretrained(
            name, revision=revision, dtype=model.model.base.dtype, use_safetensors=True, **part_options(name, revision)
        )
    backbone: Any = model.model.backbone
    whole.model = copy.deepcopy(backbone).merge_and_unload() if model.model.adapted else backbone
    whole.tie_weights()
    return whole
